"""No change of one part of an honest document is accepted, whichever part it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit import attestation_samples as samples

from privml.base.errors import EvidenceError
from privml.base.strictjson import b64, canonical, loads, unb64
from privml.client import attested
from privml.verify.verdict import Outcome

FAST = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
HONEST = loads(samples.document().encode())

Mutation = Callable[[Any, st.DataObject], Any]


def judged(value: object) -> str:
    """``malformed``, or the outcome of a caller who allows the simulation."""
    try:
        judgement = attested.judge(
            canonical(value),
            samples.EXPECTED,
            samples.SIMULATED,
            now=samples.NOW,
            nonce=samples.NONCE,
            tls_spki_sha256=samples.SPKI,
        )
    except EvidenceError:
        return "malformed"
    assert (judgement.keys is None) == (judgement.verdict.outcome is Outcome.REFUSED)
    return judgement.verdict.outcome.value


def section(text: str, data: st.DataObject) -> str:
    """One bit flipped, one byte less, or one byte more."""
    content = bytearray(unb64(text))
    at = data.draw(st.integers(0, len(content) - 1))
    match data.draw(st.sampled_from(("flip", "drop", "add"))):
        case "flip":
            content[at] ^= 1 << data.draw(st.integers(0, 7))
        case "drop":
            del content[at]
        case _:
            content.insert(at, data.draw(st.integers(0, 255)))
    return b64(bytes(content))


def other(text: str, data: st.DataObject) -> str:
    """``text`` with another character in one place, of the same kind."""
    at = data.draw(st.integers(0, len(text) - 1))
    new = "1" if text[at] == "0" else "0"
    return text[:at] + new + text[at + 1 :]


def path(steps: list[dict[str, str]], data: st.DataObject) -> list[dict[str, str]]:
    (step,) = steps
    return data.draw(
        st.sampled_from(
            [
                [],
                [step, step],
                [{**step, "hash": other(step["hash"], data)}],
                [{**step, "side": "left" if step["side"] == "right" else "right"}],
            ]
        )
    )


def collateral(kinds: dict[str, dict[str, str]], data: st.DataObject) -> object:
    name = data.draw(st.sampled_from(sorted(kinds["tdx"])))
    changed = {"tdx": {**kinds["tdx"], name: other(kinds["tdx"][name], data)}}
    return data.draw(st.sampled_from([None, {}, {"snp": {}}, changed, changed, changed, changed]))


MUTATIONS: dict[str, Mutation] = {
    "format": other,
    "header": section,
    "nonce": other,
    "path": path,
    "keys": section,
    "devices": section,
    "eventlog": section,
    "bootlog": section,
    "evidence": section,
    "certificates": lambda _, data: [b64(data.draw(st.binary(max_size=8)))],
    "device_evidence": lambda _, data: [data.draw(st.sampled_from([{}, {"report": "", "certificates": ""}, None]))],
    "collateral": collateral,
}


def test_the_unchanged_document_is_accepted_and_every_member_is_mutated() -> None:
    assert judged(HONEST) == "accepted-simulated"
    assert set(MUTATIONS) == set(HONEST)


@pytest.mark.parametrize("name", sorted(set(MUTATIONS) - {"bootlog"}))
@FAST
@given(data=st.data())
def test_a_changed_member_is_refused(name: str, data: st.DataObject) -> None:
    changed = {**HONEST, name: MUTATIONS[name](HONEST[name], data)}
    if changed != HONEST:
        assert judged(changed) in ("refused", "malformed")


@FAST
@given(data=st.data())
def test_a_changed_boot_log_does_not_change_the_verdict(data: st.DataObject) -> None:
    assert judged({**HONEST, "bootlog": section(HONEST["bootlog"], data)}) == "accepted-simulated"
