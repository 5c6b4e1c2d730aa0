"""Fetch and judge a guest's attestation document, which gives the key that later connections must have."""

from __future__ import annotations

import http.client
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

from privml.base.deadline import Deadline
from privml.base.errors import EvidenceError, HostError, printable
from privml.base.strictjson import loads
from privml.client import stages
from privml.client.connection import Endpoint, GuestConnection, endpoint, reason
from privml.evidence import devices, document, facts, tees
from privml.evidence.nvidia import collateral as nvidia_collateral
from privml.evidence.nvidia.collateral import NvidiaCollateral
from privml.verify.anchor import Anchored, Candidates
from privml.verify.check import verify
from privml.verify.judgement import Judgement
from privml.verify.policy import Policy


class CollateralSource(Protocol):
    """Where collateral comes from that the caller did not give. None: use the document's own."""

    def of_quote(self, tee: str, parsed: document.Document, *, carried: bool = False) -> Mapping[str, str] | None:
        """The fields for the document's quote or report; ``carried`` says that anybody may have sent it."""

    def of_devices(self, found: facts.Facts, *, own: bool) -> NvidiaCollateral | None:
        """NVIDIA's collateral for the document's devices; ``own`` says whether the document has some."""

    @property
    def used(self) -> Mapping[str, Mapping[str, Any]] | None:
        """All collateral, by kind, of the last document that `of_quote` was asked about; None if it is its own."""


Collateral = Mapping[str, str] | CollateralSource
"""The nine fields for a quote, or a source of all collateral."""

PATH = "/.well-known/privml-attestation"
TIMEOUT = 150.0


class Fetched(NamedTuple):
    """A document's bytes and the SHA-256 (32 bytes) of the public key of the connection that delivered them."""

    document: bytes
    tls_spki_sha256: bytes


@dataclass(frozen=True)
class Attested:
    """One attestation: nonce, document, connection key, and judgement."""

    nonce: bytes
    document: bytes
    tls_spki_sha256: bytes
    judgement: Judgement


def new_nonce() -> bytes:
    """32 fresh random bytes; never use one twice."""
    return secrets.token_bytes(32)


def attest(
    url: str,
    expected: Anchored,
    policy: Policy,
    *,
    now: int,
    collateral: Collateral | None = None,
    timeout: float = TIMEOUT,
) -> Attested:
    """Fetch with a fresh nonce and judge. ``HostError`` without a response, ``EvidenceError`` for a malformed one."""
    nonce = new_nonce()
    fetched = fetch(url, nonce, timeout)
    judgement = judge(
        fetched.document, expected, policy, now=now, nonce=nonce, tls_spki_sha256=fetched.tls_spki_sha256,
        collateral=collateral,
    )  # fmt: skip
    return Attested(nonce, fetched.document, fetched.tls_spki_sha256, judgement)


def judge(
    data: bytes,
    expected: Anchored,
    policy: Policy,
    *,
    now: int,
    nonce: bytes | None,
    tls_spki_sha256: bytes | None,
    channel_record: bytes | None = None,
    collateral: Collateral | None = None,
    device_collateral: NvidiaCollateral | None = None,
    bundled: Mapping[str, Mapping[str, Any]] | None = None,
    carried: bool = False,
) -> Judgement:
    """Judge a document's bytes, fresh or captured earlier; ``EvidenceError`` if they are malformed.

    ``now`` is Unix seconds by the caller's own clock. With ``channel_record`` the verdict rests on the channel key,
    with ``carried`` on the release key (`verify.check.verify`). ``collateral`` and ``device_collateral`` (of GPUs)
    replace the document's, for which a bundle's, ``bundled``, stands in; none of them is trusted.

    Anybody may have sent a carried document: no source is asked about one that is refused whatever its signature is.
    A sender can make one that is not; how much such documents may ask of AMD is the source's to limit.
    """
    parsed = document.parse(data)
    if bundled is not None:
        parsed = replace(parsed, collateral=bundled)
    found = facts.collect(parsed)
    given = collateral
    if given is not None and not isinstance(given, Mapping):
        source, given = given, None
        if not carried or _may_pass(found, expected, nonce):
            given = source.of_quote(found.header.tee, parsed, carried=carried)
            if device_collateral is None:
                device_collateral = source.of_devices(found, own="nvidia" in (parsed.collateral or {}))
    checked = tees.check_signature(
        parsed, found.header.tee, collateral=given, now=now, simulated_root=policy.allow_simulated
    )
    if device_collateral is None:
        device_collateral = nvidia_collateral.of(parsed.collateral)
    checked_devices = devices.check(found, device_collateral, now=now, simulated_roots=policy.nvidia.allow_simulated)
    return verify(
        found,
        checked,
        expected,
        policy,
        nonce=nonce,
        tls_spki_sha256=tls_spki_sha256,
        devices=checked_devices,
        channel_record=channel_record,
        carried=carried,
    )


def _may_pass(found: facts.Facts, expected: Anchored, nonce: bytes | None) -> bool:
    """False if the document is for another nonce, TEE or content than the evidence's: that needs no collateral."""
    versions = expected.versions if isinstance(expected, Candidates) else (expected,)
    tees_of = {launch.tee for one in versions for launch in one.predicate.launches}
    bound = found.nonce == nonce and found.claims.report_data == found.report_data
    return bound and found.claims.tee in tees_of


def used(collateral: Collateral | None, tee: str) -> Mapping[str, Mapping[str, Any]] | None:
    """The collateral, by kind, that the last document was judged with instead of its own; None if there is none."""
    if collateral is None or isinstance(collateral, Mapping):
        return None if collateral is None else {tee: collateral}
    return collateral.used


def fetch(url: str, nonce: bytes, timeout: float = TIMEOUT) -> Fetched:
    """Ask the guest at ``https://HOST:PORT`` for a document over ``nonce`` (32 bytes).

    ``timeout`` is in seconds for everything from connecting to the last byte; no server can stretch it. ``HostError``
    if there is no response or the guest is not ready; then the message lists its boot stages, which are not
    authenticated.
    """
    connection = GuestConnection(endpoint(url), timeout=timeout)
    body = fetch_over(connection, nonce, explained=True)
    assert connection.peer_spki_sha256 is not None
    return Fetched(body, connection.peer_spki_sha256)


def fetch_over(connection: GuestConnection, nonce: bytes, *, explained: bool = False) -> bytes:
    """The document that comes over ``connection``, which is used for nothing else; errors as of `fetch`.

    With ``explained``, another connection to the same address asks a guest that is not ready for its stages.
    """
    where, timeout = connection.where, connection.deadline.seconds
    try:
        status, body = connection.get(f"{PATH}?nonce={nonce.hex()}", document.MAX_DOCUMENT)
    except TimeoutError as error:
        raise HostError(f"{where.url}: no attestation document: timed out after {timeout:g} s") from error
    except (OSError, http.client.HTTPException) as error:
        raise HostError(f"{where.url}: no attestation document: {_printable(reason(error))}") from error
    finally:
        connection.abort()
    if status == 503:
        known = _stages(where, connection.deadline) if explained else ""
        raise HostError(f"{where.url} is not ready: {_reason(body)}\n{known}".rstrip())
    if status != 200:
        raise HostError(f"{where.url}: status {status} for an attestation document: {_reason(body)}")
    return body


def _stages(where: Endpoint, deadline: Deadline) -> str:
    """The guest's stage table as text, asked for before ``deadline``; empty if it cannot be fetched."""
    try:
        found = stages.fetch(where, min(stages.TIMEOUT, deadline.left()))
    except (TimeoutError, HostError, EvidenceError):
        return ""
    return "\n".join(f"  {row.name}: {row.status}" + (f": {row.detail}" if row.detail else "") for row in found.rows)


def _reason(body: bytes) -> str:
    """The message of an error response, reduced to printable text because it is untrusted."""
    try:
        return _printable(loads(body, what="error")["error"]["message"])
    except (EvidenceError, KeyError, TypeError):
        return "no reason given"


def _printable(text: object) -> str:
    return printable(str(text))[:300]
