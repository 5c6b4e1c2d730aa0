"""The measured events of a TD's boot, as predicted for a recorded machine."""

from __future__ import annotations

import pytest
from tests.golden import test_measure_disk_boots as boots

from privml.base.svg import AMBER, BLUE, GREEN, Picture
from privml.events.event import Event, Evidence
from privml.events.registers import RTMR3, RTMRS
from privml.events.stages import STAGES
from privml.measure.optionrom import Driver

_WIDE, _GAP, _LINE = 176, 16, 16
_FILL = {Evidence.HARDWARE: GREEN, Evidence.TPM_BOOT: BLUE, Evidence.SOURCE: AMBER}
_SHORT = (
    ("firmware.fd variable ", ""),
    ("firmware.fd CFV", "variables' volume (CFV)"),
    ("firmware: separator after the Secure Boot variables", "separator"),
    ("firmware: separator before the boot option starts", "separator"),
    ("firmware: boot option starts", "Calling EFI Application"),
    ("firmware: Exit Boot Services Returned with Success", "Exit Boot Services: success"),
    ("firmware: Exit Boot Services Invocation", "Exit Boot Services: called"),
    ("uki.efi .cmdline as the kernel's LoadOptions", "command line (LoadOptions)"),
    ("uki.efi .initrd with the stub's additions", "initrd as handed over"),
    ("etc/smbios/smbios-tables type 1", "SMBIOS type 1, by the stub"),
    ("etc/smbios/smbios-tables", "SMBIOS tables"),
)


def events() -> tuple[Event, ...]:
    """A TD's events for production's image on a direct boot."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(boots.payload.optionrom, "drivers", lambda _: (Driver(0x80000004, boots.IPXE),))
        return boots.kept("port").td


def draw() -> Picture:
    """One column for each register, time running down; neighbours of one register are in one box."""
    groups: list[tuple[str, list[Event]]] = []
    for event in events():
        if event.origin.endswith("(its name)"):
            continue
        if not groups or groups[-1][0] != event.register:
            groups.append((event.register, []))
        groups[-1][1].append(event)
    agent = [name for stage in STAGES for name in stage.events if not name.startswith("gpu-")]
    columns = ["mrtd", *RTMRS]
    height = 120 + sum(_LINE * len(rows) + 22 for _, rows in groups) + _LINE * len(agent) + 76
    picture = Picture(20 + len(columns) * (_WIDE + _GAP), height, "The measured events of a TD's boot")
    x = {register: 18 + number * (_WIDE + _GAP) for number, register in enumerate(columns)}
    for register in columns:
        picture.text(x[register] + _WIDE / 2, 22, register.upper(), bold=True, size=14)
        picture.line(
            [(x[register] + _WIDE / 2, 30), (x[register] + _WIDE / 2, height - 44)], arrow=False, dashed=True
        )
    picture.box(x["mrtd"], 40, _WIDE, 54, ["firmware's code", "page by page, before", "the TD starts"], GREEN)
    y = 104.0
    for register, rows in groups:
        tall = _LINE * len(rows) + 14
        weakest = min((row.evidence for row in rows), key=lambda level: level.strength)
        picture.box(x[register], y, _WIDE, tall, [_short(row.origin) for row in rows], _FILL[weakest], bold=False)
        y += tall + 8
    picture.box(x[RTMR3], y, _WIDE, _LINE * (len(agent) + 1) + 14, ["agent's events", *agent], AMBER)
    legend = (
        (GREEN, "seen on TDX hardware"),
        (BLUE, "at least one seen under a software TPM only"),
        (AMBER, "at least one known from source only"),
    )
    for number, (fill, words) in enumerate(legend):
        picture.box(20 + 300 * number, height - 28, 16, 14, [], fill)
        picture.text(42 + 300 * number, height - 17, words, anchor="start")
    return picture


def _short(origin: str) -> str:
    for long, short in _SHORT:
        if origin.startswith(long):
            return short + origin[len(long) :]
    return origin
