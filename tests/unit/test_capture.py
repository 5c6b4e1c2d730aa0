"""A capture of a TD: a canonical archive of the kernel's files, compared with a prediction."""

from __future__ import annotations

import io
import json
import lzma
import tarfile
from collections.abc import Callable
from pathlib import Path

import attestation_samples as samples
import pytest
from test_agent_tee import Kernel
from test_cli_main import Outcome, as_found, image, place  # noqa: F401 - fixtures
from tests.golden.test_measure_boots import load

from privml.base import strictjson
from privml.base.errors import EvidenceError, HostError
from privml.events.registers import MRTD, RTMR0, RTMR1, RTMR3, index_of_register, register_of_index
from privml.events.replay import replay
from privml.events.tcg import ALG_SHA384, LogEntry, encode_log, parse_log
from privml.evidence import capture
from privml.evidence.capture import Capture
from privml.evidence.tdx.kernel import TdxTee
from privml.measure import firmware, uki
from privml.measure.machine import DiskBoot, MeasuredMachine
from privml.measure.predict import predict
from privml.measure.profiles import TD_INTELTDX
from privml.output import manifest as manifests
from privml.readers import captured, files
from privml.readers.replay import Replayed
from privml.readers.replay import replay as replay_capture
from privml.sim import quote as sim

VECTORS = Path(__file__).resolve().parents[1] / "vectors/measurement"
LOG = lzma.decompress((VECTORS / "gcp-cos113/ccel_data.dat.xz").read_bytes())
QUOTE = lzma.decompress((VECTORS / "gcp-cos113/cos-113-tdx-quote.dat.xz").read_bytes())
SMBIOS = bytes.fromhex((VECTORS / "smbios/dmi_published.hex").read_text())


def tree(folder: Path) -> Path:
    """The kernel's files that a capture reads; the contents are from another TD."""
    made = {
        captured.SOURCES[capture.LOG]: LOG,
        captured.SOURCES[capture.SMBIOS]: SMBIOS,
        captured.SOURCES["kernel/osrelease"]: b"7.2.12\n",
        captured.SOURCES["fw_cfg/bootorder"]: b"/x\0",
        Path("sys/firmware/qemu_fw_cfg/by_name/opt/io.systemd.credentials/password/raw"): b"secret",
    }
    for number in (2, 1):
        for name in ("class", "vendor", "device", "subsystem_vendor", "subsystem_device", "revision", "resource"):
            made[Path(f"sys/bus/pci/devices/0000:00:0{number}.0") / name] = f"0x{number}\n".encode()
    for path, data in made.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return folder


def test_an_archive_is_a_canonical_tar() -> None:
    made = Capture({capture.LOG: LOG, "kernel/osrelease": b"7.2\n"}, {capture.QUOTE: "none"}, "ab" * 32)
    data = made.encode()
    assert capture.is_capture(data) and capture.decode(data) == made
    assert Capture(dict(reversed(list(made.files.items()))), made.missing, made.uki).encode() == data
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert archive.getnames() == ["manifest.json", capture.LOG, "kernel/osrelease"]
        assert {(one.mode, one.uid, one.mtime) for one in archive.getmembers()} == {(0o644, 0, 0)}
        part = archive.extractfile(capture.LOG)
        assert part is not None and part.read() == LOG


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: data[:1536], "truncated"),
        (lambda data: data.replace(b"7.2\n", b"7.3\n"), "does not match the manifest"),
        (lambda data: data + bytes(512), "not the canonical archive"),
        (lambda data: data[:-1], "not the canonical archive"),
        (lambda data: data.replace(b"kernel/osrelease\0", b"kernel/osrel\0\0\0\0\0"), "is not part of a capture"),
        (lambda data: data.replace(b"0000644", b"0000755"), "not the canonical archive"),
        (lambda data: b"x" + data[1:], "no manifest"),
        (lambda data: data[:124] + b"x" * 11 + data[135:], "no size"),
        (lambda data: data[:-1024] + data[-2048:-1024] + bytes(1024), "duplicated"),
        (lambda data: bytes(capture.MAX_SIZE + 1), "at most"),
    ],
)
def test_other_archives_are_refused(change: Callable[[bytes], bytes], words: str) -> None:
    with pytest.raises(EvidenceError, match=words):
        capture.decode(change(Capture({"kernel/osrelease": b"7.2\n"}).encode()))


def test_the_kernel_s_files_are_read_and_missing_ones_are_listed(tmp_path: Path) -> None:
    found = captured.read(tree(tmp_path), None, qemu=b"qemu-system-x86_64 ...", uki="cd" * 32)
    assert found.files[capture.LOG] == LOG and found.blobs == {"bootorder": b"/x\0"}
    devices = json.loads(found.files[capture.DEVICES])
    assert [row["slot"] for row in devices] == ["0000:00:01.0", "0000:00:02.0"] and devices[1]["vendor"] == "0x2"
    assert "No such file" in found.missing[capture.TABLE] and "on request" in found.missing[capture.QUOTE]
    assert b"secret" not in found.encode()
    less = captured.read(tmp_path, None, leave_out=frozenset({capture.LOG, capture.DEVICES, capture.SMBIOS}))
    assert set(less.files) == {"kernel/osrelease", "fw_cfg/bootorder"}
    with pytest.raises(HostError, match="no event log"):
        captured.read(tmp_path / "sys", None)


def test_the_quote_s_report_data_binds_the_other_parts(tmp_path: Path) -> None:
    kernel = Kernel()
    tee = TdxTee(reports=Path("/configfs/tsm/report"), measurements=Path("/measurements"), files=kernel)
    found = captured.read(tree(tmp_path), tee)
    assert kernel.inblobs == [found.report_data()]
    other = Capture({**found.files, "kernel/osrelease": b"6.1"}, found.missing)
    assert other.report_data() != found.report_data()


def test_a_captured_log_and_quote_are_shown_to_agree(tmp_path: Path) -> None:
    """Log and quote are from one cloud machine; the SMBIOS table is from another."""
    path = tmp_path / "td.tar"
    path.write_bytes(Capture({capture.LOG: LOG, capture.QUOTE: QUOTE, capture.SMBIOS: SMBIOS}).encode())
    found = files.read(path).description
    assert found.kind == "capture" and found.facts["rtmr2"] == "log and quote agree"
    assert found.facts[capture.SMBIOS] == "the log has no event for it"
    assert found.facts["quote"] == "made for something other than these parts"
    entries = parse_log(LOG)
    path.write_bytes(Capture({capture.LOG: encode_log(entries[:-1]), capture.QUOTE: QUOTE}).encode())
    assert "log and quote differ" in files.read(path).description.facts.values()


def test_the_verb_writes_an_archive(place: Path, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    root = tree(place / "root")
    outcome = Outcome(capsys, "capture", "td.tar", "--root", str(root), "--no-quote", "--leave-out", "kernel/cmdline")
    assert outcome.code == 0 and "kernel/cmdline  missing: left out on request" in outcome.stdout
    assert (place / "td.tar").stat().st_mode & 0o777 == 0o600
    assert Outcome(capsys, "measure", "td.tar").code == 0
    explained = Outcome(capsys, "explain", "td.tar")
    assert explained.code == 0 and "variable SecureBoot" in explained.stdout
    assert Outcome(capsys, "capture", "none/td.tar", "--root", str(root)).code == 2
    assert Outcome(capsys, "capture", "td.tar", "--root", str(place / "empty"), "--no-quote").code == 5
    assert Outcome(capsys, "capture", "td.tar", "--root", str(root), "--uki", "no").code == 2
    assert Outcome(capsys, "capture", "td.tar", "--root", str(root)).code == 5  # no TDX there to ask for a quote


# --- a prediction held against it -----------------------------------------------------------------------------------


def machine() -> tuple[uki.UkiFacts, firmware.FirmwareFacts, dict[str, bytes], list[LogEntry], dict[str, bytes]]:
    """An invented TD: the log and registers predicted for a machine whose blobs come from a vector."""
    image_facts, firmware_facts, blobs, memory, _ = load("base")
    blobs["BootMenu"] = bytes(2)
    captured = MeasuredMachine(blobs, memory, TD_INTELTDX)
    prediction = predict(image_facts, firmware_facts, captured, agent_events=samples.PREDICATE.agent_events)
    log = [
        LogEntry(index_of_register(event.register), event.type, {ALG_SHA384: event.digest}, b"")
        for event in prediction.events
        if event.register != RTMR3
    ]
    return image_facts, firmware_facts, blobs, log, prediction.registers()


def archive(
    folder: Path,
    log: list[LogEntry],
    values: dict[str, bytes],
    blobs: dict[str, bytes],
    more: dict[str, bytes] | None = None,
) -> Path:
    parts = {f"fw_cfg/{name}": data for name, data in blobs.items() if name in capture.FW_CFG} | (more or {})
    parts[capture.LOG] = encode_log(log, pad_to=65536)
    parts[capture.QUOTE] = sim.make_quote(values, Capture(parts).report_data())
    path = folder / "td.tar"
    path.write_bytes(Capture(parts).encode())
    return path


def replayed(path: Path) -> Replayed:
    image_facts, firmware_facts, *_ = machine()
    events = samples.PREDICATE.agent_events
    return replay_capture(image_facts, firmware_facts, files.read(path), origins={}, agent_events=events)


def test_a_capture_of_the_predicted_machine_has_no_difference(tmp_path: Path) -> None:
    _, _, blobs, log, values = machine()
    path = archive(tmp_path, log, values, blobs)
    found = replayed(path)
    assert found.equal and found.comparison.matched[RTMR0] > 10, found.problems
    facts = files.read(path).description.facts
    assert facts["quote"] == "made for these parts" and facts["fw_cfg etc/acpi/tables"].startswith(
        "the log has an event"
    )


def test_differences_are_named(tmp_path: Path) -> None:
    _, _, blobs, log, values = machine()
    for at, entry in enumerate(log):
        changed = [*log[:at], LogEntry(entry.index, entry.type, {ALG_SHA384: b"x" * 48}, b""), *log[at + 1 :]]
        moved = {**values, **{one: value for one, value in replay(changed).items() if one != RTMR3}}
        found = replayed(archive(tmp_path, changed, moved, blobs))
        (difference,) = found.comparison.differences
        assert (difference.register, difference.kind) == (register_of_index(entry.index), "differs")
        assert not found.problems and not found.equal
    found = replayed(archive(tmp_path, log, {**values, RTMR1: bytes(48)}, blobs))
    assert found.problems == ("RTMR1: the quote's value is not that of the captured log",)
    found = replayed(archive(tmp_path, log, {**values, MRTD: bytes(48)}, blobs))
    assert "another firmware file" in found.problems[0]
    found = replayed(archive(tmp_path, log, {**values, RTMR3: bytes(48)}, blobs))
    assert "the agent was not ready" in found.problems[0]


def test_without_the_machine_s_blobs_rtmr0_is_skipped_with_a_note(tmp_path: Path) -> None:
    _, _, blobs, log, values = machine()
    found = replayed(archive(tmp_path, log, values, {**blobs, "etc/e820": b""}))
    assert found.equal and RTMR0 not in found.comparison.matched
    assert any("rtmr0 is not compared" in note for note in found.notes)


GPT = b"EFI PART" + bytes(84)


def test_a_capture_of_a_boot_from_a_disk_is_predicted_from_its_devices(tmp_path: Path) -> None:
    image_facts, firmware_facts, blobs, _, _ = machine()
    del blobs["bootorder"]
    events = samples.PREDICATE.agent_events
    booted = MeasuredMachine(blobs, load("base")[3], TD_INTELTDX, disk=DiskBoot.of_slots(GPT, [2, 5]))
    mine = predict(image_facts, firmware_facts, booted, agent_events=events)
    log = [
        LogEntry(index_of_register(event.register), event.type, {ALG_SHA384: event.digest}, b"")
        for event in mine.events
        if event.register != RTMR3
    ]

    def replayed_with(rows: object) -> Replayed:
        more = {} if rows is None else {capture.DEVICES: strictjson.canonical(rows)}
        path = archive(tmp_path, log, mine.registers(), blobs, more)
        return replay_capture(
            image_facts, firmware_facts, files.read(path), origins={}, agent_events=events, gpt_event=GPT
        )

    rows = [
        {"slot": f"0000:00:{slot}.0", "vendor": "0x1af4", "device": device}
        for slot, device in (("02", "0x1001"), ("03", "0x1000"), ("05", "0x1042"))
    ]
    assert replayed_with(rows).equal
    assert not replayed_with(rows[:1]).equal
    for wrong, said in (
        (None, "lists no devices"),
        (rows[1:2], "lists 0 disks"),
        ([{**rows[0], "slot": "0000:01:02.0"}], "expected it on the root bus"),
    ):
        found = replayed_with(wrong)
        assert RTMR0 not in found.comparison.matched and found.equal
        assert any(said in note for note in found.notes)


def test_measure_replay_compares_a_capture(
    place: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    image_facts, firmware_facts, blobs, log, _ = machine()
    folder = image(place)
    monkeypatch.setattr(uki, "facts", lambda data: image_facts)
    monkeypatch.setattr(firmware, "facts", lambda data: firmware_facts)
    agent_events = manifests.read(folder).agent_events
    captured = MeasuredMachine(blobs, load("base")[3], TD_INTELTDX)
    mine = predict(image_facts, firmware_facts, captured, agent_events=agent_events)
    path = archive(place, log, mine.registers(), blobs)
    outcome = Outcome(capsys, "measure", str(folder), "--replay", str(path))
    assert outcome.code == 0, outcome.stdout + outcome.stderr
    outcome = Outcome(capsys, "measure", str(folder), "--replay", str(path), "--json")
    assert json.loads(outcome.stdout)["equal"] is True
    path = archive(place, log[1:], mine.registers(), blobs)
    outcome = Outcome(capsys, "measure", str(folder), "--replay", str(path))
    assert (
        outcome.code == 1 and "RTMR0 event 1: missing: predicted EV_EFI_HANDOFF_TABLES2 from TD HOB" in outcome.stdout
    )
    other = place / "log"
    other.write_bytes(LOG)
    assert Outcome(capsys, "measure", str(folder), "--replay", str(other)).code == 2
    assert Outcome(capsys, "measure", str(folder), "--replay", str(path), "--boot").code == 2
    assert Outcome(capsys, "measure", str(other), "--replay", str(path)).code == 2
