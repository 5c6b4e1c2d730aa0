"""Real boots: every event that firmware, stub and kernel logged is predicted, in the order of the log."""

import base64
import json
import lzma
from pathlib import Path
from typing import Any

import pytest
from tests.field.facts import firmware_of, uki_of

from privml.base.strictjson import Fields
from privml.events.event import Event, Evidence
from privml.events.registers import RTMR0, RTMR1, RTMR2
from privml.events.replay import extended, replay_tpm_as_rtmrs
from privml.events.tcg import LogEntry, parse_log
from privml.measure import pciwindow
from privml.measure.compare import compare
from privml.measure.firmware import FirmwareFacts
from privml.measure.machine import MeasuredMachine
from privml.measure.predict import Prediction, predict
from privml.measure.profiles import TPM
from privml.measure.uki import UkiFacts

VECTORS = Path(__file__).resolve().parents[1] / "vectors/measurement"
BOOTS: dict[str, dict[str, Any]] = {
    "base": {},
    "append": {"host_cmdline": "console=ttyS0 evil=1"},
    "noconsole": {"stub_console": "console=uart,io,0x3f8"},
    "big": {},
    "intel-cpu": {},
}


def read_facts(facts: dict[str, Any]) -> tuple[UkiFacts, FirmwareFacts]:
    """The facts of UKI and firmware in a facts.json."""
    return uki_of(Fields(facts["uki"], "uki")), firmware_of(Fields(facts["firmware"], "firmware"))


def load(name: str) -> tuple[UkiFacts, FirmwareFacts, dict[str, bytes], int, list[LogEntry]]:
    folder = VECTORS / f"boot-tpm-{name}"
    facts = json.loads((folder / "facts.json").read_text())
    packed = json.loads(lzma.decompress((folder / "blobs.json.xz").read_bytes()))
    return (
        *read_facts(facts),
        {key: base64.b64decode(value) for key, value in packed.items()},
        facts["memory"],
        parse_log((folder / "log.bin").read_bytes()),
    )


def predicted(name: str, **more: Any) -> tuple[Prediction, list[LogEntry]]:
    uki, firmware, blobs, memory, log = load(name)
    return predict(uki, firmware, MeasuredMachine(blobs, memory, TPM, **more)), log


@pytest.mark.parametrize("name", sorted(BOOTS))
def test_events_match_the_boot_log_in_order(name: str) -> None:
    prediction, log = predicted(name, **BOOTS[name])
    logged = [(pair[0], entry.type, pair[1]) for entry in log if (pair := extended(entry, tpm=True)) is not None]
    assert [(event.register, event.type, event.digest) for event in prediction.events] == logged
    assert len(logged) in (39, 40)


@pytest.mark.parametrize("name", sorted(BOOTS))
def test_registers_match_the_tpm_and_the_comparison_is_equal(name: str) -> None:
    prediction, log = predicted(name, **BOOTS[name])
    values = prediction.registers()
    assert {register: values[register] for register in replay_tpm_as_rtmrs(log)} == replay_tpm_as_rtmrs(log)
    comparison = compare(prediction.events, log, tpm=True)
    assert comparison.equal
    assert sum(comparison.matched.values()) == len(prediction.events)
    assert set(prediction.evidence().values()) <= {Evidence.TPM_BOOT, Evidence.HARDWARE}


def test_a_command_line_added_by_the_host_is_found_and_shown() -> None:
    prediction, log = predicted("append")
    extra, other = compare(prediction.events, log, tpm=True).differences
    assert (extra.kind, extra.register, extra.known and extra.known.id) == (
        "extra",
        RTMR2,
        "host-load-options",
    )
    assert "console=ttyS0 evil=1" in extra.text()
    assert (other.kind, other.known and other.known.id) == ("differs", "other-command-line")


def test_a_console_added_by_the_stub_is_named() -> None:
    prediction, log = predicted("noconsole", stub_console="")
    (difference,) = compare(prediction.events, log, tpm=True).differences
    assert difference.known is not None and difference.known.id == "stub-console"


def test_an_oem_string_reaches_two_registers() -> None:
    """Under a software TPM the stub uses SMBIOS strings; in a TD it ignores them but still measures them."""
    prediction, log = predicted("oem")
    comparison = compare(prediction.events, log, tpm=True)
    assert {difference.register for difference in comparison.differences} == {RTMR2}
    assert any("smb=1" in difference.text() for difference in comparison.differences)
    assert any("type 11" in event.origin for event in prediction.events)


def test_a_different_machine_is_found_at_its_first_event() -> None:
    uki, firmware, blobs, memory, _ = load("base")
    log = load("big")[-1]
    comparison = compare(predict(uki, firmware, MeasuredMachine(blobs, memory, TPM)).events, log, tpm=True)
    assert comparison.differences[0].register == RTMR0
    first = comparison.differences[0].predicted
    assert first is not None and first.origin == "etc/table-loader"
    named = [difference.known.id for difference in comparison.differences if difference.known is not None]
    assert named == ["acpi-tables", "acpi-tables", "acpi-tables", "smbios-table"]
    assert comparison.matched[RTMR2] == 14


@pytest.mark.parametrize(
    ("name", "vendor", "base"),
    [
        ("base", "AuthenticAMD", 0xC000000000),
        ("big", "AuthenticAMD", 0xC000000000),
        ("intel-cpu", "GenuineIntel", 1 << 35),
    ],
)
def test_the_pci_window_matches_the_captured_blobs(name: str, vendor: pciwindow.Vendor, base: int) -> None:
    e820 = load(name)[2]["etc/e820"]
    assert pciwindow.window(e820, vendor=vendor, phys_bits=40, gigabyte_pages=True).base == base


def test_the_whole_prediction_is_pinned() -> None:
    values = predicted("base")[0].registers()
    assert {register.upper(): value.hex()[:16] for register, value in values.items()} == {
        "MRTD": "ab742989d480d040",
        "RTMR0": "cd6c777ca6328663",
        "RTMR1": "25a4717339e9885f",
        "RTMR2": "c13fd6edf0930070",
        "RTMR3": "0000000000000000",
    }


def test_a_command_line_credential_and_initrd_from_the_host_each_change_their_register() -> None:
    folder = VECTORS / "boot-tpm-hostile"
    predicted_events = [
        Event.from_dict(row) for row in json.loads(lzma.decompress((folder / "predicted.json.xz").read_bytes()))
    ]
    found = compare(predicted_events, parse_log((folder / "log.bin").read_bytes()), tpm=True)
    assert [(one.register.upper(), one.known and one.known.id) for one in found.differences] == [
        ("RTMR0", "smbios-table"),
        ("RTMR0", "stub-smbios"),
        ("RTMR2", "host-load-options"),
        ("RTMR2", "other-command-line"),
        ("RTMR2", "host-initrd"),
    ]
    assert found.matched[RTMR1] == 9
