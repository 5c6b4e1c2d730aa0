"""Somebody else's TLS server in front of guests: its address, and what the guests behind it offer.

Its certificate is checked as any server's. That keeps bystanders out; nothing about a guest rests on it. Documents
are fresh by their nonces and records are signed by attested keys, so whoever ends TLS can withhold both and no more.

Any of several guests may answer each request, and a caller does not choose. So records and documents are asked for
over new connections until nothing new comes, and are matched by the keys section that both name.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import http.client
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from privml.base import dsse
from privml.base.deadline import Deadline
from privml.base.errors import EvidenceError, HostError, PrivmlError, Refused, UsageError, printable
from privml.base.wayout import environment_way_out
from privml.channel.record import MAX_RECORD, PATH, Record, verify
from privml.client import attested
from privml.client.channel import MAX_GUESTS
from privml.client.connection import Endpoint, GuestConnection, endpoint, reason, tls_context
from privml.evidence import document
from privml.evidence.sections import CHANNEL_KEY, Keys

HTTPS_PORT = 443
MAX_ASKS = 64
"""Requests for records in one search, and for documents."""
_RECORD_TIMEOUT = 15.0


@dataclass(frozen=True)
class Offered:
    """What one guest behind a terminator gave: a document over a fresh nonce, and its record of channel keys.

    Nothing of it is checked.
    """

    nonce: bytes
    document: bytes
    record: bytes


@dataclass(frozen=True)
class _Claimed:
    """A record as it was received, and what it says: its keys section (SHA-256), and its number."""

    data: bytes
    keys_sha256: bytes
    seq: int


@dataclass(frozen=True)
class Terminator:
    """Where it is, and the PEM file of the authorities for its certificate (None: the system's)."""

    where: Endpoint
    authorities: Path | None = None

    @classmethod
    def at(cls, url: str, authorities: Path | None = None) -> Terminator:
        """The one at ``https://HOST[:PORT]``, port 443 by default; ``UsageError`` for anything else."""
        made = cls(endpoint(url, default_port=HTTPS_PORT), authorities)
        _ = made.tls
        return made

    @functools.cached_property
    def tls(self) -> ssl.SSLContext:
        """TLS with the usual checks of name and certificate; ``UsageError`` if the authorities cannot be read."""
        file = self.authorities or environment_way_out().certificates
        context = tls_context()
        context.verify_mode = ssl.CERT_REQUIRED
        context.check_hostname = True
        # Terminators of others are not all of the newest.
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            if file is None:
                context.load_default_certs()
            else:
                context.load_verify_locations(file)
        except OSError as error:
            raise UsageError(f"{file}: {reason(error)}, expected a PEM file of certificate authorities") from error
        return context

    def connection(self, timeout: float) -> GuestConnection:
        """A connection that was not opened yet."""
        return GuestConnection(self.where, timeout=timeout, context=self.tls)

    def offered(self, timeout: float = attested.TIMEOUT, *, limit: int = MAX_GUESTS) -> tuple[Offered, ...]:
        """What up to ``limit`` guests behind it offer, for the caller to judge.

        ``HostError`` or ``EvidenceError`` if no guest gave a document within ``timeout`` seconds. Without any record
        it is one document alone, whose judgement says so by name.
        """
        deadline = Deadline(timeout)
        # Records first: they cost the guests nothing, and say how many guests there are.
        claimed, failure = self._records(deadline)
        found: dict[bytes, Offered] = {}
        quiet = 0
        for _ in range(MAX_ASKS):
            new = False
            try:
                one = self._document(claimed, deadline)
            except (HostError, EvidenceError) as error:
                failure = error
            else:
                section = hashlib.sha256(document.parse(one.document).keys).digest()
                if not claimed:
                    return (one,)
                new = bool(one.record) and section not in found
                if one.record:
                    found[section] = one
            quiet = 0 if new else quiet + 1
            if len(found) >= min(limit, len(claimed)) or quiet > _patience(len(claimed)) or deadline.passed:
                break
        if not found:
            if failure is not None and isinstance(failure.__cause__, ssl.SSLCertVerificationError):
                raise HostError(failure.message, hint="`--via-ca FILE` names the authorities of its certificate")
            raise failure or HostError(
                f"{self.where.url}: no document belongs to a record of channel keys that was given",
                hint="ask again: the guests may just have been restarted",
            )
        return tuple(found.values())

    def _document(self, claimed: Mapping[bytes, Sequence[_Claimed]], deadline: Deadline) -> Offered:
        """A document of whichever guest answers, with that guest's record if it is known."""
        nonce = attested.new_nonce()
        data = attested.fetch_over(self.connection(self._left(deadline)), nonce)
        keys = Keys.decode(document.parse(data).keys)
        return Offered(nonce, data, _signed(claimed.get(keys.sha256, ()), keys))

    def _left(self, deadline: Deadline) -> float:
        try:
            return deadline.left()
        except TimeoutError as error:
            raise HostError(f"{self.where.url}: no attestation document within {deadline.seconds:g} s") from error

    def _records(self, deadline: Deadline) -> tuple[dict[bytes, list[_Claimed]], PrivmlError | None]:
        """The records that came, by the keys section that they name; and the last failure."""
        found: dict[bytes, list[_Claimed]] = {}
        failure: PrivmlError | None = None
        quiet = 0
        for _ in range(MAX_ASKS):
            claimed = None
            try:
                claimed = self._record(min(_RECORD_TIMEOUT, self._left(deadline)))
            except (HostError, EvidenceError) as error:
                failure = error
            quiet = quiet + 1 if claimed is None or claimed.keys_sha256 in found else 0
            if claimed is not None and claimed not in found.setdefault(claimed.keys_sha256, []):
                found[claimed.keys_sha256].append(claimed)
            if len(found) >= MAX_GUESTS or quiet > _patience(len(found)) or deadline.passed:
                break
        return found, failure

    def _record(self, timeout: float) -> _Claimed | None:
        """A record of whichever guest answers; None if there is none in the answer."""
        connection = self.connection(timeout)
        try:
            status, data = connection.get(PATH, 2 * MAX_RECORD)
        except (OSError, http.client.HTTPException) as error:
            raise HostError(f"{self.where.url}: no channel record: {printable(reason(error))[:300]}") from error
        finally:
            connection.abort()
        if status != 200:
            return None
        with contextlib.suppress(EvidenceError):
            said = Record.decode(dsse.decode(data, what="channel record").payload)
            return _Claimed(data, said.keys_sha256, said.seq)
        return None


def _signed(claimed: Sequence[_Claimed], keys: Keys) -> bytes:
    """The newest of these records that the channel key of ``keys`` signed; without one, the newest that says so.

    Whoever stands behind the same address can give a record that names another guest's keys.
    """
    newest = sorted(claimed, key=lambda one: one.seq, reverse=True)
    key = keys.find(*CHANNEL_KEY)
    if key is not None:
        for one in newest:
            with contextlib.suppress(Refused, EvidenceError):
                verify(one.data, channel_key=key, keys_sha256=keys.sha256)
                return one.data
    return newest[0].data if newest else b""


def _patience(found: int) -> int:
    """How many answers in a row without anything new end a search, when ``found`` guests are known."""
    return 2 * found if found > 1 else 2
