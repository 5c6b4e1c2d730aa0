"""The reader of the GPUs with a library of our own, and what the guest refuses of its answers."""

from __future__ import annotations

import ctypes
import dataclasses
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from nvml_fake import FakeDriver, reader_service

from privml.agent import gpureader, gpuready
from privml.agent.gpuanswer import Question
from privml.agent.gpucheck import GpuReader, GpuRefused
from privml.agent.nvml import LIBRARY, Attestation, Certificate, ComputeState, Nvml, NvmlError
from privml.events.gpus import Gpu, GpuFirmware
from privml.evidence.document import DeviceEvidence
from privml.evidence.nvidia import chain, roles
from privml.recipe.drivers import DRIVERS
from privml.sim import gpu as sim
from privml.sim.gpupki import roots

DECLARED = Gpu("nvidia", "hopper", 1, sim.DRIVER)
NONCE = bytes(range(32))
OTHER = bytes(32)


@pytest.fixture
def driver(library: FakeDriver) -> FakeDriver:
    library.has(*sim.evidence(NONCE))
    return library


@pytest.fixture
def nvidia(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulated devices in the place of genuine ones."""
    monkeypatch.setattr(chain, "NVIDIA_ROOT_DER", roots()[0])
    monkeypatch.setattr(roles, "NVIDIA", roles.SIMULATION)


@pytest.fixture
def served(driver: FakeDriver, tmp_path_factory: pytest.TempPathFactory, nvidia: None) -> Iterator[Path]:
    place = tmp_path_factory.mktemp("r") / "reader.sock"
    with reader_service(place, driver.read):
        yield place


@pytest.fixture
def process(driver: FakeDriver, tmp_path: Path, nvidia: None) -> Iterator[Path]:
    """The reader as it is in the guest: a process for each question."""
    place = tmp_path / "reader.sock"
    with reader_service(place, driver.reader):
        yield place


def over(*nonces: bytes) -> Question:
    """The question for GPUs that no switch links."""
    return Question(nonces)


def refused(served: Path, gpu: Gpu = DECLARED, nonces: list[bytes] | None = None, **options: float) -> str:
    asked = GpuReader(served, gpu).question(lambda: NONCE) if nonces is None else over(*nonces)
    with pytest.raises(GpuRefused) as caught:
        GpuReader(served, gpu, **options).evidence(asked, ready=False)  # type: ignore[arg-type]
    assert caught.value.message.startswith(f"gpu: {caught.value.code}: ")
    return caught.value.message.removeprefix("gpu: ")


# -- layouts ---------------------------------------------------------------------------------------------------------
def test_layouts_are_those_of_the_driver() -> None:
    sizes = {each: ctypes.sizeof(each) for each in (ComputeState, Certificate, Attestation)}
    assert sizes == {ComputeState: 12, Certificate: 9224, Attestation: 12332}
    assert (Certificate.chain.offset, Certificate.attestation_chain.offset) == (8, 4104)
    assert (Attestation.nonce.offset, Attestation.report.offset, Attestation.cec.offset) == (12, 44, 8236)


def test_the_library_is_where_the_image_has_it() -> None:
    for record in DRIVERS.values():
        links = [(target, link) for part in record.parts for target, names in part.links.items() for link in names]
        assert str(LIBRARY) in {f"/{target.rpartition('/')[0]}/{link}" for target, link in links}


# -- reading ---------------------------------------------------------------------------------------------------------
def test_genuine_gpus_are_read_by_a_process_of_its_own_and_pass(driver: FakeDriver, process: Path) -> None:
    (evidence,) = GpuReader(process, DECLARED).evidence(over(NONCE), ready=False)
    assert evidence == sim.evidence(NONCE)[0]
    assert (driver.place / "asked").read_bytes() == NONCE


def test_each_gpu_signs_a_nonce_of_its_own(driver: FakeDriver, served: Path) -> None:
    one, two = sim.evidence(NONCE, 2)[0], sim.evidence(OTHER, 2)[1]
    driver.has(one, two)
    declared = dataclasses.replace(DECLARED, count=2)
    assert GpuReader(served, declared).evidence(over(NONCE, OTHER), ready=False) == (one, two)
    assert refused(served, declared, [OTHER, NONCE]).startswith("gpu-nonce: GPU 1 signed 000102")


def test_gpus_that_are_quoted_must_be_ready(driver: FakeDriver, served: Path) -> None:
    reader = GpuReader(served, DECLARED)
    with pytest.raises(GpuRefused, match="gpu-ready: the driver says that the GPUs are not ready"):
        reader.evidence(over(NONCE), ready=True)
    assert gpuready.main(lambda: Nvml(driver.shared_object)) == 0
    assert len(reader.evidence(over(NONCE), ready=True)) == 1


def test_the_state_alone_asks_no_gpu(driver: FakeDriver, served: Path) -> None:
    assert GpuReader(served, DECLARED).read().persistent == (True,)
    assert not (driver.place / "asked").exists()


# -- refusals --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("says", "said"),
    [
        ({"init": 9}, "gpu-driver: nvmlInit_v2: status 9, the driver is not loaded"),
        ({"init": 77}, "gpu-driver: nvmlInit_v2: status 77, see nvml.h"),
        ({"count": 0}, "gpu-count: the driver has 0, expected 1"),
        ({"count": 2}, "gpu-count: the driver has 2, expected 1"),
        ({"state": "0 0 0"}, "gpu-cc-off: environment 0, feature 0, expected environment 2, feature 1"),
        ({"state": "2 0 0"}, "gpu-cc-off: environment 2, feature 0, expected environment 2, feature 1"),
        ({"state": "1 1 0"}, "gpu-cc-off: environment 1, feature 1, expected environment 2, feature 1"),
        ({"state": "0 0 0", "report_0": None}, "gpu-cc-off: environment 0"),  # no GPU is asked for a report
        ({"state": None}, "gpu-cc-off: environment 0, feature 0, expected environment 2, feature 1"),
        ({"state": "2 1 1"}, "gpu-devtools: developer tools 1, expected 0"),
        ({"persistence": 0}, "gpu-persistence: persistence is off for GPU 1, expected persistence for each GPU"),
        ({"report_0": b"\x11\xe0"}, "gpu-report: GPU 1: GPU report: it ends in request header at byte 2"),
        ({"report_size": 0}, "gpu-driver: report: got 0 bytes, expected 1 to 8192"),
        ({"report_size": 8193}, "gpu-driver: report: got 8193 bytes, expected 1 to 8192"),
        ({"chain_size": 4000000000}, "gpu-driver: certificate chain: got 4000000000 bytes, expected 1 to 5120"),
        ({"report_0": None}, "gpu-driver: nvmlDeviceGetConfComputeGpuAttestationReport: status 6, not found"),
        ({"chain_0": b"no certificates"}, "gpu-chain: GPU 1: extra bytes around its certificates"),
    ],
    ids=lambda value: value.partition(":")[0] if isinstance(value, str) else "-".join(value),
)
def test_a_driver_that_says_something_else_is_refused_by_name(
    driver: FakeDriver, served: Path, says: dict[str, object], said: str
) -> None:
    driver.says(**says)
    assert refused(served).startswith(said)


def changed(at: int, evidence: DeviceEvidence) -> DeviceEvidence:
    report = bytearray(evidence.report)
    report[at] ^= 1
    return dataclasses.replace(evidence, report=bytes(report))


def test_old_and_forged_evidence_is_refused_by_name(driver: FakeDriver, served: Path) -> None:
    (honest,) = sim.evidence(NONCE)
    driver.has(*sim.evidence(OTHER))
    assert refused(served) == f"gpu-nonce: GPU 1 signed {OTHER.hex()}, expected {NONCE.hex()}"
    driver.has(changed(-1, honest))
    assert refused(served) == "gpu-signature: GPU 1: an invalid signature, expected one by the chain's first key"
    driver.has(dataclasses.replace(honest, certificates=sim.evidence(NONCE, 2)[1].certificates))
    assert refused(served).startswith("gpu-signature")


def test_one_device_that_answers_twice_is_refused(driver: FakeDriver, served: Path) -> None:
    (honest,) = sim.evidence(NONCE)
    driver.has(honest, honest)
    said = refused(served, dataclasses.replace(DECLARED, count=2))
    assert said == f"gpu-duplicate: GPU 2 is GPU 1, {sim.GPUS[0].pdi.hex()}, expected distinct devices"


def test_other_firmware_than_the_declared_is_refused(driver: FakeDriver, served: Path) -> None:
    board = sim.GPUS[0]
    old = dict(sim.gpu_opaque(board)) | {20: bytes(48)}
    for gpu, fields, said in (
        (dataclasses.replace(DECLARED, driver="550.163.01"), None, "gpu-driver: GPU 1 has driver 590.12"),
        (dataclasses.replace(DECLARED, architecture="blackwell"), None, "gpu-architecture: GPU 1: hopper"),
        (DECLARED, tuple(old.items()), f"gpu-fwid: GPU 1: {'00' * 48}"),
        (DECLARED, tuple((k, v) for k, v in old.items() if k != 20), "gpu-fwid: GPU 1: none"),
    ):
        driver.has(sim.device_evidence(board, NONCE, fields or sim.gpu_opaque(board)))
        assert refused(served, gpu).startswith(said)


def test_only_the_allowed_pairs_of_driver_and_vbios_are_used(driver: FakeDriver, served: Path) -> None:
    first = GpuFirmware(sim.DRIVER, "96.00.74.00.1A")
    only_other = dataclasses.replace(DECLARED, allowed=(first,))
    assert refused(served, only_other) == (
        "gpu-not-allowed: GPU 1 has 590.12/96.00.A5.00.01, expected 590.12/96.00.74.00.1A"
    )
    both = dataclasses.replace(DECLARED, allowed=(first, GpuFirmware(sim.DRIVER, sim.GPU_VBIOS)))
    assert GpuReader(served, both).evidence(over(NONCE), ready=False)


def test_simulated_devices_are_refused_as_genuine_ones(
    driver: FakeDriver, served: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # the true root again
    assert refused(served).startswith("gpu-chain: GPU 1: certificate 1 is ")


def test_dates_of_certificates_are_not_looked_at() -> None:
    """The host sets the guest's clock: it must decide nothing."""
    (evidence,) = sim.evidence(NONCE)
    read = partial(
        chain.read, "gpu", evidence.certificates, root=roots()[0], naming=roles.SIMULATION, verified=roles.Verified()
    )
    assert read(now=None).pdi == sim.GPUS[0].pdi
    with pytest.raises(ValueError, match="valid at 1970"):
        read(now=0)


# -- the processes ---------------------------------------------------------------------------------------------------
def test_a_reader_that_takes_too_long_is_not_waited_for(driver: FakeDriver, process: Path) -> None:
    driver.says(slow=1)
    assert refused(process, timeout=1.0) == "gpu-answer: reader message: incomplete after 1 s"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("", "gpu-answer: reader message: the connection was closed early"),
        ("print('no answer')", "gpu-answer: reader message: the connection was closed early"),
        ("os.write(0, b'{}\\n')", "gpu-answer: answer.state: missing"),
        ("os.write(0, b'[]\\n')", "gpu-answer: reader message: not an object"),
        ("os.write(0, b'x' * 600000 + b'\\n')", "gpu-answer: reader message: larger than 524288 bytes"),
        ('import os; os.write(0, b\'{"error":"\\\\u001b[2J"}\\n\')', "gpu-answer: answer.error: not printable"),
    ],
    ids=["nothing", "other-output", "empty", "list", "flood", "terminal"],
)
def test_an_answer_that_is_none_is_refused(tmp_path: Path, nvidia: None, code: str, said: str) -> None:
    place = tmp_path / "reader.sock"
    with reader_service(place, f"import os; os.read(0, 4096)\n{code}"):
        assert refused(place) == said


def test_a_reader_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert refused(tmp_path / "absent.sock") == "gpu-answer: reader: No such file or directory"


def test_a_malformed_question_is_answered_with_its_reason(served: Path) -> None:
    reader = GpuReader(served, DECLARED)
    with pytest.raises(GpuRefused, match=r"gpu-driver: question.nonces\[0\]: 31 bytes, expected 32"):
        reader.read(over(bytes(31)))


def test_a_library_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(NvmlError, match=r"libnvidia-ml\.so\.1: .*cannot open shared object file"):
        gpureader.read(over(), lambda: Nvml(tmp_path / "libnvidia-ml.so.1"))


def test_a_library_without_a_function_is_named(tmp_path: Path) -> None:
    with pytest.raises(NvmlError, match="nvmlInit_v2: the library does not have it"):
        gpureader.read(over(), lambda: Nvml(Path("libc.so.6")))


# -- the ready state -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("state", ["0 0 0", "2 0 0", "1 1 0", "2 1 1"])
def test_gpus_that_are_not_confidential_are_never_set_ready(
    driver: FakeDriver, state: str, capsys: pytest.CaptureFixture[str]
) -> None:
    driver.says(state=state, asked=NONCE)
    assert gpuready.main(lambda: Nvml(driver.shared_object)) == 1
    assert not (driver.place / "ready").exists()
    assert "the GPUs are not confidential, so they are not set ready" in capsys.readouterr().err


def test_gpus_without_a_report_are_not_set_ready(driver: FakeDriver, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpuready.main(lambda: Nvml(driver.shared_object)) == 1
    assert capsys.readouterr().err == (
        "privml: gpu ready: nvmlSystemSetConfComputeGpusReadyState: status 4, no permission\n"
    )
