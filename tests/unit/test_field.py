"""The field test: record, archive, comparison, what may leave the machine, page, and receiving one."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from field_fake import PLATFORM_FILE, Made, made, written
from tests.field import archive, flow, golden, page, record, run, scrub, signed
from tests.field.archive import Received
from tests.field.flow import Field, Options
from tests.field.guest import Guest
from tests.field.receive import accept
from tests.field.record import BUNDLE, CAPTURE, FACTS, FAILED, NOT_RUN, PASSED, PREDICTED, RECORD, STEPS, Report, Step
from tests.field.scrub import Names

from privml.base.errors import EvidenceError, HostError, PrivmlError, Refused, UsageError
from privml.base.strictjson import canonical
from privml.evidence import bundle, ustar
from privml.evidence.bundle import Bundle
from privml.verify.bare import Origin

ROOT = Path(__file__).resolve().parents[2]
NOBODY = Names(frozenset(), frozenset())
EMPTY = Report("0.1", simulation=True, steps=tuple(Step(name, NOT_RUN) for name in STEPS))


@pytest.fixture(scope="module")
def honest() -> Made:
    return made()


def packed(one: Made, report: Report | None = None) -> bytes:
    listed = archive.listed(report or one.report, one.files)
    return archive.encode(listed, page.page(listed), one.files)


# -- record and archive ---------------------------------------------------------------------------------------------


def test_an_archive_is_read_back(honest: Made, tmp_path: Path) -> None:
    rows = honest.registers()
    report = replace(honest.report, registers=rows, bench={"ready_ms": 5})
    found = archive.read(written(tmp_path / "a.tar", packed(honest, report)))
    assert found.report == archive.listed(report, honest.files)
    assert found.files == honest.files


def renamed(data: bytes, name: str) -> bytes:
    return ustar.encode([(name if old == CAPTURE else old, body) for old, body in ustar.members(data, "x").items()])


def without(data: bytes, name: str) -> bytes:
    return ustar.encode([(old, body) for old, body in ustar.members(data, "x").items() if old != name])


def with_record(data: bytes, change: Callable[[dict[str, object]], None]) -> bytes:
    found = ustar.members(data, "x")
    value = json.loads(found[RECORD])
    change(value)
    found[RECORD] = canonical(value)
    return ustar.encode(found.items())


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda data: renamed(data, "../../etc/cron.d/x"), "not one of its files"),
        (lambda data: renamed(data, "/etc/passwd"), "not one of its files"),
        (lambda data: renamed(data, "extra.bin"), "not one of its files"),
        (lambda data: data[:-1536], "truncated"),
        (lambda data: data + bytes(512), "not the canonical archive"),
        (lambda data: data[:136] + b"00000000001\0" + data[148:], "not the canonical archive"),
        (lambda data: data[:156] + b"2" + data[157:], "not the canonical archive"),
        (lambda data: without(data, RECORD), "is missing"),
        (lambda data: without(data, "page.html"), "is missing"),
        (lambda data: without(data, CAPTURE), "not those that field.json lists"),
        (lambda data: with_record(data, lambda value: value["steps"].pop()), "steps"),  # type: ignore[attr-defined]
        (lambda data: with_record(data, lambda value: value.update(host="x")), "host"),
        (lambda data: with_record(data, lambda value: value.update(origin="surely")), "origin"),
        (
            lambda data: with_record(data, lambda value: value.update(files={"../x": {}})),
            "not a file of a field test",
        ),
        (lambda data: with_record(data, lambda value: value.update(bench={"a": -1})), "bench"),
        (lambda data: b"", "is missing"),
        (lambda data: os.urandom(4096), "has no size|truncated|not one of its files|is missing"),
    ],
)
def test_another_archive_is_refused(
    honest: Made, tmp_path: Path, damage: Callable[[bytes], bytes], words: str
) -> None:
    with pytest.raises(EvidenceError, match=words):
        archive.read(written(tmp_path / "a.tar", damage(packed(honest))))


def test_a_large_archive_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "a.tar").open("wb") as file:
        file.truncate(archive.MAX_SIZE + 1)
    with pytest.raises(EvidenceError, match="more than 64 MiB"):
        archive.read(tmp_path / "a.tar")


# -- registers ------------------------------------------------------------------------------------------------------


def test_a_td_that_measured_the_prediction_is_predicted(honest: Made) -> None:
    report = replace(honest.report, registers=honest.registers())
    assert [row.verdict for row in report.registers] == [PREDICTED] * 5
    assert report.equal
    assert page.headline(report) == "all 5 registers are the predicted ones"


def number_of(one: Made, origin: str) -> int:
    return next(number for number, event in enumerate(one.prediction.events) if event.origin.startswith(origin))


def line(field: str) -> str:
    lines = PLATFORM_FILE.read_text().splitlines()
    number = next(number for number, text in enumerate(lines, 1) if text.startswith(f"{field}:"))
    return f"recipes/platforms/qemu-11-q35.yaml:{number} {field}: "


@pytest.mark.parametrize(
    ("origin", "register", "field"),
    [
        ("TD HOB", "rtmr0", "machine"),
        ("bootorder", "rtmr0", "devices"),
        ("etc/acpi/tables", "rtmr0", "vmm"),
        ("etc/smbios/smbios-tables", "rtmr0", "identity"),
        ("firmware.fd variable db", "rtmr0", "firmware"),
    ],
)
def test_the_first_event_that_differs_names_the_platforms_line(
    honest: Made, origin: str, register: str, field: str
) -> None:
    number = number_of(honest, origin)
    found = made(changed={number: b"\x07" * 48})
    row = next(row for row in found.registers() if row.name == register)
    place = 1 + sum(event.register == register for event in honest.prediction.events[:number])
    assert (row.verdict, row.event, str(row)) == ("differs", place, f"differs at event {place}")
    assert row.change.startswith(line(field))
    assert [other.name for other in found.registers() if other.verdict != PREDICTED] == [register]


def test_an_event_of_the_uki_is_not_a_line_of_the_platform(honest: Made) -> None:
    found = made(changed={number_of(honest, "uki.efi .cmdline"): b"\x07" * 48})
    row = found.registers()[3]
    assert (row.name, row.verdict) == ("rtmr2", "differs")
    assert row.change == "not a platform's line: the host gave the guest something (see the difference)"


def test_mrtd_of_the_other_page_order_and_of_another_firmware(honest: Made) -> None:
    first = honest.prediction.mrtd_two
    assert made(mrtd=first).registers()[0].verdict == PREDICTED  # the platform accepts both orders
    row = made(mrtd=b"\x01" * 48).registers()[0]
    assert (row.verdict, row.event) == ("differs", None)
    assert row.change.startswith(line("firmware"))


def test_rtmr3_and_a_log_that_is_not_the_quotes(honest: Made) -> None:
    row = made(rtmr3=b"\x01" * 48).registers()[4]
    assert (row.verdict, row.difference) == ("differs", "it is not the agent's log's")
    row = made(lost=True).registers()[2]
    assert row.verdict == PREDICTED  # the quote counts, not the log
    row = made(lost=True, changed={number_of(honest, "uki.efi"): b"\x07" * 48}).registers()[2]
    assert (row.name, row.difference) == ("rtmr1", "the log does not replay to the quote's value")


def test_without_a_log_the_register_still_has_a_verdict(honest: Made) -> None:
    found = made(changed={number_of(honest, "etc/acpi/tables"): b"\x07" * 48})
    for log in (b"", b"no log"):
        rows = replace(found, document=replace(found.document, bootlog=log)).registers()
        assert [row.verdict for row in rows] == [PREDICTED, "differs", PREDICTED, PREDICTED, PREDICTED]
        assert rows[1].change.startswith("without a log")


# -- what leaves ----------------------------------------------------------------------------------------------------


def machine(root: Path) -> Names:
    files = {
        "etc/hostname": "lab-rack7.corp.example\n",
        "etc/machine-id": "0123456789abcdef0123456789abcdef\n",
        "sys/class/dmi/id/product_serial": "J7XK-2219\n",
        "sys/class/dmi/id/board_serial": "Not Specified\n",
        "sys/class/dmi/id/product_uuid": "4c4c4544-0042-3510-8056-b4c04f4a3733\n",
        "sys/class/net/eno1/address": "3c:ec:ef:11:22:33\n",
        "sys/class/net/lo/address": "00:00:00:00:00:00\n",
        "sys/class/net/tap0/address": "52:54:00:12:34:56\n",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return scrub.of_machine(root, host=lambda: "lab-rack7")


@pytest.fixture
def names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Names:
    monkeypatch.setenv("SUDO_USER", "mallory")
    for name in ("LOGNAME", "USER"):
        monkeypatch.setenv(name, "debian")
    return machine(tmp_path)


def test_names_are_those_of_host_and_user_and_serials_those_of_firmware_and_cards(names: Names) -> None:
    assert {"lab-rack7", "lab-rack7.corp.example", "mallory"} <= names.names
    assert "debian" not in names.names
    assert names.serials == {
        "0123456789abcdef0123456789abcdef", "J7XK-2219", "4c4c4544-0042-3510-8056-b4c04f4a3733", "3c:ec:ef:11:22:33",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("https://pccs.corp.example:8081/sgx: refused", "https://ADDRESS refused"),
        ("/home/mallory/qemu-system-x86_64 11.0", "PATH 11.0"),
        ("/usr/bin/qemu-system-x86_64 11.0", "/usr/bin/qemu-system-x86_64 11.0"),
        ("on LAB-RACK7 by mallory", "on NAME by NAME"),
        ("eno1 3c:ec:ef:11:22:33, eno2 3c:ec:ef:11:22:34", "eno1 NAME, eno2 MAC"),
        ("10.1.2.3 and fe80::1:2:3:4 answer", "ADDRESS and ADDRESS answer"),
        ("two\nlines\x1b[2J", "two lines"),
        ("Granite Rapids (GenuineIntel family 6 model 173), 64 key ids from 64", None),
        ("vsock:2:4050 answers, module 1.5.16, 0000:18:00.0 in IOMMU group 4", None),
    ],
)
def test_texts_are_cleaned(names: Names, text: str, clean: str | None) -> None:
    assert names.clean(text).startswith(text if clean is None else clean)


def put_into_bundle(one: Made, part: str, data: bytes) -> dict[str, bytes]:
    held = bundle.decode(one.files[BUNDLE])
    document = replace(one.document, **{part: getattr(one.document, part) + data})
    return {**one.files, BUNDLE: replace(held, document=document.encode()).encode()}


@pytest.mark.parametrize(
    "secret",
    [
        b"j7xk-2219",
        "J7XK-2219".encode("utf-16-le"),
        b"Lab-Rack7",
        b"mallory",
        bytes.fromhex("3cecef112233"),
        bytes.fromhex("4c4c4544004235108056b4c04f4a3733"),
        bytes.fromhex("44454c4c420010358056b4c04f4a3733"),  # as SMBIOS stores a UUID
    ],
    ids=["serial", "serial in UTF-16", "host", "user", "MAC", "UUID", "UUID in SMBIOS"],
)
@pytest.mark.parametrize("part", ["evidence", "bootlog", CAPTURE])
def test_nothing_is_written_that_names_the_machine(honest: Made, names: Names, part: str, secret: bytes) -> None:
    names.check(honest.files)
    files = (
        {**honest.files, part: honest.files[part] + secret}
        if part == CAPTURE
        else put_into_bundle(honest, part, secret)
    )
    with pytest.raises(HostError, match=r"nothing was written: .* of this machine") as refused:
        names.check(files)
    assert secret.decode("latin-1").lower() not in refused.value.message.lower()


# -- the page -------------------------------------------------------------------------------------------------------


def test_the_page_needs_nothing_from_outside_and_escapes(honest: Made) -> None:
    hostile = "<script>alert(1)</script>"
    steps = (Step(STEPS[0], FAILED, detail=hostile), *honest.report.steps[1:])
    report = replace(honest.report, steps=steps, registers=made(mrtd=b"\x01" * 48).registers())
    text = page.page(archive.listed(report, honest.files))
    assert hostile not in text
    assert "&lt;script&gt;" in text
    assert not re.search(r"(?i)\b(src|href)=|@import|url\(", text)
    assert "1 of 5 registers differ: MRTD differs" in text
    assert line("firmware").strip() in re.sub("<wbr>", "", text)
    assert "SIMULATION" not in text


def test_a_simulation_is_named_first(honest: Made) -> None:
    for report in (replace(honest.report, simulation=True), replace(honest.report, origin="simulated")):
        shown = replace(report, registers=honest.registers())
        assert page.headline(shown).startswith("SIMULATION, no evidence of hardware: all 5")
        assert 'class="verdict wanted"' in page.page(shown)


# -- the flow -------------------------------------------------------------------------------------------------------

VERBS = """
import json, sys
verb = sys.argv[1]
if verb == "doctor":
    rows = [{"name": "cpu", "status": "fail", "found": "AMD", "remedy": ""}]
    print(json.dumps({"ok": False, "lines": rows}))
    sys.exit(5)
if verb == "run":
    assert "--tdx" in sys.argv
    print("this machine cannot run a TD: kvm_intel.tdx is `not there`", file=sys.stderr)
    print("hint: doctor", file=sys.stderr)
    sys.exit(5)
raise SystemExit("not expected: " + " ".join(sys.argv))
"""


@pytest.fixture
def without_tdx(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, honest: Made) -> Callable[..., Field]:
    script = written(tmp_path / "verbs.py", VERBS.encode())
    monkeypatch.setattr(flow, "command", lambda *words: [sys.executable, str(script), *words])

    def predicted(test: Field) -> tuple[None, str]:
        from privml.statement.launch import MeasuredLaunch

        test.state.launch = MeasuredLaunch.from_dict(json.loads(honest.files[record.LAUNCH]))
        return None, "predicted"

    monkeypatch.setattr(Field, "_predict", predicted)
    return lambda **more: Field(Options("demo-cpu", simulation=False), tmp_path, NOBODY, **more)


def test_without_tdx_it_runs_to_its_end_and_says_what_did_not_run(
    without_tdx: Callable[..., Field], tmp_path: Path
) -> None:
    state = without_tdx().run()
    steps = {step.name: (step.result, step.status) for step in state.report.steps}
    assert steps["doctor"] == (FAILED, 5)
    assert steps["predict"] == (PASSED, None)
    assert {steps[name] for name in STEPS[2:]} == {(NOT_RUN, None)}
    assert state.report.step("run").detail == "no TDX: exit 5"
    assert run.status_of(state.report) == 5
    text = page.page(state.report)
    assert "no register was quoted (run: no TDX: exit 5)" in text
    data = archive.encode(archive.listed(state.report, {}), text, {})
    assert archive.read(written(tmp_path / "a.tar", data)).report.step("run").result == NOT_RUN


def test_what_takes_too_long_is_stopped(
    without_tdx: Callable[..., Field], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = "import sys, time\nif sys.argv[1] in ('doctor', 'run'):\n    time.sleep(60)\n"
    (tmp_path / "verbs.py").write_text(slow)
    monkeypatch.setattr(flow, "_VERB", 0.5)
    monkeypatch.setattr(flow, "_READY", 0.5)
    report = without_tdx().run().report
    assert report.step("doctor").detail.startswith("TimeoutExpired")
    assert (report.step("run").result, report.step("run").status) == (FAILED, None)
    assert report.step("run").detail.startswith("not ready within")
    assert report.step("verify").detail == "no guest"
    assert run.status_of(report) == 1


def test_whatever_a_step_meets_is_in_the_record(
    without_tdx: Callable[..., Field], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: Field) -> None:
        raise TypeError("got /home/mallory/x")

    monkeypatch.setattr(Field, "_predict", broken)
    report = without_tdx().run().report
    assert (report.step("predict").result, report.step("predict").detail) == (FAILED, "TypeError: got PATH")
    assert report.step("run").detail == "nothing was predicted"
    assert flow.Failed(-9, "x").status is None
    assert record.decode(report.encode()) == report


def test_when_the_time_is_over_the_rest_is_not_run(without_tdx: Callable[..., Field]) -> None:
    report = without_tdx(limit=0.5).run().report
    assert {(step.result, step.detail) for step in report.steps} == {(NOT_RUN, "the time is over")}


@pytest.mark.parametrize(
    ("report", "status"),
    [
        (EMPTY, 5),
        (replace(EMPTY, steps=tuple(replace(step, result=PASSED) for step in EMPTY.steps)), 1),
        (replace(EMPTY, steps=(EMPTY.steps[0], Step("predict", FAILED, status=6), *EMPTY.steps[2:])), 6),
    ],
)
def test_the_exit_status_is_that_of_what_went_wrong(report: Report, status: int) -> None:
    assert run.status_of(report) == status


def test_the_exit_status_of_a_good_run_is_0_and_of_a_good_simulation_10(honest: Made) -> None:
    good = replace(honest.report, registers=honest.registers())
    assert run.status_of(good) == 0
    assert run.status_of(replace(good, simulation=True)) == 10
    unregistered = replace(good, steps=(Step("doctor", FAILED, status=5), *good.steps[1:]))
    assert run.status_of(unregistered) == 0
    refused = tuple(replace(step, result=FAILED) if step.name == "verify" else step for step in good.steps)
    assert run.status_of(replace(good, steps=refused)) == 1


def test_the_script_starts_it() -> None:
    env = {**os.environ, "PYTHON": sys.executable}
    done = subprocess.run([ROOT / "tests/field/run.sh", "--minutes", "31"], capture_output=True, env=env, check=False)
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"--minutes 31: expected 1 to 30" in done.stderr


def test_its_help_lists_the_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run.main(["--help"])
    assert ended.value.code == 0
    assert "--simulation" in capsys.readouterr().out


SERVING = """
import signal, sys, time
print("stage platform: ok", file=sys.stderr, flush=True)
print("https://127.0.0.1:4711/v1 (not verified; Ctrl-C stops it)", flush=True)
try:
    time.sleep(60)
except KeyboardInterrupt:
    sys.exit(130)
"""


def test_a_guest_is_ready_when_run_names_its_address_and_stops_by_an_interrupt() -> None:
    guest = Guest([sys.executable, "-c", SERVING])
    assert guest.port(30) == 4711
    assert guest.running
    assert guest.stop() == 130
    assert not guest.running
    ended = Guest([sys.executable, "-c", "import sys; sys.exit('guest stage `model` failed')"])
    assert ended.port(30) is None
    assert ended.ended() == (1, "guest stage `model` failed\n")


def test_in_a_background_job_the_guest_can_be_interrupted_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen = []

    def ran(test: Field) -> flow.State:
        seen.append(signal.getsignal(signal.SIGINT))
        test.state.report = EMPTY
        return test.state

    monkeypatch.setattr(Field, "run", ran)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert run.main(["--simulation", "--output", str(tmp_path)]) == 5
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen == [signal.default_int_handler]
    assert archive.read(tmp_path / "field-simulation.tar").report == EMPTY
    assert (tmp_path / "field-simulation.tar").stat().st_mode & 0o777 == 0o600


# -- received -------------------------------------------------------------------------------------------------------


def received(one: Made, tmp_path: Path, report: Report | None = None) -> Received:
    return archive.read(written(tmp_path / "field.tar", packed(one, report)))


def genuine(_: Bundle) -> Origin:
    return Origin.GENUINE


def test_a_received_archive_becomes_a_golden_test_a_row_and_rules(honest: Made, tmp_path: Path) -> None:
    accepted = accept(received(honest, tmp_path), "emr-qemu-11", judge=genuine)
    folder = tmp_path / "emr-qemu-11"
    folder.mkdir()
    for name, data in accepted.files.items():
        (folder / name).write_bytes(data)
    assert golden.problems(folder, accepted.row) == []
    assert [problem.split(":")[1] for problem in golden.problems(folder, "no row")] == [" README"]
    assert accepted.row == (
        "| qemu-11-q35, 2 vCPUs (Emerald Rapids / x; initialized, 1.5.16) | every event and register as predicted: "
        "[`tests/vectors/field/emr-qemu-11`](tests/vectors/field/emr-qemu-11) |"
    )
    weak = {event.origin for event in honest.prediction.events if event.evidence.value != "hardware"}
    assert {line.split(" ", 1)[1].rsplit(":", 1)[0] for line in accepted.raised} == weak
    assert "rtmr0 bootorder: source -> hardware" in accepted.raised
    expected = json.loads((folder / golden.EXPECTED).read_text())
    expected["matched"]["rtmr0"] -= 1
    (folder / golden.EXPECTED).write_text(json.dumps(expected))
    assert [problem.split(":")[1] for problem in golden.problems(folder, accepted.row)] == [" matched"]


def test_a_received_difference_is_kept_and_its_rule_is_not_raised(honest: Made, tmp_path: Path) -> None:
    number = number_of(honest, "bootorder")
    accepted = accept(received(made(changed={number: b"\x07" * 48}), tmp_path), "spr", judge=genuine)
    expected = json.loads(accepted.files[golden.EXPECTED])
    assert [one["register"] for one in expected["differences"]] == ["rtmr0"]
    assert "1 differences, listed in the test" in accepted.row
    assert "rtmr0 bootorder: source -> hardware" not in accepted.raised


def test_a_register_that_the_quote_does_not_confirm_raises_nothing(tmp_path: Path) -> None:
    accepted = accept(received(made(lost=True), tmp_path), "spr", judge=genuine)
    assert not [line for line in accepted.raised if line.startswith("rtmr1 ")]


def test_a_simulation_is_no_evidence(honest: Made, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="a simulation"):
        accept(received(honest, tmp_path, replace(honest.report, simulation=True)), "spr", judge=genuine)
    # Whatever the record says, the signature is checked again.
    with pytest.raises(Refused, match="the quote is simulated"):
        accept(received(honest, tmp_path), "spr")
    assert signed.origin_of(bundle.decode(honest.files[BUNDLE])) is Origin.SIMULATED


def test_an_archive_without_evidence_or_with_two_is_refused(honest: Made, tmp_path: Path) -> None:
    for name in (BUNDLE, CAPTURE, FACTS):
        fewer = replace(honest, files={key: data for key, data in honest.files.items() if key != name})
        with pytest.raises(Refused, match=name):
            accept(received(fewer, tmp_path), "spr", judge=genuine)
    mixed = replace(honest, files={**honest.files, CAPTURE: made(rtmr3=b"\x01" * 48).files[CAPTURE]})
    with pytest.raises(Refused, match="another quote or log"):
        accept(received(mixed, tmp_path), "spr", judge=genuine)
    with pytest.raises(UsageError, match="lower-case"):
        accept(received(honest, tmp_path), "../x", judge=genuine)


def damaged(value: object, random: Random) -> object:
    """``value`` with one of its leaves replaced."""
    if isinstance(value, dict) and value:
        key = random.choice(sorted(value))
        return {**value, key: damaged(value[key], random)}
    if isinstance(value, list) and value:
        at = random.randrange(len(value))
        return [*value[:at], damaged(value[at], random), *value[at + 1 :]]
    return random.choice([None, -1, 1 << 52, "", "zz", "ab" * 48, [], {}, True, "\u202e", value])


@pytest.mark.parametrize("seed", range(8))
def test_a_damaged_archive_is_refused_or_damaged_in_its_page_only(honest: Made, tmp_path: Path, seed: int) -> None:
    random = Random(seed)
    whole = packed(honest)
    for _ in range(25):
        at = random.randrange(len(whole) if random.random() < 0.3 else 40_000)
        data = whole[:at] + random.randbytes(random.choice((1, 1, 8, 512))) + whole[at + 1 :]
        with contextlib.suppress(PrivmlError):  # no digest covers the page, which nothing reads
            found = archive.read(written(tmp_path / "a.tar", data))
            assert (found.report, found.files) == (archive.listed(honest.report, honest.files), honest.files)
        facts = canonical(damaged(json.loads(honest.files[FACTS]), random))
        with contextlib.suppress(PrivmlError):  # some damage only makes another prediction
            accept(Received(honest.report, {**honest.files, FACTS: facts}, "0" * 64), "x", judge=genuine)
