"""Third-party files of every kind given to `measure`, `explain` and `diff`: the output and the exit status."""

from __future__ import annotations

import base64
import hashlib
import json
import lzma
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from privml.cli.main import main
from privml.events.replay import extend, replay_digests
from privml.events.types import EV_EFI_BOOT_SERVICES_APPLICATION
from privml.measure import pe

VECTORS = Path(__file__).resolve().parents[1] / "vectors"
CASES = VECTORS / "cases"
QUOTE = lzma.decompress((VECTORS / "measurement/gcp-cos113/cos-113-tdx-quote.dat.xz").read_bytes())
LOG_REGISTERS = {
    "rtmr0": "b0cf18ffa5194588df0e4d13f0c408e431b48abce818a4f2a534af02a831d387a0770a0eaa0358bf93bfa262f5e4f876",
    "rtmr1": "9410f3545548cde38974a9a2bb8d3aac339c8cec42de5ca92525072c3cc172878ca4c7197f7d9d1b95dea0ccf80a3b06",
    "rtmr2": "a6025edb90001a22e7d212c0940a44173ffc3d94654e2ed8da08c51be31645654d67e461429c83fef43d441a2884c48a",
    "rtmr3": "00" * 48,
}
RTMR0_IN_QUOTE = 376  # of version 4


@dataclass(frozen=True)
class Said:
    """What a command printed."""

    code: object
    text: str
    out: str


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    def command(*words: object) -> Said:
        with pytest.raises(SystemExit) as caught:
            main(tuple(map(str, words)))
        out, err = capsys.readouterr()
        return Said(caught.value.code, out + err, out)

    return command


Run = Callable[..., Said]


def test_origin_names_every_file_with_its_digest() -> None:
    rows = dict(
        re.findall(r"^\| `([^`]+)` \|.*\| ([0-9a-f]{64}) \|$", (CASES / "ORIGIN.md").read_text(), re.MULTILINE)
    )
    found = {
        path.relative_to(CASES).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in CASES.rglob("*")
        if path.is_file() and path.name != "ORIGIN.md"
    }
    assert rows == found


def test_two_events_with_the_same_text_are_shown_with_their_digests(run: Run) -> None:
    folder = CASES / "diff-same-words"
    for said in (
        run("diff", folder / "a.ccel", folder / "b.ccel"),
        run("explain", folder / "a.ccel", "--against", folder / "b.ccel"),
    ):
        assert said.code == 1 and "other spaces" not in said.text and "the initrd differs" in said.text
        assert "the words are the same" in said.text
        assert "bdb9aecc759860cd" in said.text and "36135e59be2a16fe" in said.text and "RTMR2 event 2" in said.text
    (shape,) = json.loads(run("diff", folder / "a.ccel", folder / "b.ccel", "--json").out)["shapes"]
    (difference,) = shape["differences"]
    assert (difference["register"], difference["position"], difference["known"]) == ("rtmr2", 2, "initrd")
    assert difference["a"]["digest"].startswith("bdb9aecc") and difference["b"]["digest"].startswith("36135e59")


def test_a_changed_command_line_of_a_direct_boot_does_not_mention_a_uki(run: Run) -> None:
    folder = CASES / "foreign-logs-uki-words"
    said = run("diff", folder / "a.ccel", folder / "c.ccel")
    assert said.code == 1 and "UKI" not in said.text and "the kernel command line differs" in said.text


def test_differences_between_two_uki_boots_are_explained_by_the_uki_rules(run: Run) -> None:
    logs = VECTORS / "measurement"
    said = run("diff", logs / "boot-tpm-base/log.bin", logs / "boot-tpm-append/log.bin")
    assert said.code == 1 and "[host-load-options] the host gave the UKI a command line" in said.text


def envelopes(log: bytes, quote: bytes) -> dict[str, object]:
    """JSON with a log and a quote, as services and agents write it."""
    one, other = base64.b64encode(log).decode(), base64.b64encode(quote).decode()
    evidence = {"cc_eventlog": one, "quote": other}
    return {
        "TdxEvidence": evidence,
        "a request to a trustee": {"tee": "tdx", "evidence": {"primary_evidence": evidence, "additional": "{}"}},
        "evidence as a string": {"tee": "tdx", "evidence": json.dumps(evidence), "timestamp": 1.5},
        "hexadecimal, other names": {"log": log.hex(), "report": "0x" + quote.hex().upper()},
        "URL-safe base64": {"event_log": base64.urlsafe_b64encode(log).decode().rstrip("="), "td_quote": other},
        "lists of bytes": [{"quote": list(quote), "eventlog": list(log)}],
    }


@pytest.mark.parametrize("name", envelopes(b"", b""))
def test_json_with_a_log_and_a_quote_is_compared(name: str, run: Run, tmp_path: Path) -> None:
    path = tmp_path / "evidence.json"
    path.write_text(json.dumps(envelopes((CASES / "evidence-json-log/a.ccel").read_bytes(), QUOTE)[name]))
    said = run("explain", path, "--json")
    result = json.loads(said.out)
    assert said.code == 1 and result["registers"] == LOG_REGISTERS and "is not an event log" not in said.text
    assert [result["against"]["registers"][register]["equal"] for register in LOG_REGISTERS] == [False] * 3 + [True]
    measured = json.loads(run("measure", path, "--json").out)
    assert measured["mrtd"].startswith("dae67181") and measured["facts"]["report data"] == "00" * 64
    assert measured["facts"]["rtmr2"] == "log and quote differ"


@pytest.mark.parametrize("log", [None, ""])
def test_json_without_a_log_is_a_quote(log: str | None, run: Run, tmp_path: Path) -> None:
    path = tmp_path / "evidence.json"
    path.write_text(json.dumps({"cc_eventlog": log, "quote": base64.b64encode(QUOTE).decode()}))
    assert json.loads(run("measure", path, "--json").out)["kind"] == "quote"
    assert run("explain", path).code == 2


def test_the_agent_s_log_next_to_firmware_s_accounts_for_rtmr3(run: Run, tmp_path: Path) -> None:
    evidence = envelopes((CASES / "evidence-json-log/a.ccel").read_bytes(), QUOTE)["TdxEvidence"]
    assert isinstance(evidence, dict)
    agent = (CASES / "wrapped-files/aael.txt").read_text()
    path = tmp_path / "evidence.json"
    path.write_text(json.dumps({**evidence, "aa_eventlog": agent}))
    registers = json.loads(run("measure", path, "--json").out)
    assert registers["rtmr3"].startswith("0b4a59fe") and registers["rtmr2"] == LOG_REGISTERS["rtmr2"]


def test_digests_that_a_dstack_report_leaves_empty_are_computed(run: Run, tmp_path: Path) -> None:
    def event(name: str, **more: object) -> dict[str, object]:
        return {"imr": 3, "event_type": 0x08000001, "event": name, "event_payload": "aa", "digest": "", **more}

    second = b'{"name":"b","payload":"aa","type":134217729}'
    older = b'{"event":"c","event_type":134217729,"payload":"aa","version":2}'
    value = bytes(48)
    for hashed in (b"\1\0\0\x08:a:\xaa", second, older):
        value = extend(value, hashlib.sha384(hashed).digest())
    log = [event("a"), event("b", version=2), event("c", version=2, digest=hashlib.sha384(older).hexdigest())]
    path = tmp_path / "report.json"
    for document in (log, {"event_log": log}, {"tcb_info": json.dumps({"event_log": log})}):
        path.write_text(json.dumps(document))
        assert json.loads(run("measure", path, "--json").out)["rtmr3"] == value.hex()
    path.write_text(json.dumps([{"imr": 0, "event_type": 4, "event": "", "event_payload": ""}]))
    said = run("measure", path)
    assert said.code == 9 and "no digest" in said.text
    path.write_text(json.dumps({"quote": QUOTE.hex(), "event_log": [{"imr": 0, "event_type": 4}]}))
    said = run("measure", path)  # a broken log does not hide the quote
    assert said.code == 0 and "mrtd   dae67181" in said.text and "event_log cannot be read" in said.text


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"tcbInfo": {}, "signature": ""}, "Intel's TCB info"),
        ({"enclaveIdentity": {}}, "quoting enclave"),
        ({"format": "privml-policy/v1"}, "`privml-policy/v1`"),
        ({"nonce": "1", "evidence_list": []}, "NVIDIA"),
        ({"a\x1b[2J": 1.5}, "keys a\\x1b[2J"),
        ([1], "a JSON list of 1 items"),
    ],
)
def test_json_without_evidence_is_described(document: object, words: str, run: Run, tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_text(json.dumps(document))
    said = run("measure", path)
    assert said.code == 7 and words in said.text and "not recognised" not in said.text


def test_register_values_in_json_are_compared(run: Run, tmp_path: Path) -> None:
    """The digest of one event, the initrd, differed. It cannot be computed, but the message must not exclude it."""
    folder = CASES / "one-other-digest"
    values = json.loads((folder / "b.registers.json").read_text())
    quote = bytearray(QUOTE)
    for number in range(4):
        at = RTMR0_IN_QUOTE + 48 * number
        quote[at : at + 48] = bytes.fromhex(values[f"rtmr{number}"])
    (tmp_path / "quote").write_bytes(bytes(quote))
    for other in (folder / "b.registers.json", tmp_path / "quote"):
        said = run("explain", folder / "a.ccel", "--against", other)
        assert said.code == 1 and "several events differ" not in said.text
        assert said.text.count("agrees") == 3 and "had another digest" in said.text and "Linux initrd" in said.text
        row = json.loads(run("explain", folder / "a.ccel", "--against", other, "--json").out)
        assert row["against"]["registers"]["rtmr2"]["candidates"] == [1, 2]


def test_a_log_with_every_digest_over_its_text_has_no_candidate_event(run: Run, tmp_path: Path) -> None:
    tpm = VECTORS / "measurement/gcp-cos113-dupesep/ccel-unpadded.bin"
    (tmp_path / "v.json").write_text(json.dumps({f"rtmr{number}": "ab" * 48 for number in range(4)}))
    said = run("explain", tpm, "--against", tmp_path / "v.json", "--json")
    assert json.loads(said.out)["against"]["registers"]["rtmr0"]["candidates"]


def test_an_empty_rtmr2_says_that_nothing_measured_command_line_and_initrd(run: Run, tmp_path: Path) -> None:
    words = "nothing measured the kernel's command line and initrd"
    log = (CASES / "tag-words/loaderconf.ccel").read_bytes()
    start = log.index(bytes.fromhex("030000000600000001000000"))
    end = log.index(bytes.fromhex("020000000700008001000000"), start)
    path, values = tmp_path / "log", tmp_path / "values.json"
    path.write_bytes(log[:start] + log[end:])
    said = run("explain", path)
    assert (
        said.code == 0
        and words in said.text
        and words not in run("explain", CASES / "tag-words/loaderconf.ccel").text
    )
    registers = json.loads(run("explain", path, "--json").out)["registers"]
    assert registers["rtmr2"] == "00" * 48
    values.write_text(json.dumps(registers))
    assert words in run("measure", values).text
    assert f"rtmr2: agrees (0 events); rtmr2 is zero: {words}" in run("explain", path, "--against", values).text


def test_a_stub_before_256_measures_no_sections(run: Run) -> None:
    path = CASES / "old-stub-claims/stub252.efi"
    result = json.loads(run("measure", path, "--json").out)
    assert {event["register"] for event in result["events"]} == {"rtmr1"}
    assert "rtmr2" not in result and "measures nothing in a TD" in run("measure", path).text


@pytest.mark.parametrize(
    ("version", "image_version", "loaded"),
    [
        (251, 0, False),
        (251, 1, False),
        (252, 0, False),
        (252, 1, True),
        (257, 0, False),
        (257, 1, True),
        (258, 1, False),
    ],
)
def test_rtmr1_of_every_stub_is_complete(
    version: int, image_version: int, loaded: bool, run: Run, tmp_path: Path
) -> None:
    """Firmware loads .linux for stubs 252 to 257, unless the kernel is older than 5.8 (PE image version 0)."""
    image = bytearray((CASES / "old-stub-claims/stub252.efi").read_bytes())
    image[:] = image.replace(b"systemd-stub 252", b"systemd-stub %d" % version)
    linux = next(section for section in pe.headers(bytes(image)).sections if section.name == ".linux")
    kernel = bytearray(pe.in_memory(bytes(image), linux))
    at = int.from_bytes(kernel[0x3C:0x40], "little") + 24 + 44
    kernel[at : at + 2] = image_version.to_bytes(2, "little")
    image[linux.raw_offset : linux.raw_offset + len(kernel)] = kernel
    path = tmp_path / "uki.efi"
    path.write_bytes(image)
    result = json.loads(run("measure", path, "--json").out)
    events = [event for event in result["events"] if event["register"] == "rtmr1"]
    images = [event["digest"] for event in events if event["type"] == EV_EFI_BOOT_SERVICES_APPLICATION]
    assert images == [pe.authenticode(bytes(image)).hex()] + [pe.authenticode(bytes(kernel)).hex()] * loaded
    assert result["rtmr1"] == replay_digests(bytes.fromhex(event["digest"]) for event in events).hex()
    assert ("older than Linux 5.8" in run("measure", path).text) is (252 <= version < 258 and not image_version)


def test_a_stub_that_is_not_modelled_has_no_event_seen_on_hardware(run: Run) -> None:
    path = CASES / "old-stub-claims/stub257.efi"
    said = run("measure", path)
    assert (
        said.code == 0
        and "before 256" not in said.text
        and "rtmr2" not in json.loads(run("measure", path, "--json").out)
    )
    events = json.loads(run("measure", path, "--json").out)["events"]
    assert {event["evidence"] for event in events if event["register"] == "rtmr2"} == {"source"}
    assert said.text.count("EV_IPL") == 8  # printed although RTMR1 is whole


@pytest.mark.parametrize(
    ("name", "machine", "digest"),
    [
        ("aa64.efi", "aarch64 (ARM64)", "f4cacabdafd520e3a5cf527d2e2a22de810ffa25421a16daca0b57599738df3b8d1e1156"),
        ("ia32.efi", "ia32 (i386, 32-bit)", "3b49cf7528f9eebf57cf74c90b81e2a8fe7b2b4c4a860ff946eb3da8f378fe501d20"),
    ],
)
def test_an_image_for_another_machine_has_digests_and_no_register(
    name: str, machine: str, digest: str, run: Run
) -> None:
    path = CASES / "other-machine-uki" / name
    said = run("measure", path)
    assert said.code == 0 and machine in said.text and "no TD can start it" in said.text and digest in said.text
    result = json.loads(run("measure", path, "--json").out)
    assert not result["events"] and not {"rtmr1", "rtmr2"} & set(result)
    other = bytearray(path.read_bytes())
    at = int.from_bytes(other[0x3C:0x40], "little") + 4
    other[at : at + 2] = b"\x34\x12"
    assert pe.machine_name(pe.headers(bytes(other)).machine) == "machine 0x1234"


def test_a_log_without_sha384_is_shown_by_its_strongest_bank(run: Run) -> None:
    path = CASES / "sha256-tpm-log/sha256.tpm"
    said = run("explain", path)
    assert said.code == 0 and "banks: SHA-256, SHA-1" in said.text and "rtmr0" not in said.text
    assert "Calling EFI Application from Boot Option" in said.text
    result = json.loads(run("explain", path, "--json").out)
    assert len(result["events"]) == 9 and not result["registers"]
    assert {(event["bank"], len(event["digest"])) for event in result["events"]} == {("SHA-256", 64)}
    assert run("measure", path).code == 7
    assert run("diff", path, path).code == 0
    assert run("explain", path, "--against", CASES / "one-other-digest/b.registers.json").code == 2
    assert "share no bank" in run("diff", path, CASES / "tag-words/loaderconf.ccel").text


def test_an_sm3_log_is_shown(run: Run, tmp_path: Path) -> None:
    from privml.events.tcg import LogEntry, encode_log

    data = b"Calling EFI Application from Boot Option"
    entries = [
        LogEntry(4, 0x80000007, {4: bytes(20), 0x12: bytes(range(32))}, data),
        LogEntry(8, 4, {4: b"1" * 20, 0x12: b"2" * 32}, bytes(4)),
    ]
    (tmp_path / "log").write_bytes(encode_log(entries, {4: 20, 0x12: 32}))
    said = run("explain", tmp_path / "log")
    assert said.code == 0 and "banks: SM3-256, SHA-1" in said.text and data.decode() in said.text


def test_a_tpm_1_2_log(run: Run) -> None:
    path = CASES / "tpm12-log/tpm12.log"
    said = run("measure", path)
    assert said.code == 7 and "TPM 1.2 format, 10 records" in said.text and "SHA-1" in said.text
    said = run("explain", path)
    assert said.code == 0 and "EV_S_CRTM_VERSION" in said.text and "PCR 0" in said.text
    events = json.loads(run("explain", path, "--json").out)["events"]
    assert (len(events), events[0]["index"], len(events[0]["digest"])) == (10, 0, 40)


def test_known_tags_are_explained(run: Run) -> None:
    said = run("explain", CASES / "tag-words/loaderconf.ccel")
    assert said.code == 0
    for words in (
        "the kernel command line, by its EFI stub",
        "the initrd, by",
        "loader.conf, by systemd-boot",
        "TD HOB",
    ):
        assert words in said.text


WRAPPED = {"a.ccel.gz": "out of gzip", "log.hexdump": "out of a text dump", "aael.txt": "attestation agent"}


@pytest.mark.parametrize("name", WRAPPED)
def test_wrapped_files_are_read(name: str, run: Run) -> None:
    said = run("measure", CASES / "wrapped-files" / name)
    assert said.code == 0 and WRAPPED[name] in said.text and "not recognised" not in said.text
    registers = json.loads(run("measure", CASES / "wrapped-files" / name, "--json").out)
    if name == "aael.txt":
        assert registers["rtmr3"] == (
            "0b4a59fe10f4e81061b482a2496b6bf2998ab368469c32b54a0b368de5dd81bc4849ea09bcd3fbc38fbc89e3243aab27"
        )
        assert not {"rtmr0", "rtmr1", "rtmr2"} & set(registers)
    else:
        assert {register: registers[register] for register in LOG_REGISTERS} == LOG_REGISTERS


def test_a_container_is_named_with_the_command_that_opens_it(run: Run) -> None:
    said = run("measure", CASES / "wrapped-files/disk.qcow2")
    assert said.code == 7 and "qcow2" in said.text and "qemu-img convert -O raw" in said.text
