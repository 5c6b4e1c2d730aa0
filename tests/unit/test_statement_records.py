"""release.json, index.json and rebuild statements: they round-trip, and each has one encoding and one meaning."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from published_fake import NAME, build, published

from privml.base.errors import EvidenceError
from privml.base.strictjson import canonical, loads, pretty
from privml.publish import version
from privml.statement import index as indexes
from privml.statement import names, rebuild, release
from privml.statement.index import Entry, Index, State, forbidden_changes
from privml.statement.intoto import Subject

RELEASE = version.release_of(build(), "2026.11.1", 7)
INDEX = published().index()
assert INDEX is not None
REVOKED = dataclasses.replace(
    INDEX,
    minimum_serial=2,
    versions=(
        dataclasses.replace(INDEX.versions[0], state=State.REVOKED, reason="a hole", replaced_by="1.1"),
        INDEX.versions[1],
    ),
)
REBUILD = rebuild.Rebuild(
    subjects=(Subject("uki.efi", bytes(32)),),
    name=NAME,
    version="1.0",
    result=rebuild.DIFFERS,
    statement_sha256=b"1" * 32,
    recipe_sha256=b"2" * 32,
    lock_sha256=b"3" * 32,
    tool="0.1.0",
    surroundings={"kernel": "6.1"},
    finished=1_795_000_000,
    differences=("uki.efi",),
)
KINDS: dict[str, tuple[Any, Callable[[bytes], Any]]] = {
    "release": (RELEASE, release.decode),
    "index": (REVOKED, indexes.decode),
    "rebuild": (REBUILD, rebuild.decode),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_record_round_trips_and_only_in_its_canonical_form(kind: str) -> None:
    record, decode = KINDS[kind]
    data = record.encode()
    assert decode(data) == record
    for other in (pretty(loads(data)), data + b"\n", data.replace(b'"name"', b'"n\\u0061me"')):
        with pytest.raises(EvidenceError, match="not canonical JSON"):
            decode(other)


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Every place in a document with its value, objects and arrays included."""
    if path:
        yield path, value
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from leaves(item, (*path, key))


def altered(document: Any, path: tuple[Any, ...], value: Any) -> bytes:
    """The document with another value at one place; `...` removes it."""
    changed = loads(canonical(document))
    place = changed
    for key in path[:-1]:
        place = place[key]
    if value is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return canonical(changed)


ROWS = ("surroundings", "versions")


@pytest.mark.parametrize("kind", KINDS)
def test_a_field_of_another_type_or_none_is_malformed(kind: str) -> None:
    record, decode = KINDS[kind]
    document = loads(record.encode())
    tried = 0
    for path, _ in leaves(document):
        for other in (..., None, True, {}, [[]], -1):
            # Of tables and lists of free length a row may be missing; nothing replaces some versions; a machine may
            # be described by nothing.
            if (
                (other is ... and path[-2:-1] and path[-2] in ROWS)
                or (other is None and path[-1] == "replaced_by")
                or (other == {} and path[-1] == "surroundings")
            ):
                continue
            tried += 1
            with pytest.raises(EvidenceError):
                decode(altered(document, path, other))
    assert tried > 60


@pytest.mark.parametrize("kind", KINDS)
def test_an_unknown_field_is_refused_wherever_it_is(kind: str) -> None:
    record, decode = KINDS[kind]
    document = loads(record.encode())
    for path, value in [((), document), *leaves(document)]:
        if isinstance(value, dict) and path[-1:] not in (("files",), ("surroundings",)):
            data = altered({"top": document}, ("top", *path, "zzz"), 1)
            with pytest.raises(EvidenceError, match="unknown field"):
                decode(canonical(loads(data)["top"]))


ENTRY: Entry = INDEX.versions[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([{"serial": 2}, {}], "expected each once and rising"),
        ([{"serial": 3}, {}], "expected each once and rising"),
        ([{}, {"version": "1.0"}], "`1.0` is listed twice"),
        ([{}, {"release_sha256": ENTRY.release_sha256}], "two versions name one release"),
        ([{"state": State.REVOKED}, {}], "expected why the version is revoked"),
        ([{"state": State.WITHDRAWN}, {}], "expected why the version is withdrawn"),
        ([{}, {"replaced_by": "1.0"}], "expected a later version"),
        ([{"replaced_by": "1.0"}, {}], "expected a later version"),
        ([{"replaced_by": "9"}, {}], "expected a later version"),
        ([{"since": "2026-13-01"}, {}], "expected a date"),
        ([{"since": "yesterday"}, {}], "expected a date"),
        ([{"version": "../1"}, {}], "expected a version"),
    ],
)
def test_an_index_that_contradicts_itself_is_malformed(changes: list[dict[str, Any]], message: str) -> None:
    versions = tuple(dataclasses.replace(one, **change) for one, change in zip(INDEX.versions, changes, strict=True))
    with pytest.raises(EvidenceError, match=message):
        indexes.decode(dataclasses.replace(INDEX, versions=versions).encode())


def with_first(**changes: Any) -> Index:
    return dataclasses.replace(INDEX, versions=(dataclasses.replace(ENTRY, **changes), INDEX.versions[1]))


LATER = Entry("1.2", 3, b"9" * 32, State.CURRENT, "", "2026-11-19", None)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (INDEX, INDEX, []),
        (INDEX, REVOKED, []),
        (INDEX, dataclasses.replace(INDEX, versions=(*INDEX.versions, LATER)), []),
        (REVOKED, dataclasses.replace(REVOKED, minimum_serial=1), ["minimum_serial: got 1, expected at least 2"]),
        (
            REVOKED,
            dataclasses.replace(INDEX, minimum_serial=2),
            ["1.0: got current, expected revoked, which is final"],
        ),
        (INDEX, dataclasses.replace(INDEX, versions=INDEX.versions[1:]), ["1.0: gone, expected it to stay listed"]),
        (
            INDEX,
            with_first(release_sha256=b"8" * 32),
            ["1.0: another serial or release, expected those it was published with"],
        ),
        (INDEX, dataclasses.replace(INDEX, name="other"), ["name: got other, expected demo-cpu"]),
        (
            dataclasses.replace(INDEX, versions=INDEX.versions[1:]),
            INDEX,
            ["1.0: serial 1, expected more than 2"],
        ),
    ],
)
def test_what_a_later_index_may_not_do(before: Index, after: Index, expected: list[str]) -> None:
    assert forbidden_changes(before, after) == expected


@pytest.mark.parametrize(
    ("state", "counts"), [("current", True), ("superseded", True), ("revoked", False), ("withdrawn", False)]
)
def test_states_that_count(state: str, counts: bool) -> None:
    assert State(state).counts is counts
    assert INDEX.counts(dataclasses.replace(ENTRY, state=State(state))) is counts
    assert not dataclasses.replace(INDEX, minimum_serial=2).counts(ENTRY)


@pytest.mark.parametrize("path", ["../x", "/x", "a//b", "a/../b", ".hidden", "a/.b", "a\\b", "", "a b", "a" * 201])
def test_a_release_names_plain_relative_paths_only(path: str) -> None:
    bad = dataclasses.replace(RELEASE, files={**RELEASE.files, path: RELEASE.files["recipe.yaml"]})
    with pytest.raises(EvidenceError, match="is not a plain relative path"):
        release.decode(bad.encode())


@pytest.mark.parametrize("path", ["release.json", "statement.dsse.json", "provenance.dsse.json"])
def test_a_release_does_not_name_what_a_second_publisher_changes(path: str) -> None:
    bad = dataclasses.replace(RELEASE, files={**RELEASE.files, path: RELEASE.files["recipe.yaml"]})
    with pytest.raises(EvidenceError, match=f"`{path}` is named"):
        release.decode(bad.encode())


@pytest.mark.parametrize("name", release.FILES)
def test_a_release_has_each_file(name: str) -> None:
    bad = dataclasses.replace(RELEASE, files={key: file for key, file in RELEASE.files.items() if key != name})
    with pytest.raises(EvidenceError, match=f"no `{name}`"):
        release.decode(bad.encode())


@pytest.mark.parametrize("change", [{"result": rebuild.IDENTICAL}, {"differences": ()}, {"differences": ("a", "a")}])
def test_a_rebuild_that_contradicts_itself_is_malformed(change: dict[str, Any]) -> None:
    with pytest.raises(EvidenceError, match="differences"):
        rebuild.decode(dataclasses.replace(REBUILD, **change).encode())


@pytest.mark.parametrize(
    ("text", "name", "version"),
    [
        ("demo-cpu", True, True),
        ("2026.11.1", False, True),
        ("root", False, True),
        ("timestamp", False, True),
        ("tuf", False, True),
        ("", False, False),
        ("a..b", False, False),
        (".a", False, False),
        ("a.", False, False),
        ("a/b", False, False),
        ("a" * 64, False, False),
        ("A", False, True),
        ("a\n", False, False),
        ("-a", False, False),
        ("ä", False, False),
    ],
)
def test_names_and_versions_are_safe_in_paths_and_addresses(text: str, name: bool, version: bool) -> None:
    assert (names.is_name(text), names.is_version(text)) == (name, version)
