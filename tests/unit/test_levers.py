"""The changes in `tests/real/levers.py` do what they say to an honest argument list."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tests.real import levers
from tests.real.levers import pulled

from privml.machine.platform import Size
from privml.machine.qemu import HostSide, arguments
from privml.recipe.loader import shipped
from privml.vm.machine import Launch, Machine
from privml.vm.platforms import platform as load_platform
from privml.vm.process import Child

PLATFORM = load_platform("qemu-11-q35", shipped())
HOST = HostSide(
    firmware="/image/firmware.fd",
    kernel="/image/uki.efi",
    disks=("/image/root.raw", "/image/model.raw"),
    serial="file:/vm/console.log",
    qmp_socket="/vm/qmp.sock",
)
HONEST = arguments(PLATFORM, Size(2, 2 << 30), HOST, "tcg")
DISK = "driver=raw,node-name=disk{},read-only={},file.driver=file,file.filename={}"


def added(argv: list[str]) -> list[str]:
    """The arguments added after the honest list."""
    assert argv[: len(HONEST)] == HONEST
    return argv[len(HONEST) :]


def exchanged(argv: list[str]) -> dict[str, str]:
    """The changed arguments of the honest list."""
    return {old: new for old, new in zip(HONEST, argv, strict=True) if old != new}


def test_options_added_by_a_host_come_last() -> None:
    assert added(levers.append("init=/bin/sh")(HONEST)) == ["-append", "init=/bin/sh"]
    assert added(levers.more("-device", "e1000")(HONEST)) == ["-device", "e1000"]
    assert added(levers.oem_strings("a=1", "b=2,3")(HONEST)) == [
        "-smbios", "type=11,value=a=1", "-smbios", "type=11,value=b=2,,3",
    ]  # fmt: skip
    assert added(levers.fw_cfg("etc/boot/initrd", "i")(HONEST)) == [
        "-fw_cfg",
        "name=etc/boot/initrd,file=/attached/i",
    ]
    assert added(levers.recorded(HONEST)) == ["-object", "filter-dump,id=dump0,netdev=net0,file=/vm/net.pcap"]


def test_replaced_files_are_attached_instead_of_the_image_s() -> None:
    argv = levers.swapped("root.raw", "uki.efi")(HONEST)
    assert exchanged(argv) == {
        "/image/uki.efi": "/attached/uki.efi",
        DISK.format(0, "on", "/image/root.raw"): DISK.format(0, "on", "/attached/root.raw"),
    }


@pytest.mark.parametrize("boot", ["/boot.raw", "/attached/boot.raw"])
def test_disks_can_be_made_writable(boot: str) -> None:
    assert exchanged(levers.writable("model.raw")(HONEST)) == {
        DISK.format(1, "on", "/image/model.raw"): DISK.format(1, "off", "/attached/model.raw")
    }
    honest = [word.replace("/image/root.raw", boot) for word in HONEST]
    argv = levers.writable("boot.raw")(honest)
    assert [word for word in argv if word not in honest] == [DISK.format(0, "off", "/attached/boot.raw")]


@pytest.mark.parametrize("change", [levers.swapped("root.raw", "other.raw"), levers.writable("uki.efi")])
def test_a_change_without_effect_is_an_error(change: levers.Change) -> None:
    with pytest.raises(AssertionError, match="nothing of"):
        change(HONEST)


def test_an_interactive_console_is_still_logged() -> None:
    assert exchanged(levers.typed(HONEST)) == {
        "file:/vm/console.log": "unix:/vm/serial.sock,server=on,wait=off,logfile=/vm/console.log"
    }


def test_changes_are_applied_in_order() -> None:
    honest = Launch(Path("image"), PLATFORM, Size(2, 2 << 30), ("root.raw",), "firmware.fd")
    first = pulled(honest, levers.swapped("root.raw"), attached={"root.raw": Path("evil")})
    both = pulled(first, levers.writable("root.raw"), levers.append("x"), attached={"root.raw": Path("copy")})
    assert both.change is not None and both.attached == {"root.raw": Path("copy")}
    argv = both.change(HONEST)
    assert argv[-2:] == ["-append", "x"]
    assert exchanged(argv[:-2]) == {
        DISK.format(0, "on", "/image/root.raw"): DISK.format(0, "off", "/attached/root.raw")
    }
    assert replace(both, change=None, attached={}) == honest


def test_sockets_and_packet_capture_have_fixed_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Child, "__init__", lambda self: None)
    machine = Machine(Path("/run"), Child(), 1)  # type: ignore[call-arg]
    places = {levers.keyboard(machine), levers.packets(machine), levers.monitor(machine)}
    assert places == {Path("/run/serial.sock"), Path("/run/net.pcap"), Path("/run/qmp.sock")}
