"""The verb `endorse` on instant builds: what a rebuilder signs, and what a caller who lists the rebuilder sees."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from published_fake import NAME, signer
from test_cli_main import Outcome, as_found  # noqa: F401 - fixtures
from test_publish_command import (  # noqa: F401 - fixtures
    PUBLISHERS,
    Project,
    V,
    begun,
    change_recipe,
    commit_something,
    git,
    resealed,
    templates,
)

from privml.base import dsse
from privml.statement import rebuild
from privml.statement.keys import Role
from privml.statement.rebuilders import Rebuilder, decode, encode
from privml.statement.signed import verify

PLACE = Path(f"measurements/{V}/endorsements/zoe.dsse.json")


def endorse(project: Project, *words: str, key: str = "dora") -> Outcome:
    return Outcome(project.capsys, "endorse", f"{NAME}@1.0", "--as", "zoe", "--key", f"../private/{key}", *words)


def endorsed(key: str = "dora") -> rebuild.Rebuild:
    payload = verify(dsse.decode(PLACE.read_bytes()), Role((signer(key).public,), 1), what="it").payload
    return rebuild.decode(payload)


def relied(project: Project, number: int = 1) -> Outcome:
    """The verdict of a caller who lists zoe and asks for this many rebuilders."""
    Path("../people.json").write_bytes(encode([Rebuilder("zoe", signer("dora").public)]))
    words = ("--nonce", "00" * 32, "--spki", "00" * 32, "--trust", "../root.json", NAME)
    return Outcome(
        project.capsys,
        "verify",
        "../doc.json",
        *words,
        "--index",
        "measurements",
        "--rebuilders",
        f"../people.json:{number}",
    )


def test_an_equal_build_is_endorsed_and_counts_for_who_lists_the_rebuilder(begun: Project) -> None:  # noqa: F811
    assert "rebuilders: too few of your rebuilders" in relied(begun).stdout
    commit_something()  # another commit of the same sources
    outcome = endorse(begun)
    assert outcome.code == 0, outcome.stderr
    lines = outcome.stdout.splitlines()
    assert lines[:2] == [f"{NAME} 1.0: identical", str(PLACE)]
    [row] = [line for line in lines if line.startswith("{")]
    assert decode(row.encode(), "x") == (Rebuilder("zoe", signer("dora").public),)
    assert f"git add {PLACE} && git commit -m '{NAME}@1.0: rebuilt by zoe'" in lines[-1]
    made = endorsed()
    assert (made.result, made.differences, made.version) == (rebuild.IDENTICAL, (), "1.0")
    begun.done("check")
    verdict = relied(begun)
    assert ", rebuilt by zoe" in verdict.stdout.splitlines()[0]
    assert "too few of your rebuilders" not in verdict.stdout


def test_a_build_that_differs_is_said_and_signed_only_when_asked(begun: Project) -> None:  # noqa: F811
    begun.bend = {leg: resealed(kernel="7.0") for leg in ("a", "b")}
    outcome = endorse(begun)
    assert (outcome.code, PLACE.exists()) == (1, False)
    assert outcome.stdout.splitlines() == [f"{NAME} 1.0: differs", "  manifest.json"]
    told = json.loads(endorse(begun, "--record-difference", "--json").stdout)
    assert told == {
        "result": "differs",
        "differences": ["manifest.json"],
        "written": str(PLACE),
        "keyid": signer("dora").public.keyid,
    }
    assert (endorsed().result, endorsed().differences) == (rebuild.DIFFERS, ("manifest.json",))
    begun.done("check")
    verdict = relied(begun)
    assert "rebuilt by nobody" in verdict.stdout.splitlines()[0]
    assert "note: rebuilder zoe: got 1 differences" in verdict.stdout


def other_artefact(folder: Path) -> None:
    (folder / "uki.efi").write_bytes((folder / "uki.efi").read_bytes() + b"\0")
    resealed()(folder)


def test_the_rebuilder_signs_the_digests_that_were_got(begun: Project) -> None:  # noqa: F811
    begun.bend = dict.fromkeys(("a", "b"), other_artefact)
    outcome = endorse(begun, "--record-difference")
    assert (outcome.code, outcome.stdout.splitlines()[1]) == (1, "  uki.efi")
    published = dsse.decode(Path(f"measurements/{V}/statement.dsse.json").read_bytes()).payload
    [got] = [subject for subject in endorsed().subjects if subject.name == "uki.efi"]
    assert got.sha256.hex().encode() not in published


def test_other_sources_than_the_versions_are_refused_before_a_build(begun: Project) -> None:  # noqa: F811
    builds = begun.builds
    change_recipe()
    git("commit", "-qam", "changed")
    outcome = endorse(begun)
    assert (outcome.code, begun.builds) == (4, builds)
    assert "was built from another recipe" in outcome.stderr
    assert "git checkout " in outcome.stderr


@pytest.mark.parametrize(
    ("words", "key", "code", "message"),
    [
        ((), "alice", 8, "is a publisher's, expected a rebuilder's own"),
        ((), "nobody", 5, "cannot be read"),
        (("--as", "Zoe!"), "dora", 2, "--as: got `Zoe!`"),
        (("--as", "../x"), "dora", 2, "--as: got `../x`"),
        (("--in", "nowhere"), "dora", 2, "has no root"),
    ],
)
def test_what_cannot_be_endorsed(
    words: tuple[str, ...],
    key: str,
    code: int,
    message: str,
    begun: Project,  # noqa: F811
) -> None:
    outcome = endorse(begun, *words, key=key)
    assert (outcome.code, outcome.stdout) == (code, "")
    assert message in outcome.stderr
    assert not PLACE.exists()


def test_a_dirty_checkout_and_an_altered_publication_are_refused(begun: Project) -> None:  # noqa: F811
    Path("new.txt").write_text("x")
    assert endorse(begun).code == 8
    Path("new.txt").unlink()
    place = Path(f"measurements/{V}/statement.dsse.json")
    place.write_bytes(place.read_bytes().replace(b'"sig":"', b'"sig":"A', 1))
    assert endorse(begun).code == 9
    assert not PLACE.exists()


def test_a_version_that_counts_no_more_is_not_endorsed(begun: Project) -> None:  # noqa: F811
    begun.done("state", f"{NAME}@1.0", "revoked", "--reason", "x", keys=(*PUBLISHERS, "online"))
    outcome = endorse(begun)
    assert (outcome.code, "does not count any more: got revoked" in outcome.stderr) == (8, True)
    assert Outcome(begun.capsys, "endorse", f"{NAME}@9", "--as", "z", "--key", "../private/dora").code == 2
