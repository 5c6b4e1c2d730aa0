"""Where the collateral of a quote comes from: the caller, the cache or a service.

A file of the cache is fetched again when it is due; while the service is down, the old one is used until it expires.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from privml.base.errors import HostError, PrivmlError, Refused
from privml.client import pcs
from privml.client.collateral import Anchor, Cache, Clock, Entry, anchors, fetch, locate
from privml.evidence.document import Document
from privml.evidence.facts import Facts
from privml.evidence.nvidia.collateral import NvidiaCollateral
from privml.evidence.tdx.claims import TEE
from privml.evidence.tdx.contents import date
from privml.evidence.tdx.platform import Platform
from privml.verify.policy import Policy

if TYPE_CHECKING:
    from privml.client import kds

log = logging.getLogger("privml")

SERVICE = "PRIVML_COLLATERAL_SERVICE"
"""Environment variable with the address of a service to use instead of Intel's."""

_RETRY = 60
_QUICK = 10.0
"""Seconds for a fetch that is not needed yet, because what is cached is still good."""


class _Last(threading.local):
    """Of the last document that a thread asked about: its own collateral, and what was found instead."""

    def __init__(self) -> None:
        self.own: Mapping[str, Mapping[str, Any]] | None = None
        self.found: dict[str, Mapping[str, Any]] = {}


class Supply:
    """Where `judge` gets the collateral of a document from, when the caller gave none.

    First the nine fields that the caller has ``given``, then the cache, then the service ``where`` (None: none). The
    document's own, which the guest's host chose, is the last choice. Intel is not asked about a simulated platform.
    ``device_roots`` are those of allowed simulated devices; ``fetch_devices`` allows to ask NVIDIA's services, or
    those in the environment, and ``fetch_reports`` AMD's.
    """

    def __init__(
        self,
        where: pcs.Service | None,
        *,
        given: Mapping[str, str] | None = None,
        simulated_root: bytes | None = None,
        device_roots: tuple[bytes, bytes] | None = None,
        fetch_devices: bool = False,
        fetch_reports: bool = False,
        cache: Cache | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.where = where
        self._given = given
        self._device_roots = device_roots
        self._fetch_devices = fetch_devices
        self._fetch_reports = fetch_reports
        self._simulated_root = simulated_root
        self._kds: kds.Supply | None = None
        self._making = threading.Lock()
        self._anchors = anchors(simulated_root)
        self._cache = cache or Cache()
        self._clock = clock or time.time
        self._last = _Last()
        self._failed: dict[Platform, tuple[float, PrivmlError]] = {}

    def of_devices(self, found: Facts, *, own: bool) -> NvidiaCollateral | None:
        """NVIDIA's collateral for a document's devices (`client.nvidia`); None to use the document's ``own``."""
        if not found.device_evidence:
            return None
        from privml.client import nvidia  # most documents have no devices

        where = None
        if self._fetch_devices:
            where = nvidia.services(os.environ.get(nvidia.RIM_SERVICE), os.environ.get(nvidia.OCSP_SERVICE))
        asking = nvidia.Supply(
            where, roots=self._device_roots, directory=self._cache.directory / "nvidia", clock=self._clock
        )
        devices = asking(found, own=own)
        if devices is not None:
            self._last.found["nvidia"] = devices.encode()
        return devices

    def of_quote(self, tee: str, document: Document, *, carried: bool = False) -> Mapping[str, str] | None:
        """The fields of the TEE's collateral; None to use the document's own. ``HostError`` if Intel's was needed and
        could not be fetched. ``carried`` limits what is asked of AMD's service (`client.kdslimit`)."""
        self._last.own, self._last.found = document.collateral, {}
        found = self._of_quote(tee, document, carried=carried)
        if found is not None:
            self._last.found[tee] = found
        return found

    @property
    def used(self) -> Mapping[str, Mapping[str, Any]] | None:
        """All collateral, by kind, of this thread's last document; None if it is the document's own."""
        last = self._last
        return {**(last.own or {}), **last.found} if last.found else None

    def _of_quote(self, tee: str, document: Document, *, carried: bool) -> Mapping[str, str] | None:
        if tee == TEE:
            return self.for_quote(document.evidence, own=TEE in (document.collateral or {}))
        return self._of_report(document, carried=carried) if tee == "snp" else None

    def _of_report(self, document: Document, *, carried: bool) -> Mapping[str, str] | None:
        """AMD's certificates and revocation list of a report (`client.kds`); None to use the document's own."""
        if self._given is not None:
            return self._given
        from privml.client import kds  # most documents are of TDs

        with self._making:  # one for all threads, because it counts what it asks for
            if self._kds is None:
                where = kds.service(os.environ.get(kds.SERVICE)) if self._fetch_reports else None
                self._kds = kds.Supply(
                    where,
                    simulated_root=self._simulated_root,
                    directory=self._cache.directory / "snp",
                    clock=self._clock,
                )
        return self._kds(document, carried=carried)

    def for_quote(self, quote: bytes, *, own: bool) -> Mapping[str, str] | None:
        """The nine fields for a quote; ``own`` says whether it comes with some. Otherwise as in `of_quote`."""
        if self._given is not None:
            return self._given
        try:
            platform, anchor = locate(quote, self._anchors)
        except Refused:
            return None  # the check of the signature says why
        now = int(self._clock())
        entry = self._cache.find(platform, anchor)
        if entry is not None and entry.expired(now):
            log.warning("cached collateral of %s: %s expired", platform, entry.contents.expires_first.name)
            entry = None
        where = self.where
        if where is None or (anchor.simulated and where.base == pcs.INTEL_PCS):
            return None if entry is None else entry.fields
        if entry is None or entry.due(now):
            try:
                entry = self._refresh(where, platform, anchor, now, pcs.TIMEOUT if entry is None else _QUICK)
            except PrivmlError as error:
                entry = self._instead(entry, platform, error, own=own)
        return None if entry is None else entry.fields

    def _refresh(self, where: pcs.Service, platform: Platform, anchor: Anchor, now: int, timeout: float) -> Entry:
        at, error = self._failed.get(platform, (float("-inf"), None))
        if error is not None and 0 <= now - at < _RETRY:
            raise error
        try:
            fetched = fetch(where, platform, anchor, now=now, timeout=timeout)
        except PrivmlError as failure:
            self._failed[platform] = (now, failure)
            raise
        entry = self._cache.newest(fetched, anchor, now=now)
        try:
            self._cache.put(entry)
        except HostError as unwritable:
            log.warning("%s", unwritable.message)
        log.info("%s: fetched collateral of %s, good until %s", where.name, platform, _until(entry))
        return entry

    def _instead(self, entry: Entry | None, platform: Platform, error: PrivmlError, *, own: bool) -> Entry | None:
        """What is used when the fetch failed with ``error``."""
        if entry is not None:
            log.warning("%s; using what is cached, good until %s", error.message, _until(entry))
        elif own:
            log.warning("%s; using the collateral in the document", error.message)
        else:
            raise HostError(f"no collateral of {platform}: {error.message}", hint=error.hint) from error
        return entry


def _until(entry: Entry) -> str:
    first = entry.contents.expires_first
    return f"{date(first.expires)} ({first.name})"


def supply(service: str | None, *, offline: bool, policy: Policy, given: Mapping[str, str] | None = None) -> Supply:
    """The `Supply` from the cache and, unless ``offline``, the service at an address (None: Intel's).

    ``given`` are the nine fields, if the caller has them.
    """
    where = None if offline else pcs.service(service or pcs.INTEL_PCS)
    return Supply(
        where,
        given=given,
        simulated_root=policy.allow_simulated,
        device_roots=policy.nvidia.allow_simulated,
        fetch_devices=not offline,
        fetch_reports=not offline,
    )
