"""Logs of boots from a disk, with a GPU's BAR and with an option ROM: every event is predicted.

Each boots the production UKI. Rules explain every difference from the prediction for a TD.
"""

import base64
import json
import lzma
from dataclasses import dataclass, replace

import pytest
from tests.golden.test_measure_boots import VECTORS, read_facts

from privml.events.event import Event
from privml.events.registers import RTMR1, RTMR3
from privml.events.tcg import LogEntry, parse_log
from privml.events.types import EV_EFI_VARIABLE_BOOT, EV_SEPARATOR, type_name
from privml.machine.platform import Device
from privml.measure import payload
from privml.measure.compare import compare
from privml.measure.machine import DiskBoot, MeasuredMachine
from privml.measure.optionrom import Driver
from privml.measure.predict import predict
from privml.measure.profiles import TD_INTELTDX, TPM
from privml.measure.tdtpm import DIRECT, DISK, NETWORK, ROM, RULES, explain

SITUATIONS = {"disk": frozenset({DISK, NETWORK}), "port": frozenset({DIRECT}), "rom": frozenset({DIRECT, ROM})}
# Authenticode SHA-384 of the driver in efi-virtio.rom of Debian's ipxe-qemu, as `optionrom.drivers` reads it.
IPXE = bytes.fromhex(
    "8a860dea771b71802e3216ec391daddd9bea8ba2ec446b0afa84112ce5d575833eced227936a3930a713ab975acc1ced"
)


@dataclass(frozen=True)
class Kept:
    """A recorded boot: its predictions, for the machine that was booted and for a TD, and its log."""

    booted: tuple[Event, ...]
    td: tuple[Event, ...]
    log: list[LogEntry]


@pytest.fixture(autouse=True)
def _rom(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for the ROM, of which only the driver's digest is kept."""
    monkeypatch.setattr(payload.optionrom, "drivers", lambda _: (Driver(0x80000004, IPXE),))


def kept(name: str) -> Kept:
    folder = VECTORS / f"boot-tpm-{name}"
    facts = json.loads((folder / "facts.json").read_text())
    packed = json.loads(lzma.decompress((folder / "blobs.json.xz").read_bytes()))
    devices = tuple(Device(**{**row, "bars": tuple(row["bars"])}) for row in facts["devices"])
    disk = DiskBoot(bytes.fromhex(facts["gpt_event"]), devices) if "gpt_event" in facts else None
    uki, firmware = read_facts(facts)
    _, td_firmware = read_facts({**facts, "firmware": facts["td_firmware"]})
    events = [
        predict(
            uki,
            its_firmware,
            MeasuredMachine(
                {key: base64.b64decode(value) for key, value in packed[kind].items()},
                facts["memory"],
                profile,
                disk=disk,
                roms=tuple(b"" for device in devices if device.rom),
            ),
        ).events
        for kind, its_firmware, profile in (("tpm", firmware, TPM), ("td", td_firmware, TD_INTELTDX))
    ]
    return Kept(events[0], events[1], parse_log((folder / "log.bin").read_bytes()))


@pytest.mark.parametrize("name", SITUATIONS)
def test_every_event_is_predicted(name: str) -> None:
    found = compare(kept(name).booted, kept(name).log, tpm=True)
    assert [one.text() for one in found.differences] == []
    assert all(found.matched.values())


@pytest.mark.parametrize("name", SITUATIONS)
def test_every_difference_to_a_td_is_explained_by_a_rule(name: str) -> None:
    found = explain(kept(name).td, kept(name).log, SITUATIONS[name])
    assert ([one.text() for one in found.unexplained], found.unused) == ([], ())
    assert found.settled
    assert found.used["pcr-2-to-6-separators"] == 4


def test_every_rule_is_used_by_a_recorded_boot() -> None:
    used = {rule for name in SITUATIONS for rule in explain(kept(name).td, kept(name).log, SITUATIONS[name]).used}
    assert sorted(used) == sorted(rule.id for rule in RULES)
    assert len({rule.id for rule in RULES}) == len(RULES)


def test_an_unused_rule_is_reported() -> None:
    """With the rules of another situation, some rules are unused and some events unexplained."""
    found = explain(kept("port").td, kept("port").log, frozenset({DIRECT, ROM}))
    assert (found.unused, found.settled) == (("option-rom",), False)
    other = explain(kept("rom").td, kept("rom").log, frozenset({DIRECT}))
    assert [one.register for one in other.unexplained] == [RTMR1]


def test_a_rule_explains_at_most_its_number_of_events() -> None:
    """No rule explains a fifth separator or a second boot menu."""
    boot = kept("port")
    for kind, data in ((EV_SEPARATOR, bytes(4)), (EV_EFI_VARIABLE_BOOT, b"")):
        entry = next(one for one in reversed(boot.log) if one.type == kind and data in one.data and one.index != 7)
        log = [one for old in boot.log for one in ([old, old] if old is entry else [old])]
        found = explain(boot.td, log, SITUATIONS["port"])
        assert [one.logged and one.logged.type for one in found.unexplained] == [kind]


def test_an_option_rom_driver_is_the_first_event_of_rtmr1() -> None:
    rom, without = kept("rom"), kept("port")
    first = next(event for event in rom.booted if event.register == RTMR1)
    assert (first.digest, type_name(first.type)) == (IPXE, "EV_EFI_BOOT_SERVICES_DRIVER")
    assert "option ROM" not in " ".join(event.origin for event in (*without.booted, *rom.td))


@pytest.mark.parametrize("name", ["disk", "rom"])
def test_any_altered_event_is_found(name: str) -> None:
    """With any predicted event altered, the comparison fails at that register and no rule explains the difference."""
    boot = kept(name)
    kinds = set()
    for number, event in enumerate(boot.booted):
        if event.register == RTMR3:
            continue
        altered = list(boot.booted)
        altered[number] = replace(event, digest=bytes([event.digest[0] ^ 1]) + event.digest[1:])
        found = compare(altered, boot.log, tpm=True)
        assert not found.equal
        assert {one.register for one in found.differences} == {event.register}
        assert any(one.predicted is altered[number] for one in found.differences)
        kinds.add((event.register, type_name(event.type)))
    assert len(kinds) == {"disk": 12, "rom": 12}[name]


def test_an_altered_td_event_is_not_explained_by_any_rule() -> None:
    """Events that a TD shares with the boot must be equal: a rule explains one difference, not a register."""
    boot = kept("disk")
    settled = explain(boot.td, boot.log, SITUATIONS["disk"])
    logged = {entry.sha384 for entry in boot.log}
    for number, event in enumerate(boot.td):
        if event.digest not in logged:
            continue
        altered = list(boot.td)
        altered[number] = replace(event, digest=bytes([event.digest[0] ^ 1]) + event.digest[1:])
        assert not explain(altered, boot.log, SITUATIONS["disk"]).settled, event.origin
    assert settled.settled
