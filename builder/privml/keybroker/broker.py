"""Answer challenges and requests for release: HTTP bodies in, HTTP bodies out.

A key leaves only after the guest's document was accepted, the owners' policy allowed it, and the log entry was
synced to disk. A crash in between leaves an entry for a key that nobody got, never the opposite.
"""

from __future__ import annotations

import hashlib
import logging
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from privml.base.errors import EvidenceError, PrivmlError
from privml.base.strictjson import canonical
from privml.channel.kem import usable
from privml.channel.release import Release, Released, Request, Statement, seal
from privml.evidence.sections import RELEASE_KEYS
from privml.keybroker import resources
from privml.keybroker.challenges import Challenges
from privml.keybroker.decision import PLATFORMS, Asking, Platform, Wanted, decide, where_of
from privml.keybroker.entry import REFUSE, RELEASE, Entry
from privml.keybroker.refusallimit import RefusalLimit
from privml.keybroker.resources import KeyRow
from privml.keybroker.store import Store
from privml.statement import predicate
from privml.verify.check import UNPROVEN
from privml.verify.judgement import AttestedKeys, Judgement
from privml.verify.verdict import Refusal

log = logging.getLogger("privml")

MAX_REQUEST = 1024 * 1024
"""Bytes of a request for release."""

Judge = Callable[[bytes, bytes], Judgement]
"""Judges a document (its bytes) for a nonce, for key release; ``EvidenceError`` if the document is malformed."""


@dataclass(frozen=True)
class Answer:
    """A status and a JSON body. ``retry_after`` (seconds) is for 503."""

    status: int
    body: bytes
    retry_after: int | None = None


def error(
    status: int, code: str, message: str, refusals: Sequence[Refusal] = (), retry_after: int | None = None
) -> Answer:
    """An error by name, with the reasons of a refusal."""
    listed: list[dict[str, Any]] = [dict(each.to_dict()) for each in refusals]
    body = {"error": {"code": code, "message": message}, "refusals": listed}
    return Answer(status, canonical(body), retry_after)


@dataclass(frozen=True)
class _Guest:
    """What was judged: the document's digest, and the judgement."""

    document_sha256: str
    judgement: Judgement

    @property
    def platform(self) -> Platform | None:
        """What the signature proves of the machine; None for a TEE whose machines no policy can name."""
        claims = self.judgement.facts.claims
        found = PLATFORMS.get(claims.tee)
        return None if found is None else found(claims, self.judgement.signature)

    @property
    def image(self) -> bytes:
        """SHA-256 of the predicate of the image that the guest was compared with."""
        expected = self.judgement.expected
        return b"" if expected is None else hashlib.sha256(predicate.encode(expected.predicate)).digest()


@dataclass
class Broker:
    """A broker over an open store. ``clock`` gives Unix seconds; the policies' ends are compared with it."""

    store: Store
    judge: Judge
    clock: Callable[[], float] = time.time
    challenges: Challenges = field(default_factory=Challenges)
    public: bytes = field(init=False)
    refusals: RefusalLimit = field(init=False)

    def __post_init__(self) -> None:
        self.public = self.store.public
        self.refusals = RefusalLimit(self.clock)

    def challenge(self) -> Answer:
        """A nonce for a document, good once and for 120 seconds, and the broker's public key."""
        return Answer(200, canonical({"broker": self.public.hex(), "nonce": self.challenges.new().hex()}))

    def release(self, body: bytes) -> Answer:
        """The keys that a request asks for, sealed to the guest of its document; or why not.

        The nonce is used by a document that is proven, so nobody else uses it up; it is given back if the answer is
        not final.
        """
        try:
            request = Request.decode(body, limit=MAX_REQUEST)
        except EvidenceError as malformed:
            return error(400, "release-request", malformed.message)
        if not self.challenges.open(request.nonce):
            return _used()
        try:
            judgement = self.judge(request.document, request.nonce)
        except EvidenceError as malformed:
            log.info("refused a malformed document: %s", malformed.message)
            return _evidence()
        except PrivmlError as failed:
            log.warning("no verdict: %s", failed.message)
            return error(503, "verdict", "the broker cannot judge documents now", retry_after=10)
        codes = {refusal.code for refusal in judgement.verdict.refusals}
        if codes & UNPROVEN:
            # Whoever sends this may be anybody, so nothing is logged for it, and nothing said.
            log.info("refused a document without proof: %s", ", ".join(sorted(codes)))
            return _evidence()
        if not self.challenges.take(request.nonce):
            return _used()
        guest = _Guest(hashlib.sha256(request.document).hexdigest(), judgement)
        try:
            with self.store.mutex:
                return self._decided(guest, request)
        except (PrivmlError, sqlite3.Error) as failed:
            self.challenges.give_back(request.nonce)
            log.warning("no release: %s", failed)
            return error(503, "store", "the broker's store cannot be used", retry_after=10)

    def _decided(self, guest: _Guest, request: Request) -> Answer:
        with self.store.changing() as entries:
            rows = [resources.key(self.store, *each) for each in request.resources]
            asked = [self._asking(guest, *each, row) for each, row in zip(request.resources, rows, strict=True)]
            reasons = _reasons(guest, asked)
            keys = guest.judgement.keys
            sealing = None if keys is None else _release_key(keys)
            if not reasons and sealing is None:
                known = ", ".join(kem.name for kem in usable())
                reasons = [Refusal("release-key", "a key of an algorithm that is not usable here", known)]
            if reasons or sealing is None:
                entries.extend(self._refusal(guest, asked, reasons))
                return _refused(asked, reasons)
            wanted = [row for row in rows if row is not None]
            secrets = tuple(resources.volume_key(self.store, row) for row in wanted)
            entries.extend(_entry(guest, each, RELEASE, ()) for each in asked)
            for each in asked:
                assert each.wanted.policy is not None
                resources.count_release(self.store, each.wanted.resource, each.wanted.policy)
        return self._release(guest, asked, wanted, secrets, sealing)

    def _asking(self, guest: _Guest, name: str, generation: int, row: KeyRow | None) -> Asking:
        found = resources.find(self.store, name)
        policy = None if found is None else found.policy
        wanted = Wanted(
            name,
            generation,
            known=row is not None,
            retired=row is not None and row.retired,
            policy=policy,
            released=0 if policy is None else resources.released(self.store, name, policy),
        )
        outcome = guest.judgement.verdict.outcome
        now = int(self.clock())
        return Asking(wanted, outcome, guest.image, guest.platform, now, self.store.development)

    def _refusal(self, guest: _Guest, asked: Sequence[Asking], reasons: Sequence[Refusal]) -> Iterator[Entry]:
        """The entry of a refusal, one a document, unless its machine has enough of them."""
        platform = guest.platform
        if not self.refusals.admits(b"" if platform is None else platform.id):
            log.warning("refusals that are not logged, in this hour: %d", self.refusals.unlogged)
            return
        codes = tuple(dict.fromkeys(reason.code for reason in reasons))
        known = [each for each in asked if each.wanted.known]
        objected = [each for each in known if any(reason.where == where_of(each.wanted) for reason in reasons)]
        yield _entry(guest, next(iter(objected or known), None), REFUSE, codes)

    def _release(
        self,
        guest: _Guest,
        asked: Sequence[Asking],
        rows: Sequence[KeyRow],
        secrets: tuple[bytes, ...],
        sealing: tuple[str, bytes],
    ) -> Answer:
        signing = self.store.signing_key
        statement = Statement(
            broker=signing.public_key().public_bytes_raw(),
            kem=sealing[0],
            report_data=guest.judgement.facts.report_data,
            resources=tuple(_released(row, each) for row, each in zip(rows, asked, strict=True)),
            log=self.store.tree.head,
        )
        try:
            sealed: Release = seal(statement, secrets, sealing[1], signing.sign)
        except ValueError as unusable:
            return error(403, "refused", "the guest's release key is not usable", [_bad_key(unusable)])
        log.info("released %s", ", ".join(f"{row.resource} {row.generation}" for row in rows))
        return Answer(200, sealed.encode())


def _used() -> Answer:
    return error(403, "challenge", "this nonce is not open: it was used, is too old, or is another broker's")


def _reasons(guest: _Guest, asked: Sequence[Asking]) -> list[Refusal]:
    """Why the guest gets nothing: those of the verdict, and only for a guest without any what owners object to."""
    return list(guest.judgement.verdict.refusals) or [reason for each in asked for reason in decide(each)]


def _refused(asked: Sequence[Asking], reasons: Sequence[Refusal]) -> Answer:
    names = ", ".join(each.wanted.resource for each in asked)
    log.info("refused %s: %s", names, ", ".join(dict.fromkeys(reason.code for reason in reasons)))
    return error(403, "refused", f"{names} is not released to this guest", reasons)


def _evidence() -> Answer:
    return error(403, "evidence", "the document does not prove a guest that asks now: ask it for a new one")


def _release_key(keys: AttestedKeys) -> tuple[str, bytes] | None:
    """The best of the guest's release keys that this machine can seal to: its algorithm and bytes."""
    known = {alg: use for use, alg in RELEASE_KEYS}
    for kem in usable():
        found = keys.find(known[kem.name], kem.name)
        if found is not None:
            return kem.name, found
    return None


def _bad_key(problem: ValueError) -> Refusal:
    return Refusal("release-key", str(problem), "a public key that can be sealed to")


def _released(row: KeyRow, asking: Asking) -> Released:
    assert asking.wanted.policy is not None
    return Released(row.resource, row.generation, row.check, asking.wanted.policy.sha256)


def _entry(guest: _Guest, asking: Asking | None, kind: str, codes: tuple[str, ...]) -> Entry:
    """An entry about a guest, and about a key of the store that it asked for (None: it asked for no such key)."""
    policy = None if asking is None else asking.wanted.policy
    return Entry(
        kind,
        "" if asking is None else asking.wanted.resource,
        0 if asking is None else asking.wanted.generation,
        codes,
        document_sha256=guest.document_sha256,
        quote_sha256=guest.judgement.facts.claims.evidence_sha256,
        ppid="" if guest.platform is None else guest.platform.id.hex(),
        image=guest.image.hex(),
        policy_sha256="" if policy is None else policy.sha256.hex(),
    )
