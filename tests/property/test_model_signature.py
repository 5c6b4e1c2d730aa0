"""Any change of a signed model's bundle is refused, and any content under a valid signature ends in a clean error."""

from __future__ import annotations

import contextlib
import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit import model_signer as signer

from privml.base.errors import EvidenceError
from privml.lock import omsbundle

REAL = (signer.VECTORS / "alone-p256.sig").read_bytes()
OLD = (signer.VECTORS / "old-p256.sig").read_bytes()
KEY = omsbundle.signing_key((signer.VECTORS / "p256.pem").read_bytes())
OWN = omsbundle.signing_key(signer.PEM)
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 2**54),
    st.text(max_size=8),
    st.just([]),
    st.just({}),
    st.just([{"sig": "AA=="}]),
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for name, each in inner for place in places(each, (*path, name)))]


def changed(document: Any, data: st.DataObject) -> Any:
    """``document`` with one member replaced, removed, added or doubled."""
    made = copy.deepcopy(document)
    place = data.draw(st.sampled_from([path for path in places(made) if path]))
    holder = made
    for step in place[:-1]:
        holder = holder[step]
    match data.draw(st.sampled_from(["replace", "remove", "add", "double", "character"])):
        case "replace":
            holder[place[-1]] = data.draw(VALUES)
        case "remove":
            del holder[place[-1]]
        case "add" if isinstance(holder, dict):
            holder[data.draw(st.text(max_size=6))] = data.draw(VALUES)
        case "double" if isinstance(holder, list):
            holder.append(holder[place[-1]])
        case _ if isinstance(holder[place[-1]], str) and holder[place[-1]]:
            text = holder[place[-1]]
            at = data.draw(st.integers(0, len(text) - 1))
            holder[place[-1]] = text[:at] + data.draw(st.characters(codec="utf-8")) + text[at + 1 :]
    return made


def says(document: Any) -> str:
    """A bundle in one spelling: tools write no key id as "", null or not at all, and no log as [] or not at all."""
    made = copy.deepcopy(document)
    with contextlib.suppress(KeyError, TypeError, IndexError):
        if made["dsseEnvelope"]["signatures"][0]["keyid"] in ("", None):
            del made["dsseEnvelope"]["signatures"][0]["keyid"]
    with contextlib.suppress(KeyError, TypeError):
        if made["verificationMaterial"]["tlogEntries"] == []:
            del made["verificationMaterial"]["tlogEntries"]
    return json.dumps(made)


@given(data=st.data(), real=st.sampled_from([REAL, OLD]))
def test_every_changed_member_of_a_bundle_is_refused(data: st.DataObject, real: bytes) -> None:
    document = json.loads(real)
    made = changed(document, data)
    if says(made) == says(document):
        return
    with pytest.raises(EvidenceError):
        omsbundle.read(json.dumps(made).encode(), KEY)


@given(at=st.integers(0, len(REAL) - 1), mask=st.integers(1, 255))
def test_every_changed_byte_of_a_bundle_is_refused(at: int, mask: int) -> None:
    made = bytearray(REAL)
    made[at] ^= mask
    with pytest.raises(EvidenceError):
        omsbundle.read(bytes(made), KEY)


@given(size=st.integers(0, len(REAL) - 1))
def test_every_truncated_bundle_is_refused(size: int) -> None:
    with pytest.raises(EvidenceError):
        omsbundle.read(REAL[:size], KEY)


@given(data=st.data())
def test_changed_content_under_a_valid_signature_is_refused_or_names_its_own_files(data: st.DataObject) -> None:
    files = {"a.gguf": "11" * 32, "d/b.gguf": "22" * 32}
    made = changed(signer.statement(files), data)
    try:
        found = omsbundle.read(signer.bundle(json.dumps(made).encode()), OWN)
    except EvidenceError:
        return
    # What is accepted is what was signed, whole: nothing was skipped or invented.
    listed = made["predicate"]["resources"]
    assert found.files == {each["name"]: each["digest"] for each in listed} and len(listed) == len(found.files)
    assert signer.root(found.files) == made["subject"][0]["digest"]["sha256"]
