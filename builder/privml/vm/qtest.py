"""Read the firmware blobs of a platform and size from an unpatched QEMU under ``-accel qtest``.

QEMU builds its ACPI tables on first read, from the PCI registers as programmed by firmware. The registers that OVMF
programs are therefore written first. Comparison with boots showed that all blobs are then exact (ADR 0005). Files are
read by fw_cfg DMA (QEMU docs/specs/fw_cfg). The guest never runs.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import struct
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path

from privml.base import strictjson
from privml.base.errors import InputsError, MeasurementError
from privml.base.files import write_atomic
from privml.image.tools import GENERIC_FIRMWARE, Bind, ToolsTree
from privml.lock.tables import carry
from privml.machine.platform import Platform, Size, Tables
from privml.machine.qemu import ACCELERATORS, AcceleratorName, HostSide, arguments
from privml.measure import pciwindow
from privml.measure.tables import LearntTables, decode
from privml.store.objects import Store
from privml.vm import swtpm
from privml.vm.process import Child

_DIRECTORY_KEY = 0x19
_LEGACY_ITEMS = {"BootMenu": (0x0E, 2)}  # items without a file name that firmware measures
_DMA_PORT = 0x514
_DMA_AT = 0x100000
_DATA_AT = 0x200000
_READ, _SELECT = 0x02, 0x08
_COMMAND, _MEMORY = 0x04, 0x02
_BASE_AND_LIMIT = 0x24  # of a bridge's prefetchable window; the upper halves follow
_CACHE_VERSION = "5"


class _Qtest:
    def __init__(self, path: Path, qemu: Child) -> None:
        self._socket = qemu.connect(path)
        self._socket.settimeout(60)
        self._file = self._socket.makefile("rwb")

    def close(self) -> None:
        """Close the connection; QEMU keeps running."""
        self._file.close()
        self._socket.close()

    def command(self, text: str) -> str:
        self._file.write(text.encode() + b"\n")
        self._file.flush()
        while True:
            line = self._file.readline().decode().strip()
            if not line:
                raise MeasurementError(f"qtest: QEMU exited at `{text[:60]}`")
            if line.startswith("IRQ"):
                continue
            if not line.startswith("OK"):
                raise MeasurementError(f"qtest: `{text[:60]}` failed: `{line}`")
            return line[2:].strip()

    def configuration(self, devfn: int, register: int, value: int, width: str) -> None:
        """Write a PCI configuration register on bus 0 by CF8/CFC."""
        self.command(f"outl 0xcf8 {0x80000000 | devfn << 8 | register & ~3:#x}")
        self.command(f"out{width} {0xCFC + (register & 3):#x} {value:#x}")

    def item(self, key: int, size: int) -> bytes:
        """Read ``size`` bytes of a fw_cfg item by DMA."""
        access = struct.pack(">IIQ", key << 16 | _READ | _SELECT, size, _DATA_AT)
        self.command(f"write {_DMA_AT:#x} {len(access)} 0x{access.hex()}")
        # The address register is big-endian; the low half starts the transfer.
        self.command(f"outl {_DMA_PORT:#x} 0x0")
        self.command(f"outl {_DMA_PORT + 4:#x} {int.from_bytes(_DMA_AT.to_bytes(4, 'big'), 'little'):#x}")
        left = self.command(f"read {_DMA_AT:#x} 4")
        if int(left, 16) != 0:
            raise MeasurementError(f"fw_cfg DMA of item {key:#x} ended with control {left}")
        return base64.b64decode(self.command(f"b64read {_DATA_AT:#x} {size}")) if size else b""


@dataclass(frozen=True)
class Qemu:
    """A QEMU that is asked: ``program`` as it is seen in the sandbox, in the tree ``tools``, with more ``binds``.

    ``leaves``: it can be told to exit with its parent. ``accelerator`` makes the machine without running it.
    """

    tools: ToolsTree
    program: str = "qemu-system-x86_64"
    binds: tuple[Bind, ...] = ()
    leaves: bool = True
    accelerator: AcceleratorName = "qtest"

    @property
    def exits(self) -> tuple[str, ...]:
        """Arguments by which it ends with its parent: after `kill -9` nothing else would stop it."""
        return ("-run-with", "exit-with-parent=on") if self.leaves else ()


def asked(platform: Platform, size: Size, host: HostSide, accelerator: AcceleratorName = "qtest") -> list[str]:
    """The arguments of a machine that never runs: the platform's, and how its tables are read."""
    return arguments(platform, size, host, accelerator, *_asked(size))


def _asked(size: Size) -> tuple[str, ...]:
    return (
        "-qtest",
        "unix:/vm/qtest.sock,server=on,wait=off",
        "-qtest-log",
        "none",
        # The guest never runs, so its memory need not be available.
        "-object",
        f"memory-backend-ram,id=ram,size={size.memory},reserve=off",
        "-machine",
        "memory-backend=ram",
    )


def read_blobs(tools: ToolsTree, platform: Platform, size: Size, *, kernel: bool) -> dict[str, bytes]:
    """All fw_cfg files that firmware may measure (name -> bytes), as QEMU generates them for this machine."""
    return read_of(Qemu(tools), tools, platform, size, kernel=kernel)


def read_of(
    qemu: Qemu,
    tools: ToolsTree,
    platform: Platform,
    size: Size,
    *,
    kernel: bool = True,
    words: Sequence[str] | None = None,
) -> dict[str, bytes]:
    """``read_blobs`` from any QEMU; ``words`` are the machine's arguments, if they are not the platform's.

    ``tools`` has the software TPM, and a firmware, which has no influence on the tables.
    """
    with tempfile.TemporaryDirectory(prefix="privml-qtest.") as name:
        directory = Path(name)
        firmware = Bind(tools.root / GENERIC_FIRMWARE.lstrip("/"), "/firmware.fd")
        binds = [Bind(directory, "/vm", writable=True), firmware, *qemu.binds]
        host = HostSide(firmware.target)
        if kernel:
            # Only its presence matters: it adds fw_cfg items, none of which is measured as ACPI.
            (directory / "kernel").write_bytes(_tiny_kernel())
            host = replace(host, kernel="/vm/kernel")
        children = []
        try:
            if platform.tpm:
                children.append(swtpm.start(tools, directory))
                host = replace(host, tpm_socket=f"/vm/{swtpm.SOCKET}")
            if words is None:
                argv = asked(platform, size, host, qemu.accelerator)
            else:
                argv = [*words, *ACCELERATORS[qemu.accelerator].argument, *_files(host), *_asked(size)]
            child = Child(qemu.tools, [qemu.program, *argv, *qemu.exits], directory / "qemu.log", binds=binds)
            children.append(child)
            with contextlib.closing(_Qtest(directory / "qtest.sock", child)) as qtest:
                return _read_all(qtest, platform)
        finally:
            for child in reversed(children):
                child.stop()


def _files(host: HostSide) -> list[str]:
    return ["-bios", host.firmware, *(["-kernel", host.kernel] if host.kernel else [])]


def _read_all(qtest: _Qtest, platform: Platform) -> dict[str, bytes]:
    files = _directory(qtest)
    _program_bars(qtest, platform, qtest.item(*files[pciwindow.E820]))
    host_bridge, lpc = 0, 0x1F << 3
    qtest.configuration(host_bridge, 0x64, 0, "l")
    qtest.configuration(host_bridge, 0x60, 0xE0000001, "l")  # PCIEXBAR
    qtest.configuration(lpc, 0x40, 0x600, "l")  # PMBASE
    qtest.configuration(lpc, 0x44, 0x80, "b")  # ACPI_CNTL: enable
    blobs = {name: qtest.item(key, size) for name, (key, size) in _LEGACY_ITEMS.items()}
    for name, (key, size) in files.items():
        if size <= 1 << 20 and not name.startswith("etc/boot/"):
            blobs[name] = qtest.item(key, size)
    return blobs


def _directory(qtest: _Qtest) -> dict[str, tuple[int, int]]:
    """fw_cfg files: name -> (key, size)."""
    count = struct.unpack(">I", qtest.item(_DIRECTORY_KEY, 4))[0]
    if count > 4096:
        raise MeasurementError(f"fw_cfg: the directory has {count} files")
    raw = qtest.item(_DIRECTORY_KEY, 4 + 64 * count)
    files = {}
    for at in range(4, len(raw), 64):
        size, key, _, name = struct.unpack(">IHH56s", raw[at : at + 64])
        files[name.split(b"\0")[0].decode("ascii")] = (key, size)
    return files


def _program_bars(qtest: _Qtest, platform: Platform, e820: bytes) -> None:
    """Put 64-bit BARs and windows where the firmware puts them: the DSDT's PCI hole spans them."""
    window = pciwindow.window(e820, vendor=platform.vendor, phys_bits=platform.phys_bits, gigabyte_pages=True)
    for bar in pciwindow.placed(window, platform.devices):
        place = bar.slot << 3
        if bar.register:
            qtest.configuration(place, bar.register, bar.address & 0xFFFFFFFF, "l")
            qtest.configuration(place, bar.register + 4, bar.address >> 32, "l")
        else:
            limit = bar.address + bar.size - 1
            qtest.configuration(place, _BASE_AND_LIMIT, _granules(bar.address) | _granules(limit) << 16, "l")
            qtest.configuration(place, _BASE_AND_LIMIT + 4, bar.address >> 32, "l")
            qtest.configuration(place, _BASE_AND_LIMIT + 8, limit >> 32, "l")
        qtest.configuration(place, _COMMAND, _MEMORY, "w")


def _granules(address: int) -> int:
    """Bits 31 to 20 of a prefetchable window's boundary, in a bridge's 16-bit register."""
    return address >> 16 & 0xFFF0


def _tiny_kernel() -> bytes:
    """The smallest file that QEMU accepts as a PE/bzImage kernel: a setup header of protocol 2.12."""
    image = bytearray(4096)
    image[0x1F1] = 1  # setup_sects
    image[0x1FE:0x200] = b"\x55\xaa"
    image[0x202:0x206] = b"HdrS"
    image[0x206:0x208] = (0x20C).to_bytes(2, "little")
    image[0x211] = 1  # LOADED_HIGH
    image[0x22C:0x230] = (0x7FFFFFFF).to_bytes(4, "little")
    return bytes(image)


def blobs(
    tools: ToolsTree, platform: Platform, size: Size, cache: Path, *, kernel: bool = True, qemu: Qemu | None = None
) -> dict[str, bytes]:
    """The files of a machine: from ``qemu`` if given, from the learnt tables of its platform, else from the tools.

    ``cache`` is the store's root. What the tools' QEMU says is kept there, by tools, platform, size and boot method.
    """
    if qemu is not None:
        return read_of(qemu, tools, platform, size, kernel=kernel)
    if platform.tables is not None:
        return _learnt(platform, platform.tables, size, cache, kernel=kernel)
    facts = {
        "version": _CACHE_VERSION,
        "tools": tools.digest,
        "platform": json.loads(json.dumps(asdict(platform))),
        "vcpus": size.vcpus,
        "memory": size.memory,
        "kernel": kernel,
    }
    place = cache / "blobs" / f"{hashlib.sha256(strictjson.canonical(facts)).hexdigest()}.json"
    if place.is_file():
        stored = strictjson.loads(place.read_bytes(), what="cached blobs")
        return {name: strictjson.unb64(body) for name, body in stored.items()}
    found = read_blobs(tools, platform, size, kernel=kernel)
    write_atomic(place, strictjson.canonical({name: strictjson.b64(body) for name, body in found.items()}))
    return found


def _learnt(platform: Platform, known: Tables, size: Size, cache: Path, *, kernel: bool) -> dict[str, bytes]:
    platform.check(size)
    if platform.tpm or not kernel:
        what = "a software TPM" if platform.tpm else "a boot from a disk"
        raise MeasurementError(
            f"platform {platform.name}: its tables were learnt for a direct boot as a TD, not for {what}",
            hint="name its QEMU with --qemu",
        )
    try:
        return _tables(Store(cache), known).files(size)
    except MeasurementError as error:
        raise MeasurementError(f"platform {platform.name}: {error.message}", hint=error.hint) from error


@lru_cache(maxsize=4)
def _tables_at(root: Path, known: Tables) -> LearntTables:
    data = Store(root).read(known.sha256)
    if len(data) != known.size:
        raise MeasurementError(f"its tables have {len(data)} bytes, expected {known.size}")
    return decode(data)


def _tables(store: Store, known: Tables) -> LearntTables:
    if not carry(store, known.sha256):
        raise InputsError(
            f"the tables sha256:{known.sha256} of a learnt platform are not in the store, nor next to its file",
            hint="`privml-build store import POOL` brings them from a pool, `platform learn` from that QEMU",
        )
    return _tables_at(store.root, known)
