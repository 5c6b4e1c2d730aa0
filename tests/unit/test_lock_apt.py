"""The apt resolver with a fake apt that answers from small texts."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from privml.base.causes import HostCause
from privml.base.errors import HostError, InputsError
from privml.base.run import Completed
from privml.base.wayout import WayOut
from privml.lock.apt import printed_uris, resolve
from privml.lock.aptstate import apt_configuration, conclusion
from privml.lock.apttools import AptTools, host_tools
from privml.lock.archiverecord import Archive
from privml.lock.debian import parse_inrelease
from privml.lock.make import epoch_of
from privml.lock.states import judge
from privml.lock.wanted import Wanted
from privml.recipe.distributions import DEBIAN, base
from privml.recipe.packages import Request

NOW = datetime(2026, 11, 1, tzinfo=UTC)
LATER = datetime(2026, 11, 21, tzinfo=UTC)
FORKY = base("debian", "forky")
MIRRORS = {"debian": ("http://bad.example.invalid/debian", "http://good.example.invalid/debian")}


def inrelease(date: str = "Fri, 30 Oct 2026 08:08:01 UTC", codename: str = "forky", origin: str = "Debian") -> bytes:
    return (
        "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n"
        f"Origin: {origin}\nSuite: testing\nCodename: {codename}\nDate: {date}\n"
        "Valid-Until: Fri, 06 Nov 2026 08:08:01 UTC\n-----BEGIN PGP SIGNATURE-----\n"
        "\nx\n-----END PGP SIGNATURE-----\n"
    ).encode()


def stanza(name: str, version: str = "1", depends: str = "") -> str:
    digest = hashlib.sha256(f"{name}{version}".encode()).hexdigest()
    return (
        f"Package: {name}\nVersion: {version}\nArchitecture: amd64\nDepends: {depends}\n"
        f"Filename: pool/main/{name}_{version}_amd64.deb\nSize: 5\nSHA256: {digest}\n\n"
    )


class Apt:
    """Serves one suite from the good mirror; `install` resolves to exactly the requested packages."""

    def __init__(self) -> None:
        self.packages = {
            name: stanza(name, depends=depends)
            for name, depends in {
                "a": "",
                "b++": "",
                "firmware": "",
                "linux-image-cloud-amd64": "linux-modules-cloud-amd64 (= 1), linux-image-7-cloud-amd64 (= 1)",
                "linux-image-7-cloud-amd64": "dracut | other, linux-base-7, linux-binary-7, linux-modules-7",
                "linux-image-6-amd64": "initramfs-tools, kmod",
                "linux-binary-7": "",
                "linux-modules-7": "",
            }.items()
        }
        self.inrelease = inrelease()
        self.calls: list[list[str]] = []
        self.preferences = ""
        self.sources = ""

    def tools(self) -> AptTools:
        return AptTools(self, "/keyring.gpg", "a test")

    def __call__(self, argv: list[str], binds: Mapping[str, str]) -> Completed:
        ((outside, inside),) = binds.items()
        assert outside == inside
        folder = Path(outside)
        assert argv[:3] == ["/usr/bin/env", f"APT_CONFIG={folder}/apt.conf", "apt-get"]
        words = argv[3:]
        self.calls.append(words)
        verb, names = words[0], [word for word in words[1:] if not word.startswith("-")]
        lists = folder / "lists"
        if verb == "update":
            self.sources = (folder / "sources.list").read_text()
            self.preferences = (folder / "preferences").read_text()
            if "bad.example.invalid" in self.sources:
                raise HostError("apt-get failed with status 100\n  | E: no such host")
            (lists / "x_dists_forky_InRelease").write_bytes(self.inrelease)
            (lists / "x_dists_forky_main_binary-amd64_Packages").write_text("".join(self.packages.values()))
            return Completed(0, b"", b"")
        if verb == "indextargets":
            name = lists / "x_dists_forky_main_binary-amd64_Packages"
            base = "http://good.example.invalid/debian/"
            return Completed(0, f"{name}|{base}|{base}|forky|main\n".encode(), b"")
        missing = [name for name in names if name not in self.packages]
        if missing:
            raise HostError(f"E: Unable to locate package {missing[0]}")
        pool = "http://good.example.invalid/debian/pool/main"
        lines = [f"'{pool}/{name.replace('+', '%2b')}_1_amd64.deb' {name}.deb 5 MD5Sum:0" for name in names]
        return Completed(0, ("\n".join(["Reading...", *lines]) + "\n").encode(), b"")


def wanted(*install: str, alone: tuple[str, ...] = (), pins: Mapping[str, str] | None = None) -> Wanted:
    return Wanted(FORKY, tuple(map(Request, install)), tuple(map(Request, alone)), pins or {})


def test_packages_come_with_digest_and_origin() -> None:
    fake = Apt()
    found = resolve(fake.tools(), MIRRORS, wanted("b++", "a", alone=("firmware",)), now=NOW)
    assert [package.name for package in found.packages] == ["a", "b++"]
    second = found.packages[1]
    assert (second.archive, second.suite, second.component) == ("debian", "forky", "main")
    assert second.path == "pool/main/b++_1_amd64.deb"
    assert found.packages[1].sha256 == hashlib.sha256(b"b++1").hexdigest()
    assert [package.name for package in found.alone] == ["firmware"]
    assert found.archives[0].inrelease_sha256 == hashlib.sha256(fake.inrelease).hexdigest()
    assert found.inreleases == (fake.inrelease,)
    assert epoch_of(found.archives) == 1793347681
    assert fake.sources == "deb [signed-by=/keyring.gpg] http://good.example.invalid/debian forky main\n"


def test_the_kernels_metapackage_becomes_its_parts() -> None:
    found = resolve(Apt().tools(), MIRRORS, wanted("linux-image-cloud-amd64", "a"), now=NOW)
    assert found.requested == ("linux-binary-7", "linux-modules-7", "a")


def test_a_kept_kernel_is_not_upgraded() -> None:
    kept = replace(wanted("linux-image-cloud-amd64", "a"), kernel=("linux-binary-7",))
    assert resolve(Apt().tools(), MIRRORS, kept, now=NOW).requested == ("linux-binary-7", "a")


def test_a_kernel_that_is_not_a_metapackage_is_unchanged() -> None:
    found = resolve(Apt().tools(), MIRRORS, wanted("linux-image-6-amd64"), now=NOW)
    assert found.requested == ("linux-image-6-amd64",)


def test_pins_are_given_to_apt() -> None:
    fake = Apt()
    resolve(fake.tools(), MIRRORS, wanted("a", pins={"a": "0.9-1"}), now=NOW)
    assert fake.preferences == "Package: a\nPin: version 0.9-1\nPin-Priority: 1001\n\n"


def test_an_unknown_package_is_named() -> None:
    with pytest.raises(InputsError, match=r"(?s)no solution.*Unable to locate package nothing"):
        resolve(Apt().tools(), MIRRORS, wanted("nothing"), now=NOW)
    with pytest.raises(InputsError, match="no suite has the package `nothing`"):
        resolve(Apt().tools(), MIRRORS, wanted("a", alone=("nothing",)), now=NOW)


def test_a_suite_that_no_mirror_serves_is_an_error() -> None:
    with pytest.raises(InputsError, match=r"(?s)could not fetch the package lists:.*no such host"):
        resolve(Apt().tools(), {"debian": MIRRORS["debian"][:1]}, wanted("a"), now=NOW)
    with pytest.raises(InputsError, match="no mirror of the archive `debian`"):
        resolve(Apt().tools(), {}, wanted("a"), now=NOW)


def test_an_expired_archive_is_refused_unless_accepted_and_then_recorded() -> None:
    with pytest.raises(InputsError, match="expired at 2026-11-06T08:08:01Z") as caught:
        resolve(Apt().tools(), MIRRORS, wanted("a"), now=LATER)
    assert "--allow-expired" in (caught.value.hint or "")
    assert resolve(Apt().tools(), MIRRORS, wanted("a"), now=LATER, allow_expired=True).archives[0].expired is True
    assert resolve(Apt().tools(), MIRRORS, wanted("a"), now=NOW, allow_expired=True).archives[0].expired is False


def judged(data: bytes, before: tuple[Archive, ...] = (), *, allow_expired: bool = True) -> Archive:
    (suite,) = FORKY.release.suites
    digest = hashlib.sha256(data).hexdigest()
    return judge(suite, parse_inrelease(data), digest, before, allow_expired, LATER, DEBIAN.origin)


def test_a_rollback_is_refused_even_when_expired_is_accepted() -> None:
    before = judged(inrelease())
    assert judged(inrelease(), (before,)) == before
    assert judged(inrelease("Sat, 31 Oct 2026 08:08:01 UTC"), (before,)).date == "2026-10-31T08:08:01Z"
    with pytest.raises(InputsError, match="rollback: the mirror's state is of 2026-10-29"):
        judged(inrelease("Thu, 29 Oct 2026 08:08:01 UTC"), (before,))


@pytest.mark.parametrize("data", [inrelease(codename="sid"), inrelease(origin="Elsewhere")])
def test_another_suite_or_archive_is_refused(data: bytes) -> None:
    with pytest.raises(InputsError, match="expected Debian forky"):
        judged(data)


def test_the_configuration_ignores_the_host_s_apt(tmp_path: Path) -> None:
    certificates = tmp_path / "ca.pem"
    certificates.write_bytes(b"PEM")
    way = WayOut({"http": "http://proxy.example.invalid:3128"}, certificates=certificates)
    text = apt_configuration(tmp_path, way)
    assert 'Dir::Etc::parts "/dev/null";' in text
    assert 'Dir::Etc::trustedparts "/dev/null";' in text
    assert 'Dir::Etc::netrcparts "/dev/null";' in text
    assert 'Acquire::AllowInsecureRepositories "false";' in text
    assert 'Acquire::http::Proxy "http://proxy.example.invalid:3128";' in text
    assert f'Acquire::https::CaInfo "{tmp_path}/certificates.pem";' in text
    assert f'Dir::State::status "{tmp_path}/status";' in text


def test_a_host_without_a_keyring_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(
        HostError, match=r"no verified tools tree, and the host lacks .*debian-archive-keyring"
    ) as caught:
        host_tools(DEBIAN, tmp_path)
    assert caught.value.exit_code == 5


def test_printed_uris_are_parsed() -> None:
    assert printed_uris("Reading\n'http://x.example.invalid/a%2b.deb' a+.deb 12 SHA256:0\n") == [
        "http://x.example.invalid/a%2b.deb"
    ]


def test_too_little_room_for_the_lists_ends_before_any_mirror_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    apt = Apt()
    usage = shutil.disk_usage("/")
    monkeypatch.setattr("privml.lock.lists.shutil.disk_usage", lambda _: usage._replace(free=4 << 20))
    with pytest.raises(HostError, match=r"no room in .* \(TMPDIR\): 4 MiB free, the package lists need 192"):
        resolve(apt.tools(), MIRRORS, wanted(), now=NOW)
    assert apt.calls == []


def test_a_full_disk_is_not_blamed_on_the_mirrors() -> None:
    apt = Apt()
    asked: list[list[str]] = []

    def full(argv: list[str], binds: Mapping[str, str]) -> Completed:
        asked.append(argv)
        raise HostCause("full", "apt-get update: no room")

    with pytest.raises(HostCause):
        resolve(replace(apt.tools(), run=full), MIRRORS, wanted(), now=NOW)
    assert len(asked) == 1


def test_the_solver_s_conclusion_is_shown_without_the_packages_that_it_did_not_get_to() -> None:
    conflict = (
        "  | E: Unable to satisfy dependencies. Reached two conflicting assignments:\n  |    1. app is selected"
    )
    unmet = "apt finds no solution\n  apt-get failed\n  |  bash : PreDepends: libc6 but it is not installable\n"
    assert conclusion(unmet + conflict) == f"apt finds no solution\n{conflict}"
    assert conclusion(unmet) == unmet
