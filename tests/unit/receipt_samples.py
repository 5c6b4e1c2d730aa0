"""An exchange with the simulated guest of `attestation_samples`: its document, and a receipt of its receipt key."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import attestation_samples as samples
from tests import channel_vectors
from tests.receipts import KEY, RECEIPT, SIGNER

from privml.base.strictjson import canonical
from privml.channel.receipt import Engine, Model, Origin, Receipt
from privml.client.exchange import Exchange
from privml.evidence.sections import CHANNEL_KEY, RECEIPT_KEY, TLS_KEY, Key, Keys

KEYS = Keys((Key(*CHANNEL_KEY, channel_vectors.CHANNEL_KEY), Key(*RECEIPT_KEY, KEY), Key(*TLS_KEY, samples.SPKI)))
ARGV = ["llama-server", "--port", "8080"]
ORIGIN = Origin(
    keys_sha256=KEYS.sha256,
    config_sha256=b"\x11" * 32,
    variant="production",
    model=Model("smollm2", b"\x22" * 32),
    engine=Engine("llama-server", hashlib.sha256(canonical(ARGV)).digest()),
)
HONEST = replace(RECEIPT, origin=ORIGIN)
"""What the guest says of a request with the nonce `RECEIPT.nonce`."""


def signed(receipt: Receipt = HONEST) -> bytes:
    """A receipt as the guest's receipt key signs it."""
    return receipt.sign(SIGNER.sign, KEY)


def exchange(stated: Receipt = HONEST, **changes: Any) -> Exchange:
    """What a caller kept of it."""
    document = samples.document(keys=KEYS).encode()
    return replace(Exchange(signed(stated), stated.nonce, document, samples.NONCE, samples.NOW), **changes)
