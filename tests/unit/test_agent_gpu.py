"""A guest with GPUs: its configuration and events, the lockdown after its driver, and where its boot ends."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from agent_guest import NO_MODEL, Guest, a_config, guest

from privml.agent.lockdown import lock_down
from privml.base.errors import EvidenceError, HostError
from privml.base.strictjson import canonical, loads
from privml.events.configuration import Config, Gpu, decode, encode, gpu_device
from privml.events.stages import purposes, sequence

NVIDIA = 0x10DE
CONTROLLER_3D = 0x030200


def with_gpus(count: int = 1) -> Config:
    devices = ("virtio-blk", "virtio-net", *["nvidia-gpu"] * count)
    return a_config(**NO_MODEL, devices=devices, gpu=Gpu("nvidia", "hopper", count, "550.163.01"))


def open_kernel(made: Guest, text: str = "[none] integrity confidentiality\n") -> Path:
    place = made.layout.sys / "kernel" / "security" / "lockdown"
    place.parent.mkdir(parents=True)
    place.write_text(text)
    return place


@pytest.fixture
def made() -> Iterator[Guest]:
    with guest(with_gpus()) as running:
        yield running


def boot(made: Guest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Boot with a kernel that does as it is told; the last line on the console."""
    place = open_kernel(made)
    monkeypatch.setattr("privml.agent.boot.lock_down", lambda sys: place.write_text(f"locked by {sys.name}"))
    assert not made.boot().run()
    assert place.read_text() == "locked by sys"
    return made.said[-1]


def test_a_machine_without_the_gpu_is_parked_by_name(made: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    assert boot(made, monkeypatch) == "privml: stage gpu failed: gpu: recipe declares 1 GPU, found 0"


def test_the_number_of_gpus_is_exact(made: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    for slot in (8, 9):
        made.add_pci(slot, NVIDIA, 0x2331, CONTROLLER_3D)
    assert boot(made, monkeypatch) == "privml: stage gpu failed: gpu: recipe declares 1 GPU, found 2"


def test_a_gpu_that_was_not_checked_is_not_used(made: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    made.add_pci(8, NVIDIA, 0x2331, CONTROLLER_3D)
    said = boot(made, monkeypatch)
    assert said == "privml: stage gpu failed: gpu: gpu-unchecked: this agent cannot check the evidence of a GPU"
    made.start_server()
    status, answer = made.json(f"/.well-known/privml-attestation?nonce={'00' * 32}")
    assert (status, answer["error"]["code"]) == (503, "failed")  # type: ignore[index]


def test_other_devices_are_still_checked_first(made: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    made.add_pci(9, 0x1AF4, 0x1050)
    assert boot(made, monkeypatch) == "privml: stage devices failed: devices: 1 x virtio-gpu not declared"


def test_a_gpu_that_no_recipe_declares_stops_the_boot() -> None:
    with guest() as made:
        made.add_pci(8, NVIDIA, 0x2331, CONTROLLER_3D)
        assert not made.boot().run()
        assert made.said[-1] == "privml: stage devices failed: devices: 1 x nvidia-gpu not declared"


def test_a_guest_without_gpus_skips_their_stage() -> None:
    with guest() as made:
        assert made.boot().run(), made.said
        assert "privml: stage gpu: skipped: the measured configuration names no GPU" in made.said


def test_a_kernel_that_cannot_be_locked_down_stops_the_boot(made: Guest) -> None:
    open_kernel(made)  # keeps what is written to it, as no kernel does
    assert not made.boot().run()
    assert made.said[-1] == "privml: stage config failed: lockdown: got `integrity`, expected [integrity]"
    assert not made.layout.tls_key.exists()


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
    assert [event.name for event in sequence(config)] == ["config", "gpu-ready", "system-ready"]
    assert loads(sequence(config)[1].payload) == {"gpus": 2, "switches": 0, "cc": "on", "devtools": "off"}
    assert purposes(config) == {"serve": 3}


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
        ("more", 1, "more"),
    ],
)
def test_the_gpus_of_a_configuration_are_strict(path: str, value: object, said: str) -> None:
    top = loads(encode(with_gpus()))
    top["gpu"][path] = value
    with pytest.raises(EvidenceError, match=said):
        decode(canonical(top))
