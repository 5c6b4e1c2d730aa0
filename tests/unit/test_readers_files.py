"""`measure FILE`, `explain` and `diff`: third-party files, identified by their content."""

from __future__ import annotations

import base64
import hashlib
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attestation_samples as samples
import pytest
from test_cli_main import Outcome, as_found, image, place  # noqa: F401 - fixtures
from test_measure_bzimage import kernel
from test_measure_disk import disk, fat16
from test_measure_firmware import make_store
from tests.property.test_measure_parsers import UKI

from privml.base.errors import MeasurementError
from privml.events.event import Event
from privml.events.registers import RTMR1, RTMR2, RTMR3, index_of_register
from privml.events.replay import replay_digests
from privml.events.tcg import ALG_SHA384, LogEntry, encode_log, parse_log
from privml.measure import acpi, gpt
from privml.measure.efivars import GLOBAL
from privml.readers import files
from privml.readers.changes import one_change
from privml.readers.log import Log
from privml.statement import predicate

REPOSITORY = Path(__file__).resolve().parents[2]
VECTORS = REPOSITORY / "tests/vectors/measurement"

LOG = lzma.decompress((VECTORS / "gcp-cos113/ccel_data.dat.xz").read_bytes())
QUOTE = lzma.decompress((VECTORS / "gcp-cos113/cos-113-tdx-quote.dat.xz").read_bytes())
OLD_LOG = (VECTORS / "gcp-cos113-dupesep/ccel-unpadded.bin").read_bytes()
REPORT = lzma.decompress((VECTORS / "tdreport/tdx_report_1.bin.xz").read_bytes())
DSTACK = lzma.decompress((VECTORS / "dstack-gpu-64g/quote-report.json.xz").read_bytes())
TABLES = lzma.decompress((VECTORS / "canonical-defaults/acpi_tables.bin.xz").read_bytes())
PUBLISHED = bytes.fromhex((VECTORS / "smbios/dmi_published.hex").read_text())
QEMU_SMBIOS = bytes.fromhex((VECTORS / "smbios/qemu_smbios_tables.hex").read_text())
TPM_LOG = (VECTORS / "boot-tpm-base/log.bin").read_bytes()
VARIABLES = make_store([(0x3F, GLOBAL, "PK", b"key")])
RTMR0 = "3fa2f61f395b7f5f"


def written(folder: Path, data: bytes, name: str = "file") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def found(folder: Path, data: bytes) -> dict[str, Any]:
    return files.read(written(folder, data)).description.to_dict()


@pytest.mark.parametrize(
    ("data", "kind", "digest"),
    [
        (LOG, "ccel", None),
        (TPM_LOG, "tpm-log", None),
        (QUOTE, "quote", None),
        (QUOTE.hex().encode(), "quote", None),
        (b"0x" + QUOTE.hex().upper().encode() + b"\n", "quote", None),
        (base64.encodebytes(QUOTE), "quote", None),
        (base64.urlsafe_b64encode(QUOTE).rstrip(b"="), "quote", None),
        (REPORT, "tdreport", None),
        (b"HCLA".ljust(32, b"\0") + REPORT.ljust(1184, b"\0") + b"{}", "tdreport", None),
        (base64.b64encode(LOG), "ccel", None),
        (DSTACK, "ccel", None),
        (UKI, "uki", None),
        (kernel(), "kernel", None),
        (UKI.replace(b"#### LoaderInfo", b"____ LoaderInfo"), "pe", None),
        (disk(b"x" * 512), "disk", None),
        (TABLES, "acpi-tables", hashlib.sha384(TABLES).hexdigest()),
        (acpi.derived(TABLES)[acpi.TABLE_LOADER], "table-loader", None),
        (acpi.derived(TABLES)[acpi.RSDP], "rsdp", hashlib.sha384(acpi.derived(TABLES)[acpi.RSDP]).hexdigest()),
        (
            PUBLISHED,
            "smbios",
            json.loads((VECTORS / "smbios/expected.json").read_text())["expected_event_digest_sha384"],
        ),
        (QEMU_SMBIOS, "smbios", None),
        (VARIABLES, "variables", hashlib.sha384(VARIABLES).hexdigest()),
        (b"CCEL\x38\0\0\0".ljust(40, b"\0") + (65536).to_bytes(8, "little") + bytes(8), "ccel-table", None),
    ],
)
def test_a_file_is_identified_by_its_content(data: bytes, kind: str, digest: str | None, tmp_path: Path) -> None:
    result = found(tmp_path, data)
    assert result["kind"] == kind
    assert digest is None or digest in [event["digest"] for event in result["events"]]
    assert all(
        set(event) == {"register", "type", "digest", "origin", "evidence", "note"} for event in result["events"]
    )


@pytest.mark.parametrize("data", [b"hello", b"\0" * 600, bytes(range(256)) * 4, b"4" * 1024])
def test_unknown_content_is_refused(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(MeasurementError, match="not recognised"):
        files.read(written(tmp_path, data))


def test_registers_of_logs_and_quotes_are_described(tmp_path: Path) -> None:
    log, claimed = found(tmp_path, LOG), found(tmp_path, QUOTE)
    for name in ("rtmr0", "rtmr1", "rtmr2", "rtmr3"):
        assert log[name] == claimed[name]
    assert claimed["rtmr0"].startswith(RTMR0) and len(claimed["mrtd"]) == 96
    assert set(found(tmp_path, UKI)) >= {"events", "kind"}


def test_secure_boot_variables_of_a_volume_are_described(tmp_path: Path) -> None:
    enrolled = [event["note"] for event in found(tmp_path, VARIABLES)["events"] if "SecureBoot" in event["origin"]]
    assert enrolled == ["in a build with Secure Boot"]
    blank = [event for event in found(tmp_path, make_store([]))["events"] if "SecureBoot" in event["origin"]]
    assert [event["digest"][:8] for event in blank] == ["9dc3a1f8", "cfa4e2c6"]


def test_a_disk_with_a_uki_has_whole_registers(tmp_path: Path) -> None:
    uki = (
        UKI.replace(b".sdmagic", b".cmdline")[:0x200] + b"krnlconsole=ttyS0 #### LoaderInfo: systemd-stub 262-1 ####"
    )
    result = found(tmp_path, disk(fat16(uki)))
    names = [event["origin"] for event in result["events"] if event["register"] == "rtmr1"]
    assert names[2] == "disk's partition table (GPT)" and names[3] == "uki.efi"
    assert (
        result["rtmr1"]
        == replay_digests(
            bytes.fromhex(event["digest"]) for event in result["events"] if event["register"] == "rtmr1"
        ).hex()
    )
    table = gpt.table(disk(fat16(uki)))
    assert result["events"][2]["digest"] == hashlib.sha384(table.event).hexdigest()
    bare = found(tmp_path, disk(fat16(b"no PE")))
    assert "rtmr1" not in bare and any("MZ" in note for note in bare["notes"])


def test_a_tpm_log_with_one_bank_is_identified_by_its_indices(tmp_path: Path) -> None:
    entries = [LogEntry(one.index, one.type, {ALG_SHA384: one.sha384}, one.data) for one in parse_log(TPM_LOG)]
    one, two = found(tmp_path, encode_log(entries)), found(tmp_path, TPM_LOG)
    assert one["kind"] == "tpm-log" and one["rtmr0"] == two["rtmr0"]


def test_the_command_line_prints_the_description(place: Path, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    path = written(place, QUOTE, "quote.bin")
    outcome = Outcome(capsys, "measure", str(path))
    assert outcome.code == 0 and f"rtmr0  {RTMR0}" in outcome.stdout and "TDX quote, version 4" in outcome.stdout
    outcome = Outcome(capsys, "measure", str(path), "--json")
    assert json.loads(outcome.stdout)["rtmr0"].startswith(RTMR0)
    assert Outcome(capsys, "measure", str(path), "--boot").code == 2
    assert Outcome(capsys, "measure", str(written(place, b"hello"))).code == 7
    assert Outcome(capsys, "measure", str(written(place, LOG[:5000]))).code == 9


# --- explain --------------------------------------------------------------------------------------------------------


def test_a_log_agrees_with_its_quote(place: Path, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    log, other = written(place, LOG, "log"), written(place, QUOTE, "quote")
    outcome = Outcome(capsys, "explain", str(log), "--against", str(other))
    assert outcome.code == 0 and outcome.stdout.count("agrees") == 4
    outcome = Outcome(capsys, "explain", str(written(place, OLD_LOG, "old")), "--against", str(other))
    assert outcome.code == 1
    assert "rtmr1: differs; the value has a separator (EV_SEPARATOR) more, before event 2" in outcome.stdout
    assert "rtmr2: agrees" in outcome.stdout
    report = Outcome(capsys, "explain", str(written(place, DSTACK, "report.json")), "--json")
    assert report.code == 0 and json.loads(report.stdout)["agrees"] is True
    alone = Outcome(capsys, "explain", str(log))
    assert alone.code == 0 and "variable SecureBoot" in alone.stdout and RTMR0 in alone.stdout
    assert Outcome(capsys, "explain", str(other)).code == 2
    assert Outcome(capsys, "explain", str(log), "--against", str(written(place, kernel(), "kernel"))).code == 2


CHANGES: list[tuple[Callable[[list[LogEntry]], list[LogEntry]], str]] = [
    (
        lambda log: [log[1], log[0], *log[2:]],
        "the value is that with events 1 and 2 in swapped order: EV_EFI_PLATFORM_FIRMWARE_BLOB2",
    ),
    (lambda log: [*log, log[0]], "the value is that before the last 1 events"),
    (lambda log: [*log[:2], log[0], *log[2:]], "the value is that without event 3: EV_EFI_HANDOFF_TABLES2"),
    (
        lambda log: [
            LogEntry(one.index, one.type, {12: bytes(48)}, one.data) if one is log[3] else one for one in log
        ],
        "event 4 was extended with the digest of its data, not the logged one: EV_EFI_VARIABLE_DRIVER_CONFIG",
    ),
]


@pytest.mark.parametrize(("change", "text"), CHANGES)
def test_the_one_event_that_differs_from_a_quote_is_named(
    change: Callable[[list[LogEntry]], list[LogEntry]],
    text: str,
    place: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    log = written(place, encode_log(change(parse_log(LOG))), "log")
    outcome = Outcome(capsys, "explain", str(log), "--against", str(written(place, QUOTE, "quote")))
    assert outcome.code == 1 and f"rtmr0: differs; {text}" in outcome.stdout


def test_a_doubly_extended_event_and_an_unextended_register_are_explained() -> None:
    log = Log(tuple(parse_log(LOG)), tpm=False)
    events = [event for event in log.logged if event.register == RTMR1]
    digests = [event.digest for event in events]
    twice = replay_digests([*digests[:3], digests[2], *digests[3:]])
    told = one_change(events, twice) or ""
    assert told.startswith("the value is that with event 3 twice: EV_EFI_GPT_EVENT partition table of disk e0c6c56e-")
    assert told.endswith(", OEM, reserved, reserved, RWFW, EFI-SYSTEM")
    assert "nothing extended the register" in (one_change(events, bytes(48)) or "")
    assert one_change(events, b"x" * 48) is None


def as_log(events: tuple[Event, ...]) -> list[LogEntry]:
    return [
        LogEntry(index_of_register(event.register), event.type, {ALG_SHA384: event.digest}, b"")
        for event in events
        if event.register != RTMR3
    ]


def test_a_log_is_compared_with_a_prediction(place: Path, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    prediction = image(place) / "prediction.json"
    events = samples.PREDICATE.launches[0].events
    honest = written(place, encode_log(as_log(events)), "honest")
    outcome = Outcome(capsys, "explain", str(honest), "--against", str(prediction))
    assert outcome.code == 0, outcome.stdout
    entries = as_log(events)
    at = next(number for number, entry in enumerate(entries) if entry.index == index_of_register(RTMR2))
    entries[at] = LogEntry(3, entries[at].type, {ALG_SHA384: b"e" * 48}, b"")
    evil = written(place, encode_log(entries), "evil")
    outcome = Outcome(capsys, "explain", str(evil), "--against", str(prediction), "--json")
    assert outcome.code == 1
    (difference,) = json.loads(outcome.stdout)["against"]["differences"]
    first = next(event for event in events if event.register == RTMR2)
    assert difference["register"] == "rtmr2" and difference["a"]["origin"] == first.origin
    assert difference["b"]["digest"] == (b"e" * 48).hex()
    told = Outcome(capsys, "explain", str(evil), "--against", str(prediction)).stdout
    assert "rtmr2: 1 difference\n" in told and first.origin in told


# --- diff -----------------------------------------------------------------------------------------------------------


def test_two_logs_are_compared(place: Path, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    old, new = written(place, OLD_LOG, "old"), written(place, LOG, "new")
    assert "equal" in Outcome(capsys, "diff", str(new), str(new)).stdout
    outcome = Outcome(capsys, "diff", str(old), str(new), "--json")
    assert outcome.code == 1
    (shape,) = json.loads(outcome.stdout)["shapes"]
    assert [(row["register"], row["position"]) for row in shape["differences"]] == [
        ("rtmr0", 2),
        ("rtmr0", 15),
        ("rtmr1", 2),
    ]
    assert shape["differences"][2]["a"] is None
    assert Outcome(capsys, "diff", str(old), str(written(place, QUOTE, "quote"))).code == 2


def test_two_predictions_and_a_log_are_compared(place: Path, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    one = image(place) / "prediction.json"
    text = predicate.encode(samples.PREDICATE).decode()
    first = samples.PREDICATE.launches[0]
    mrtd = written(place, text.replace(first.accepted("mrtd")[0].hex(), "ab" * 48).encode(), "mrtd.json")
    assert Outcome(capsys, "diff", str(one), str(one)).code == 0
    outcome = Outcome(capsys, "diff", str(one), str(mrtd))
    assert outcome.code == 1 and "mrtd differs" in outcome.stdout
    gone = written(place, text.replace(f'"vcpus":{first.machine.vcpus}', '"vcpus":77').encode(), "gone.json")
    outcome = Outcome(capsys, "diff", str(one), str(gone))
    assert outcome.code == 1 and f"only in {one}" in outcome.stdout and f"only in {gone}" in outcome.stdout
    log = written(place, encode_log(as_log(first.events)), "log")
    assert Outcome(capsys, "diff", str(one), str(log)).code == 0
    assert Outcome(capsys, "diff", str(log), str(one)).code == 0


def test_a_disk_whose_loader_is_for_another_machine_has_no_registers(tmp_path: Path) -> None:
    uki = (
        UKI.replace(b".sdmagic", b".cmdline")[:0x200] + b"krnlconsole=ttyS0 #### LoaderInfo: systemd-stub 262-1 ####"
    )
    at = int.from_bytes(uki[0x3C:0x40], "little") + 4
    result = found(tmp_path, disk(fat16(uki[:at] + (0xAA64).to_bytes(2, "little") + uki[at + 2 :])))
    assert "rtmr1" not in result and [event["origin"] for event in result["events"]] == ["partition table (GPT)"]
    assert any("aarch64" in note for note in result["notes"])


def test_a_disk_with_a_partly_unknown_uki_has_the_registers_that_do_not_depend_on_it(tmp_path: Path) -> None:
    uki = (
        UKI.replace(b".sdmagic", b".cmdline")[:0x200] + b"krnlconsole=ttyS0 #### LoaderInfo: systemd-stub 258-1 ####"
    )
    result = found(tmp_path, disk(fat16(uki)))
    assert set(result) >= {"rtmr1"} and "rtmr2" not in result
    origins = [event["origin"] for event in result["events"] if event["register"] == "rtmr1"]
    assert origins[2:4] == ["disk's partition table (GPT)", "uki.efi"]
