"""`publish site`: every page parses, links resolve, strangers' words are escaped, and only what checks is shown."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import posixpath
import re
import xml.etree.ElementTree as tree
from functools import cache
from pathlib import Path

import attestation_samples as samples
import pytest
from html_page import Page
from published_fake import NAME, Fake, signer
from published_whole import build, endorse, on_sizes, whole
from test_cli_main import Outcome, as_found  # noqa: F401 - fixtures

from privml.base.errors import Refused, UsageError
from privml.publish import site
from privml.publish.catalogue import registers_moved
from privml.statement.index import State

HOSTILE = "<script>alert(1)</script>\"'&\x1b[2J\u202e"
OTHER = "tdx-min"


def project() -> Fake:
    """A copy of one repository: some of its signatures are others each time."""
    made = copy.copy(_project())
    made.files = dict(made.files)
    return made


@cache
def _project() -> Fake:
    """Two images; one has a revoked, a superseded and two current versions, and endorsements."""
    fake = whole(NAME, OTHER)
    for number, version in enumerate(("1.0", "1.1", "1.2")):
        fake.publish(version, build(NAME, number))
    fake.publish("1.3", build(NAME, 2, on_sizes(3, "other sizes")))
    fake.publish("0.1", build(OTHER))
    fake.set_state("1.0", State.REVOKED, "CVE-2026-1")
    fake.set_state("1.1", State.SUPERSEDED, "", "1.2")
    endorse(fake, "zoe", "1.2")
    endorse(fake, "yan", "1.2")
    endorse(fake, "carl", "1.2", differs=("uki.efi", "root.raw"))
    return fake


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> site.Files:
    folder = tmp_path_factory.mktemp("site") / "measurements"
    project().write(folder)
    return site.site(folder)


def made(fake: Fake, folder: Path) -> site.Files:
    fake.write(folder / "measurements")
    return site.site(folder / "measurements")


def pages(files: site.Files) -> dict[str, Page]:
    return {path: Page(data.decode()) for path, data in files.items() if path.endswith(".html")}


def row(text: str, first: str) -> str:
    """The first table row whose first cell is ``first``."""
    start = re.compile(rf'<tr><th scope="row"[^>]*>(?:<a [^>]*>)?{re.escape(first)}<')
    return next(line for line in text.splitlines() if start.match(line))


def test_every_page_is_well_formed_accessible_and_loads_nothing(files: site.Files) -> None:
    found = pages(files)
    assert {path.split("/")[0] for path in found} == {"index.html", "images", "by"}
    for path, page in found.items():
        assert page.wrong == [], path
        assert page.headings[0] == 1 and page.headings.count(1) == 1, path
        assert all(after <= before + 1 for before, after in zip(page.headings, page.headings[1:], strict=False)), path
        assert page.counts.get("table", 0) == page.counts.get("caption", 0), path
        text = files[path].decode()
        assert "default-src &#x27;none&#x27;; style-src &#x27;sha256-" in text and "unsafe-inline" not in text, path
        assert "prefers-color-scheme: dark" in text
        assert not re.search(r"url\((?!#)|@import", text), path


def test_every_link_leads_to_a_file_and_every_fragment_to_its_entry(files: site.Files) -> None:
    found = pages(files)
    links = [(path, link) for path, page in found.items() for link in page.links]
    assert len(links) > 100
    for path, link in links:
        target, _, fragment = link.partition("#")
        assert "://" not in link
        place = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
        assert place in files, (path, link)
        assert not fragment or fragment in found[place].ids, (path, link)
    linked = {
        posixpath.normpath(posixpath.join(posixpath.dirname(path), link.partition("#")[0])) for path, link in links
    }
    assert set(files) - linked <= {"index.html"} | {path for path in files if path.startswith("badges/")}
    assert all(len(set(page.ids)) == len(page.ids) for page in found.values())


def test_the_site_is_a_function_of_the_measurements(tmp_path: Path, files: site.Files) -> None:
    assert made(project(), tmp_path / "elsewhere") == files


def test_the_front_page_has_images_current_versions_and_the_root(tmp_path: Path) -> None:
    text = made(project(), tmp_path)["index.html"].decode()
    root = hashlib.sha256((tmp_path / "measurements/root.json").read_bytes()).hexdigest()
    assert root in text.replace("<wbr>", "")
    line = row(text, NAME)
    assert '<a href="images/demo-cpu/1.3.html">1.3</a>, <a href="images/demo-cpu/1.2.html">1.2</a>' in line
    assert "<td>2</td>" in line and "2 of 3 must sign" in line
    assert "1, signed by at least 2 of 3 keys" in text
    assert "privml-build verify https://HOST:8443 --trust root.json NAME" in text


def test_versions_are_listed_with_their_states_in_words(files: site.Files) -> None:
    text = files[f"images/{NAME}.html"].decode()
    assert "current" in row(text, "1.2") and "by 2 of 3" in row(text, "1.2")
    assert "superseded by 1.2" in row(text, "1.1")
    assert "revoked: CVE-2026-1 (a guest is refused)" in row(text, "1.0")
    assert signer("alice").public.keyid in text.replace("<wbr>", "")


def test_a_version_has_registers_events_commands_and_what_changed(files: site.Files) -> None:
    text = files[f"images/{NAME}/1.2.html"].decode()
    plain = text.replace("<wbr>", "")
    assert "Current since 2026-11-18. A guest of it is accepted." in text
    for launch in samples.PREDICATE.launches:
        line = row(text, launch.label)
        for register in launch.registers:
            for value in launch.accepted(register):
                assert f'href="../../by/{value.hex()[:2]}.html#{value.hex()}"' in line
                assert f">{value.hex()}</td>" in plain
        assert line.count("tpm-boot") == 5
    assert f"privml-build verify https://HOST:8443 --trust root.json {NAME}@1.2 --index" in text
    assert f".venv/bin/privml-build endorse {NAME}@1.2 --as YOU --key YOU.pem" in text
    assert text.count("<svg ") == 1
    assert 'fill="var(--svg-blue)"' in text
    assert "<summary>The same as a table: 6 events</summary>" in text
    assert "<h2>What changed since 1.1</h2>" in text
    assert "5.3-4+1" in row(text, "package bash") and "5.3-4+2" in row(text, "package bash")
    assert "RTMR1, RTMR2" in row(text, "package bash")
    assert "8444" in row(text, "agent.listen")
    assert "No register moves." in text


def test_registers_that_move_are_named_with_their_causes(tmp_path: Path) -> None:
    fake = whole()
    first = samples.PREDICATE.launches[0]
    other = samples.with_values(dataclasses.replace(first, events=()), "rtmr2", b"\5" * 48)
    fake.publish("1.0", build())
    fake.publish("1.1", build(number=1, predicate=dataclasses.replace(samples.PREDICATE, launches=(other,))))
    fake.publish("1.2", build(number=1, predicate=on_sizes(1, "x")))
    files = made(fake, tmp_path)
    line = row(files[f"images/{NAME}/1.1.html"].decode().partition("<h2>What changed")[2], "RTMR2")
    assert "follows from agent.listen, package bash, package kmod, package libc6" in line
    assert "predicted for different machines" in files[f"images/{NAME}/1.2.html"].decode()
    assert registers_moved(samples.PREDICATE, samples.PREDICATE) == ()


def test_endorsements_are_listed_by_name_with_what_differs(files: site.Files) -> None:
    text = files[f"images/{NAME}/1.2.html"].decode()
    assert "identical" in row(text, "zoe") and "identical" in row(text, "yan")
    assert "differs" in row(text, "carl") and "uki.efi, root.raw" in row(text, "carl")
    assert signer("zoe").public.keyid in row(text, "zoe").replace("<wbr>", "")
    assert "Its signature is not checked here" in text
    assert "Nobody has endorsed this version yet." in files[f"images/{NAME}/1.3.html"].decode()


def test_a_publishers_endorsement_and_a_second_by_one_key_do_not_count(tmp_path: Path) -> None:
    fake = whole()
    fake.publish("1.0", build())
    endorse(fake, "alice", "1.0")
    endorse(fake, "zoe", "1.0")
    endorse(fake, "zoe-again", "1.0", key="zoe")
    text = made(fake, tmp_path)[f"images/{NAME}/1.0.html"].decode()
    assert "by 1 of 1" in text
    assert ">alice<" not in text and ">zoe-again<" not in text


def test_a_stranger_may_say_any_time(tmp_path: Path) -> None:
    fake = whole()
    fake.publish("1.0", build())
    endorse(fake, "zoe", "1.0", finished=2**53 - 1)
    line = row(made(fake, tmp_path)[f"images/{NAME}/1.0.html"].decode(), "zoe")
    assert "identical" in line
    assert "<td>no time that could be</td>" in line


def test_a_prediction_without_a_machine_is_no_table(tmp_path: Path) -> None:
    fake = whole()
    fake.publish("1.0", build(predicate=dataclasses.replace(samples.PREDICATE, launches=())))
    page = pages(made(fake, tmp_path))[f"images/{NAME}/1.0.html"]
    assert page.wrong == []
    assert "The prediction has no machine." in page.text


def test_a_badge_says_it_in_words(files: site.Files) -> None:
    def words(path: str) -> str:
        root = tree.fromstring(files[path])
        return root.attrib["aria-label"]

    assert words(f"badges/{NAME}/1.2.svg") == f"{NAME} 1.2: rebuilt by 2 of 3"
    assert words(f"badges/{NAME}/1.0.svg") == f"{NAME} 1.0: revoked"
    assert words(f"badges/{NAME}.svg") == f"{NAME}: rebuilt by nobody yet"
    assert words(f"badges/{OTHER}.svg") == f"{OTHER}: rebuilt by nobody yet"


def test_registers_are_at_the_address_of_their_first_digits(files: site.Files) -> None:
    value = samples.PREDICATE.launches[0].accepted("rtmr1")[0].hex()
    text = files[f"by/{value[:2]}.html"].decode()
    assert f'<h2 id="{value}"' in text
    assert f'<a href="../images/{NAME}/1.0.html">{NAME} 1.0</a> (revoked: CVE-2026-1): RTMR1 on all 2 sizes' in text
    told = json.loads(files["registers.json"])
    assert [(each["name"], each["version"]) for each in told["registers"][value]] == [
        (NAME, "1.3"), (NAME, "1.2"), (NAME, "1.1"), (NAME, "1.0"), (OTHER, "0.1")
    ]  # fmt: skip
    known = {value[:2] for value in told["registers"]}
    assert {path for path in files if path.startswith("by/")} == {f"by/{two}.html" for two in known}


def test_the_feed_has_an_entry_for_each_version_of_its_signed_day(files: site.Files) -> None:
    atom = "{http://www.w3.org/2005/Atom}"
    root = tree.fromstring(files["feed.xml"])
    entries = root.findall(f"{atom}entry")
    titles = [entry.findtext(f"{atom}title") for entry in entries]
    assert f"{NAME} 1.0: revoked: CVE-2026-1" in titles
    assert len(titles) == 5
    ids = [entry.findtext(f"{atom}id") for entry in entries]
    assert len(set(ids)) == 5 and all(re.fullmatch(r"urn:uuid:[0-9a-f-]{36}", str(each)) for each in ids)
    assert {entry.findtext(f"{atom}updated") for entry in [root, *entries]} == {"2026-11-18T00:00:00Z"}
    assert all(entry.find(f"{atom}link").attrib["href"] in files for entry in entries)


def test_strangers_words_are_escaped_on_pages_feed_and_badges(tmp_path: Path) -> None:
    fake = whole()
    fake.publish("1.0", build())
    fake.set_state("1.0", State.SUPERSEDED, HOSTILE)
    endorse(fake, "zoe", "1.0", differs=(HOSTILE,))
    path = f"{NAME}/1.0/endorsements/zoe.dsse.json"
    fake.files[f"{NAME}/1.0/endorsements/<script>alert(2)\"'.dsse.json"] = fake.files.pop(path)
    files = made(fake, tmp_path)
    for path, page in pages(files).items():
        assert page.wrong == [], path
    for path, data in files.items():
        text = data.decode()
        assert "<script" not in text, path
        assert "\x1b" not in text and "\u202e" not in text, path
        if path.endswith((".xml", ".svg")):
            tree.fromstring(data)
    text = files[f"images/{NAME}/1.0.html"].decode()
    assert "&lt;script&gt;alert(2)&quot;&#x27;" in text
    assert r"\x1b[2J\u202e" in text
    assert HOSTILE[:25] in pages(files)[f"images/{NAME}/1.0.html"].text.replace("\0", "")


@pytest.mark.parametrize(
    "path",
    [
        f"{NAME}/1.2/statement.dsse.json",
        f"{NAME}/1.2/lock.json",
        f"{NAME}/index.json",
        "tuf/timestamp.json",
        "root.json",
    ],
)
@pytest.mark.parametrize("change", ["altered", "gone"])
def test_a_repository_that_does_not_check_gives_no_site(tmp_path: Path, path: str, change: str) -> None:
    fake = project()
    data = bytearray(fake.files.pop(path))
    if change == "altered":
        data[len(data) // 2] ^= 1
        fake.files[path] = bytes(data)
    with pytest.raises(Refused, match="measurements: "):
        made(fake, tmp_path)


@pytest.mark.parametrize("path", [f"{NAME}/1.2/more.json", f"{NAME}/1.2/endorsements/zoe.txt", "index.html"])
def test_a_file_that_nothing_names_gives_no_site(tmp_path: Path, path: str) -> None:
    fake = project()
    fake.files[path] = b"{}"
    with pytest.raises(Refused, match=path):
        made(fake, tmp_path)


def test_a_version_that_counts_no_more_may_be_unreadable_and_says_why(tmp_path: Path) -> None:
    fake = project()
    del fake.files[f"{NAME}/1.0/statement.dsse.json"]
    files = made(fake, tmp_path)
    text = files[f"images/{NAME}/1.0.html"].decode()
    assert "its files are not shown because they do not check today" in text
    assert "Revoked since 2026-11-18: CVE-2026-1. A guest of it is refused." in text
    assert "What changed since" not in files[f"images/{NAME}/1.1.html"].decode()


def test_a_repository_without_a_version_has_a_front_page_alone(tmp_path: Path) -> None:
    files = made(whole(), tmp_path)
    assert set(files) == {"index.html", "registers.json"}
    assert pages(files)["index.html"].wrong == []


def run(capsys: pytest.CaptureFixture[str], *words: str) -> Outcome:
    return Outcome(capsys, "publish", "site", *words)


def test_the_verb_writes_the_site_and_replaces_an_earlier_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], files: site.Files
) -> None:
    monkeypatch.chdir(tmp_path)
    project().write(Path("measurements"))
    outcome = run(capsys, "public")
    assert outcome.code == 0, outcome.stderr
    assert outcome.stdout == f"public: {len(pages(files))} pages, {len(files)} files\n"
    Path("public/images/old.html").write_text("of a version that was there")
    told = json.loads(run(capsys, "public", "--json").stdout)
    assert told == {"directory": "public", "written": sorted(files)}
    found = {
        path.relative_to("public").as_posix(): path.read_bytes()
        for path in Path("public").rglob("*")
        if path.is_file()
    }
    assert found == files


def test_other_files_are_not_replaced_and_a_refused_site_leaves_the_earlier_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    project().write(Path("measurements"))
    Path("docs").mkdir()
    Path("docs/mine.html").write_text("mine")
    outcome = run(capsys, "docs")
    assert (outcome.code, Path("docs/mine.html").read_text()) == (2, "mine")
    assert "has files that are not of a site" in outcome.stderr
    run(capsys, "public")
    before = Path("public/index.html").read_bytes()
    (Path("measurements") / NAME / "1.2/lock.json").write_bytes(b"{}")
    outcome = run(capsys, "public")
    assert outcome.code == 8
    assert f"statement-digest: got {NAME}/1.2/lock.json with sha256 " in outcome.stderr
    assert Path("public/index.html").read_bytes() == before
    with pytest.raises(UsageError):
        site.write({}, Path("docs/mine.html"))
