"""Linux's interface to a TEE's quoting service, configfs-tsm: one entry for each request.

It is in Linux 6.7. Each TEE's driver is a provider; what its quotes are, the TEE's own module says.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from privml.base.errors import HostError
from privml.evidence import quotefault
from privml.evidence.quotefault import QuoteError, QuoteFault

REPORTS = Path("/sys/kernel/config/tsm/report")
REPORT_DATA_SIZE = 64
MAX_QUOTE = 256 * 1024
ATTEMPTS = 6
# configfs-tsm and the drivers: ENXIO without a provider; EIO when the VMM, or in newer kernels its quote service,
# refuses; ETIMEDOUT after 30 s; EBUSY while the host still owns the buffer of an earlier request.
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


@dataclass(frozen=True)
class Answer:
    """A provider's answer: the quote or report, and what came with it (``auxblob``; empty if there is none)."""

    quote: bytes
    extra: bytes


class Reports:
    """Requests to the provider called ``provider``, whose quotes have more than ``least`` bytes.

    ``extra`` asks for the provider's second file.
    """

    def __init__(
        self,
        provider: bytes,
        least: int,
        *,
        extra: bool = False,
        reports: Path = REPORTS,
        files: KernelFiles | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._provider = provider
        self._least = least
        self._extra = extra
        self._reports = reports
        self.files = files or KernelFiles()
        self._sleep = sleep
        self.lock = threading.Lock()

    def absent(self) -> QuoteFault | None:
        """Why the kernel shows no such provider; None if it does. Only a verified quote proves the TEE."""
        try:
            with self._entry() as entry:
                return self._other_provider(entry)
        except OSError:
            return quotefault.NO_PROVIDER

    def request(self, report_data: bytes) -> Answer:
        """The answer over ``report_data`` (64 bytes), with retries because all callers share one kernel buffer."""
        if len(report_data) != REPORT_DATA_SIZE:
            raise HostError(f"quote: report data of {len(report_data)} bytes, expected {REPORT_DATA_SIZE}")
        fault = quotefault.DISTURBED
        with self.lock:
            for attempt in range(ATTEMPTS):
                if attempt:
                    self._sleep(min(0.1 * 2**attempt, 5.0))
                try:
                    answer = self._once(report_data)
                except OSError as error:
                    if error.errno not in _AGAIN:
                        number = error.errno or errno.EIO
                        raise QuoteError(_FINAL.get(number, quotefault.FAILED), os.strerror(number)) from error
                    # A request that timed out keeps the host busy afterwards: then the time-out is the cause.
                    if fault is not quotefault.TIME_OUT:
                        fault = _AGAIN[error.errno]
                    continue
                if answer is not None:
                    return answer
        raise QuoteError(fault, f"{ATTEMPTS} tries")

    def _once(self, report_data: bytes) -> Answer | None:
        """One request; None if the entry's generation shows that the answer may belong to another request."""
        with self._entry() as entry:
            if fault := self._other_provider(entry):
                raise QuoteError(fault)
            before = self._generation(entry)
            self.files.write(entry / "inblob", report_data)
            quote, extra = self.files.read(entry / "outblob", MAX_QUOTE), b""
            if self._extra:
                with contextlib.suppress(OSError):  # a host that gives none
                    extra = self.files.read(entry / "auxblob", MAX_QUOTE)
            if self._generation(entry) != before + 1:
                return None
        if len(quote) <= self._least:
            # In older kernels a request that the host's quote service refused succeeds with an empty quote.
            raise QuoteError(quotefault.REFUSED, f"{len(quote)} bytes, expected more than {self._least}")
        return Answer(quote, extra)

    @contextlib.contextmanager
    def _entry(self) -> Iterator[Path]:
        entry = self._reports / f"privml-{secrets.token_hex(8)}"
        self.files.mkdir(entry)
        try:
            yield entry
        finally:
            self.files.rmdir(entry)

    def _other_provider(self, entry: Path) -> QuoteFault | None:
        provider = self.files.read(entry / "provider", 4096).strip()
        if provider == self._provider:
            return None
        return quotefault.OTHER_PROVIDER if provider else quotefault.NO_PROVIDER

    def _generation(self, entry: Path) -> int:
        return int(self.files.read(entry / "generation", 64))
