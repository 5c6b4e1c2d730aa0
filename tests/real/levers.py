"""Changes that a host can make to the machine it runs: functions from QEMU's honest argument list to another.

``pulled`` adds them to a ``Launch``, which attaches the files that they name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import reduce
from pathlib import Path

from privml.vm.machine import Change, Launch, Machine


def pulled(launch: Launch, *changes: Change, attached: Mapping[str, Path] | None = None) -> Launch:
    """``launch`` with further changes, applied last, and the files that they name."""
    together = all_of(*(change for change in (launch.change, *changes) if change is not None))
    return replace(launch, change=together, attached={**launch.attached, **(attached or {})})


def all_of(*changes: Change) -> Change:
    """Apply the changes in order."""
    return lambda argv: reduce(lambda words, change: change(words), changes, argv)


def more(*words: str) -> Change:
    """Further arguments, after all others."""
    return lambda argv: [*argv, *words]


def append(text: str) -> Change:
    """A command line by ``-append``: the UKI's stub takes it for load options."""
    return more("-append", text)


def oem_strings(*texts: str) -> Change:
    """SMBIOS type 11 strings; commas are doubled, as QEMU requires."""
    return more(*(word for text in texts for word in ("-smbios", "type=11,value=" + text.replace(",", ",,"))))


def fw_cfg(item: str, name: str) -> Change:
    """The attached file ``name`` as a fw_cfg item."""
    return more("-fw_cfg", f"name={item},file=/attached/{name}")


def swapped(*names: str) -> Change:
    """Replace the image's files of these names with the attached ones."""
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
    """Make the serial console interactive, at the socket that ``keyboard`` names; its log stays in the same file."""
    at = argv.index("-serial") + 1
    console = argv[at].removeprefix("file:")
    return [*argv[:at], f"unix:/vm/serial.sock,server=on,wait=off,logfile={console}", *argv[at + 1 :]]


def keyboard(machine: Machine) -> Path:
    """The socket of the serial console of a machine changed by ``typed``."""
    return machine.directory / "serial.sock"


def recorded(argv: list[str]) -> list[str]:
    """The packets of the guest's first network card are kept, in the file that ``packets`` names."""
    return [*argv, "-object", "filter-dump,id=dump0,netdev=net0,file=/vm/net.pcap"]


def packets(machine: Machine) -> Path:
    """The packets (pcap) of a machine changed by ``recorded``."""
    return machine.directory / "net.pcap"


def monitor(machine: Machine) -> Path:
    """QEMU's monitor, for ``Qmp``."""
    return machine.directory / "qmp.sock"


def _each(names: tuple[str, ...], change: Callable[[str, str], str]) -> Change:
    """Apply ``change`` for each name; an attack that changes no argument is an error of the test."""

    def applied(argv: list[str]) -> list[str]:
        for name in names:
            changed = [change(word, name) for word in argv]
            assert changed != argv, f"nothing of {name} is in {argv}"
            argv = changed
        return argv

    return applied
