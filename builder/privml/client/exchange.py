"""Exchange v1: a receipt with the document that vouches for its key, in one file, for another person or for later.

Strict JSON (ARCHITECTURE "Exchange v1"). The receipt and the quote are signed; everything else in the file is the
word of whoever made it: that the nonces were fresh, and the time. Who reads it must say so (ADR 0056, 0093).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from privml.base import dsse
from privml.base.strictjson import Fields, b64, canonical, loads, unhex
from privml.base.times import MAX_TIME
from privml.channel.receipt import NONCE_SIZE as REQUEST_NONCE_SIZE
from privml.channel.receipt import Body, Receipt
from privml.client import attested
from privml.evidence import document
from privml.evidence.document import MAX_DOCUMENT, collateral_json, read_collateral
from privml.evidence.merkle import NONCE_SIZE
from privml.evidence.sections import TLS_KEY, Keys
from privml.verify.anchor import Anchored
from privml.verify.judgement import Judgement
from privml.verify.policy import Policy
from privml.verify.receipts import ReceiptCase, receipt
from privml.verify.verdict import Binding, Outcome, Verdict

FORMAT = "privml-exchange/v1"
MAX_EXCHANGE = 32 * 1024 * 1024
"""Bytes of a file: the largest document in base64, and collateral."""
_PIECE = 1024 * 1024


@dataclass(frozen=True)
class Exchange:
    """One receipt, as its caller kept it.

    ``receipt`` is the envelope, ``request_nonce`` the nonce that the request was sent with (None: without one).
    ``document`` has the bytes that the guest sent for ``nonce``; ``collateral`` is what it was judged with instead of
    its own, as of ``judged_at`` (Unix seconds).
    """

    receipt: bytes
    request_nonce: bytes | None
    document: bytes
    nonce: bytes
    judged_at: int
    collateral: Mapping[str, Mapping[str, Any]] | None = None

    def encode(self) -> bytes:
        """The file's bytes, canonical JSON."""
        return canonical(
            {
                "format": FORMAT,
                "receipt": loads(self.receipt, what="receipt"),
                "request_nonce": None if self.request_nonce is None else self.request_nonce.hex(),
                "document": b64(self.document),
                "nonce": self.nonce.hex(),
                "judged_at": self.judged_at,
                "collateral": collateral_json(self.collateral),
            }
        )


def is_exchange(data: bytes) -> bool:
    """True if ``data`` names the format of an exchange."""
    return f'"{FORMAT}"'.encode() in data


def decode(data: bytes) -> Exchange:
    """Read a file; ``EvidenceError`` if it is not exactly v1. Receipt and document are not judged."""
    fields = Fields(loads(data, what="exchange", limit=MAX_EXCHANGE), "exchange")
    fields.text("format", one_of=(FORMAT,))
    sent = fields.text_or_null("request_nonce", limit=2 * REQUEST_NONCE_SIZE)
    found = Exchange(
        receipt=dsse.from_value(fields.take("receipt"), "exchange.receipt").encode(),
        request_nonce=None if sent is None else unhex(sent, REQUEST_NONCE_SIZE, what="exchange.request_nonce"),
        document=fields.base64("document", limit=MAX_DOCUMENT),
        nonce=fields.hexadecimal("nonce", NONCE_SIZE),
        judged_at=fields.integer("judged_at", high=MAX_TIME),
        collateral=read_collateral(fields.take("collateral"), "exchange.collateral"),
    )
    fields.end()
    return found


@dataclass(frozen=True)
class Judged:
    """What came of an exchange: the verdict on document and receipt, and the receipt if its signature is good."""

    verdict: Verdict
    receipt: Receipt | None
    judgement: Judgement


def judge(
    exchange: Exchange,
    expected: Anchored,
    policy: Policy,
    *,
    at: int,
    collateral: attested.Collateral | None = None,
    request: Body | None = None,
    response: Body | None = None,
    hashes_only: bool = False,
    request_nonce: bytes | None = None,
) -> Judged:
    """Judge document and receipt as of ``at`` (Unix seconds); ``EvidenceError`` if one is malformed.

    ``request`` and ``response`` are compared with the receipt; without ``hashes_only`` both are needed.
    ``request_nonce`` is the verifier's own, and replaces the file's. No connection is judged: the verdict rests on
    the receipt key alone, and gives no TLS key.
    """
    keys = Keys.decode(document.parse(exchange.document).keys)
    judgement = attested.judge(
        exchange.document,
        expected,
        policy,
        now=at,
        nonce=exchange.nonce,
        tls_spki_sha256=keys.find(*TLS_KEY),
        collateral=collateral,
        bundled=exchange.collateral,
    )
    case = ReceiptCase(
        judgement.facts,
        exchange.receipt,
        exchange.request_nonce if request_nonce is None else request_nonce,
        request,
        response,
        hashes_only,
    )
    refusals = tuple(receipt(case))
    signed = all(refusal.code != "receipt-signature" for refusal in refusals)
    verdict = replace(judgement.verdict, binding=Binding.RECEIPT_KEY)
    judgement = replace(judgement, verdict=verdict)
    if refusals:
        verdict = replace(verdict, outcome=Outcome.REFUSED, refusals=(*verdict.refusals, *refusals))
    return Judged(verdict, case.read() if signed else None, judgement)


def body_of(path: Path) -> Body:
    """Digest and size of a file's bytes, which may be many."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
            size += len(piece)
    return Body(digest.digest(), size)
