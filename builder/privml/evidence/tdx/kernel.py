"""Linux interfaces of a TDX guest: quotes from configfs-tsm, RTMR3 in sysfs, the firmware's event log from ACPI.

The tdx_guest measurements are in Linux 6.16. There is no fallback to older interfaces: an image with an older kernel
declares `rtmr3: unused`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

from privml.base.errors import HostError
from privml.events.registers import DIGEST_SIZE
from privml.events.replay import extend
from privml.evidence import tsm
from privml.evidence.quotefault import QuoteFault
from privml.evidence.tsm import KernelFiles

PROVIDER = b"tdx_guest"
MIN_QUOTE = 1020


class TdxTee:
    """An Intel TDX guest on Linux >= 6.16."""

    name = "tdx"
    kind = "tdx"
    has_register = True

    def __init__(
        self,
        *,
        reports: Path = tsm.REPORTS,
        measurements: Path = Path("/sys/devices/virtual/misc/tdx_guest/measurements"),
        ccel: Path = Path("/sys/firmware/acpi/tables/data/CCEL"),
        files: KernelFiles | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._quotes = tsm.Reports(PROVIDER, MIN_QUOTE, reports=reports, files=files, sleep=sleep)
        self._rtmr3 = measurements / "rtmr3:sha384"
        self._ccel = ccel
        self._files = self._quotes.files

    def absent(self) -> QuoteFault | None:
        """Why this is not a TDX guest; None if the kernel says that it is one. Only a verified quote proves it."""
        return self._quotes.absent()

    def quote(self, report_data: bytes) -> bytes:
        """A quote over ``report_data`` (64 bytes)."""
        return self._quotes.request(report_data).quote

    def extend(self, digest: bytes) -> None:
        """TDG.MR.RTMR.EXTEND on RTMR3, then a read-back."""
        if len(digest) != DIGEST_SIZE:
            raise HostError(f"rtmr3: a digest of {len(digest)} bytes, expected {DIGEST_SIZE}")
        with self._quotes.lock:
            before = self.rtmr3()
            try:
                self._files.write(self._rtmr3, digest)
            except OSError as error:
                raise HostError(f"rtmr3: cannot be extended: {error.strerror}") from error
            if self.rtmr3() != extend(before, digest):
                raise HostError("rtmr3: unexpected value after the extend: something else extends the register")

    def rtmr3(self) -> bytes:
        """The register, from a fresh TDREPORT."""
        try:
            value = self._files.read(self._rtmr3, 4096)
        except OSError as error:
            raise HostError(f"rtmr3: cannot be read: {error.strerror} (Linux >= 6.16?)") from error
        if len(value) != DIGEST_SIZE:
            raise HostError(f"rtmr3: {len(value)} bytes, expected {DIGEST_SIZE}")
        return value

    def boot_log(self) -> bytes:
        """The firmware's CCEL."""
        with contextlib.suppress(OSError):
            return self._files.read(self._ccel, 4 * 1024 * 1024)
        return b""

    def collateral(self) -> None:
        """None: the caller fetches collateral, or the operator's gateway adds it."""
