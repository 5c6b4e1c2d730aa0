"""Quotes and RTMR3 through the kernel's files, with a small model of the kernel behind the file calls."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from privml.agent.tee import NoTee, NoTeeError, detect
from privml.base.errors import HostError
from privml.events.registers import ZERO
from privml.events.replay import extend
from privml.evidence import quotefault
from privml.evidence.quotefault import QuoteError, QuoteFault
from privml.evidence.tdx.kernel import TdxTee
from privml.evidence.tsm import ATTEMPTS, KernelFiles

QUOTE = b"\x04\x00" + bytes(4998)
REPORTS = Path("/configfs/tsm/report")
MEASUREMENTS = Path("/measurements")
CCEL = Path("/ccel")


class Kernel(KernelFiles):
    """A model of configfs-tsm and of the tdx_guest measurement files."""

    def __init__(self) -> None:
        self.entries: dict[Path, dict[str, bytes]] = {}
        self.removed: list[Path] = []
        self.provider = b"tdx_guest\n"
        self.outblob = QUOTE
        self.inblobs: list[bytes] = []
        self.errors: list[int] = []
        self.generation_step = 1
        self.rtmr3 = ZERO
        self.extends = True

    def mkdir(self, path: Path) -> None:
        if path.parent != REPORTS or self.provider == b"":
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))
        if path in self.entries:
            raise FileExistsError(errno.EEXIST, "File exists", str(path))
        self.entries[path] = {"generation": b"0"}

    def rmdir(self, path: Path) -> None:
        del self.entries[path]
        self.removed.append(path)

    def read(self, path: Path, limit: int) -> bytes:
        if path.parent == MEASUREMENTS:
            return self.rtmr3
        if path == CCEL:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))
        entry = self.entries[path.parent]
        if path.name == "provider":
            return self.provider
        if path.name == "generation":
            return entry["generation"] + b"\n"
        assert path.name == "outblob"
        if self.errors:
            number = self.errors.pop(0)
            raise OSError(number, errno.errorcode[number], str(path))
        assert len(entry["inblob"]) == 64
        return self.outblob

    def write(self, path: Path, data: bytes) -> None:
        if path.parent == MEASUREMENTS:
            assert path.name == "rtmr3:sha384"
            assert len(data) == 48
            if self.extends:
                self.rtmr3 = extend(self.rtmr3, data)
            return
        entry = self.entries[path.parent]
        assert path.name == "inblob"
        entry["inblob"] = data
        self.inblobs.append(data)
        entry["generation"] = str(int(entry["generation"]) + self.generation_step).encode()


@pytest.fixture
def kernel() -> Kernel:
    return Kernel()


@pytest.fixture
def slept() -> list[float]:
    return []


@pytest.fixture
def tee(kernel: Kernel, slept: list[float]) -> TdxTee:
    return TdxTee(reports=REPORTS, measurements=MEASUREMENTS, ccel=CCEL, files=kernel, sleep=slept.append)


def test_each_quote_uses_and_removes_its_own_directory(tee: TdxTee, kernel: Kernel) -> None:
    data = bytes(range(64))
    assert tee.quote(data) == QUOTE
    assert tee.quote(data) == QUOTE
    assert kernel.inblobs == [data, data]
    assert not kernel.entries
    assert len(set(kernel.removed)) == 2


@pytest.mark.parametrize("size", [0, 32, 63, 65])
def test_report_data_of_another_size_never_reaches_the_kernel(tee: TdxTee, kernel: Kernel, size: int) -> None:
    with pytest.raises(HostError, match="expected 64"):
        tee.quote(bytes(size))
    assert not kernel.removed


@pytest.mark.parametrize("outblob", [b"", bytes(1020)])
def test_empty_quote_is_that_of_a_host_whose_quote_service_refuses(
    tee: TdxTee, kernel: Kernel, outblob: bytes
) -> None:
    kernel.outblob = outblob
    assert fault_of(tee) == quotefault.REFUSED
    assert not kernel.entries


def test_a_busy_kernel_is_retried(tee: TdxTee, kernel: Kernel, slept: list[float]) -> None:
    kernel.errors = [errno.EBUSY, errno.EINTR, errno.ETIMEDOUT]
    assert tee.quote(bytes(64)) == QUOTE
    assert len(slept) == 3
    assert len(kernel.removed) == 4


@pytest.mark.parametrize(
    ("errors", "fault", "tries"),
    [
        ([errno.EBUSY] * 100, quotefault.BUSY, ATTEMPTS),
        ([errno.ETIMEDOUT] * 100, quotefault.TIME_OUT, ATTEMPTS),
        # The host still owns the buffer of the request that timed out.
        ([errno.ETIMEDOUT, *[errno.EBUSY] * 100], quotefault.TIME_OUT, ATTEMPTS),
        ([errno.EINTR] * 100, quotefault.DISTURBED, ATTEMPTS),
        ([errno.EIO], quotefault.REFUSED, 1),
        ([errno.ENXIO], quotefault.NO_PROVIDER, 1),
        ([errno.EINVAL], quotefault.FAILED, 1),
    ],
)
def test_an_error_of_the_kernel_is_a_named_fault(
    tee: TdxTee, kernel: Kernel, errors: list[int], fault: QuoteFault, tries: int
) -> None:
    kernel.errors = list(errors)
    assert fault_of(tee) == fault
    assert len(kernel.removed) == tries


def test_a_quote_for_another_request_is_not_used(tee: TdxTee, kernel: Kernel) -> None:
    kernel.generation_step = 2
    assert fault_of(tee) == quotefault.DISTURBED


@pytest.mark.parametrize(
    ("provider", "fault"),
    [
        (b"sev_guest\n", quotefault.OTHER_PROVIDER),
        (b"\n", quotefault.NO_PROVIDER),
        (b"", quotefault.NO_PROVIDER),
    ],
)
def test_without_the_provider_of_tdx_there_is_no_tee_and_no_quote(
    tee: TdxTee, kernel: Kernel, provider: bytes, fault: QuoteFault
) -> None:
    kernel.provider = provider
    assert tee.absent() == fault
    assert fault_of(tee) == fault
    none = detect([lambda: tee])
    assert isinstance(none, NoTee)
    assert none.why == fault


def test_every_fault_has_a_code_of_its_own_and_one_printable_line() -> None:
    assert list(quotefault.FAULTS) == [fault.code for fault in quotefault.FAULTS.values()]
    for fault in quotefault.FAULTS.values():
        assert str(fault).isascii()
        assert str(fault).isprintable()
        assert len(str(fault)) < 400


def fault_of(tee: TdxTee) -> QuoteFault:
    """Why ``tee`` gives no quote."""
    with pytest.raises(QuoteError) as failed:
        tee.quote(bytes(64))
    assert failed.value.fault.text in failed.value.message
    return failed.value.fault


def test_extend_is_read_back(tee: TdxTee, kernel: Kernel) -> None:
    tee.extend(b"\x01" * 48)
    assert tee.rtmr3() == extend(ZERO, b"\x01" * 48)
    kernel.extends = False
    with pytest.raises(HostError, match="something else extends"):
        tee.extend(b"\x02" * 48)
    with pytest.raises(HostError, match="expected 48"):
        tee.extend(b"\x02" * 47)


def test_the_tdx_provider_is_detected_and_another_gives_none(tee: TdxTee, kernel: Kernel) -> None:
    assert detect([lambda: tee]) is tee
    kernel.provider = b""
    none = detect([lambda: tee])
    assert none.name == "none"


def test_without_a_tee_extends_are_recorded_and_quotes_refused() -> None:
    none = NoTee()
    none.extend(b"\x01" * 48)
    assert none.rtmr3() == extend(ZERO, b"\x01" * 48)
    assert NoTee().rtmr3() == ZERO, "each has its own value"
    assert not none.has_register
    with pytest.raises(NoTeeError, match="no-tee"):
        none.quote(bytes(64))


def test_missing_boot_log_is_empty(tee: TdxTee) -> None:
    assert tee.boot_log() == b""
    assert tee.collateral() is None


def test_kernel_files_write_in_place(tmp_path: Path) -> None:
    files = KernelFiles()
    path = tmp_path / "inblob"
    path.write_bytes(b"x" * 100)
    files.write(path, b"y" * 64)
    assert files.read(path, 200) == b"y" * 64 + b"x" * 36  # no truncation: configfs has none
    with pytest.raises(OSError, match="too large"):
        files.read(path, 99)
    (tmp_path / "entry").mkdir()
    files.rmdir(tmp_path / "entry")
    with pytest.raises(FileNotFoundError):
        files.write(tmp_path / "none", b"")
