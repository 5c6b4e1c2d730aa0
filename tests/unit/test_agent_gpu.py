"""A guest with GPUs: its configuration and events, the lockdown after its driver, and where its boot ends."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import attestation_samples as samples
import gpu_samples
import pytest
from agent_guest import ENGINE, NO_MODEL, Guest, a_config, a_model, guest
from nvml_fake import FakeDriver, reader_service

from privml.agent import gpuready
from privml.agent.attestorclient import AttestorClient
from privml.agent.attestorstate import Attestor
from privml.agent.boot import Boot
from privml.agent.gpuanswer import Question
from privml.agent.gpucheck import GpuRefused
from privml.agent.gpumachine import GpuMachine
from privml.agent.gpunodes import Node, make_node
from privml.agent.layout import Layout
from privml.agent.lockdown import lock_down
from privml.agent.nvml import Nvml
from privml.agent.restarts import Restarts
from privml.agent.tee import NoTee
from privml.agent.wire import RefusedRequest
from privml.base.errors import EvidenceError, HostError
from privml.base.strictjson import canonical, loads
from privml.events.agent import AgentEvent
from privml.events.configuration import Config, decode, encode
from privml.events.gpus import Gpu, GpuFirmware, gpu_device
from privml.events.stages import purposes, sequence
from privml.evidence import devices
from privml.evidence.document import listed, parse
from privml.evidence.facts import collect
from privml.evidence.nvidia import chain, roles
from privml.sim import gpu as sim
from privml.sim import gpumachine
from privml.sim.gpupki import roots
from privml.verify.nvidia import Firmware, NvidiaPolicy
from privml.verify.verdict import Verdict

NVIDIA = 0x10DE
CONTROLLER_3D = 0x030200
BRIDGE = 0x068000
DRIVER = "550.163.01"
NONCE = bytes(range(32))
A_FIRMWARE = {"driver": DRIVER, "vbios": "96.00.A5.00.01"}


def with_gpus(count: int = 1, switches: int = 0, **changes: object) -> Config:
    devices = ("virtio-blk", "virtio-net", *["nvidia-gpu"] * count, *["nvidia-nvswitch"] * switches)
    gpu = Gpu("nvidia", "hopper", count, DRIVER, switches=switches)
    return a_config(**{**NO_MODEL, "devices": devices, "gpu": gpu, **changes})


def open_kernel(made: Guest, text: str = "[none] integrity confidentiality\n") -> Path:
    place = made.layout.sys / "kernel" / "security" / "lockdown"
    place.parent.mkdir(parents=True)
    place.write_text(text)
    return place


@dataclass
class FakeUnit:
    """A unit of systemd that does ``work``, or fails with a text."""

    work: Callable[[], object] | str = lambda: None
    ended: bool = False

    def start(self) -> None:
        if isinstance(self.work, str):
            raise HostError(self.work)
        self.work()

    def alive(self) -> bool:
        return not self.ended


class Machine:
    """A guest with the files of a loaded driver, and what its boot did with them."""

    def __init__(self, made: Guest, library: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
        self.guest = made
        self.driver = library
        self._monkeypatch = monkeypatch
        self.done: list[str] = []
        self.nodes: list[tuple[str, int, int]] = []
        self.groups: dict[int, list[str]] = {}
        self.persistence = FakeUnit(lambda: self.done.append("persistence"))
        self.ready = FakeUnit(self._set_ready)
        self.fabric = FakeUnit(lambda: self.done.append("fabric"))
        self.fabric_wait = 10.0
        gpu = made.config.gpu
        assert gpu is not None
        layout = made.layout
        place = open_kernel(made)
        monkeypatch.setattr("privml.agent.boot.lock_down", lambda sys: place.write_text(f"locked by {sys.name}"))
        # Simulated devices in the place of genuine ones, over a nonce that is known before.
        monkeypatch.setattr(chain, "NVIDIA_ROOT_DER", roots()[0])
        monkeypatch.setattr(roles, "NVIDIA", roles.SIMULATION)
        monkeypatch.setattr("privml.agent.gpumachine.secrets.token_bytes", lambda size: NONCE[:size])
        for number in range(gpu.count):
            made.add_pci(8 + number, NVIDIA, 0x2331, CONTROLLER_3D)
            self.write(layout.proc / f"driver/nvidia/gpus/0000:00:0{8 + number}.0/information",
                       f"Model: \t\t NVIDIA H100\nDevice Minor: \t {number}\n")  # fmt: skip
        self.write(layout.sys / "module/nvidia/version", f"{DRIVER}\n")
        (layout.sys / "module/nvidia_uvm").mkdir()
        self.write(layout.proc / "devices", "Character devices:\n195 nvidia\n195 nvidiactl\n510 nvidia-uvm\n"
                                            "236 nvidia-caps\n238 nvidia-nvlink\n239 nvidia-nvswitch\n\n"
                                            "Block devices:\n254 virtblk\n")  # fmt: skip
        for number in range(gpu.switches):
            made.add_pci(16 + number, NVIDIA, 0x22A3, BRIDGE)
            (layout.proc / f"driver/nvidia-nvswitch/devices/0000:00:1{number}.0").mkdir(parents=True)
        self.write(layout.proc / "driver/nvidia-nvlink/capabilities/fabric-mgmt",
                   "DeviceFileMinor: 3\nDeviceFileMode: 256\nDeviceFileModify: 1\n")  # fmt: skip
        boards, links = sim.GPUS[: gpu.count], sim.SWITCHES[: gpu.switches]
        library.has(
            *(sim.device_evidence(board, NONCE, sim.gpu_opaque(board, links, driver=DRIVER)) for board in boards),
            *(sim.device_evidence(link, NONCE, sim.switch_opaque(link, boards)) for link in links),
        )

    def write(self, path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def _set_ready(self) -> None:
        self.done.append("ready")
        assert gpuready.main(lambda: Nvml(self.driver.shared_object)) == 0

    def boot(self) -> Boot:
        def mknod(node: Node) -> None:
            self.nodes.append((node.path.name, node.major, node.minor))
            self.groups.setdefault(node.group, []).append(node.path.name)

        return self.guest.boot(
            gpus=lambda gpu: GpuMachine(
                gpu,
                self.guest.layout,
                persistence=self.persistence,
                ready=self.ready,
                fabric=self.fabric,
                mknod=mknod,
                fabric_wait=self.fabric_wait,
            )
        )

    def note_events(self) -> None:
        """Add the events that are extended to what was done."""
        extend = AttestorClient.extend

        def noted(client: AttestorClient, event: AgentEvent) -> None:
            extend(client, event)
            self.done.append(event.name)

        self._monkeypatch.setattr(AttestorClient, "extend", noted)

    def parked(self) -> str:
        """Boot, which must fail; what the console says at last."""
        assert not self.boot().run()
        return self.guest.said[-1].removeprefix("privml: stage gpu failed: gpu: ")


@contextmanager
def machine_with(
    count: int, library: FakeDriver, monkeypatch: pytest.MonkeyPatch, switches: int = 0
) -> Iterator[Machine]:
    """A machine with so many GPUs and switches, whose reader answers in this process."""
    config = with_gpus(count, switches)
    with guest(config, gpus="genuine") as made, reader_service(made.layout.gpu_socket, library.read):
        yield Machine(made, library, monkeypatch)


@pytest.fixture
def machine(library: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    with machine_with(1, library, monkeypatch) as made:
        yield made


# -- the stage -------------------------------------------------------------------------------------------------------
def test_gpus_are_brought_up_checked_recorded_and_only_then_ready(machine: Machine) -> None:
    machine.note_events()
    assert machine.boot().run(), machine.guest.said
    assert machine.nodes == [
        ("nvidia0", 195, 0), ("nvidiactl", 195, 255), ("nvidia-uvm", 510, 0), ("nvidia-uvm-tools", 510, 1),
    ]  # fmt: skip
    assert machine.done == ["config", "persistence", "gpu-policy", "gpu-ready", "ready", "system-ready"]
    assert "privml: stage gpu: ok: 1 x hopper, 550.163.01/96.00.A5.00.01" in machine.guest.said
    assert (machine.driver.place / "ready").read_text() == "1"


def test_every_gpu_of_a_machine_is_checked(library: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    with machine_with(8, library, monkeypatch) as machine:
        assert machine.boot().run(), machine.guest.said
        assert [node[0] for node in machine.nodes[:8]] == [f"nvidia{number}" for number in range(8)]
        assert "privml: stage gpu: ok: 8 x hopper, 550.163.01/96.00.A5.00.01" in machine.guest.said


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ("0 0 0", "gpu-cc-off: environment 0, feature 0, expected environment 2, feature 1"),
        ("2 1 1", "gpu-devtools: developer tools 1, expected 0"),
    ],
)
def test_a_gpu_that_is_not_confidential_is_never_used(machine: Machine, state: str, said: str) -> None:
    machine.driver.says(state=state)
    assert machine.parked() == said
    assert machine.done == ["persistence"]
    machine.guest.start_server()
    status, answer = machine.guest.json(f"/.well-known/privml-attestation?nonce={'00' * 32}")
    assert (status, answer["error"]["code"]) == (503, "failed")  # type: ignore[index]


def test_a_report_over_another_nonce_parks_the_guest(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("privml.agent.gpumachine.secrets.token_bytes", bytes)
    assert machine.parked() == f"gpu-nonce: GPU 1 signed {NONCE.hex()}, expected {'00' * 32}"


def test_a_machine_without_the_gpu_is_parked_by_name(machine: Machine) -> None:
    shutil.rmtree(machine.guest.layout.sys / "bus/pci/devices/0000:00:08.0")
    assert machine.parked() == "recipe declares 1 GPU, found 0"
    assert (machine.done, machine.nodes) == ([], [])


def test_the_number_of_gpus_is_exact(machine: Machine) -> None:
    machine.guest.add_pci(9, NVIDIA, 0x2331, CONTROLLER_3D)
    assert machine.parked() == "recipe declares 1 GPU, found 2"


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        (
            "sys/module/nvidia/version",
            None,
            "gpu-driver: the kernel has no module nvidia, expected version 550.163.01",
        ),
        (
            "sys/module/nvidia/version",
            "550.54.15",
            "gpu-driver: the module nvidia has version 550.54.15, expected 550",
        ),
        ("sys/module/nvidia_uvm", None, "gpu-driver: the kernel has no module nvidia_uvm"),
        ("proc/driver/nvidia/gpus", None, "gpu-count: the driver has 0, expected 1"),
        (
            "proc/driver/nvidia/gpus/0000:00:08.0/information",
            "Model: H100\n",
            "gpu-driver: the driver names no device minor of 0000:00:08.0",
        ),
        (
            "proc/devices",
            "Character devices:\n\nBlock devices:\n510 nvidia-uvm\n",
            "gpu-driver: the kernel has no dev",
        ),
    ],
    ids=["no-driver", "other-version", "no-uvm", "no-gpu", "no-minor", "no-uvm-device"],
)
def test_a_driver_that_is_not_as_declared_is_refused(
    machine: Machine, file: str, text: str | None, said: str
) -> None:
    path = machine.guest.root / file
    if text is not None:
        path.write_text(text)
    elif path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    assert machine.parked().startswith(said)
    assert machine.done == []


def test_units_that_fail_park_the_guest(machine: Machine) -> None:
    machine.persistence.work = "systemctl failed with status 1"
    assert machine.parked() == "gpu-persistence: systemctl failed with status 1"


def test_gpus_that_cannot_be_set_ready_park_the_guest(machine: Machine) -> None:
    machine.ready.work = "systemctl failed with status 1"
    assert machine.parked() == "gpu-ready: systemctl failed with status 1"


def test_a_driver_that_ignores_the_ready_state_parks_the_guest(machine: Machine) -> None:
    machine.ready.work = lambda: None
    assert machine.parked() == "gpu-ready: the driver says that the GPUs are not ready, expected ready GPUs"
    machine.guest.start_server()
    status, answer = machine.guest.json(f"/.well-known/privml-attestation?nonce={'00' * 32}")
    assert (status, answer["error"]["code"]) == (503, "failed")  # type: ignore[index]


def test_a_node_that_is_there_must_be_the_device(tmp_path: Path) -> None:
    (tmp_path / "nvidia0").write_bytes(b"")
    with pytest.raises(GpuRefused, match=r"gpu-driver: .*nvidia0 is another device, expected 195:0"):
        make_node(Node(tmp_path / "nvidia0", 195, 0))


def test_gpus_of_another_vendor_are_refused(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="cannot check GPUs of `amd`, expected nvidia"):
        GpuMachine(
            Gpu("amd", "cdna", 1, "1.0"), Layout(), persistence=FakeUnit(), ready=FakeUnit(), fabric=FakeUnit()
        )


def test_other_devices_are_still_checked_first(machine: Machine) -> None:
    machine.guest.add_pci(9, 0x1AF4, 0x1050)
    assert machine.parked() == "privml: stage devices failed: devices: 1 x virtio-gpu not declared"


def test_a_gpu_that_no_recipe_declares_stops_the_boot() -> None:
    with guest() as made:
        made.add_pci(8, NVIDIA, 0x2331, CONTROLLER_3D)
        assert not made.boot().run()
        assert made.said[-1] == "privml: stage devices failed: devices: 1 x nvidia-gpu not declared"


def test_a_guest_without_gpus_skips_their_stage() -> None:
    with guest() as made:
        assert made.boot().run(), made.said
        assert "privml: stage gpu: skipped: the measured configuration names no GPU" in made.said


def test_a_kernel_that_cannot_be_locked_down_stops_the_boot() -> None:
    with guest(with_gpus()) as made:
        open_kernel(made)  # keeps what is written to it, as no kernel does
        assert not made.boot().run()
        assert made.said[-1] == "privml: stage config failed: lockdown: got `integrity`, expected [integrity]"
        assert not made.layout.tls_key.exists()


# -- simulated GPUs --------------------------------------------------------------------------------------------------
@contextmanager
def simulated(config: Config, monkeypatch: pytest.MonkeyPatch) -> Iterator[Guest]:
    """A development guest that has booted with simulated GPUs, up to the given configuration's last stage."""
    with guest(config) as made:
        place = open_kernel(made)
        monkeypatch.setattr("privml.agent.boot.lock_down", lambda sys: place.write_text("locked"))
        with reader_service(made.layout.gpu_socket, partial(gpumachine.read, gpu=config.gpu)):
            yield made


def judged(made: Guest, config: Config, policy: NvidiaPolicy) -> Verdict:
    """The verdict of a caller who expects this configuration's image."""
    nonce = bytes(reversed(NONCE))
    status, _, body = made.request("GET", f"/.well-known/privml-attestation?nonce={nonce.hex()}")
    assert status == 200, body
    document = parse(body)
    facts = collect(document)
    gpu = config.gpu
    assert gpu is not None
    expected = gpu_samples.expected(gpu.count, gpu.switches)
    predicate = dataclasses.replace(
        expected.predicate,
        variant="development",
        agent_events=sequence(decode(encode(config))),
        purposes=purposes(config),
    )
    checked = devices.check(
        facts,
        gpu_samples.collateral(gpu.count, gpu.switches, driver=DRIVER),
        now=gpu_samples.NOW,
        simulated_roots=policy.allow_simulated,
    )
    return samples.judge(
        document,
        facts=facts,
        expected=dataclasses.replace(expected, predicate=predicate),
        policy=dataclasses.replace(gpu_samples.POLICY, nvidia=policy),
        devices=checked,
        nonce=nonce,
    ).verdict


def of_gpus(verdict: Verdict) -> set[str]:
    return {refusal.code for refusal in verdict.refusals if refusal.code.startswith(("gpu-", "agent-"))}


def test_a_development_guest_boots_with_simulated_gpus_up_to_its_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    config = with_gpus(2, engine=ENGINE, models=(a_model(),))
    with simulated(config, monkeypatch) as made:
        assert made.boot().run(), made.said
        assert "privml: stage gpu: ok: SIMULATED: 2 x hopper, 550.163.01/96.00.A5.00.01" in made.said
        assert "privml: stage engine: ok: llama-server" in made.said
        assert made.engine.started


def test_an_engine_is_started_again_only_on_gpus_that_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    config = with_gpus(2, engine=ENGINE, models=(a_model(),))
    with simulated(config, monkeypatch) as made:
        boot = made.boot(restarts=Restarts(hour=2, first=0.01))
        assert boot.run(), made.said
        made.engine.die()
        checked: list[int] = []

        def check() -> str:
            checked.append(made.engine.starts)
            with pytest.raises(RefusedRequest, match="none until the machine is ready again"):
                AttestorClient(made.layout).quote(bytes(32), timeout=10)
            raise GpuRefused("gpu-cc-off", "environment 0", "environment 1")

        assert boot._machine is not None
        boot._machine.check = check  # type: ignore[method-assign]
        boot.watch(interval=0.01)
        assert (checked, made.engine.starts) == ([1, 1], 1)
        assert "gpu-cc-off: environment 0, expected environment 1, after 2 restarts within an hour" in made.said[-1]


def test_evidence_of_every_document_is_new_and_bound_to_the_callers_nonce(monkeypatch: pytest.MonkeyPatch) -> None:
    config = with_gpus(2)
    with simulated(config, monkeypatch) as made:
        assert made.boot().run(), made.said
        made.start_server()
        found = []
        for byte in ("11", "22"):
            status, _, body = made.request("GET", f"/.well-known/privml-attestation?nonce={byte * 32}")
            assert status == 200, body
            document = parse(body)
            facts = collect(document)
            assert [device.kind for device in document.device_evidence] == ["gpu", "gpu"]
            assert {claims.report.nonce for claims in facts.device_claims} == {facts.device_nonce}
            assert facts.devices == listed(document.device_evidence)
            found.append(document.device_evidence)
        assert not set(found[0]) & set(found[1])


def test_simulated_gpus_are_accepted_only_by_a_policy_that_names_their_root(monkeypatch: pytest.MonkeyPatch) -> None:
    firmware = frozenset({Firmware(DRIVER, sim.GPU_VBIOS)})
    config = with_gpus(1)
    with simulated(config, monkeypatch) as made:
        assert made.boot().run(), made.said
        made.start_server()
        allowed = NvidiaPolicy(allow_simulated=gpu_samples.ROOTS, firmware=firmware)
        assert of_gpus(judged(made, config, allowed)) == set()
        assert "gpu-simulated" in of_gpus(judged(made, config, NvidiaPolicy(firmware=firmware)))


def test_a_guest_whose_gpus_do_not_answer_is_not_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    with simulated(with_gpus(1), monkeypatch) as made:
        assert made.boot().run(), made.said
        made.start_server()
        path = f"/.well-known/privml-attestation?nonce={'11' * 32}"
        assert made.json(path)[0] == 200
        made.layout.gpu_socket.unlink()
        status, answer = made.json(path)
        assert (status, answer["error"]["code"]) == (503, "gpu-answer")  # type: ignore[index]


def test_genuine_gpus_are_refused_by_the_reader_of_simulated_ones(library: FakeDriver, tmp_path: Path) -> None:
    library.has(gpu_samples.R580)
    gpu = Gpu("nvidia", "hopper", 1, "580.95.05")
    layout = dataclasses.replace(Layout(), gpu=tmp_path)
    with (
        reader_service(layout.gpu_socket, library.read),
        pytest.raises(GpuRefused, match="gpu-cc-off: environment 2"),
    ):
        gpumachine.reader_of(gpu, layout).evidence(Question((NONCE,)), ready=False)


def test_the_attestor_reads_simulated_gpus_on_a_simulated_platform_only() -> None:
    config = with_gpus()
    reader = gpumachine.reader_of(config.gpu, Layout())  # type: ignore[arg-type]
    with pytest.raises(HostError, match="attestor: the GPUs are simulated, but the platform is not"):
        Attestor(config, NoTee(), gpus=reader)
    for given, gpus in ((config, None), (a_config(), reader)):
        with pytest.raises(HostError, match="attestor: it reads GPUs if, and only if"):
            Attestor(given, SimulatedNothing(), gpus=gpus)
    with pytest.raises(HostError, match="the platform is simulated, but this is not a development image"):
        Attestor(dataclasses.replace(config, variant="production"), SimulatedNothing(), gpus=reader)


class SimulatedNothing(NoTee):
    name = "simulated"


# -- lockdown --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("text", ["none [integrity] confidentiality\n", "[integrity]"])
def test_a_kernel_that_is_locked_down_stays_as_it_is(tmp_path: Path, text: str) -> None:
    place = tmp_path / "kernel/security/lockdown"
    place.parent.mkdir(parents=True)
    place.write_text(text)
    place.chmod(0o400)
    lock_down(tmp_path)
    assert place.read_text() == text


def test_a_kernel_without_lockdown_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"lockdown: the kernel cannot be locked down: No such file"):
        lock_down(tmp_path)


# -- configuration and events ----------------------------------------------------------------------------------------
def test_a_configuration_with_gpus_round_trips_and_promises_their_event() -> None:
    config = decode(encode(with_gpus(2)))
    assert config.gpu == Gpu("nvidia", "hopper", 2, "550.163.01")
    assert config.devices.count(gpu_device("nvidia")) == 2
    assert [event.name for event in sequence(config)] == ["config", "gpu-policy", "gpu-ready", "system-ready"]
    policy, ready = (loads(event.payload) for event in sequence(config)[1:3])
    assert policy == {"vendor": "nvidia", "architecture": "hopper", "count": 2, "allowed": []}
    assert ready == {"gpus": 2, "switches": 0, "cc": "on", "devtools": "off"}
    assert purposes(config) == {"serve": 4}


def test_allowed_firmware_is_configured_and_recorded() -> None:
    pairs = (GpuFirmware(DRIVER, "96.00.74.00.1A"), GpuFirmware(DRIVER, "96.00.A5.00.01"))
    config = with_gpus(gpu=Gpu("nvidia", "hopper", 1, DRIVER, pairs))
    assert decode(encode(config)).gpu == config.gpu
    assert loads(sequence(config)[1].payload)["allowed"] == [
        {"driver": DRIVER, "vbios": "96.00.74.00.1A"},
        {"driver": DRIVER, "vbios": "96.00.A5.00.01"},
    ]
    assert "allowed" not in loads(encode(with_gpus()))["gpu"]


def test_a_configuration_without_gpus_is_as_it_was() -> None:
    assert "gpu" not in loads(encode(a_config()))


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("count", 0, "config.gpu.count"),
        ("count", 17, "config.gpu.count"),
        ("count", 2, "config.gpu.count: got 2, expected 1, as in config.devices"),
        ("vendor", "amd", "expected 0"),
        ("vendor", 1, "config.gpu.vendor"),
        ("architecture", "x" * 33, "config.gpu.architecture"),
        ("driver", None, "config.gpu.driver"),
        ("allowed", [], "config.gpu.allowed: expected at least one firmware, sorted, each once"),
        ("allowed", [A_FIRMWARE] * 2, "config.gpu.allowed: expected at least one firmware, sorted, each once"),
        ("allowed", [A_FIRMWARE | {"vbios": "9"}], "allowed firmware: vbios `9`, expected a version like 96"),
        (
            "allowed",
            [A_FIRMWARE | {"driver": "five"}],
            "allowed firmware: driver `five`, expected a version like 550",
        ),
        ("allowed", [A_FIRMWARE | {"more": 1}], "more"),
        ("allowed", [A_FIRMWARE] * 65, "config.gpu.allowed"),
        ("more", 1, "more"),
    ],
)
def test_the_gpus_of_a_configuration_are_strict(path: str, value: object, said: str) -> None:
    top = loads(encode(with_gpus()))
    top["gpu"][path] = value
    with pytest.raises(EvidenceError, match=said):
        decode(canonical(top))
