"""`platform learn` from captures of machines of Google, each refusal by its name, and predictions from it."""

from __future__ import annotations

import hashlib
import json
import lzma
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gce_files as made
import pytest
from gce_files import GIB, LARGE, LOG, MRTD, NOW, ONE, QUOTE, TWO, Golden, Machine, archives, endorsement, other
from json_schema import accepts
from test_cli_main import Outcome, as_found, image, place  # noqa: F401 - fixtures
from test_image_manifest import on_one_disk
from test_measure_disk import disk, fat16
from test_vm_learn import TOOLS
from tests.golden.test_measure_boots import load
from tests.published import read

from privml.base.errors import EvidenceError, InputsError, MeasurementError, RecipeError
from privml.base.strictjson import canonical
from privml.cli import platform as verb
from privml.client import bare
from privml.events import types
from privml.events.event import Evidence
from privml.events.logged import logged
from privml.events.registers import RTMR0, RTMR1, RTMRS
from privml.events.replay import replay_digests
from privml.events.tcg import ALG_SHA384, LogEntry, parse_log
from privml.evidence import capture, gce
from privml.evidence.tdx import quote
from privml.image.workplace import Workplace
from privml.lock.tables import known_tables, tables_of
from privml.machine.platform import Size
from privml.measure import dmi, smbios, uki
from privml.measure.digest import sha384
from privml.measure.learntmachine import predict_on
from privml.output import manifest as manifests
from privml.output.artefacts import artefact
from privml.recipe import document, loader, schema
from privml.recipe.gceplatform import GcePlatformFile
from privml.recipe.loader import load_any_platform, load_platform, platforms_in, platforms_of
from privml.statement import predicate as predicates
from privml.store.objects import Store
from privml.verify.bare import Finding, Origin
from privml.verify.verdict import Refusal
from privml.vm import gce as machines
from privml.vm.gcecapture import NotLearntError
from privml.vm.gcelearn import LearntGce, learn
from privml.vm.predicted import ImagePredictor, predict_image

VECTORS = Path(__file__).resolve().parents[1] / "vectors"
SMALL_SIZE, LARGE_SIZE = Size(4, 16 * GIB), Size(8, 32 * GIB)


@pytest.fixture(autouse=True)
def _our_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gce, "GOOGLE_ROOT_SHA256", made.root_sha256())


def learnt(*captured: Machine) -> LearntGce:
    return learn("my-gce", gce.read(endorsement(), now=NOW), list(archives(*captured)))


# --- what is learnt -------------------------------------------------------------------------------------------------


def test_the_machine_s_events_are_learnt_and_the_image_s_are_left_out() -> None:
    found = machines.decode(learnt(ONE, TWO).machines)
    assert found.separators == (0, 1)
    assert [(one.vcpus, one.memory, one.mrtd) for one in found.machines] == 2 * [(4, 16 * GIB, MRTD)]
    names = [one.what for one in found.machines[0].events]
    assert names == [
        "TD HOB",
        "the firmware's volume of variables (CFV)",
        "variable SecureBoot",
        "variable PK",
        "variable KEK",
        "variable db",
        "variable dbx",
        "separator after the Secure Boot variables",
        "ACPI file 1",
        "ACPI file 2",
        "ACPI file 3",
        "variable BootOrder",
        "variable Boot0001",
        "variable Boot0000",
    ]
    assert {(one.seen, one.compared) for one in found.machines[0].events} == {(2, 2)}


def test_learnt_events_and_those_left_out_are_rtmr0_of_a_genuine_quote() -> None:
    """The log and quote of one real machine, which booted another image."""
    rows = machines.decode(learnt(ONE, TWO).machines).machines[0].events
    added = [one.digest for one in logged(parse_log(LOG), tpm=False) if one.type == types.EV_EFI_VARIABLE_AUTHORITY]
    assert len(added) == 2
    assert replay_digests([*(one.digest for one in rows), *added]) == quote.parse(QUOTE).body.rtmrs[0]


@pytest.mark.parametrize(
    ("vector", "separators"),
    [
        ("measurement/gcp-cos113/ccel_data.dat.xz", (0, 1)),
        ("measurement/gcp-cos113-dupesep/ccel.bin.xz", (1, 0)),
        ("measurement/gke-uki/CCEL_data_grub_gke.xz", (0, 1)),
        ("attestation/confidential-containers_trustee/eventlog/CCEL_data_gcp.xz", (0, 1)),
    ],
)
def test_every_event_of_genuine_logs_is_explained(
    vector: str, separators: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two invented machines with one genuine log of a machine of Google: of two firmwares with COS, and of UKIs."""
    monkeypatch.setattr(made, "LOG", lzma.decompress((VECTORS / vector).read_bytes()))
    found = machines.decode(learnt(ONE, TWO).machines)
    assert found.separators == separators
    assert len(found.machines[0].events) == 14


@pytest.mark.parametrize("vector", ["gcp-cos113/ccel_data.dat.xz", "gcp-cos113-dupesep/ccel.bin.xz"])
def test_the_separators_are_where_the_captured_firmware_puts_them(
    vector: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = lzma.decompress((VECTORS / "measurement" / vector).read_bytes())
    monkeypatch.setattr(made, "LOG", log)
    found = machines.decode(learnt(ONE, TWO).machines)
    predicted = predict_on(found.machines[0], found.separators, load("base")[0], b"a partition table")
    for register, left_out in ((RTMR0, types.EV_EFI_VARIABLE_AUTHORITY), (RTMR1, types.EV_EFI_GPT_EVENT)):
        genuine = [one for one in logged(parse_log(log), tpm=False) if one.register == register]
        common = next(at for at, one in enumerate(genuine) if one.type == left_out)
        ours = [one.digest for one in predicted if one.register == register]
        assert ours[:common] == [one.digest for one in genuine[:common]]
        assert sha384(bytes(4)) not in ours[common:]


def test_genuine_logs_of_two_firmwares_are_not_one_platform() -> None:
    """Both show the same TD HOB, ACPI files and boot options; CFV is another, and so are the keys."""
    log = (VECTORS / "measurement/gke-uki/CCEL_data_grub_gke.xz").read_bytes()
    gke = replace(TWO, whole_log=lzma.decompress(log))
    with pytest.raises(NotLearntError, match="capture-differs: 5 events are not the same") as caught:
        learnt(ONE, gke)
    names = [row.partition(":")[0] for row in caught.value.rows]
    assert names == [
        "the firmware's volume of variables (CFV)",
        *(f"variable {one}" for one in ("PK", "KEK", "db", "dbx")),
    ]


def test_machines_of_two_sizes_differ_in_what_depends_on_the_size() -> None:
    made_of = learnt(ONE, TWO, LARGE)
    found = machines.decode(made_of.machines)
    assert found.sizes == (SMALL_SIZE, LARGE_SIZE)
    (large,) = found.of(LARGE_SIZE)
    assert {one.what: one.seen for one in large.events if one.seen < 3} == {
        "TD HOB": 1,
        "ACPI file 1": 1,
        "ACPI file 2": 1,
        "ACPI file 3": 1,
    }
    assert any("8 vCPU / 32GiB: only large.tar shows TD HOB, ACPI file 1" in note for note in made_of.notes)
    assert len(found.of(SMALL_SIZE)) == 2
    with pytest.raises(MeasurementError, match="no machine of this size was captured, only 4 vCPU / 16GiB, 8 vCPU"):
        found.of(Size(4, 32 * GIB))


def test_captures_in_any_order_give_the_same_platform() -> None:
    assert learnt(ONE, TWO, LARGE).text == learnt(LARGE, TWO, ONE).text
    assert learnt(ONE, TWO).machines == learnt(TWO, ONE).machines


def test_events_of_the_captured_image_s_stub_are_recomputed_and_left_out() -> None:
    def own(machine: Machine) -> Machine:
        structures = smbios.stub_structures(machine.table())
        assert [kind for kind, _ in structures] == [1, 2]
        more = tuple(LogEntry(1, types.EV_IPL, {ALG_SHA384: sha384(data)}, b"smbios") for _, data in structures)
        return replace(machine, more=more, change=lambda entry: None if entry.type == 0x800000E0 else entry)

    found = learnt(own(ONE), own(TWO))
    assert (
        machines.decode(found.machines).machines[0].events
        == machines.decode(learnt(ONE, TWO).machines).of(SMALL_SIZE)[0].events
    )
    assert any("SMBIOS type 1, by its systemd-stub (" in note for note in found.notes)
    strange = replace(own(ONE), more=own(TWO).more)
    with pytest.raises(MeasurementError, match="capture-events: 2 events are not explained"):
        learnt(strange, own(TWO))


# --- refusals -------------------------------------------------------------------------------------------------------


def with_data(kind: int, edit: Callable[[bytes], bytes]) -> Callable[[LogEntry], LogEntry]:
    """Change the data of records of a type, with a digest that fits."""

    def change(entry: LogEntry) -> LogEntry:
        data = edit(entry.data)
        if entry.type != kind or data == entry.data:
            return entry
        start = 32 + 2 * int.from_bytes(data[16:24], "little") if kind == types.EV_EFI_VARIABLE_BOOT else 0
        return replace(entry, data=data, digests={ALG_SHA384: sha384(data[start:])})

    return change


def changed(word: str, kind: int, start: bytes = b"") -> Callable[[LogEntry], LogEntry]:
    return lambda entry: other(entry, word) if entry.type == kind and entry.data.startswith(start) else entry


SECURE = with_data(
    types.EV_EFI_VARIABLE_DRIVER_CONFIG,
    lambda data: data[:-1] + b"\x01" if "SecureBoot".encode("utf-16-le") in data else data,
)
INSTALLED = with_data(types.EV_EFI_VARIABLE_BOOT, lambda data: data[:-1] + b"x" if b"n\0v\0m\0e" in data else data)
UNKNOWN = LogEntry(1, types.EV_EVENT_TAG, {ALG_SHA384: sha384(b"x")}, b"x")
DRIVER = LogEntry(2, types.EV_EFI_BOOT_SERVICES_DRIVER, {ALG_SHA384: sha384(b"rom")}, b"rom")


def before_boot(entry: LogEntry) -> LogEntry:
    return DRIVER if entry.type == types.EV_EFI_ACTION and entry.data.startswith(b"Calling") else entry


REFUSED: dict[str, tuple[tuple[Machine, ...], type[Exception], str]] = {
    "none": ((), MeasurementError, "capture-count: got 0, expected 2 to 64"),
    "one": ((ONE,), MeasurementError, "capture-count: got 1, expected 2 to 64"),
    "too many": (tuple(Machine(str(n)) for n in range(65)), MeasurementError, "capture-count: got 65"),
    "one machine twice": ((ONE, ONE), MeasurementError, "capture-twice: one.tar and one.tar are of one machine"),
    "one machine at another size": (
        (ONE, replace(ONE, name="one", cpus=b"0\n")),
        MeasurementError,
        "capture-twice",
    ),
    "no quote": ((ONE, replace(TWO, without=frozenset({capture.QUOTE}))), EvidenceError, "capture-parts: quote.bin"),
    "no log": ((ONE, replace(TWO, without=frozenset({capture.LOG}))), EvidenceError, "capture-parts: ccel.bin: left"),
    "no SMBIOS": (
        (ONE, replace(TWO, without=frozenset({capture.SMBIOS}))),
        EvidenceError,
        "two.tar: capture-parts: smbios/DMI",
    ),
    "no CPUs": ((ONE, replace(TWO, without=frozenset({capture.CPUS}))), EvidenceError, "capture-parts: cpus"),
    "bytes after the quote": ((ONE, replace(TWO, tail=b"x")), EvidenceError, "two.tar: capture-quote: quote: bytes"),
    "a debug TD": (
        (ONE, replace(TWO, attributes=bytes.fromhex("0100001000000000"))),
        EvidenceError,
        "capture-debug: TD attributes 0100001000000000",
    ),
    "another RTMR0": (
        (ONE, replace(TWO, rtmrs={RTMR0: bytes(48)})),
        EvidenceError,
        "capture-log: RTMR0 of the log is",
    ),
    "another RTMR1": (
        (ONE, replace(TWO, rtmrs={RTMR1: bytes(48)})),
        EvidenceError,
        "capture-log: RTMR1 of the log is",
    ),
    "another MRTD": ((ONE, replace(TWO, mrtd=bytes(48))), MeasurementError, "capture-mrtd: 00000000"),
    "an MRTD of another memory size": (
        (ONE, replace(TWO, mrtd=hashlib.sha384(b"88").digest())),
        MeasurementError,
        "with 16GiB, expected one that is endorsed for it",
    ),
    "a machine of others": (
        (ONE, replace(TWO, smbios=made.table("two", maker="QEMU"))),
        MeasurementError,
        "capture-machine: SMBIOS names `QEMU` `Google Compute Engine`",
    ),
    "OEM strings": (
        (ONE, replace(TWO, smbios=made.table("two", more=made.structure(11, b"\x01", "io.systemd.stub")))),
        MeasurementError,
        "capture-oem: SMBIOS has OEM strings",
    ),
    "no UUID": (
        (ONE, replace(TWO, smbios=made.table("two", system_uuid=bytes(16)))),
        MeasurementError,
        "capture-machine: SMBIOS: the machine has no UUID",
    ),
    "no memory": (
        (ONE, replace(TWO, smbios=made.table("two", memory=0))),
        MeasurementError,
        "capture-machine: SMBIOS: no memory",
    ),
    "a log that is cut off": (
        (ONE, replace(TWO, whole_log=LOG[:700], rtmrs=dict.fromkeys(RTMRS, bytes(48)))),
        EvidenceError,
        "two.tar: capture-log: ",
    ),
    "an empty log": (
        (ONE, replace(TWO, change=lambda entry: None)),
        EvidenceError,
        "capture-log: the log is a TPM's, or empty",
    ),
    "CPUs with a gap": ((ONE, replace(TWO, cpus=b"0-1,3\n")), MeasurementError, "capture-size: CPUs b'0-1,3"),
    "Secure Boot": (
        (replace(ONE, change=SECURE), TWO),
        MeasurementError,
        "secure-boot: Secure Boot is on, with which firmware starts no UKI of ours",
    ),
    "an installed system's boot option": (
        (replace(ONE, change=INSTALLED), TWO),
        MeasurementError,
        "an installed system added this boot option",
    ),
    "too many events": ((replace(ONE, more=60 * (UNKNOWN,)), TWO), MeasurementError, "76 events of RTMR0"),
    "an event without a meaning": (
        (replace(ONE, more=(UNKNOWN,)), TWO),
        MeasurementError,
        "its meaning is not known",
    ),
    "a variable whose digest is not its own": (
        (replace(ONE, change=changed("x", types.EV_EFI_VARIABLE_DRIVER_CONFIG)), TWO),
        MeasurementError,
        "one.tar: capture-events: 5 events are not explained",
    ),
    "the machine's after the image's": (
        (replace(ONE, more=tuple(one for one in parse_log(LOG) if one.data.startswith(b"ACPI DATA"))), TWO),
        MeasurementError,
        "it comes after what is measured when a boot option starts",
    ),
    "a driver of a card": (
        (replace(ONE, change=before_boot), TWO),
        MeasurementError,
        "RTMR1 begins with record 15, EV_EFI_BOOT_SERVICES_DRIVER",
    ),
    "another CFV": (
        (ONE, replace(TWO, change=changed("x", types.EV_EFI_PLATFORM_FIRMWARE_BLOB2))),
        MeasurementError,
        "capture-differs: 1 events are not the same\nthe firmware's volume of variables (CFV): ",
    ),
    "another CFV of another size": (
        (ONE, replace(LARGE, change=changed("x", types.EV_EFI_PLATFORM_FIRMWARE_BLOB2))),
        MeasurementError,
        "it does not depend on the machine's size",
    ),
    "another ACPI file in machines of one size": (
        (ONE, replace(TWO, change=changed("x", types.EV_PLATFORM_CONFIG_FLAGS))),
        MeasurementError,
        "capture-differs: 3 events are not the same\nACPI file 1: ",
    ),
    "fewer events in machines of one size": (
        (ONE, replace(TWO, change=lambda entry: None if entry.data.startswith(b"ACPI") else entry)),
        MeasurementError,
        "both have 4 vCPU / 16GiB",
    ),
    "a separator elsewhere": (
        (ONE, replace(TWO, change=lambda one: None if one.index == 2 and one.type == types.EV_SEPARATOR else one)),
        MeasurementError,
        "separators: ",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_each_bad_capture_has_its_name(name: str) -> None:
    captured, kind, words = REFUSED[name]
    with pytest.raises(kind) as caught:
        learnt(*captured)
    rows = caught.value.rows if isinstance(caught.value, NotLearntError) else ()
    assert words in "\n".join([str(caught.value), *rows])


def test_a_changed_part_is_not_of_the_quote() -> None:
    one = capture.decode(ONE.capture())
    files = {**one.files, capture.CPUS: b"0-7\n"}
    with pytest.raises(EvidenceError, match=r"x.tar: capture-binding: the quote was made for something other"):
        learn(
            "my-gce",
            gce.read(endorsement(), now=NOW),
            [("x.tar", capture.Capture(files).encode()), *archives(TWO)],
        )


def test_what_is_no_capture_is_named() -> None:
    with pytest.raises(EvidenceError, match=r"x.tar: capture-form: capture: a header"):
        learn("my-gce", gce.read(endorsement(), now=NOW), [("x.tar", LOG), *archives(TWO)])


def test_no_byte_of_a_capture_may_change() -> None:
    endorsed, data, second = gce.read(endorsement(), now=NOW), ONE.capture(), list(archives(TWO))
    # Most of an archive is the log; a stride that is prime to its records meets every kind of place.
    for at in range(0, len(data), 997):
        bad = bytearray(data)
        bad[at] ^= 0x55
        with pytest.raises((EvidenceError, MeasurementError)):
            learn("my-gce", endorsed, [("x.tar", bytes(bad)), *second])


# --- the object -----------------------------------------------------------------------------------------------------


def edited(change: Callable[[dict[str, Any]], object]) -> bytes:
    value = json.loads(learnt(ONE, TWO).machines)
    change(value)
    return canonical(value)


def test_the_object_is_read_back_as_it_was() -> None:
    data = learnt(ONE, TWO, LARGE).machines
    assert machines.decode(data).encoded() == data


def test_an_endorsement_in_the_object_is_checked_again_without_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    data = learnt(ONE, TWO).machines
    monkeypatch.setattr(gce, "GOOGLE_ROOT_SHA256", "00" * 32)
    with pytest.raises(EvidenceError, match="endorsement-root"):
        machines.decode(data)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda value: value.update(format="privml-gce/v2"), "format"),
        (lambda value: value.update(more=1), "more"),
        (lambda value: value["machines"].pop(), "machines: 1, expected 2 or more"),
        (lambda value: value["machines"].append(value["machines"][0]), "each of its own capture"),
        (lambda value: value["machines"][0].update(mrtd="00" * 48), "which the endorsement does not have"),
        (lambda value: value["machines"][0].update(events=[]), "events: empty"),
        (lambda value: value["machines"][0].update(vcpus=0), "vcpus"),
        (lambda value: value["machines"][0]["events"][0].update(digest="00"), "digest"),
        (lambda value: value["machines"][0]["events"][0].update(more=1), "more"),
        (lambda value: value["machines"][0]["events"][0].update(seen=3), "seen: 3 of 2 machines"),
        (lambda value: value.update(separators=[0]), "1"),
        (lambda value: value.update(separators=[0, 9]), "separators"),
        (lambda value: value.update(endorsement="AAAA"), "endorsement-encoding"),
    ],
)
def test_a_changed_object_is_refused(change: Callable[[dict[str, Any]], object], words: str) -> None:
    with pytest.raises(EvidenceError, match=words):
        machines.decode(edited(change))


# --- files and commands ---------------------------------------------------------------------------------------------


def written(folder: Path) -> Path:
    (folder / "firmware.binarypb").write_bytes(endorsement())
    for name, data in archives(ONE, TWO):
        (folder / name).write_bytes(data)
    return folder


WORDS = ("--gcp-endorsement", "firmware.binarypb", "--capture", "one.tar", "--capture", "two.tar")


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verb.time, "time", lambda: NOW)


@pytest.mark.usefixtures("now")
def test_platform_learn_writes_a_file_and_an_object(
    place: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    outcome = Outcome(capsys, "platform", "learn", "my-gce", *WORDS, "--capture", str(written(place) / "two.tar"))
    assert (outcome.code, list(place.glob("recipes/**/*.yaml"))) == (7, []), outcome.stderr
    assert "capture-twice" in outcome.stderr
    assert not (place / "store").exists()
    outcome = Outcome(capsys, "platform", "learn", "my-gce", *WORDS)
    assert outcome.code == 0, outcome.stderr
    assert f"firmware sha384:{made.FIRMWARE.hex()}, signed by Google (CN=signer,C=USA, until 2034" in outcome.stdout
    assert "systemd-stub measures them into RTMR0: only these machines" in outcome.stdout
    assert "note: one.tar: no collateral, so its quote's signature was not checked" in outcome.stdout
    file = load_any_platform("my-gce", place / "recipes")
    assert isinstance(file, GcePlatformFile)
    text = (place / "recipes/platforms/my-gce.yaml").read_text()
    for edit, good in ((("svn", "svn"), True), (("svn: 2", "svn: -1"), False), (("captures", "tables"), False)):
        made_of = document.parse(text.replace(*edit).encode(), "my-gce.yaml").value
        assert accepts(schema.platform_schema(), made_of, schema.platform_schema()) is good
    assert (file.firmware.sha384, file.firmware.svn) == (made.FIRMWARE.hex(), 2)
    assert machines.machines_of(file, Store()).sizes == (SMALL_SIZE,)
    assert [one.name for one in platforms_in(place / "recipes")] == ["my-gce"]
    assert known_tables([place / "recipes"]) == {item.sha256 for item in tables_of([file])} == {file.tables.sha256}
    with pytest.raises(RecipeError, match="my-gce: a machine of Google, which nothing here can start"):
        load_platform("my-gce", place / "recipes")
    assert Outcome(capsys, "platform", "learn", "my-gce", *WORDS).code == 2


@pytest.mark.usefixtures("now")
def test_the_machines_are_kept_next_to_the_platform(
    place: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    written(place)
    assert Outcome(capsys, "platform", "learn", "my-gce", *WORDS).code == 0
    file = load_any_platform("my-gce", place / "recipes")
    assert isinstance(file, GcePlatformFile)
    empty = Store(tmp_path / "another")
    assert machines.machines_of(file, empty).sizes == (SMALL_SIZE,)
    assert empty.has(file.tables.sha256)


@pytest.mark.usefixtures("now")
def test_every_event_that_is_in_the_way_is_listed(
    place: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    (written(place) / "two.tar").write_bytes(replace(TWO, more=30 * (UNKNOWN,), change=SECURE).capture())
    outcome = Outcome(capsys, "platform", "learn", "my-gce", *WORDS)
    assert outcome.code == 7
    assert "two.tar: capture-events: 31 events are not explained\nhint: capture a machine at" in outcome.stderr
    lines = outcome.stdout.splitlines()
    assert lines[0].startswith("record 3, EV_EFI_VARIABLE_DRIVER_CONFIG variable SecureBoot") and len(lines) == 25
    assert lines[-1] == "and 7 more"
    assert not (place / "recipes").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--capture", "one.tar"), "need --gcp-endorsement"),
        (("--collateral", "one.tar", "--", "-smp", "4"), "need --gcp-endorsement"),
        (("--gcp-endorsement", "firmware.binarypb", "--xml", "one.tar"), "no QEMU or its arguments"),
        (("--gcp-endorsement", "firmware.binarypb", "--cpu", "vendor=x"), "no QEMU or its arguments"),
        ((*WORDS, "--", "-smp", "4"), "no QEMU or its arguments"),
        ((*WORDS, "--vcpus", "4"), "--vcpus and --memory are for a QEMU"),
    ],
)
def test_a_qemu_and_captures_are_not_learnt_together(
    place: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    said: str,
) -> None:
    written(place)
    outcome = Outcome(capsys, "platform", "learn", "my-gce", *words)
    assert (outcome.code, said in outcome.stderr) == (2, True)
    assert not (place / "recipes").exists()


@pytest.mark.usefixtures("now")
def test_the_quotes_signatures_are_checked_where_there_is_collateral(
    place: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (written(place) / "collateral.json").write_bytes(read("attestation/tdx_quote_collateral.json"))
    outcome = Outcome(capsys, "platform", "learn", "my-gce", *WORDS, "--collateral", "collateral.json")
    assert outcome.code == 9 and "one.tar: capture-signature: collateral-" in outcome.stderr, outcome.stderr
    assert not (place / "recipes").exists() and not (place / "store").exists()
    monkeypatch.setattr(bare, "judge", lambda *_, **__: Finding(Origin.GENUINE, (Refusal("tcb-status", "", ""),)))
    outcome = Outcome(capsys, "platform", "learn", "first", *WORDS)
    assert "note: one.tar: Intel vouches for its quote, which `verify` would refuse: tcb-status" in outcome.stdout
    monkeypatch.undo()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (lambda: endorsement()[:-1], "endorsement-encoding"),
        (lambda: endorsement() + b"\0", "endorsement-encoding"),
        (lambda: made.signed(Golden().encoded(), "other"), "endorsement-signature"),
    ],
)
@pytest.mark.usefixtures("now")
def test_a_bad_endorsement_writes_nothing(
    place: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
    data: Callable[[], bytes],
    words: str,
) -> None:
    (written(place) / "firmware.binarypb").write_bytes(data())
    outcome = Outcome(capsys, "platform", "learn", "my-gce", *WORDS)
    assert outcome.code == 9
    assert f"firmware.binarypb: {words}" in outcome.stderr
    assert not (place / "recipes").exists() and not (place / "store").exists()


def test_a_file_that_was_changed_by_hand_is_refused(tmp_path: Path) -> None:
    found, store = learnt(ONE, TWO), Store(tmp_path)
    with pytest.raises(InputsError, match="of platform my-gce are not in the store"):
        machines.machines_of(found.file, store)
    store.add_bytes(found.machines)
    assert machines.machines_of(found.file, store).machines
    firmware = found.file.firmware.model_copy(update={"sha384": "00" * 48})
    with pytest.raises(MeasurementError, match=r"firmware.sha384 is 0000.*, but Google endorsed"):
        machines.machines_of(found.file.model_copy(update={"firmware": firmware}), store)
    larger = [one.model_copy(update={"vcpus": 8}) for one in found.file.sizes]
    with pytest.raises(MeasurementError, match=r"sizes are not those of the captured machines, 4 vCPU / 16GiB"):
        machines.machines_of(found.file.model_copy(update={"sizes": larger}), store)
    other_object = found.file.tables.model_copy(update={"sha256": store.add_bytes(b"[]")})
    with pytest.raises(EvidenceError, match="platform my-gce: machines of a platform"):
        machines.machines_of(found.file.model_copy(update={"tables": other_object}), store)


@pytest.fixture
def shown(
    place: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    now: None,
) -> Path:
    """An image, its disk, and a learnt platform with machines of two sizes; the facts of the UKI are a real one's."""
    folder = image(place)
    facts = load("base")[0]
    monkeypatch.setattr(uki, "facts", lambda data: facts)
    monkeypatch.setattr(Workplace, "tools", lambda self: TOOLS)
    (place / "disk.raw").write_bytes(disk(fat16((folder / "uki.efi").read_bytes())))
    (written(place) / "large.tar").write_bytes(LARGE.capture())
    assert Outcome(capsys, "platform", "learn", "my-gce", *WORDS, "--capture", "large.tar").code == 0
    return folder


def captured(*names: str) -> list[str]:
    """How a launch names the captures, in the order of the object for machines of one size."""
    found = [hashlib.sha256(Path(f"{name}.tar").read_bytes()).hexdigest()[:8] for name in names]
    return [*sorted(found[:2]), *found[2:]]


def test_measure_predicts_for_each_captured_machine(shown: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("measure", str(shown), "--platform", "my-gce", "--disk-file", "disk.raw")
    outcome = Outcome(capsys, *words, "--json")
    assert outcome.code == 0, outcome.stderr
    found = predicates.decode(outcome.stdout.encode())
    assert [one.machine.vcpus for one in found.launches] == [4, 4, 8]
    assert [one.platform for one in found.launches] == [f"my-gce/{one}" for one in captured("one", "two", "large")]
    first, second, large = found.launches
    assert first.evidence()["mrtd"] is Evidence.ENDORSED and first.accepted("mrtd") == (MRTD,)
    assert {one.evidence()[RTMR0] for one in found.launches} == {Evidence.LEARNT}
    # SMBIOS has a serial number and a UUID of each machine.
    assert len({one.accepted(RTMR0) for one in found.launches}) == 3
    assert first.of(RTMR0)[:-2] == second.of(RTMR0)[:-2]
    assert [one.origin for one in first.of(RTMR0)[-2:]] == [f"{smbios.TABLES} type {kind}" for kind in (1, 2)]
    for register in RTMRS[1:]:
        assert len({one.accepted(register) for one in found.launches}) == 1
    assert [event.origin.partition(" (recipes")[0] for event in large.of(RTMR1)][:4] == [
        "firmware: boot option starts",
        "firmware: separator before the boot option starts",
        "disk's partition table (GPT)",
        "uki.efi",
    ]
    assert found.manifest_sha256 == manifests.read(shown).sha256
    outcome = Outcome(capsys, *words, "--events", "--vcpus", "8", "--memory", "32GiB")
    assert (
        "learnt     machine: TD HOB" in outcome.stdout
        and f"my-gce/{captured('large')[0]}, 8 vcpus, 32768 MiB" in outcome.stdout
    )
    assert f"  mrtd  {MRTD.hex()}  endorsed  signed by the firmware's vendor" in outcome.stdout


def test_rtmr0_on_a_captured_machine_is_its_log_with_our_stub_s_events(
    shown: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A capture of our own image would have this RTMR0: the genuine log without what the captured image added."""
    outcome = Outcome(capsys, "measure", str(shown), "--platform", "my-gce", "--disk-file", "disk.raw", "--json")
    genuine = [
        one.digest
        for one in logged(parse_log(LOG), tpm=False)
        if one.register == RTMR0 and one.type != types.EV_EFI_VARIABLE_AUTHORITY
    ]
    wanted = {
        replay_digests([*genuine, *(sha384(data) for _, data in smbios.stub_structures(machine.table()))])
        for machine in (ONE, TWO)
    }
    launches = predicates.decode(outcome.stdout.encode()).launches
    assert {one.accepted(RTMR0)[0] for one in launches if one.machine.vcpus == 4} == wanted


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ((), 2, "a machine of Google, which boots from a disk"),
        (("--boot",), 2, "a machine of Google, which boots from a disk"),
        (("--disk-file", "disk.raw", "--boot"), 2, "--disk-file needs --platform, and no --boot"),
        (("--disk-file", "disk.raw", "--vcpus", "2", "--memory", "4GiB"), 7, "no machine of this size was captured"),
        (("--disk-file", "other.raw"), 7, "other.raw: its EFI/BOOT/BOOTX64.EFI is not the image's uki.efi"),
        (("--disk-file", "esp-less.raw"), 7, "esp-less.raw: the disk has no EFI system partition"),
        (("--disk-file", "one.tar"), 7, "one.tar: not a GPT disk image"),
    ],
)
def test_what_cannot_be_predicted_is_named(
    shown: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], code: int, said: str
) -> None:
    Path("other.raw").write_bytes(disk(fat16(b"another loader")))
    Path("esp-less.raw").write_bytes(disk(fat16(b""), type_=made.uuid.UUID(int=9)))
    outcome = Outcome(capsys, "measure", str(shown), "--platform", "my-gce", *words)
    assert (outcome.code, said in outcome.stderr) == (code, True), outcome.stderr


def on_its_own_disk(folder: Path, *sizes: Size) -> manifests.Manifest:
    """The image's manifest with ``boot: disk``, for platform ``my-gce``."""
    made_of = replace(on_one_disk(folder), platforms=("my-gce",), shapes=sizes)
    (folder / "disk.raw").write_bytes(disk(fat16((folder / "uki.efi").read_bytes())))
    own = {**made_of.artefacts, "disk.raw": artefact(folder / "disk.raw")}
    return replace(made_of, artefacts=own)


def test_an_image_for_these_machines_is_predicted_with_its_own_disk(
    shown: Path,
    place: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As a build predicts a recipe with this platform; its statement has a value for each register."""
    recipes, cache = place / "recipes", Store().root
    made_of = on_its_own_disk(shown, LARGE_SIZE)
    found = predict_image(TOOLS, cache, shown, made_of, recipes)
    (launch,) = predicates.decode(predicates.encode(found)).launches
    assert (launch.platform, launch.evidence()[RTMR0]) == (f"my-gce/{captured('one', 'two', 'large')[2]}", "learnt")
    assert all(len(launch.accepted(register)) == 1 for register in ("mrtd", *RTMRS))
    (shown / "manifest.json").write_bytes(made_of.encode())
    outcome = Outcome(capsys, "measure", str(shown), "--platform", "my-gce", "--json")
    assert predicates.decode(outcome.stdout.encode()).launches[2] == launch
    assert ImagePredictor(cache, recipes).inputs(["my-gce"]).keys() >= {"platform my-gce"}
    with pytest.raises(MeasurementError, match="2 vCPU / 2GiB: no machine of this size was captured"):
        predict_image(TOOLS, cache, shown, on_its_own_disk(shown, Size(2, 2 * GIB)), recipes)
    direct = replace(
        made_of, boot="direct", artefacts={k: v for k, v in made_of.artefacts.items() if k != "disk.raw"}
    )
    with pytest.raises(MeasurementError, match="my-gce starts its machines from a disk, and demo-cpu boots directly"):
        predict_image(TOOLS, cache, shown, direct, recipes)


@pytest.mark.usefixtures("shown")
def test_a_recipe_names_these_machines_and_lint_says_what_is_missing(
    place: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = place / "recipes/mine.yaml"
    base = (
        "schema: 2\ndescription: x\nbase: {distribution: debian, release: forky}\nfirmware: {tdx: {package: "
        "ovmf-inteltdx}}\nkernel: {package: linux-image-cloud-amd64}\nagent: {listen: 8443, max_concurrency: 4}\n"
        "platforms: [my-gce]\nshapes: [{vcpus: 4, memory: 16GiB}]\n"
    )
    devices = "devices: [virtio-blk: 1, virtio-net: 1]\n"
    untried = "[platform-untried]"
    for more, code, said in (
        ("", 3, "devices: missing, expected them, because captures of a cloud's machines do not say them"),
        (devices, 3, "platforms[0]: `my-gce` starts its machines from a disk, expected `boot: disk` [boot-disk]"),
        (devices + "boot: disk\n", 0, "`my-gce` has NVMe disks and gVNIC, but the guest drives virtio only"),
    ):
        path.write_text(base + more)
        outcome = Outcome(capsys, "lint", "recipes/mine.yaml")
        assert (outcome.code, said in outcome.stderr) == (code, True), outcome.stderr
    assert untried in outcome.stderr
    path.write_text((base + devices + "boot: disk\n").replace("vcpus: 4", "vcpus: 2"))
    outcome = Outcome(capsys, "lint", "recipes/mine.yaml")
    assert "2 vCPU / 16GiB: no machine of this size was captured for `my-gce`, only 4 vCPU" in outcome.stderr
    assert [one.sha256 for one in tables_of(platforms_of(loader.load(path)))] == [
        one.sha256 for one in tables_of(platforms_in(place / "recipes"))
    ]


def test_a_disk_is_for_machines_of_google_only(shown: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = Outcome(capsys, "measure", str(shown), "--platform", "qemu-11-q35", "--disk-file", "disk.raw")
    assert (outcome.code, "qemu-11-q35 is a QEMU's" in outcome.stderr) == (2, True)
    assert Outcome(capsys, "measure", str(shown), "--disk-file", "disk.raw").code == 2


# --- SMBIOS ---------------------------------------------------------------------------------------------------------


def test_smbios_says_maker_product_uuid_and_memory() -> None:
    table = made.table("two", memory=704 * GIB)
    maker, product, own = dmi.system(table)
    assert (maker, product, own) == (
        "Google",
        "Google Compute Engine",
        made.uuid.uuid5(made.uuid.NAMESPACE_DNS, "two"),
    )
    assert dmi.memory(table) == 704 * GIB
    assert dmi.memory(made.table(memory=512 << 20)) == 512 << 20
    assert smbios.stub_structures(dmi.for_stub(table)) == smbios.stub_structures(table)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (b"", "0 structures of type 1"),
        (2 * made.structure(1, bytes(23)), "2 structures of type 1"),
        (made.structure(1, b"\1\2"), "1 structures of type 1, expected one with a UUID"),
        (b"\x01\x02", "says that it is 2 bytes long"),
    ],
)
def test_malformed_smbios_is_refused(table: bytes, words: str) -> None:
    with pytest.raises(MeasurementError, match=words):
        dmi.system(table)


def test_memory_without_a_size_is_refused() -> None:
    with pytest.raises(MeasurementError, match="does not say its size"):
        dmi.memory(made.structure(17, bytes(8) + b"\xff\xff" + bytes(20)))
    assert dmi.memory(made.structure(17, bytes(8) + b"\x00\x84" + bytes(20))) == 1 << 20
