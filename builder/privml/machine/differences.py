"""Compare the machine that a command line makes with that of a platform, field by field."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from privml.machine.commandline import CommandLine
from privml.machine.platform import Device
from privml.machine.spellings import NO_UUID

# In no table: the watchdog of the chipset counts, or does not (tests/real/test_deploy.py reads the tables of both).
_UNMEASURED_GLOBALS = frozenset({"ICH9-LPC.noreboot"})
# Made of the other fields.
_NOT_COMPARED = frozenset({"words", "notes"})
STRICT = "strict"
"""The part of QEMU's ``-boot`` that is in a table only together with an order of boot devices."""


@dataclass(frozen=True)
class Difference:
    """One property of a machine that is not the platform's, and so moves RTMR0.

    ``certain`` is False for one that differs on some hosts only.
    """

    what: str
    got: str
    expected: str
    certain: bool = True

    def __str__(self) -> str:
        return f"{self.what}: {self.got}, the platform's is {self.expected}"

    def to_dict(self) -> dict[str, object]:
        """Its form in JSON."""
        return {"what": self.what, "got": self.got, "expected": self.expected, "certain": self.certain}


def differences(found: CommandLine, expected: CommandLine, *, from_disk: bool = False) -> tuple[Difference, ...]:
    """What differs between two machines and is in a measured table; ``from_disk``: they boot without ``-kernel``."""
    ours, theirs = _measured(expected, from_disk=from_disk), _measured(found, from_disk=from_disk)
    return tuple(Difference(name, theirs[name], ours[name]) for name in ours if ours[name] != theirs[name])


def _measured(line: CommandLine, *, from_disk: bool) -> Mapping[str, str]:
    values = {each.name: getattr(line, each.name) for each in fields(line) if each.name not in _NOT_COMPARED}
    # QEMU writes zeros into SMBIOS when it has no UUID (hw/smbios/smbios.c, smbios_build_type_1_table).
    values["uuid"] = None if line.uuid == NO_UUID else line.uuid
    values["globals"] = tuple((key, value) for key, value in line.globals if key not in _UNMEASURED_GLOBALS)
    if from_disk and all(device.bootindex is None for device in line.devices):
        # It ends an order of boot devices. With `-kernel` QEMU makes one, and without it there is none.
        values["boot"] = tuple((key, value) for key, value in line.boot if key != STRICT)
    values["identity"] = tuple(sorted(line.identity.items()))
    devices = values.pop("devices")
    shown = {name: _shown(value) for name, value in values.items()}
    return shown | {"devices": ", ".join(map(_device, devices)) or "none"}


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(f"{key}={text}" for key, text in value) or "none"
    return "none" if value is None else str(value)


def _device(device: Device) -> str:
    changed = {
        each.name: getattr(device, each.name)
        for each in fields(device)
        if getattr(device, each.name) != each.default and each.name not in ("kind", "slot")
    }
    more = "".join(f" {name}={value}" for name, value in changed.items())
    return f"{device.kind} at {device.slot:#x}{more}"
