"""What a host can do to a machine that it runs: functions from QEMU's honest argument list to another.

``pulled`` puts them on a ``Launch``. The files that they name are attached to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import reduce
from pathlib import Path

from privml.vm.machine import Change, Launch, Machine


def pulled(launch: Launch, *changes: Change, attached: Mapping[str, Path] | None = None) -> Launch:
    """The launch with further changes, after those that it has, and the files that these name."""
    together = all_of(*(change for change in (launch.change, *changes) if change is not None))
    return replace(launch, change=together, attached={**launch.attached, **(attached or {})})


def all_of(*changes: Change) -> Change:
    """One change after the other."""
    return lambda argv: reduce(lambda words, change: change(words), changes, argv)


def more(*words: str) -> Change:
    """Further arguments, after all others."""
    return lambda argv: [*argv, *words]


def append(text: str) -> Change:
    """A command line by ``-append``: the UKI's stub takes it for load options."""
    return more("-append", text)


def oem_strings(*texts: str) -> Change:
    """SMBIOS type 11 strings; a comma is doubled, as QEMU wants it."""
    return more(*(word for text in texts for word in ("-smbios", "type=11,value=" + text.replace(",", ",,"))))


def fw_cfg(item: str, name: str) -> Change:
    """The attached file ``name`` as a fw_cfg item."""
    return more("-fw_cfg", f"name={item},file=/attached/{name}")


def swapped(*names: str) -> Change:
    """The attached files of these names in the place of the image's."""
    return _each(names, lambda word, name: word.replace(f"/image/{name}", f"/attached/{name}"))


def writable(*names: str) -> Change:
    """The attached copies of these disks in the place of the image's (or the boot disk's), to be written to."""

    def change(word: str, name: str) -> str:
        head, found, path = word.partition("file.filename=")
        if not found or Path(path).name != name:
            return word
        return f"{head.replace('read-only=on', 'read-only=off')}{found}/attached/{name}"

    return _each(names, change)


def typed(argv: list[str]) -> list[str]:
    """A serial console that can be typed at, by the socket that ``keyboard`` names; its log stays where it was."""
    at = argv.index("-serial") + 1
    console = argv[at].removeprefix("file:")
    return [*argv[:at], f"unix:/vm/serial.sock,server=on,wait=off,logfile={console}", *argv[at + 1 :]]


def keyboard(machine: Machine) -> Path:
    """The serial console's socket, of a machine that was ``typed``."""
    return machine.directory / "serial.sock"


def recorded(argv: list[str]) -> list[str]:
    """The packets of the guest's first network card are kept, in the file that ``packets`` names."""
    return [*argv, "-object", "filter-dump,id=dump0,netdev=net0,file=/vm/net.pcap"]


def packets(machine: Machine) -> Path:
    """The packets (pcap) of a machine that was ``recorded``."""
    return machine.directory / "net.pcap"


def monitor(machine: Machine) -> Path:
    """QEMU's monitor, for ``Qmp``."""
    return machine.directory / "qmp.sock"


def _each(names: tuple[str, ...], change: Callable[[str, str], str]) -> Change:
    """``change`` for each name, which must change some word: an attack that does nothing proves nothing."""

    def applied(argv: list[str]) -> list[str]:
        for name in names:
            changed = [change(word, name) for word in argv]
            assert changed != argv, f"nothing of {name} is in {argv}"
            argv = changed
        return argv

    return applied
