"""Check a receipt against a judged document, and against the request and the answer that somebody shows.

A receipt counts only with the document whose keys section it names: the caller judges that document, and these checks
tie receipt, request and answer to it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from privml.base.errors import Refused
from privml.base.strictjson import canonical
from privml.channel.receipt import Body, Receipt, verify
from privml.events.agent import ENGINE, MODEL, AgentEvent, config_event, model_event
from privml.evidence.facts import Facts
from privml.evidence.sections import RECEIPT_KEY
from privml.verify.rules import refuses
from privml.verify.verdict import Refusal


@dataclass(frozen=True)
class ReceiptCase:
    """A receipt's envelope, the facts of the document that was judged, and what to compare the receipt with.

    ``nonce`` is the one that the request was sent with, None if it had none. ``request`` and ``response`` are None
    where there are no bytes to compare; with ``hashes_only`` that is no refusal.
    """

    facts: Facts
    envelope: bytes
    nonce: bytes | None
    request: Body | None = None
    response: Body | None = None
    hashes_only: bool = False

    def read(self) -> Receipt:
        """The receipt; ``Refused`` unless the document's receipt key signed it, ``EvidenceError`` if malformed."""
        return self._read

    @cached_property
    def _read(self) -> Receipt:
        key = self.facts.keys.find(*RECEIPT_KEY)
        if key is None:
            raise Refused("no receipt key in the document")
        return verify(self.envelope, key=key)


@refuses(
    {
        "receipt-signature": "the receipt is not signed by the receipt key in the document",
        "receipt-keys": "the receipt is of another guest or boot than the document",
        "receipt-model": "the receipt states another model, engine, configuration or variant than the document",
        "receipt-nonce": "the receipt is not for the nonce that the request was sent with",
        "request-hash": "the request is not the one in the receipt, or is not there to compare",
        "response-hash": "the answer is not the one in the receipt, or is not there to compare",
        "receipt-incomplete": "the answer was cut before its end",
    }
)
def receipt(case: ReceiptCase) -> Iterator[Refusal]:
    """Check signature, document, model, nonce, digests and completeness."""
    try:
        found = case.read()
    except Refused as refused:
        yield Refusal("receipt-signature", refused.message, "a receipt signed by the receipt key in the document")
        return
    named, judged = found.origin.keys_sha256, case.facts.keys.sha256
    if named != judged:
        yield Refusal("receipt-keys", f"keys section {named.hex()}", judged.hex())
    yield from _model(found, case.facts)
    if found.nonce != case.nonce:
        yield Refusal("receipt-nonce", _nonce(found.nonce), _nonce(case.nonce))
    for code, shown, stated in (
        ("request-hash", case.request, found.request),
        ("response-hash", case.response, found.response),
    ):
        if shown is None and not case.hashes_only:
            yield Refusal(code, "nothing to compare", _body(stated))
        elif shown is not None and shown != stated:
            yield Refusal(code, _body(shown), _body(stated))
    if not found.complete:
        yield Refusal("receipt-incomplete", f"cut after {found.response.size} bytes", "a complete answer")


def _model(found: Receipt, facts: Facts) -> Iterator[Refusal]:
    """What the receipt says of the image, where the agent's measured events say otherwise."""
    origin, events = found.origin, facts.agent_events
    engine = {"name": origin.engine.name, "argv_sha256": origin.engine.argv_sha256.hex()}
    models = [event for event in events if event.name == MODEL]
    model = origin.model
    stated = [] if model is None else [model_event(model.name, model.root_hash.hex())]
    for what, said, agrees in (
        ("configuration", origin.config_sha256.hex(), config_event(origin.config_sha256.hex()) in events),
        ("engine", origin.engine.name, AgentEvent(ENGINE, canonical(engine)) in events),
        # A guest with several models does not say which one answered.
        ("model", "none" if model is None else model.name, models == stated or (not stated and len(models) > 1)),
        ("variant", origin.variant, origin.variant == facts.header.variant),
    ):
        if not agrees:
            yield Refusal("receipt-model", f"{what} {said}", f"the {what} of the document")


def _nonce(nonce: bytes | None) -> str:
    return "none" if nonce is None else nonce.hex()


def _body(body: Body) -> str:
    return f"{body.sha256.hex()} of {body.size} bytes"
