"""Linux interfaces of a TDX guest: quotes from configfs-tsm, RTMR3 in sysfs, the firmware's event log from ACPI.

configfs-tsm is in Linux 6.7, the tdx_guest measurements in Linux 6.16. There is no fallback to older interfaces: an
image with an older kernel declares `rtmr3: unused`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from privml.base.errors import HostError
from privml.events.registers import DIGEST_SIZE
from privml.events.replay import extend
from privml.evidence import quotefault
from privml.evidence.quotefault import QuoteError, QuoteFault

PROVIDER = b"tdx_guest"
REPORT_DATA_SIZE = 64
MIN_QUOTE = 1020
MAX_QUOTE = 256 * 1024
ATTEMPTS = 6
# configfs-tsm and the driver tdx_guest: ENXIO without a provider; EIO when the VMM, or in newer kernels
# its quote service, refuses; ETIMEDOUT after 30 s; EBUSY while the host still owns the buffer of an earlier request.
_AGAIN = {
    errno.EBUSY: quotefault.BUSY,
    errno.ETIMEDOUT: quotefault.TIME_OUT,
    errno.EINTR: quotefault.DISTURBED,
    errno.EAGAIN: quotefault.DISTURBED,
}
_FINAL = {errno.ENOENT: quotefault.NO_PROVIDER, errno.ENXIO: quotefault.NO_PROVIDER, errno.EIO: quotefault.REFUSED}


class KernelFiles:
    """File operations that work on configfs and sysfs, without truncating, renaming or caching."""

    def mkdir(self, path: Path) -> None:
        """Create a directory, which configfs populates."""
        path.mkdir(mode=0o700)

    def rmdir(self, path: Path) -> None:
        """Remove a configfs entry with its files."""
        path.rmdir()

    def read(self, path: Path, limit: int) -> bytes:
        """Read the complete file with one open; ``OSError(EFBIG)`` above ``limit``."""
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            data = b""
            while piece := os.read(handle, 64 * 1024):
                data += piece
                if len(data) > limit:
                    raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
            return data
        finally:
            os.close(handle)

    def write(self, path: Path, data: bytes) -> None:
        """Write ``data`` with a single write at offset 0."""
        handle = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            written = os.write(handle, data)
        finally:
            os.close(handle)
        if written != len(data):
            raise OSError(errno.EIO, f"{written} of {len(data)} bytes were written", str(path))


class TdxTee:
    """An Intel TDX guest on Linux >= 6.16."""

    name = "tdx"
    kind = "tdx"
    has_register = True

    def __init__(
        self,
        *,
        reports: Path = Path("/sys/kernel/config/tsm/report"),
        measurements: Path = Path("/sys/devices/virtual/misc/tdx_guest/measurements"),
        ccel: Path = Path("/sys/firmware/acpi/tables/data/CCEL"),
        files: KernelFiles | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._reports = reports
        self._rtmr3 = measurements / "rtmr3:sha384"
        self._ccel = ccel
        self._files = files or KernelFiles()
        self._sleep = sleep
        self._lock = threading.Lock()

    def absent(self) -> QuoteFault | None:
        """Why this is not a TDX guest; None if the kernel says that it is one. Only a verified quote proves it."""
        try:
            with self._entry() as entry:
                return self._other_provider(entry)
        except OSError:
            return quotefault.NO_PROVIDER

    def quote(self, report_data: bytes) -> bytes:
        """A quote over ``report_data`` (64 bytes), with retries because all callers share one kernel buffer."""
        if len(report_data) != REPORT_DATA_SIZE:
            raise HostError(f"quote: report data of {len(report_data)} bytes, expected {REPORT_DATA_SIZE}")
        fault = quotefault.DISTURBED
        with self._lock:
            for attempt in range(ATTEMPTS):
                if attempt:
                    self._sleep(min(0.1 * 2**attempt, 5.0))
                try:
                    quote = self._quote_once(report_data)
                except OSError as error:
                    if error.errno not in _AGAIN:
                        number = error.errno or errno.EIO
                        raise QuoteError(_FINAL.get(number, quotefault.FAILED), os.strerror(number)) from error
                    # A request that timed out keeps the host busy afterwards: then the time-out is the cause.
                    if fault is not quotefault.TIME_OUT:
                        fault = _AGAIN[error.errno]
                    continue
                if quote is not None:
                    return quote
        raise QuoteError(fault, f"{ATTEMPTS} tries")

    def _quote_once(self, report_data: bytes) -> bytes | None:
        """One request; None if the entry's generation shows that the answer may belong to another request."""
        with self._entry() as entry:
            if fault := self._other_provider(entry):
                raise QuoteError(fault)
            before = self._generation(entry)
            self._files.write(entry / "inblob", report_data)
            quote = self._files.read(entry / "outblob", MAX_QUOTE)
            if self._generation(entry) != before + 1:
                return None
        if len(quote) <= MIN_QUOTE:
            # In older kernels a request that the host's quote service refused succeeds with an empty quote.
            raise QuoteError(quotefault.REFUSED, f"{len(quote)} bytes, expected more than {MIN_QUOTE}")
        return quote

    def extend(self, digest: bytes) -> None:
        """TDG.MR.RTMR.EXTEND on RTMR3, then a read-back."""
        if len(digest) != DIGEST_SIZE:
            raise HostError(f"rtmr3: a digest of {len(digest)} bytes, expected {DIGEST_SIZE}")
        with self._lock:
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

    @contextlib.contextmanager
    def _entry(self) -> Iterator[Path]:
        entry = self._reports / f"privml-{secrets.token_hex(8)}"
        self._files.mkdir(entry)
        try:
            yield entry
        finally:
            self._files.rmdir(entry)

    def _other_provider(self, entry: Path) -> QuoteFault | None:
        provider = self._files.read(entry / "provider", 4096).strip()
        if provider == PROVIDER:
            return None
        return quotefault.OTHER_PROVIDER if provider else quotefault.NO_PROVIDER

    def _generation(self, entry: Path) -> int:
        return int(self._files.read(entry / "generation", 64))
