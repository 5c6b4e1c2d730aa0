"""A guest's keys exist as an object only in a judgement that accepts it."""

from __future__ import annotations

import ast
import dataclasses
from pathlib import Path

import attestation_samples as samples
import pytest

import privml
from privml.evidence.sections import RECEIPT_KEY, TLS_KEY, Key, Keys
from privml.statement.exceptions import DeclaredException
from privml.verify.judgement import AttestedKeys, Judgement
from privml.verify.policy import Policy

SOURCE = Path(privml.__file__).parent


def test_an_accepted_guest_has_attested_keys() -> None:
    keys = samples.judge().keys
    assert isinstance(keys, AttestedKeys)
    assert keys.tls_spki_sha256 == keys.find(*TLS_KEY) == samples.SPKI
    assert keys.find(*RECEIPT_KEY) is None
    assert keys == samples.judge().keys


def test_a_refused_guest_has_none() -> None:
    for changes in ({"policy": Policy()}, {"nonce": bytes(32)}, {"tls_spki_sha256": None}):
        judgement = samples.judge(**changes)
        assert judgement.verdict.refusals
        assert judgement.keys is None


def test_a_key_of_an_unknown_use_proves_nothing() -> None:
    judgement = samples.judge()
    facts = dataclasses.replace(judgement.facts, keys=Keys((Key("other", "a", b"any"), *judgement.facts.keys.keys)))
    keys = samples.judge(facts=facts).keys
    assert keys is not None
    assert facts.keys.find("other", "a") == b"any"
    assert keys.find("other", "a") is None


@pytest.mark.parametrize("token", [None, object(), True])
def test_attested_keys_cannot_be_made_elsewhere(token: object) -> None:
    with pytest.raises(TypeError, match=r"use Judgement\.keys"):
        AttestedKeys(samples.tls_keys(samples.SPKI), token)


def test_attested_keys_cannot_be_changed() -> None:
    keys = samples.judge().keys
    assert keys is not None
    other = samples.tls_keys(bytes(32))
    with pytest.raises(TypeError):
        dataclasses.replace(keys, _keys=other)
    with pytest.raises(dataclasses.FrozenInstanceError):
        keys._keys = other  # type: ignore[misc]


def test_the_product_makes_them_in_one_place() -> None:
    made: dict[str, set[str]] = {"AttestedKeys": set(), "Judgement": set(), "_JUDGED": set()}
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_bytes())):
            name = node.func if isinstance(node, ast.Call) else node
            if isinstance(name, ast.Name) and name.id in made and (name is not node or name.id == "_JUDGED"):
                made[name.id].add(path.relative_to(SOURCE).as_posix())
    assert made == {
        "AttestedKeys": {"verify/judgement.py"},
        "Judgement": {"verify/check.py"},
        "_JUDGED": {"verify/judgement.py"},
    }
    assert {field.name for field in dataclasses.fields(Judgement)} == {
        "verdict",
        "facts",
        "launch",
        "accepted",
        "agent_events",
        "vouched",
        "signature",
        "expected",
    }


def test_an_exception_is_refused_unless_the_policy_names_it() -> None:
    declared = DeclaredException("kernel-option", "mitigations=off", "It is alone.")
    other = DeclaredException("sysctl", "vm.x=1", "Speed.")
    expected = dataclasses.replace(
        samples.EXPECTED, predicate=dataclasses.replace(samples.PREDICATE, exceptions=(declared, other))
    )
    verdict = samples.judge(expected=expected).verdict
    assert [(each.code, each.got, each.expected) for each in verdict.refusals] == [
        ("exceptions", "kernel-option:mitigations=off", "no exceptions"),
        ("exceptions", "sysctl:vm.x=1", "no exceptions"),
    ]
    assert verdict.refusals[0].where == "the recipe's reason: It is alone."
    policy = dataclasses.replace(samples.SIMULATED, exceptions=frozenset({declared.name}))
    (refusal,) = samples.judge(expected=expected, policy=policy).verdict.refusals
    assert (refusal.got, refusal.expected) == (other.name, declared.name)
    policy = dataclasses.replace(samples.SIMULATED, exceptions=frozenset({declared.name, other.name}))
    verdict = samples.judge(expected=expected, policy=policy).verdict
    assert verdict.refusals == ()
    assert "exception sysctl:vm.x=1: accepted by the policy; the recipe's reason: Speed." in verdict.notes
