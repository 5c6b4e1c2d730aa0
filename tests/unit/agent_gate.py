"""The gate of a caller who accepts the simulated platform of a guest of `agent_guest`."""

from __future__ import annotations

import time

from tests.unit.agent_guest import Guest, prediction

from privml.client import attested
from privml.client.gate import Check, Gate
from privml.evidence.tdx import signature
from privml.sim import quote as sim
from privml.verify.anchor import Built, Expected
from privml.verify.judgement import Judgement
from privml.verify.policy import Policy

SIMULATED = Policy(allow_simulated=signature.root_der(sim.root_pem()))


def url(made: Guest) -> str:
    """The address of the guest."""
    return f"https://127.0.0.1:{made.config.listen}"


def check_of(made: Guest) -> Check:
    """What judges the guest as it was predicted from what it was given."""
    expected = Expected(prediction(made), Built("out"))

    def check(document: bytes, nonce: bytes, key: bytes) -> Judgement:
        now = int(time.time())
        return attested.judge(document, expected, SIMULATED, now=now, nonce=nonce, tls_spki_sha256=key)

    return check


def gate(made: Guest) -> Gate:
    """A gate that opens for that guest."""
    return Gate(url(made), check_of(made))
