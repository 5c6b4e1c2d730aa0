"""Predicate and Statement: they come back as they went, and refuse what is not v1 or contradicts itself."""

from __future__ import annotations

import attestation_samples as samples
import pytest

from privml.base.errors import EvidenceError
from privml.base.strictjson import canonical, loads, pretty
from privml.statement import intoto, predicate
from privml.statement.intoto import Statement, Subject

STATEMENT = Statement((Subject("uki.efi", bytes(32)), Subject("root.raw", b"\1" * 32)), samples.PREDICATE)


def test_a_predicate_comes_back_as_it_went() -> None:
    assert predicate.decode(predicate.encode(samples.PREDICATE)) == samples.PREDICATE
    assert predicate.decode(pretty(samples.PREDICATE.to_dict())) == samples.PREDICATE


def test_a_statement_comes_back_as_it_went() -> None:
    data = intoto.encode(STATEMENT)
    assert intoto.decode(data) == STATEMENT
    value = loads(data)
    assert value["_type"] == "https://in-toto.io/Statement/v1"
    assert value["predicateType"] == "https://privml-build.dev/predicate/tdx-measurements/v1"
    assert value["subject"][0] == {"name": "uki.efi", "digest": {"sha256": "00" * 32}}


def _set(value: object, path: str, new: object) -> bytes:
    *parents, last = path.split(".")
    at = value
    for name in parents:
        at = at[int(name)] if isinstance(at, list) else at[name]  # type: ignore[index]
    if isinstance(at, list):
        at[int(last)] = new
    else:
        at[last] = new  # type: ignore[index]
    return canonical(value)


@pytest.mark.parametrize(
    ("path", "new", "words"),
    [
        ("variant", "test", "production, development"),
        ("manifest_sha256", "00", "1 bytes, expected 32"),
        ("extra", 1, "unknown field"),
        ("agent_events.0.name", "hello", "not known"),
        ("agent_events.0.payload", "e30=", "not the replay of agent_events"),
        ("shapes.0.mrtd", [], "empty"),
        ("shapes.0.mrtd.0", "00", "1 bytes, expected 48"),
        ("shapes.0.memory", 0, "expected 1 to"),
        ("shapes.0.vcpus", True, "expected an integer"),
        ("shapes.0.rtmr2", "00" * 48, "events of RTMR2 do not replay"),
        ("shapes.1.rtmr3", "11" * 48, "not the replay of agent_events"),
        ("shapes.0.evidence.rtmr0", "guess", "expected one of"),
        ("shapes.0.evidence.rtmr4", "source", "unknown field"),
        ("shapes.0.events.0.register", "rtmr9", "not known"),
        ("shapes.0.events.0.digest", "00" * 48, "do not replay"),
    ],
)
def test_a_bent_predicate_is_refused(path: str, new: object, words: str) -> None:
    with pytest.raises(EvidenceError, match=words):
        predicate.decode(_set(samples.PREDICATE.to_dict(), path, new))


def test_an_unused_rtmr3_is_zero() -> None:
    value = samples.PREDICATE.to_dict()
    value["shapes"][0]["rtmr3"] = "00" * 48
    assert predicate.decode(canonical(value)).shapes[0].rtmrs[3] == bytes(48)


@pytest.mark.parametrize(
    ("path", "new"),
    [
        ("_type", "https://in-toto.io/Statement/v0.1"),
        ("predicateType", "https://privml-build.dev/predicate/tdx-measurements/v2"),
        ("subject", []),
        ("subject.1.name", "uki.efi"),
        ("subject.0.digest", {"sha512": "00"}),
        ("subject.0.uri", "x"),
        ("extra", 1),
    ],
)
def test_a_bent_statement_is_refused(path: str, new: object) -> None:
    with pytest.raises(EvidenceError):
        intoto.decode(_set(STATEMENT.to_dict(), path, new))
