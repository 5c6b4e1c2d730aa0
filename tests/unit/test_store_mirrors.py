"""The addresses of archives, from configuration files of every form."""

from __future__ import annotations

from pathlib import Path

import pytest

from privml.base.errors import HostError
from privml.store.mirrors import deb822_sources, host_mirrors, one_line, urls_of

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


@pytest.fixture
def apt(tmp_path: Path) -> Path:
    folder = tmp_path / "apt"
    (folder / "sources.list.d").mkdir(parents=True)
    return folder


def mirrors(apt: Path, config: str | None = None) -> dict[str, tuple[str, ...]]:
    file = apt.parent / "mirrors.yaml"
    if config is not None:
        file.write_text(config)
    return host_mirrors(apt, file)


def test_deb822_and_one_line_sources_are_read(apt: Path) -> None:
    (apt / "sources.list.d" / "debian.sources").write_text(
        "# the archive\nTypes: deb deb-src\nURIs: http://a.example.invalid/debian/\nSuites: trixie trixie-updates\n"
        f"Components: main contrib\nSigned-By: {KEYRING}\n\n"
        "Types: deb\nURIs: http://a.example.invalid/debian-security\nSuites: trixie-security\nComponents: main\n"
        f"Signed-By: {KEYRING}\n\n"
        "Enabled: no\nTypes: deb\nURIs: http://off.example.invalid/debian\nSuites: trixie\nComponents: main\n"
    )
    (apt / "sources.list").write_text(
        "deb http://b.example.invalid/debian forky main # comment\n"
        f"deb [arch=amd64 signed-by={KEYRING}] https://c.example.invalid/debian sid main\n"
        "deb-src http://src.example.invalid/debian forky main\n"
        "#deb http://comment.example.invalid/debian forky main\n"
        "deb http://nomain.example.invalid/debian forky contrib\n"
        "deb https://vendor.example.invalid/apt vendor-trixie main\n"
        "deb [signed-by=/usr/share/keyrings/vendor.gpg] https://vendor.example.invalid/debian trixie main\n"
        "deb cdrom:[disc]/ trixie main\n"
    )
    assert mirrors(apt) == {
        "debian": (
            "https://c.example.invalid/debian",
            "http://a.example.invalid/debian",
            "http://b.example.invalid/debian",
        ),
        "debian-security": ("http://a.example.invalid/debian-security",),
    }


def test_mirror_lists_are_followed(apt: Path, tmp_path: Path) -> None:
    listing = tmp_path / "debian.list"
    listing.write_text("# ours\nhttps://a.example.invalid/debian\tpriority:1\n\nhttps://b.example.invalid/debian\n")
    (apt / "sources.list").write_text(f"deb mirror+file:{listing} trixie main\n")
    assert mirrors(apt) == {"debian": ("https://a.example.invalid/debian", "https://b.example.invalid/debian")}


def test_the_user_s_file_replaces_a_label(apt: Path) -> None:
    (apt / "sources.list").write_text("deb http://b.example.invalid/debian forky main\n")
    assert mirrors(
        apt, "debian: [https://mine.example.invalid/debian/]\ndebian-security: http://s.example.invalid\n"
    ) == {
        "debian": ("https://mine.example.invalid/debian",),
        "debian-security": ("http://s.example.invalid",),
    }
    assert mirrors(apt, "")["debian"] == ("http://b.example.invalid/debian",)


@pytest.mark.parametrize(
    "config", ["- x", "debian: 1", "debian: [1]", "debian: [ftp://x.example.invalid]", "a: [", "debian: [/srv]"]
)
def test_a_malformed_file_is_reported(apt: Path, config: str) -> None:
    with pytest.raises(HostError, match=r"mirrors.yaml: "):
        mirrors(apt, config)


def test_without_configuration_there_are_no_mirrors(tmp_path: Path) -> None:
    assert host_mirrors(tmp_path / "none", tmp_path / "none.yaml") == {}


def test_lines_that_are_not_sources_are_ignored() -> None:
    assert one_line("deb") is None
    assert one_line("deb [a='] http://x.example.invalid/ y main") is None
    assert deb822_sources("Types: deb-src\nURIs: x\n") == []


def test_urls_of_an_archive_s_file_are_listed() -> None:
    found = urls_of(
        "debian",
        "pool/main/libs/libs++/libs++_1%3a2~x_amd64.deb",
        {"debian": ("http://a.example.invalid/debian", "http://b.example.invalid/d")},
    )
    assert found[0] == "http://a.example.invalid/debian/pool/main/libs/libs%2B%2B/libs%2B%2B_1%253a2~x_amd64.deb"
    assert len(found) == 2
    assert urls_of("debian", "pool/x.deb", {}) == ()
