"""The host's ACPI tables hold code that the guest's kernel runs. Without its ACPI interpreter, it runs none of it.

The code is a table that QEMU adds, which writes to an I/O port when the kernel loads it. TDX measures the table. SNP
measures none, so this is what a policy accepts that says `allow_unmeasured_acpi` (ADR 0112).
"""

from __future__ import annotations

import struct
import time
from pathlib import Path

import pytest
from tests.real.conftest import only_full
from tests.real.levers import append, more, pulled

from privml.image.target import recipes_directory, resolve
from privml.image.workplace import Workplace
from privml.vm.ask import await_ready
from privml.vm.launch import launch_of
from privml.vm.machine import Launch, Machine, started

pytestmark = pytest.mark.real

READY = 300.0
PORT = 0x505
WITHOUT_CODE = "initcall_blacklist=acpi_init pci=lastbus=1"
"""The kernel then reads ACPI's data tables only. It finds PCI's root bus by scanning instead of by the DSDT."""


def secondary_table() -> bytes:
    """An SSDT that writes `X` to `PORT` when it is loaded. ACPI 6.5, 5.2.6 (header) and 20.2 (AML)."""
    region = b"\x5b\x80PORT\x01\x0b" + struct.pack("<H", PORT) + b"\x01"  # OperationRegion, SystemIO, 1 byte
    field = b"\x5b\x81\x0bPORT\x01DATA\x08"  # Field of 8 bits, accessed as a byte
    code = region + field + b"\x70\x0aXDATA"  # Store
    header = struct.pack("<4sIBB6s8sI4sI", b"SSDT", 36 + len(code), 2, 0, b"PRIVML", b"HOSTCODE", 1, b"PRVM", 1)
    table = bytearray(header + code)
    table[9] = -sum(table) % 256
    return bytes(table)


def with_host_code(image: Path, folder: Path, *words: str) -> Launch:
    """A guest with a table of the host's, and ``words`` more on its command line.

    It is a production guest: a simulation needs devices that the kernel finds by ACPI's code.
    """
    target = resolve(str(image))
    manifest = target.manifest()
    (folder / "ssdt.aml").write_bytes(secondary_table())
    launch = launch_of(image, manifest, recipes_directory(target))
    listener = more(
        "-chardev", "file,id=host,path=/vm/host-code", "-device", f"isa-debugcon,iobase={PORT:#x},chardev=host"
    )
    return pulled(
        launch, more("-acpitable", "file=/attached/ssdt.aml"), listener,
        append(" ".join((manifest.cmdline, *words))), attached={"ssdt.aml": folder / "ssdt.aml"},
    )  # fmt: skip


def ran(machine: Machine) -> bool:
    """Whether the host's code has run in the guest."""
    return b"X" in (machine.directory / "host-code").read_bytes()


def test_the_guest_s_kernel_runs_code_of_the_host_s_tables(tdx_min: Path, tmp_path: Path) -> None:
    tools = Workplace().tools_of(resolve(str(tdx_min)))
    with started(tools, with_host_code(tdx_min, tmp_path)) as machine:
        end = time.monotonic() + READY
        while not ran(machine):
            machine.check_running()
            assert time.monotonic() < end, machine.console_tail()
            time.sleep(0.2)


@only_full
def test_a_kernel_without_its_interpreter_serves_and_runs_none(tdx_min: Path, tmp_path: Path) -> None:
    tools = Workplace().tools_of(resolve(str(tdx_min)))
    with started(tools, with_host_code(tdx_min, tmp_path, WITHOUT_CODE)) as machine:
        await_ready(machine, READY)
        assert not ran(machine)
