"""An image for SNP guests: predicted, verified against its directory, explained, compared."""

from __future__ import annotations

import dataclasses
import json
import ssl
from pathlib import Path

import attestation_samples as samples
import pytest
import snp_image
import snp_samples
from snp_firmware import firmware
from test_cli_main import Outcome, as_found, place  # noqa: F401 - fixtures

from privml.base.errors import MeasurementError, UsageError
from privml.base.strictjson import pretty
from privml.cli import measure_image
from privml.events.event import Evidence
from privml.events.registers import LAUNCH
from privml.machine.platform import Size
from privml.measure.snp.hashes import KernelHashes
from privml.measure.snp.launch import Launcher
from privml.output import manifest as manifests
from privml.output.prediction import read_prediction
from privml.readers import launchsteps
from privml.recipe.loader import shipped
from privml.sim import snpreport as sim
from privml.statement.launch import BOUND, HASHED, Accepted, SnpMachine
from privml.vm import predicted
from privml.vm.platforms import platform, startable, td_platform
from privml.vm.predicted import SnpPredictor, hashes_of

MILAN = 0xA00F11
BASE = ("verify", "doc.json", "--nonce", samples.NONCE.hex(), "--spki", samples.SPKI.hex(), "--json")
SIMULATED = ("--allow-simulated", "ark.pem", "--policy", "policy.json")
FLOOR = {"product": "Genoa", "fmc": 0, "bl": 10, "tee": 0, "snp": 23, "ucode": 84}
POLICY = {"format": "privml-policy/v1", "snp": {"allow_unmeasured_acpi": True, "min_tcb": [FLOOR]}}


@pytest.fixture
def folder(place: Path) -> Path:  # noqa: F811
    """An image, another one with a UKI of its own, a policy, and the simulation's root."""
    (place / "ark.pem").write_text(ssl.DER_cert_to_PEM_cert(snp_samples.ROOT))
    (place / "policy.json").write_text(json.dumps(POLICY))
    snp_image.image(place / "out/other", b"another UKI")
    snp_image.image(place / "out/demo-cpu")
    return place / "out/demo-cpu"


def digest(folder: Path, vcpus: int, signature: int = 0xA10F10, **changes: object) -> bytes:
    manifest = manifests.read(folder)
    hashes = changes.pop("hashes", hashes_of(manifest))
    assert hashes is None or isinstance(hashes, KernelHashes)
    return Launcher(snp_image.FIRMWARE, hashes).digest(
        vcpus, signature=signature, features=int(str(changes.get("features", 1)))
    )


def verdict(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, set[str]]:
    done = Outcome(capsys, *BASE, *words)
    return done.code, {each["code"] for each in json.loads(done.stdout)["refusals"]}


def test_a_document_of_the_image_is_accepted_as_simulated_and_of_another_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("privml.cli.verify.time.time", lambda: samples.NOW)
    launch = read_prediction(folder, manifests.read(folder)).launches[-1]
    for vcpus in (2, 4):
        made = snp_samples.document({0x90: digest(folder, vcpus)})
        Path("doc.json").write_bytes(made.encode())
        assert verdict(capsys, "--expect", "out/demo-cpu", *SIMULATED) == (10, set())
    assert launch.accepted(LAUNCH) == (digest(folder, 4),)
    # Without a policy that names them, unmeasured ACPI tables are refused.
    alone = ("--expect", "out/demo-cpu", *SIMULATED[:2])
    assert verdict(capsys, *alone) == (8, {"acpi-unmeasured", "reported-tcb"})
    assert verdict(capsys, *alone[:2])[0] == 8
    assert verdict(capsys, "--expect", "out/other", *SIMULATED) == (8, {"launch"})


@pytest.mark.parametrize(
    "changed",
    [
        {"vcpus": 3},
        {"vcpus": 2, "signature": MILAN},
        {"vcpus": 2, "features": 0x21},
        {"vcpus": 2, "hashes": None},
        {"vcpus": 2, "hashes": KernelHashes.of_uki(bytes(32))},
    ],
    ids=["vcpus", "processor", "features", "no hashes", "kernel"],
)
def test_each_other_machine_or_kernel_is_refused(
    changed: dict[str, object], folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("privml.cli.verify.time.time", lambda: samples.NOW)
    made = snp_samples.document({0x90: digest(folder, **changed)})  # type: ignore[arg-type]
    Path("doc.json").write_bytes(made.encode())
    assert verdict(capsys, "--expect", "out/demo-cpu", *SIMULATED) == (8, {"launch"})


def test_only_firmware_that_was_looked_into_binds_what_it_starts(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    boots = []
    # The package's with one byte flipped is another file than the package's, and starts just as much.
    flipped = bytes([snp_image.STOCK[0] ^ 1]) + snp_image.STOCK[1:]
    for data in (snp_image.FIRMWARE, flipped, snp_image.STOCK):
        manifest = snp_image.image(folder, firmware=data)
        (machine,) = {
            launch.machine for launch in SnpPredictor(folder, manifest).launches(snp_image.PLATFORM, [Size(1, 0)])
        }
        assert isinstance(machine, SnpMachine)
        boots.append(machine.boot)
    assert boots == [BOUND, HASHED, HASHED]
    monkeypatch.setattr("privml.cli.verify.time.time", lambda: samples.NOW)
    stock = Launcher(snp_image.STOCK, hashes_of(manifest)).digest(2, signature=0xA10F10, features=1)
    Path("doc.json").write_bytes(snp_samples.document({0x90: stock}).encode())
    assert verdict(capsys, "--expect", "out/demo-cpu", *SIMULATED) == (8, {"snp-boot-unbound"})


def test_launches_are_those_of_the_numbers_of_vcpus(folder: Path) -> None:
    manifest = manifests.read(folder)
    found = SnpPredictor(folder, manifest).launches(snp_image.PLATFORM, [Size(4, 1), Size(2, 1), Size(4, 2)])
    assert [launch.machine.vcpus for launch in found] == [4, 2]
    assert found[0].events[0].origin == "the firmware"
    without = dataclasses.replace(manifest, firmware={"tdx": manifest.firmware["tdx"]})
    with pytest.raises(MeasurementError, match="no firmware for snp"):
        SnpPredictor(folder, without)


def test_the_platforms_of_one_tee_are_chosen(folder: Path) -> None:
    manifest = manifests.read(folder)
    chosen = {tee: [one.name for one in predicted._of_tee(manifest, shipped(), tee)] for tee in (None, "tdx", "snp")}
    assert chosen == {
        None: ["qemu-11-q35", "qemu-11-q35-snp"], "tdx": ["qemu-11-q35"], "snp": ["qemu-11-q35-snp"],
    }  # fmt: skip
    alone = dataclasses.replace(manifest, platforms=("qemu-11-q35-tpm",))
    assert [one.name for one in predicted._of_tee(alone, shipped(), "tdx")] == ["qemu-11-q35-tpm"]
    with pytest.raises(UsageError, match="demo-cpu has no platform of snp, only qemu-11-q35-tpm"):
        predicted._of_tee(alone, shipped(), "snp")


def test_what_is_started_here_is_never_an_snp_guest(folder: Path) -> None:
    manifest = dataclasses.replace(manifests.read(folder), platforms=("qemu-11-q35-snp", "qemu-11-q35"))
    assert startable(shipped(), manifest).name == "qemu-11-q35"
    assert td_platform(None, shipped(), manifest).name == "qemu-11-q35"
    alone = dataclasses.replace(manifest, platforms=("qemu-11-q35-snp",))
    with pytest.raises(UsageError, match=r"is for SNP guests only \(qemu-11-q35-snp\), and none can be started here"):
        startable(shipped(), alone)
    with pytest.raises(UsageError, match="is not one of TDs"):
        td_platform(None, shipped(), alone)


def test_a_machine_without_a_tee_takes_firmware_for_tdx_only(folder: Path) -> None:
    manifest = dataclasses.replace(manifests.read(folder), platforms=("qemu-11-q35-tpm", "qemu-11-q35-snp"))
    tdx, snp = (manifest.firmware[tee] for tee in ("tdx", "snp"))
    for order in ({"tdx": tdx, "snp": snp}, {"snp": snp, "tdx": tdx}):
        both = dataclasses.replace(manifest, firmware=order)
        assert (both.firmware_for(None), startable(shipped(), both).name) == (tdx, "qemu-11-q35-tpm")
    alone = dataclasses.replace(manifest, firmware={"snp": snp})
    with pytest.raises(MeasurementError, match="for tdx, which starts a machine without a TEE, expected one of snp"):
        alone.firmware_for(None)
    with pytest.raises(MeasurementError, match="for tdx, which starts a machine without a TEE"):
        startable(shipped(), alone)


def test_launches_of_both_tees_are_listed(folder: Path) -> None:
    launches = read_prediction(folder, manifests.read(folder)).launches
    lines = measure_image.described(launches, events=False)
    start = lines.index("qemu-11-q35-snp, 2 vcpus, CPU 0xa10f10")
    assert lines[start + 1] == (
        f"  launch  {digest(folder, 2).hex()}  source  starts this image's kernel only; no SNP machine has shown it"
    )
    assert any(line.split()[0] == "mrtd" for line in lines[:start])
    row = measure_image._matrix_row(launches[-1], events=True)
    assert (row["launch"], row["vcpus"], row["evidence"]) == (digest(folder, 4).hex(), 4, {"launch": "source"})
    assert [event["origin"] for event in row["events"]][-1] == "vCPU 3"


def report(folder: Path, name: str, value: bytes) -> str:
    Path(name).write_bytes(sim.make_report(value, bytes(64)))
    return name


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"vcpus": 8}, "vCPUs: the digest is that of this image with 8 vCPUs of EPYC-Genoa, SEV_FEATURES 0x1"),
        ({"vcpus": 1, "signature": MILAN}, "with 1 vCPU of EPYC-Milan, SEV_FEATURES 0x1"),
        ({"vcpus": 2, "features": 0x21}, "with 2 vCPUs of EPYC-Genoa, SEV_FEATURES 0x21"),
        (
            {"vcpus": 2, "hashes": None},
            "the kernel hashes: the digest is that of this firmware with no kernel at all",
        ),
        ({"vcpus": 2, "hashes": KernelHashes.of_uki(bytes(32))}, "the firmware, the kernel hashes or the VMM"),
    ],
    ids=["vcpus", "processor", "features", "no hashes", "kernel"],
)
def test_a_report_is_explained_by_the_image(
    changed: dict[str, object], why: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report(folder, "report.bin", digest(folder, **changed))  # type: ignore[arg-type]
    done = Outcome(capsys, "explain", "report.bin", "--against", "out/demo-cpu")
    assert done.code == 1
    assert done.stdout.startswith("launch: differs; ") and why in done.stdout


def test_a_report_of_a_predicted_machine_agrees(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report(folder, "report.bin", digest(folder, 4))
    done = Outcome(capsys, "explain", "report.bin", "--against", "out/demo-cpu")
    assert (done.code, done.stdout) == (0, "launch: agrees (qemu-11-q35-snp, 4 vcpus, CPU 0xa10f10)\n")
    told = json.loads(Outcome(capsys, "explain", "report.bin", "--against", "out/demo-cpu", "--json").stdout)
    assert told["agrees"] and told["registers"]["launch"]["equal"]
    for words in ((), ("--against", "out/demo-cpu/prediction.json")):
        alone = Outcome(capsys, "explain", "report.bin", *words)
        assert alone.code == 2 and "is explained by an image" in alone.stderr


def test_two_predictions_differ_by_the_steps_that_add_something_else(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predictions = ("out/demo-cpu/prediction.json", "out/other/prediction.json")
    done = Outcome(capsys, "diff", *predictions)
    moved = [line for line in done.stdout.splitlines() if "LAUNCH" in line]
    kernels = [manifests.read(Path(name).parent).artefacts["uki.efi"].sha256 for name in predictions]
    assert (
        moved
        == [
            f"  LAUNCH: difference in the kernel hashes: kernel {kernels[0]}, no initrd, no command line (A), "
            f"kernel {kernels[1]}, no initrd, no command line (B)"
        ]
        * 2
    )
    assert done.code == 1
    told = json.loads(Outcome(capsys, "diff", *predictions, "--json").stdout)
    assert [len(shape["differences"]) for shape in told["shapes"]] == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("field", "value", "line", "steps"),
    [
        ("boot", HASHED, "  machine: boot bound (A), hashed (B)", []),
        ("cpu_signature", MILAN, "  machine: cpu signature 0xa10f10 (A), 0xa00f11 (B)", ["vCPU 0", "vCPU 1"]),
        ("sev_features", 0x21, "  machine: sev features 0x1 (A), 0x21 (B)", ["vCPU 0", "vCPU 1"]),
    ],
)
def test_two_predictions_of_other_machines_are_compared_step_by_step(
    field: str, value: object, line: str, steps: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = manifests.read(folder)
    whole = read_prediction(folder, manifest)
    launches = []
    for launch in whole.launches:
        if isinstance(launch.machine, SnpMachine):
            machine = dataclasses.replace(launch.machine, **{field: value})  # type: ignore[arg-type]
            made = Launcher((folder / "firmware-snp.fd").read_bytes(), hashes_of(manifest)).steps(
                machine.vcpus, signature=machine.cpu_signature, features=machine.sev_features
            )
            digests = Accepted((made[-1].digest,), Evidence.SOURCE)
            launch = dataclasses.replace(launch, machine=machine, registers={LAUNCH: digests}, events=made)
        launches.append(launch)
    other = dataclasses.replace(whole, launches=tuple(launches))
    Path("other.json").write_bytes(pretty(other.to_dict()))
    words = ("diff", "out/demo-cpu/prediction.json", "other.json")
    done = Outcome(capsys, *words)
    lines = done.stdout.splitlines()
    start = lines.index("qemu-11-q35-snp, 2 vcpus, CPU 0xa10f10")
    assert (done.code, lines[start + 1]) == (1, line)
    moved = [each for each in lines[start + 2 :] if "LAUNCH" in each][: len(steps)]
    assert [each.partition("difference in ")[2].partition(":")[0] for each in moved] == steps
    assert "only in" not in done.stdout
    shapes = json.loads(Outcome(capsys, *words, "--json").stdout)["shapes"]
    assert [sorted(shape["machine"]) for shape in shapes] == [[], [], [field], [field]]
    # Another launch of the same number of vCPUs is not left out.
    more = dataclasses.replace(whole, launches=(*whole.launches, launches[-1]))
    Path("other.json").write_bytes(pretty(more.to_dict()))
    shapes = json.loads(Outcome(capsys, *words, "--json").stdout)["shapes"]
    assert [shape["only_in"] for shape in shapes] == [None, None, None, None, "other.json"]


def test_steps_are_compared_by_what_they_add(folder: Path) -> None:
    """Every digest after the first difference differs, and only the steps that add something else are named."""
    launcher = Launcher(firmware(), hashes_of(manifests.read(folder)))
    two, four = (launcher.steps(vcpus, signature=0xA10F10) for vcpus in (2, 4))
    found = list(launchsteps.moved(two, four))
    assert [(one, other and other.origin) for one, other, _ in found] == [(None, "vCPU 2"), (None, "vCPU 3")]
    names = ("A", "B")
    assert launchsteps.line(*found[0][:2], names) == "LAUNCH: only B has vCPU 2, CPUID 0xa10f10, SEV_FEATURES 0x1"
    (last, _) = [one for one, other, _ in launchsteps.moved(four, two) if other is None]
    assert last is not None and last.origin == "vCPU 2"
    other = Launcher(firmware(reset=1), KernelHashes.of_uki(bytes(32))).steps(2, signature=MILAN)
    changed = [launchsteps.line(one, step, names) for one, step, _ in launchsteps.moved(two, other)]
    assert [line.partition(":")[2].split(":")[0] for line in changed] == [
        f" difference in {step}" for step in ("the firmware", "the kernel hashes", "vCPU 0", "vCPU 1")
    ]
    assert "CPUID 0xa10f10, SEV_FEATURES 0x1 (A), CPUID 0xa00f11, SEV_FEATURES 0x1 (B)" in changed[-1]
    fewer = launcher.steps(2, signature=0xA10F10)[1:]
    assert launchsteps.line(*next(launchsteps.moved(two, fewer))[:2], names).startswith(
        "LAUNCH: only A has the firmware"
    )
    pages = next(step for step in two if step.origin == "section MEMORY of the firmware")
    assert launchsteps.line(pages, None, names).endswith("9 pages at 0x800000")


def test_a_prediction_of_snp_guests_alone_is_described_and_has_no_log(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = manifests.read(folder)
    whole = read_prediction(folder, manifest)
    from privml.output.prediction import write_prediction

    write_prediction(folder, manifest, dataclasses.replace(whole, launches=whole.launches[-1:]))
    done = Outcome(capsys, "measure", "out/demo-cpu/prediction.json", "--events")
    assert done.code == 0 and f"launch  {digest(folder, 4).hex()}" in done.stdout
    assert "vCPU 3" in done.stdout
    Path("ccel.bin").write_bytes(samples.boot_log(samples.extends(2 << 30)))
    for words in (("explain", "ccel.bin", "--against"), ("diff", "ccel.bin")):
        refused = Outcome(capsys, *words, "out/demo-cpu/prediction.json")
        assert refused.code == 2 and "predicts launch digests of SNP guests only" in refused.stderr


def test_a_log_is_explained_by_the_launches_that_have_one(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("ccel.bin").write_bytes(samples.boot_log(samples.extends(2 << 30)))
    for where in ("out/demo-cpu/prediction.json", "out/demo-cpu"):
        done = Outcome(capsys, "explain", "ccel.bin", "--against", where)
        assert "prediction for qemu-11-q35, 2 vcpus, 2048 MiB" in done.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("measure", "out/demo-cpu", "--tee", "snp", "--boot"), "--tee needs neither --boot"),
        (("measure", "out/demo-cpu", "--tee", "snp", "--platform", "x"), "--tee needs neither --boot"),
        (("measure", "out/demo-cpu", "--tee", "cca"), "'cca'"),
        (("measure", "ark.pem", "--tee", "snp"), "--tee, --vcpus and --memory need an image"),
        (
            ("measure", "out/demo-cpu", "--boot", "--platform", "qemu-11-q35-snp"),
            "an SNP guest cannot be started here, so no boot can be compared",
        ),
    ],
)
def test_a_tee_that_cannot_be_measured_so_is_refused(
    words: tuple[str, ...], said: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = Outcome(capsys, *words)
    assert done.code == 2 and said in done.stderr


def test_a_platform_of_snp_guests_is_read_by_name() -> None:
    assert platform("qemu-11-q35-snp", shipped()) == snp_image.PLATFORM
