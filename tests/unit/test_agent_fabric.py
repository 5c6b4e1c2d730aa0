"""GPUs in protected PCIe mode: a board with its switches is counted, linked, checked and quoted, or parked by name.

The drivers, Fabric Manager and the libraries are stand-ins. The evidence of a real board is what NVIDIA published.
"""

from __future__ import annotations

import ctypes
import dataclasses
import threading
from collections.abc import Iterator
from pathlib import Path

import gpu_samples
import pytest
from agent_guest import guest
from nvml_fake import FakeDriver, reader_service
from test_agent_gpu import (
    BRIDGE,
    CONTROLLER_3D,
    DRIVER,
    NONCE,
    NVIDIA,
    Machine,
    judged,
    machine_with,
    of_gpus,
    simulated,
    with_gpus,
)

from privml.agent import gpureader, gpuready, nscq
from privml.agent.gpuanswer import Question, Reading
from privml.agent.gpucheck import GpuReader, GpuRefused
from privml.agent.layout import FABRIC_ID, GPU_ID, SWITCH_ID
from privml.agent.nscq import Nscq, NscqError
from privml.agent.nvml import FabricInfo, Nvml, Settings, State
from privml.base.errors import EvidenceError
from privml.base.strictjson import canonical, loads
from privml.events.configuration import decode, encode
from privml.events.gpus import Gpu
from privml.events.stages import sequence
from privml.evidence.document import GPU, SWITCH, DeviceEvidence, parse
from privml.evidence.nvidia import report
from privml.recipe.drivers import DRIVERS
from privml.sim import gpu as sim
from privml.verify.nvidia import Firmware, NvidiaPolicy

BOARD = Gpu("nvidia", "hopper", 8, "590.12", switches=4)
NODES = {
    GPU_ID: [*(f"nvidia{number}" for number in range(8)), "nvidiactl", "nvidia-uvm", "nvidia-uvm-tools"],
    SWITCH_ID: [*(f"nvidia-nvswitch{number}" for number in range(4)), "nvidia-nvswitchctl"],
    FABRIC_ID: ["nvidia-nvlink", "nvidia-cap3"],
}


@pytest.fixture
def board(library: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """A guest with eight GPUs and four switches."""
    monkeypatch.setattr("privml.agent.gpumachine._FABRIC_INTERVAL", 0.01)
    with machine_with(8, library, monkeypatch, switches=4) as made:
        yield made


# -- the stage -------------------------------------------------------------------------------------------------------
def test_a_board_is_counted_linked_checked_recorded_and_only_then_ready(board: Machine) -> None:
    board.note_events()
    assert board.boot().run(), board.guest.said
    assert board.done == ["config", "persistence", "fabric", "gpu-policy", "gpu-ready", "ready", "system-ready"]
    assert board.groups == NODES
    assert {node for node in board.nodes if node[1] not in (195, 510)} == {
        *((f"nvidia-nvswitch{number}", 239, number) for number in range(4)),
        ("nvidia-nvswitchctl", 239, 255),
        ("nvidia-nvlink", 238, 0),
        ("nvidia-cap3", 236, 3),
    }
    said = f"privml: stage gpu: ok: 8 x hopper, {DRIVER}/96.00.A5.00.01, 4 x ls10, 96.10.73.00.01"
    assert said in board.guest.said
    board.guest.start_server()
    status, _, body = board.guest.request("GET", f"/.well-known/privml-attestation?nonce={'00' * 32}")
    # The stand-ins sign one nonce only, so no document can have new evidence of them.
    assert (status, loads(body)["error"]["code"]) == (503, "gpu-nonce")


def test_the_guest_waits_until_all_gpus_have_joined_and_all_switches_are_locked(board: Machine) -> None:
    board.driver.says(fabric=2, mode=1)
    asked: list[Question] = []
    read = board.driver.read

    def counted(question: Question) -> Reading:
        asked.append(question)
        if len(asked) == 2:
            board.driver.says(fabric=3)
        if len(asked) == 4:
            board.driver.says(mode=3)
        return read(question)

    board.guest.layout.gpu_socket.unlink()
    with reader_service(board.guest.layout.gpu_socket, counted):
        assert board.boot().run(), board.guest.said
    assert [len(question.gpus) for question in asked] == [0, 0, 0, 0, 8, 0]
    assert [question.switches for question in asked[:4]] == [()] * 4


@pytest.mark.parametrize(
    ("gpus", "switches", "found"),
    [(7, 4, "7 GPUs and 4 switches"), (8, 3, "8 GPUs and 3"), (8, 5, "8 GPUs and 5"), (9, 4, "9 GPUs and 4"),
     (8, 0, "8 GPUs and 0"), (0, 0, "0 GPUs and 0")],
)  # fmt: skip
def test_another_number_of_gpus_or_switches_parks_the_guest(
    board: Machine, gpus: int, switches: int, found: str
) -> None:
    pci = board.guest.layout.sys / "bus/pci/devices"
    for kind, first, there, wanted, device in ((GPU, 8, 8, gpus, 0x2331), (SWITCH, 16, 4, switches, 0x22A3)):
        for number in range(wanted, there):
            for path in (pci / f"0000:00:{first + number:02x}.0").iterdir():
                path.unlink()
            (pci / f"0000:00:{first + number:02x}.0").rmdir()
        for number in range(there, wanted):
            board.guest.add_pci(20 + number, NVIDIA, device, CONTROLLER_3D if kind == GPU else BRIDGE)
    assert board.parked().startswith(f"recipe declares 8 GPUs and 4 switches, found {found}")
    assert (board.done, board.nodes) == ([], [])


def test_a_switch_that_no_recipe_declares_stops_the_boot(
    library: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    with machine_with(8, library, monkeypatch) as machine:
        machine.guest.add_pci(16, NVIDIA, 0x22A3, BRIDGE)
        assert machine.parked() == "privml: stage devices failed: devices: 1 x nvidia-nvswitch not declared"


def test_fabric_manager_that_does_not_start_parks_the_guest(board: Machine) -> None:
    board.fabric.work = "systemctl failed with status 1"
    assert board.parked() == "gpu-fabric: systemctl failed with status 1"
    assert board.done == ["persistence"]


def test_fabric_manager_that_ends_before_the_gpus_are_linked_parks_the_guest(board: Machine) -> None:
    board.driver.says(fabric=2, fabric_0=3)
    board.fabric.ended = True
    assert board.parked() == "gpu-fabric: Fabric Manager exited, 1 of 8 GPUs have joined the NVLink fabric"


@pytest.mark.parametrize(
    ("says", "said"),
    [
        ({"fabric_7": 2}, "gpu-fabric: 7 of 8 GPUs have joined the NVLink fabric after 0.05 s"),
        ({"fabric_status": 999}, "gpu-fabric: 0 of 8 GPUs have joined the NVLink fabric after 0.05 s"),
        ({"mode_2": 1}, "gpu-fabric: 3 of 4 switches are locked after 0.05 s"),
        ({"mode": -1}, "gpu-fabric: 0 of 4 switches are locked after 0.05 s"),
        ({"switches": 3}, "gpu-count: the driver has 3 switches, expected 4"),
        ({"switches": 9}, "gpu-driver: switches: got 9, expected at most 8"),
        ({"multi_gpu": 0}, "gpu-cc-off: environment 2, multi-GPU mode 0, expected environment 2, multi-GPU mode 1"),
        ({"multi_gpu": 2}, "gpu-cc-off: environment 2, multi-GPU mode 2, expected environment 2, multi-GPU mode 1"),
        ({"state": "1 1 0"}, "gpu-cc-off: environment 1, multi-GPU mode 1, expected environment 2"),
        ({"state": "2 0 1"}, "gpu-devtools: developer tools 1, expected 0"),
        ({"count": 7}, "gpu-count: the driver has 7, expected 8"),
        ({"persistence": 0}, "gpu-persistence: persistence is off for GPU 1"),
        ({"nscq": -6}, "gpu-driver: nscq_session_create: status -6, driver and library have different versions"),
        ({"label": "SWX/%08X"}, "gpu-driver: label: got 'SWX/00000000', expected letters, digits, - and _"),
        ({"switch-report_1": None}, "gpu-driver: /SWX-00000001/config/attestation_report: status -7, an error of"),
        ({"switch-chain-size": 5121}, "gpu-driver: certificate chain: got 5121 bytes, expected 1 to 5120"),
    ],
    ids=lambda value: value.partition(":")[0] if isinstance(value, str) else "-".join(value),
)
def test_a_board_that_says_something_else_parks_the_guest(board: Machine, says: dict[str, object], said: str) -> None:
    board.fabric_wait = 0.05
    board.driver.says(**says)
    assert board.parked().startswith(said)
    assert "ready" not in board.done


def test_the_feature_is_not_looked_at_in_protected_pcie_mode(board: Machine) -> None:
    """NVIDIA's own verifier looks at the mode alone; each GPU signs it in its report."""
    board.driver.says(state="2 0 0")
    assert board.boot().run(), board.guest.said


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("proc/driver/nvidia-nvlink/capabilities/fabric-mgmt", "", "gpu-driver: the driver names no device minor of"),
        ("proc/driver/nvidia-nvlink/capabilities/fabric-mgmt", None, "gpu-driver: the driver has no capability fabr"),
        (
            "proc/devices",
            "195 nvidia\n510 nvidia-uvm\n239 nvidia-nvswitch\n",
            "gpu-driver: the kernel has no devices ",
        ),
        ("proc/devices", "510 nvidia-uvm\n", "gpu-driver: the kernel has no devices of nvidia-nvswitch"),
    ],
)
def test_a_driver_without_what_the_switches_need_parks_the_guest(
    board: Machine, file: str, text: str | None, said: str
) -> None:
    path = board.guest.root / file
    if text is None:
        path.unlink()
    else:
        path.write_text(text)
    assert board.parked().startswith(said)
    assert board.done == []


def test_a_driver_that_found_another_number_of_switches_parks_the_guest(board: Machine) -> None:
    (board.guest.layout.proc / "driver/nvidia-nvswitch/devices/0000:00:13.0").rmdir()
    assert board.parked() == "gpu-count: the driver has 3 switches, expected 4"


# -- evidence --------------------------------------------------------------------------------------------------------
def evidence(gpus: int = 8, switches: int = 4, **others: DeviceEvidence) -> list[DeviceEvidence]:
    """The evidence of a simulated board over `NONCE`, with other devices in some places (``gpu_0``, ``switch_3``)."""
    made = list(sim.evidence(NONCE, gpus, switches))
    for name, device in others.items():
        kind, _, number = name.partition("_")
        made[int(number) + (gpus if kind == SWITCH else 0)] = device
    return made


def one(device: sim.SimulatedDevice, *linked: sim.SimulatedDevice, nonce: bytes = NONCE) -> DeviceEvidence:
    said = sim.switch_opaque(device, linked) if device in sim.SWITCHES else sim.gpu_opaque(device, linked)
    return sim.device_evidence(device, nonce, said)


def swapped(switch: DeviceEvidence, other: DeviceEvidence) -> DeviceEvidence:
    return dataclasses.replace(switch, certificates=other.certificates)


HONEST = evidence()
STRANGER = sim.SimulatedDevice(sim.SWITCHES[0].family, 9)


@pytest.mark.parametrize(
    ("devices", "said"),
    [
        (evidence(switch_1=one(sim.SWITCHES[1], *sim.GPUS, nonce=bytes(32))), "gpu-nonce: switch 2 signed 0000"),
        (evidence(switch_1=HONEST[8]), f"gpu-duplicate: switch 2 is switch 1, {sim.SWITCHES[0].pdi.hex()}"),
        (evidence(switch_1=swapped(HONEST[9], HONEST[8])), "gpu-signature: switch 2: an invalid signature"),
        (
            evidence(switch_3=sim.device_evidence(STRANGER, NONCE, sim.switch_opaque(STRANGER, sim.GPUS))),
            "gpu-topology: GPU 1: linked with ",
        ),
        (evidence(switch_3=one(sim.SWITCHES[3], *sim.GPUS[:7])), "gpu-topology: switch 4: linked with "),
        (evidence(gpu_5=one(sim.GPUS[5], *sim.SWITCHES[:3])), "gpu-topology: GPU 6: linked with "),
        (evidence(gpu_5=one(sim.GPUS[5])), "gpu-topology: modes ppcie or spt, expected one mode for all GPUs"),
        (
            [*(one(gpu) for gpu in sim.GPUS), *HONEST[8:]],
            "gpu-topology: mode spt with 4 switches, expected mode ppcie exactly with switches",
        ),
    ],
    ids=["nonce", "twice", "chain", "stranger", "seven-gpus", "three-switches", "one-alone", "all-alone"],
)
def test_devices_that_are_not_one_protected_group_are_refused(
    board: Machine, devices: list[DeviceEvidence], said: str
) -> None:
    board.driver.has(*devices)
    place = board.guest.layout.gpu_socket
    with pytest.raises(GpuRefused) as refused:
        reader = GpuReader(place, BOARD)
        reader.evidence(reader.question(lambda: NONCE), ready=False)
    assert refused.value.message.removeprefix("gpu: ").startswith(said)


def test_the_published_evidence_of_a_real_board_passes_the_guests_own_check(
    library: FakeDriver, tmp_path: Path
) -> None:
    """Eight H100s and four switches of a real machine, under NVIDIA's own root (NVIDIA/nvtrust)."""
    real = gpu_samples.PPCIE
    library.has(*real)
    nonces = [report.read(device.kind, device.report).report.nonce for device in real]
    asked = Question(tuple(nonces[:8]), tuple(nonces[8:]))
    place = tmp_path / "reader.sock"
    with reader_service(place, library.read):
        reader = GpuReader(place, BOARD)
        assert reader.evidence(asked, ready=False) == real
        passed = reader.check(reader.read(asked), asked)
        assert [each.family for each in passed] == ["hopper"] * 8 + ["ls10"] * 4
        assert {each.firmware for each in passed} == {"590.12/96.00.A5.00.01", "96.10.73.00.01"}
        # One of the switches was asked for another nonce.
        other = Question(asked.gpus, (*nonces[8:10], bytes(32), nonces[11]))
        with pytest.raises(GpuRefused, match="gpu-nonce: switch 3 signed"):
            reader.evidence(other, ready=False)
        # The GPUs alone are genuine too. What callers refuse then is that no switch answers (`gpu-topology`).
        alone = GpuReader(place, dataclasses.replace(BOARD, switches=0))
        library.says(multi_gpu=0)
        assert len(alone.evidence(Question(asked.gpus), ready=False)) == 8


def test_the_reader_is_a_process_of_its_own_for_switches_too(library: FakeDriver, tmp_path: Path) -> None:
    library.has(*gpu_samples.PPCIE)
    place = tmp_path / "reader.sock"
    with reader_service(place, library.reader):
        found = GpuReader(place, BOARD).read()
    assert found.state == State(2, 1, 0, 1)
    assert found.fabric is not None and (found.fabric.joined, found.fabric.modes) == ((True,) * 8, (3,) * 4)
    assert (library.place / "destroyed").exists() and not (library.place / "switch-asked").exists()


def test_gpus_of_a_board_are_set_ready_by_their_mode(library: FakeDriver) -> None:
    library.says(state="2 0 0", multi_gpu=1, asked=NONCE)
    assert gpuready.main(lambda: Nvml(library.shared_object)) == 0
    library.says(state="2 0 1", ready=None)
    assert gpuready.main(lambda: Nvml(library.shared_object)) == 1


# -- after the boot --------------------------------------------------------------------------------------------------
def test_a_guest_whose_fabric_manager_ends_has_failed(board: Machine) -> None:
    boot = board.boot()
    assert boot.run(), board.guest.said
    board.fabric.ended = True
    watching = threading.Thread(target=boot.watch, kwargs={"interval": 0.01}, daemon=True)
    watching.start()
    watching.join(30)
    assert not watching.is_alive()
    assert board.guest.said[-1] == "privml: stage gpu failed: Fabric Manager exited"


def test_a_development_guest_quotes_a_simulated_board_with_its_switches(monkeypatch: pytest.MonkeyPatch) -> None:
    config = with_gpus(8, 4)
    firmware = frozenset({Firmware(DRIVER, sim.GPU_VBIOS)})
    with simulated(config, monkeypatch) as made:
        assert made.boot().run(), made.said
        said = f"privml: stage gpu: ok: SIMULATED: 8 x hopper, {DRIVER}/96.00.A5.00.01, 4 x ls10, 96.10.73.00.01"
        assert said in made.said
        made.start_server()
        status, _, body = made.request("GET", f"/.well-known/privml-attestation?nonce={'11' * 32}")
        assert status == 200, body
        assert [device.kind for device in parse(body).device_evidence] == [GPU] * 8 + [SWITCH] * 4
        allowed = NvidiaPolicy(allow_simulated=gpu_samples.ROOTS, firmware=firmware)
        assert of_gpus(judged(made, config, allowed)) == set()


# -- configuration and events ----------------------------------------------------------------------------------------
def test_switches_are_configured_and_recorded_only_where_there_are_some() -> None:
    config = decode(encode(with_gpus(8, 4)))
    assert config.gpu == Gpu("nvidia", "hopper", 8, DRIVER, switches=4)
    policy, ready = (loads(event.payload) for event in sequence(config)[1:3])
    assert policy == {"vendor": "nvidia", "architecture": "hopper", "count": 8, "allowed": [], "switches": 4}
    assert ready == {"gpus": 8, "switches": 4, "cc": "on", "devtools": "off"}
    assert "switches" not in loads(encode(with_gpus(8)))["gpu"]
    assert "switches" not in loads(sequence(with_gpus(8))[1].payload)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0, "config.gpu.switches: got 0, expected 1 to 8"),
        (9, "config.gpu.switches: got 9, expected 1 to 8"),
        (3, "config.gpu.switches: got 3, expected 4, as in config.devices"),
        (True, "config.gpu.switches"),
    ],
)
def test_the_switches_of_a_configuration_are_strict(value: object, said: str) -> None:
    top = loads(encode(with_gpus(8, 4)))
    top["gpu"]["switches"] = value
    with pytest.raises(EvidenceError, match=said):
        decode(canonical(top))


def test_devices_must_not_have_switches_that_the_gpus_do_not_declare() -> None:
    top = loads(encode(with_gpus(8, 4)))
    del top["gpu"]["switches"]
    with pytest.raises(EvidenceError, match=r"config.gpu.switches: got 0, expected 4, as in config.devices"):
        decode(canonical(top))


# -- layouts ---------------------------------------------------------------------------------------------------------
def test_layouts_are_those_of_the_libraries_headers() -> None:
    sizes = {each: ctypes.sizeof(each) for each in (Settings, FabricInfo, nscq.Report, nscq.Certificates, nscq.Label)}
    assert sizes == {Settings: 20, FabricInfo: 36, nscq.Report: 8196, nscq.Certificates: 5124, nscq.Label: 64}
    assert (nscq.Report.data.offset, nscq.Certificates.size.offset, nscq.Session.session.offset) == (4, 5120, 8)


def test_the_library_of_switches_is_where_the_image_has_it() -> None:
    boards = [record.fabric for record in DRIVERS.values() if record.fabric is not None]
    assert boards
    for made in boards:
        archive = made.archives["nscq"]
        links = [(target, link) for target, names in archive.links.items() for link in names]
        assert str(nscq.LIBRARY) in {f"/{target.rpartition('/')[0]}/{link}" for target, link in links}


def test_a_library_of_switches_that_is_not_there_or_another_is_named(tmp_path: Path, library: FakeDriver) -> None:
    with pytest.raises(NscqError, match=r"libnvidia-nscq\.so\.2: .*cannot open shared object file"):
        Nscq(tmp_path / "libnvidia-nscq.so.2")
    with pytest.raises(NscqError, match="nscq_session_create: the library does not have it"), Nscq(Path("libc.so.6")):
        pass
    library.has(*gpu_samples.PPCIE)
    with pytest.raises(NscqError, match="cannot open shared object file"):
        gpureader.read(
            Question((), ()), lambda: Nvml(library.shared_object), lambda: Nscq(tmp_path / "libnvidia-nscq.so.2")
        )


def test_a_guest_without_switches_never_opens_their_library(library: FakeDriver) -> None:
    def never() -> Nscq:
        raise AssertionError("opened")

    library.has(*sim.evidence(NONCE))
    found = gpureader.read(Question((NONCE,)), lambda: Nvml(library.shared_object), never)
    assert found.fabric is None and len(found.evidence) == 1


def test_a_guest_that_has_no_gpus_has_no_switches() -> None:
    with guest() as made:
        made.add_pci(8, NVIDIA, 0x22A3, BRIDGE)
        assert not made.boot().run()
        assert made.said[-1] == "privml: stage devices failed: devices: 1 x nvidia-nvswitch not declared"
