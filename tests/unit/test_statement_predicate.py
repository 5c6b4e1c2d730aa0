"""Predicate and Statement: they round-trip, and other versions and contradictions are refused."""

from __future__ import annotations

import dataclasses

import attestation_samples as samples
import pytest

from privml.base.errors import EvidenceError
from privml.base.strictjson import canonical, loads, pretty
from privml.events.agent import digests
from privml.events.registers import TDX_REGISTERS
from privml.events.replay import replay_digests
from privml.statement import intoto, predicate
from privml.statement.exceptions import DeclaredException
from privml.statement.intoto import Statement, Subject
from privml.statement.launch import FilledBy

STATEMENT = Statement((Subject("uki.efi", bytes(32)), Subject("root.raw", b"\1" * 32)), samples.PREDICATE)


def test_a_predicate_round_trips() -> None:
    assert predicate.decode(predicate.encode(samples.PREDICATE)) == samples.PREDICATE
    assert predicate.decode(pretty(samples.PREDICATE.to_dict())) == samples.PREDICATE


def test_a_statement_round_trips() -> None:
    data = intoto.encode(STATEMENT)
    assert intoto.decode(data) == STATEMENT
    value = loads(data)
    assert value["_type"] == "https://in-toto.io/Statement/v1"
    assert value["predicateType"] == "https://privml-build.dev/predicate/measurements/v2"
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
        ("agent_events.0.payload", "e30=", "neither the replay of agent_events nor zero"),
        ("exceptions", [{"kind": "shell"}], "subject"),
        ("exceptions", None, "expected an array"),
        ("gpus", {"architecture": "hopper", "count": 1, "switches": 0}, "gpus: given if, and only if"),
        ("gpus", {"architecture": "hopper", "count": 0, "switches": 0}, "count: got 0, expected 1 to 16"),
        ("gpus", {"architecture": "hopper", "count": 1, "switches": 9}, "switches: got 9, expected 0 to 8"),
        ("gpus", {"architecture": "hopper", "count": 1}, "gpus.switches: missing"),
        ("gpus", [], "expected an object"),
        ("purposes.serve", 99, "expected 0 to"),
        ("purposes.serve", -1, "expected 0 to"),
        ("purposes", dict.fromkeys(map(str, range(17)), 0), "17 purposes"),
        ("launches.0.tee", "sgx", "expected one of tdx, snp"),
        ("launches.0.tee", "snp", "machine.vmm: missing"),
        ("launches.0.policy", {}, "expected null"),
        ("launches.0.machine.memory", 0, "expected 1 to"),
        ("launches.0.machine.vcpus", True, "expected an integer"),
        ("launches.0.machine.vmm", "qemu", "unknown field"),
        ("launches.0.registers.mrtd.accepted", [], "empty"),
        ("launches.0.registers.mrtd.accepted.0", "00", "1 bytes, expected 48"),
        ("launches.0.registers.rtmr2.accepted", ["00" * 48], "events of RTMR2 do not replay"),
        ("launches.1.registers.rtmr3.accepted", ["11" * 48], "neither the replay of agent_events nor zero"),
        ("launches.0.registers.rtmr0.evidence", "guess", "expected one of"),
        ("launches.0.registers.rtmr0", None, "null, which is allowed only for a development image"),
        ("launches.0.registers.rtmr4", None, "unknown field"),
        ("launches.0.registers.mrtd", {"filled_by": "a", "accepted": []}, "unknown field"),
        ("launches.0.events.0.register", "rtmr9", "not known"),
        ("launches.0.events.0.register", "launch", "has no register launch"),
        ("launches.0.events.0.gpa", 4096, "gpa and count belong to events of `launch`"),
        ("launches.0.events.0.digest", "00" * 48, "do not replay"),
    ],
)
def test_a_malformed_predicate_is_refused(path: str, new: object, words: str) -> None:
    with pytest.raises(EvidenceError, match=words):
        predicate.decode(_set(samples.PREDICATE.to_dict(), path, new))


def test_an_unused_rtmr3_is_zero() -> None:
    value = samples.PREDICATE.to_dict()
    value["launches"][0]["registers"]["rtmr3"]["accepted"] = ["00" * 48]
    found = predicate.decode(canonical(value))
    assert found.launches[0].runtime_unused
    assert found.runtime_of(found.launches[0], "serve") == bytes(48)


def test_the_runtime_register_of_a_purpose_is_the_replay_of_its_prefix() -> None:
    """Also for a purpose unknown to this version: the predicate says how many events precede its quotes."""
    value = samples.PREDICATE.to_dict()
    value["purposes"]["key-release"] = 1
    value["purposes"]["tomorrow"] = 0
    found = predicate.decode(canonical(value))
    launch = found.launches[0]
    first = digests(samples.AGENT_EVENTS[:1])
    assert found.runtime_of(launch, "key-release") == replay_digests(first)
    assert found.runtime_of(launch, "tomorrow") == bytes(48)
    assert found.runtime_of(launch, "serve") == launch.runtime
    assert found.events_of("key-release") == samples.AGENT_EVENTS[:1]
    assert found.events_of("unheard-of") is None


@pytest.mark.parametrize("register", TDX_REGISTERS)
def test_an_open_register_is_only_for_development_unlike_one_filled_elsewhere(register: str) -> None:
    value = samples.PREDICATE.to_dict()
    value["launches"][0]["registers"][register] = {"filled_by": "the cloud's firmware endorsement"}
    filled = predicate.decode(canonical(value)).launches[0]
    assert filled.accepted(register) == ()
    assert filled.registers[register] == FilledBy("the cloud's firmware endorsement")
    value["launches"][0]["registers"][register] = None
    with pytest.raises(EvidenceError, match=f"registers.{register}: null"):
        predicate.decode(canonical(value))
    value["variant"] = "development"
    assert predicate.decode(canonical(value)).launches[0].registers[register] is None


@pytest.mark.parametrize(
    ("path", "new"),
    [
        ("_type", "https://in-toto.io/Statement/v0.1"),
        ("predicateType", "https://privml-build.dev/predicate/measurements/v1"),
        ("subject", []),
        ("subject.1.name", "uki.efi"),
        ("subject.0.digest", {"sha512": "00"}),
        ("subject.0.uri", "x"),
        ("extra", 1),
    ],
)
def test_a_malformed_statement_is_refused(path: str, new: object) -> None:
    with pytest.raises(EvidenceError):
        intoto.decode(_set(STATEMENT.to_dict(), path, new))


def test_an_exception_is_read_back_and_named_once() -> None:
    declared = DeclaredException("kernel-option", "mitigations=off", "It is alone.")
    made = dataclasses.replace(samples.PREDICATE, exceptions=(declared,))
    assert predicate.decode(predicate.encode(made)) == made
    twice = dataclasses.replace(made, exceptions=(declared, dataclasses.replace(declared, reason="other")))
    with pytest.raises(EvidenceError, match="`kernel-option:mitigations=off` is listed twice"):
        predicate.decode(predicate.encode(twice))
