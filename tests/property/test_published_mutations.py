"""Every byte and every leaf of what is published: no change is accepted that is not the same document."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.published_fake import NAME, Fake, build, signer

from privml.base.errors import EvidenceError
from privml.base.strictjson import canonical, loads
from privml.statement import index, metadata, rebuild, rebuilders, release
from privml.statement.follow import version_of
from privml.statement.untrusted import UntrustedError
from privml.statement.update import Memory

SIGNERS = ("root-1", "root-2", "alice", "bob", "online")
"""As many keys as are asked for: any lost signature is one too few."""


def honest() -> Fake:
    fake = Fake(signers=SIGNERS)
    fake.publish("1.0", signers=SIGNERS)
    return fake


HONEST = honest()
FILES = dict(HONEST.files)
FOLLOWED = [path for path in FILES if path.startswith("tuf/") and path not in ("tuf/1.snapshot.json",)]
PATHS = [*FOLLOWED, *(f"{NAME}/{name}" for name in ("index.json", "1.0/release.json", "1.0/statement.dsse.json"))]


def accepted(path: str, data: bytes) -> bool:
    """True if a client that trusts the honest root takes the repository with ``data`` in the place of ``path``."""
    fake = Fake.__new__(Fake)
    fake.files, fake.fetched = {**FILES, path: data}, []
    fake.trusted = fake.files["tuf/1.root.json"]
    try:
        update, found = fake.walk()
        version_of(fake.fetch, found, found.versions[0], update.publishers(NAME))
    except (EvidenceError, UntrustedError):
        return False
    return True


def same(path: str, data: bytes) -> bool:
    """True if ``data`` is another spelling of the same JSON, which only a file without a digest may have."""
    if path not in ("tuf/1.root.json", "tuf/timestamp.json", f"{NAME}/1.0/statement.dsse.json"):
        return False
    try:
        return canonical(loads(data)) == canonical(loads(FILES[path]))
    except EvidenceError:
        return False


def test_the_control_is_accepted() -> None:
    assert all(accepted(path, FILES[path]) for path in PATHS)
    assert len(PATHS) == 8


def wrongly_accepted(path: str, count: int | None = None) -> list[str]:
    """What was accepted of the file with one byte changed, at ``count`` places or at every one."""
    data, found = FILES[path], []
    for at in range(0, len(data), 1 if count is None else max(1, len(data) // count)):
        for mask in (0x01, 0x20):
            changed = data[:at] + bytes([data[at] ^ mask]) + data[at + 1 :]
            if accepted(path, changed) and not same(path, changed):
                found.append(f"{path}: byte {at} ^ {mask}")
    return found


@pytest.mark.parametrize("path", PATHS)
def test_no_changed_byte_is_accepted(path: str) -> None:
    """Some 40 places of each file; `make check-full` tries every byte."""
    assert wrongly_accepted(path, 40) == []


@pytest.mark.parametrize("path", PATHS)
def test_no_part_of_a_file_is_accepted(path: str) -> None:
    data = FILES[path]
    for end in {0, 1, len(data) // 2, len(data) - 2}:
        assert not accepted(path, data[:end])
        assert not accepted(path, data[end:]) or end == 0
    assert not accepted(path, data + b"{}")


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from leaves(item, (*path, key))


def bent(value: Any) -> list[Any]:
    """Other values of the same type, and of others."""
    if isinstance(value, bool):
        return [not value, None]
    if isinstance(value, int):
        return [value + 1, value - 1, str(value)]
    if isinstance(value, str):
        flipped = ("0" if value[:1] != "0" else "1") + value[1:]
        return [flipped, value + "0", value[:-1], None]
    return [None, [], {}] if not isinstance(value, list) else [None, value[:-1], [*value, *value[:1]]]


@pytest.mark.parametrize("path", [path for path in PATHS if "statement" not in path])
def test_no_changed_leaf_is_accepted(path: str) -> None:
    document = loads(FILES[path])
    places = list(leaves(document))
    assert len(places) > 8
    for place in places:
        for removed in (False, True):
            changed = loads(FILES[path])
            parent = changed
            for key in place[:-1]:
                parent = parent[key]
            values = [...] if removed else bent(parent[place[-1]])
            for value in values:
                copy = loads(canonical(changed))
                spot = copy
                for key in place[:-1]:
                    spot = spot[key]
                if value is ...:
                    del spot[place[-1]]
                elif spot[place[-1]] == value and type(spot[place[-1]]) is type(value):
                    continue
                else:
                    spot[place[-1]] = value
                assert not accepted(path, canonical(copy)), f"{path}: {place} = {value!r}"


DECODERS = {
    "root": lambda data: metadata.decode(metadata.Root, data, "x"),
    "targets": lambda data: metadata.decode(metadata.Targets, data, "x"),
    "snapshot": lambda data: metadata.decode(metadata.Snapshot, data, "x"),
    "timestamp": lambda data: metadata.decode(metadata.Timestamp, data, "x"),
    "image": lambda data: metadata.decode(metadata.ImageTargets, data, "x"),
    "index": index.decode,
    "release": release.decode,
    "rebuild": rebuild.decode,
    "memory": lambda data: Memory.decode(data, "x"),
    "rebuilders": lambda data: rebuilders.decode(data, "x"),
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)
SAMPLES = {
    **{
        name: FILES[path]
        for name, path in (
            ("root", "tuf/1.root.json"),
            ("targets", "tuf/1.targets.json"),
            ("snapshot", "tuf/2.snapshot.json"),
            ("timestamp", "tuf/timestamp.json"),
            ("image", f"tuf/1.{NAME}.json"),
            ("index", f"{NAME}/index.json"),
            ("release", f"{NAME}/1.0/release.json"),
        )
    },
    "memory": HONEST.walk()[0].memory.encode(),
    "rebuilders": rebuilders.encode(
        [rebuilders.Rebuilder(name, signer(name).public) for name in ("ann", "p256-ben")]
    ),
    "rebuild": rebuild.Rebuild(
        (rebuild.Subject("uki.efi", bytes(32)),), NAME, "1.0", rebuild.IDENTICAL, bytes(32), bytes(32), bytes(32),
        "0.1", {"kernel": "6.1"}, 1, (),
    ).encode(),
}  # fmt: skip


@settings(max_examples=40)
@given(data=st.data())
def test_a_reader_gives_a_record_or_says_malformed(data: st.DataObject) -> None:
    """Bytes, JSON, and the honest document with any JSON at any place: never another exception."""
    name = data.draw(st.sampled_from(sorted(DECODERS)))
    document = loads(SAMPLES[name])
    DECODERS[name](SAMPLES[name])
    place = data.draw(st.sampled_from(list(leaves(document))))
    parent = document
    for key in place[:-1]:
        parent = parent[key]
    parent[place[-1]] = data.draw(JSON)
    text = metadata.json.dumps(document).encode()
    for given_bytes in (data.draw(st.binary(max_size=40)), metadata.json.dumps(data.draw(JSON)).encode(), text):
        try:
            DECODERS[name](given_bytes)
        except EvidenceError:
            continue


def test_a_build_that_differs_in_any_file_is_another_release() -> None:
    from privml.publish.version import release_of

    first = build()
    for name in first.files:
        if name != "manifest.json":
            other = dataclasses.replace(first, files={**first.files, name: b"other"})
            assert release_of(other, "1", 1).sha256 != release_of(first, "1", 1).sha256
