"""Each failing stage stops the boot with a message, and the engine never starts."""

from __future__ import annotations

import base64
import json
import os
import socket
from collections.abc import Sequence
from pathlib import Path

import pytest
from agent_guest import NO_MODEL, Guest, a_config, a_data, a_model, driven, guest

from privml.agent import devices, wire
from privml.agent.attestorclient import AttestorClient
from privml.agent.attestorstate import Attestor
from privml.agent.progress import Progress
from privml.agent.tee import NoTee
from privml.agent.volume import Volumes, table
from privml.agent.wire import RefusedRequest
from privml.base.errors import EvidenceError, HostError
from privml.base.strictjson import canonical, loads
from privml.events.agent import failed_event, model_event, parse_log, replay, system_ready_event
from privml.events.configuration import Config, Engine, decode, encode
from privml.events.stages import SERVE, STAGES, sequence
from privml.evidence.sections import TLS_KEY, Key, Keys

NAMES = [stage.name for stage in STAGES]
KEYS = Keys((Key(*TLS_KEY, b"k" * 32),)).encode()


class Recorder(NoTee):
    """A platform whose quotes are their report data, and whose calls can be made to fail."""

    name = "recorder"

    def __init__(self) -> None:
        super().__init__()
        self.fault: Exception | None = None
        self.foreign = b""

    def quote(self, report_data: bytes) -> bytes:
        return report_data

    def extend(self, digest: bytes) -> None:
        if self.fault is not None:
            raise self.fault
        super().extend(digest)

    def rtmr3(self) -> bytes:
        return self.foreign or super().rtmr3()


def measured(**changes: object) -> Config:
    return decode(encode(a_config(**changes)))


def readied(tee: Recorder, config: Config) -> Attestor:
    return driven(Attestor(config, tee), config, KEYS)


# The attestor, without sockets.


def test_failure_after_ready_is_extended_before_quotes_end() -> None:
    tee = Recorder()
    attestor = readied(tee, measured())
    assert attestor.is_over
    log = attestor.quote(bytes(32), SERVE)["eventlog"]
    attestor.fail("the engine ended")
    attestor.fail("again")
    assert tee.rtmr3() != replay(parse_log(base64.b64decode(log)))
    with pytest.raises(RefusedRequest) as caught:
        attestor.quote(bytes(32), SERVE)
    assert caught.value.code == "failed"


def test_the_failed_event_is_in_the_register() -> None:
    tee, config = Recorder(), measured()
    attestor = readied(tee, config)
    attestor.fail("x")
    assert tee.rtmr3() == replay([*sequence(config), failed_event()])


def test_failure_before_ready_ends_the_stages() -> None:
    tee, config = Recorder(), measured()
    attestor = Attestor(config, tee)
    attestor.stage("config")
    attestor.fail("x")
    for call in (
        lambda: attestor.extend(sequence(config)[0]),
        lambda: attestor.keys(KEYS),
        lambda: attestor.stage("identity"),
        lambda: attestor.quote(bytes(32), SERVE),
    ):
        with pytest.raises(RefusedRequest) as caught:
            call()
        assert caught.value.code == "failed"
    assert tee.rtmr3() == bytes(48)  # nothing could have been quoted, so nothing is revoked


@pytest.mark.parametrize("fault", [HostError("rtmr3: no"), OSError(5, "I/O error")])
def test_extend_that_fails_ends_everything(fault: Exception) -> None:
    tee, config = Recorder(), measured()
    attestor = Attestor(config, tee)
    attestor.stage("config")
    tee.fault = fault
    with pytest.raises(type(fault)):
        attestor.extend(sequence(config)[0])
    tee.fault = None
    for event in sequence(config)[:2]:
        with pytest.raises(RefusedRequest) as caught:
            attestor.extend(event)
        assert caught.value.code == "failed"


def test_an_extend_by_another_process_is_noticed() -> None:
    tee, config = Recorder(), measured()
    tee.foreign = b"\x01" * 48
    with pytest.raises(HostError, match="not zero"):
        Attestor(config, tee)
    tee.foreign = b""
    attestor = Attestor(config, tee)
    attestor.stage("config")
    tee.foreign = b"\x01" * 48
    with pytest.raises(HostError, match="differs from the replay"):
        attestor.extend(sequence(config)[0])


def test_unused_rtmr3_is_never_touched() -> None:
    tee = Recorder()
    tee.fault = HostError("this kernel has no such file")
    attestor = readied(tee, measured(rtmr3="unused"))
    assert attestor.quote(bytes(32), SERVE)["bootlog"] == ""
    assert tee.rtmr3() == bytes(48)


def test_malformed_keys_are_refused() -> None:
    attestor = Attestor(measured(), Recorder())
    with pytest.raises(EvidenceError):
        attestor.keys(b'{"v":1}')


def test_simulated_platform_needs_a_development_image() -> None:
    tee = Recorder()
    tee.name = "simulated"
    with pytest.raises(HostError, match="development"):
        Attestor(measured(variant="production"), tee)


def test_unauthorised_peers_get_no_answer() -> None:
    asked: list[object] = []

    def answer(request: object) -> dict[str, object]:
        asked.append(request)
        return {}

    for allowed, expected in (((os.getuid() + 1,), b""), ((os.getuid(),), b'{"ok":{}}\n')):
        ours, theirs = socket.socketpair()
        with ours:
            ours.sendall(b'{"op":"quote"}\n')
            wire.converse(theirs, allowed, answer)
            try:
                assert ours.recv(100) == expected
            except ConnectionResetError:
                assert expected == b""  # closed over the unread request
    assert asked == [{"op": "quote"}]


# The stages.


@pytest.fixture
def made() -> object:
    with guest() as machine:
        yield machine


def failed_in(made: Guest, stage: str, text: str) -> None:
    assert not made.boot().run()
    assert made.said[-1].startswith(f"privml: stage {stage} failed: "), made.said
    assert text in made.said[-1], made.said
    assert not made.engine.started
    value = loads(made.layout.stages.read_bytes())
    statuses = [row["status"] for row in value["stages"]]
    at = NAMES.index(stage)
    assert value["ready"] is False
    assert set(statuses[:at]) <= {"ok", "skipped"}
    assert statuses[at] == "failed"
    assert set(statuses[at + 1 :]) <= {"pending"}


def test_wrong_volume_fails_in_its_stage(made: Guest) -> None:
    def runner(argv: object) -> None:
        made.runner(argv)  # type: ignore[arg-type]
        (made.layout.dev / "dm-1").unlink(missing_ok=True)
        (made.layout.dev / "dm-1").mkdir()  # a read that errors, as EIO would

    boot = made.boot(volumes=Volumes(sys=made.layout.sys, dev=made.layout.dev, runner=runner, wait=0.1))
    assert not boot.run()
    assert "does not match the measured configuration (root hash " + "aa" * 32 in made.said[-1]
    assert not made.engine.started
    assert [command[0] for command in made.commands] == ["dmsetup"]


def test_volume_table_holds_only_measured_parameters(made: Guest) -> None:
    assert made.boot().run(), made.said
    create, mount = made.commands
    verity = made.config.models[0].verity
    assert create[:3] == ["dmsetup", "create", "privml-model"]
    assert create[-1] == table(verity, made.layout.dev / "vdb1", made.layout.dev / "vdb2")
    assert create[-1].split()[3:] == [
        "1",
        str(made.layout.dev / "vdb1"),
        str(made.layout.dev / "vdb2"),
        "4096",
        "4096",
        "4",
        "1",
        "sha256",
        "aa" * 32,
        "bb" * 32,
    ]
    assert mount[1:5] == ["-t", "erofs", "-o", "ro,nosuid,nodev,noexec"]


def test_data_is_mounted_where_only_the_services_group_can_enter() -> None:
    with guest(a_config(data=(a_data(), a_data("adapter", 0xDD)))) as found:
        assert found.boot().run(), found.said
        layout = found.layout
        mounts = [argv[-1] for argv in found.commands if argv[0] == "mount"]
        assert mounts == [str(layout.run / "model"), str(layout.data / "corpus"), str(layout.data / "adapter")]
        assert [argv[4] for argv in found.commands if argv[0] == "mount"] == ["ro,nosuid,nodev,noexec"] * 3
        created = [argv[2] for argv in found.commands if argv[0] == "dmsetup"]
        assert created == ["privml-model", "privml-data", "privml-data-2"]
        assert (layout.data.stat().st_mode & 0o777, layout.data.stat().st_gid) == (0o750, layout.data_id)
        assert not layout.data.is_relative_to(layout.run), "services cannot see any of /run/privml"


def test_a_missing_volume_is_reported(made: Guest) -> None:
    (made.layout.sys / "class" / "block" / "vdb1" / "uevent").write_text("DEVNAME=vdb1\n")
    failed_in(made, "model", "no partition is named privml-model: is its disk attached?")


def test_a_fault_of_a_data_volume_says_that_it_is_one() -> None:
    with guest(a_config(data=(a_data(),))) as found:
        (found.layout.sys / "class/block/vdc1/uevent").write_text("DEVNAME=vdc1\n")
        failed_in(found, "model", "data: no partition is named privml-data: is its disk attached?")


def test_two_volumes_with_the_same_name_are_refused(made: Guest) -> None:
    entry = made.layout.sys / "class" / "block" / "vdc1"
    entry.mkdir()
    (entry / "uevent").write_text("DEVNAME=vdc1\nPARTNAME=privml-model\n")
    failed_in(made, "model", "2 partitions are named privml-model (vdb1, vdc1)")


@pytest.mark.parametrize("tool", ["dmsetup", "mount"])
def test_a_failing_tool_is_reported_with_the_kind_of_volume(made: Guest, tool: str) -> None:
    def runner(argv: Sequence[str]) -> None:
        if argv[0] == tool:
            raise HostError(f"{tool} failed with status 1\n  | no such table")
        made.runner(argv)

    boot = made.boot(volumes=Volumes(sys=made.layout.sys, dev=made.layout.dev, runner=runner, wait=0.1))
    assert not boot.run()
    assert made.said[-1] == (f"privml: stage model failed: model: {tool} failed with status 1 | no such table")


def test_an_undeclared_device_stops_the_boot(made: Guest) -> None:
    made.add_pci(9, 0x1AF4, 0x1050)
    failed_in(made, "devices", "1 x virtio-gpu not declared")
    assert made.layout.tls_certificate.exists()  # so that the server can say so


def test_keys_are_made_only_after_the_connection_filter_is_set(made: Guest) -> None:
    def fails() -> None:
        raise HostError("outbound: connect4: Operation not permitted")

    boot = made.boot(outbound=fails)
    assert not boot.run()
    assert boot.progress.stage("identity").detail == "outbound: connect4: Operation not permitted"
    assert not made.layout.tls_key.exists()


def test_the_connection_filter_is_set_once_and_first(made: Guest) -> None:
    assert made.boot().run(), made.said
    assert made.closed == [False]  # it was asked for when there was no key


def test_a_kernel_that_loads_modules_fails_the_boot(made: Guest) -> None:
    (made.layout.proc / "sys" / "kernel" / "modules_disabled").write_text("0\n")
    failed_in(made, "devices", "still loads modules")


def test_a_missing_device_fails_the_boot(made: Guest) -> None:
    for file in (made.layout.sys / "bus" / "pci" / "devices" / "0000:00:02.0").iterdir():
        file.unlink()
    (made.layout.sys / "bus" / "pci" / "devices" / "0000:00:02.0").rmdir()
    failed_in(made, "devices", "1 x virtio-net declared but not present")


def test_a_changed_configuration_fails_the_boot(made: Guest) -> None:
    made.wait_for(made.layout.stage_socket.exists, "stage socket")
    made.layout.config.write_bytes(encode(a_config(name="other")))
    failed_in(made, "config", "differs from the measured configuration")


@pytest.mark.parametrize("ours", [True, False])
def test_boot_and_attestor_must_agree_on_inference(ours: bool) -> None:
    """If they read different configurations, the boot stops; no stage is skipped or added."""
    one, other = a_config(**NO_MODEL), a_config()
    with guest(one if ours else other) as made:
        made.wait_for(made.layout.stage_socket.exists, "stage socket")
        made.layout.config.write_bytes(encode(other if ours else one))
        failed_in(made, "config", "differs from the measured configuration")


def test_an_attestor_that_expects_a_model_is_not_ready_without_it() -> None:
    config = measured()
    attestor = driven(Attestor(config, Recorder()), config, KEYS, until="keys")
    attestor.stage("model")
    with pytest.raises(RefusedRequest, match="stage `model` still lacks its event `model`"):
        attestor.stage("engine")
    config = measured(**NO_MODEL)
    without = driven(Attestor(config, Recorder()), config, KEYS, until="engine")
    with pytest.raises(RefusedRequest, match="got `model`, but stage `engine` is complete"):
        without.extend(model_event("tiny", "aa" * 32))
    without.stage("ready")
    with pytest.raises(RefusedRequest, match="got `model`, expected `system-ready`"):
        without.extend(model_event("tiny", "aa" * 32))
    without.extend(system_ready_event())
    assert without.is_over


def test_every_stage_runs_exactly_once() -> None:
    config = measured()
    attestor = driven(Attestor(config, Recorder()), config, KEYS, until="identity")
    for name in ("config", "identity", "model", "ready", "keys"):
        with pytest.raises(RefusedRequest, match=f"stage: got `{name}`, expected `devices`") as caught:
            attestor.stage(name)
        assert caught.value.code == "order"


def test_quotes_require_keys() -> None:
    config = measured()
    attestor = driven(Attestor(config, Recorder()), config, None, until="engine")
    with pytest.raises(RefusedRequest, match="stage `ready`: no keys have been set"):
        attestor.stage("ready")


def test_each_model_has_its_volume_and_its_event() -> None:
    config = a_config(models=(a_model(), a_model("second", 0xCC)))
    with guest(config) as made:
        assert made.boot().run(), made.said
        creates = [command for command in made.commands if command[0] == "dmsetup"]
        assert [command[2] for command in creates] == ["privml-model", "privml-model-2"]
        assert creates[1][-1] == table(config.models[1].verity, made.layout.dev / "vdc1", made.layout.dev / "vdc2")
        mounts = [command[-2:] for command in made.commands if command[0] == "mount"]
        assert mounts == [
            [str(made.layout.dev / "dm-1"), str(made.layout.run / "model")],
            [str(made.layout.dev / "dm-2"), str(made.layout.run / "model-2")],
        ]
        told = loads(made.layout.stages.read_bytes())["stages"][NAMES.index("model")]["detail"]
        assert told == f"tiny, root hash {'aa' * 32}; second, root hash {'cc' * 32}"
        parts = AttestorClient(made.layout).quote(bytes(32), timeout=30)
        events = parse_log(parts["eventlog"])  # type: ignore[arg-type]
        assert [event.name for event in events] == ["config", "model", "model", "engine", "system-ready"]
        assert [json.loads(event.payload)["name"] for event in events[1:3]] == ["tiny", "second"]


def test_unknown_engine_is_refused_by_name() -> None:
    with guest(a_config(engine=Engine("enigma", ("/usr/bin/enigma",)))) as made:
        failed_in(made, "config", "engine `enigma` is not known: expected one of llama-server")


def test_an_engine_that_exits_while_starting_is_reported(made: Guest) -> None:
    made.engine.start = lambda: setattr(made.engine, "living", False)  # type: ignore[method-assign]
    failed_in(made, "engine", "exited before it was ready")


def test_a_missing_attestor_is_reported(made: Guest) -> None:
    made.attestor.kill()
    made.attestor.wait()
    assert not made.boot(attestor_wait=0.2).run()
    assert made.said[-1].startswith("privml: stage platform failed: attestor: ")


def test_the_stage_table_is_replaced_as_a_whole(tmp_path: Path) -> None:
    now = [5.0]
    path = tmp_path / "stages.json"
    rows = Progress(path, NAMES, clock=lambda: now[0])
    for name in NAMES:
        rows.begin(name)
        now[0] += 1.5
        rows.end(name, "ok", "x" * 5000)
    assert rows.ready
    value = json.loads(path.read_bytes())
    assert value["ready"] is True
    assert value["stages"][1]["started_ms"] == 1500
    assert value["stages"][1]["ended_ms"] == 3000
    rows.end("engine", "failed", "gone")
    assert json.loads(path.read_bytes())["ready"] is False
    assert [entry.name for entry in tmp_path.iterdir()] == ["stages.json"]


# The configuration and the device names.


def test_configuration_round_trips() -> None:
    config = a_config(per_address=0, metrics=True, callers="tokens", issuer=b"k" * 32)
    data = encode(config)
    assert encode(decode(data)) == data
    again = decode(data)
    assert (again.per_address, again.metrics, again.callers, again.issuer) == (0, True, "tokens", b"k" * 32)
    assert [event.name for event in sequence(decode(data))] == ["config", "model", "engine", "system-ready"]
    assert parse_log(b"") == ()


@pytest.mark.parametrize(
    ("path", "value", "text"),
    [
        ("extra", 1, "unknown"),
        ("format", "privml-config/v2", "format"),
        ("engine.port", 8080, "unknown"),
        ("variant", "debug", "variant"),
        ("agent.listen", 80, "listen"),
        ("agent.max_concurrency", 0, "max_concurrency"),
        ("agent.per_address", -1, "per_address"),
        ("agent.callers", "some", "callers"),
        ("agent.callers", "open", "default value"),
        ("agent.callers", "tokens", "issuer: expected a key if, and only if"),
        ("agent.issuer", "ab" * 32, "issuer: expected a key if, and only if"),
        ("agent.issuer", "AB" * 32, "hex"),
        ("agent.per_address", 32, "default value"),
        ("agent.metrics", False, "default value"),
        ("agent.metrics", 1, "metrics"),
        ("engine", None, "one of engine and models is empty"),
        ("models", [], "one of engine and models is empty"),
        ("engine", {}, "config.engine.name: missing"),
        ("engine.name", "llama server", "words of a-z and 0-9"),
        ("models", None, "config.models: null, expected an array"),
        ("models", [False], r"config\.models\[0\]: a boolean, expected an object"),
        ("models", [{}] * 33, "33 items, expected at most 32"),
        ("engine.argv", None, "config.engine.argv: null"),
        ("models.0.verity", None, r"config\.models\[0\]\.verity: null"),
        ("engine.argv", [], "absolute"),
        ("engine.argv", ["llama-server"], "absolute"),
        ("engine.argv", ["/usr/bin/x", "a\nb"], "printable"),
        ("models.0.file", "../key", "file name"),
        ("models.0.verity.root_hash", "AA" * 32, "hex"),
        ("models.0.verity.block_size", 512, "block_size"),
        ("devices", [1], "printable"),
        ("rtmr3", "sometimes", "rtmr3"),
    ],
)
def test_configuration_is_strict(path: str, value: object, text: str) -> None:
    top = loads(encode(a_config()))
    at = top
    *parents, last = path.split(".")
    for parent in parents:
        at = at[int(parent)] if isinstance(at, list) else at[parent]
    at[last] = value
    with pytest.raises(EvidenceError, match=text):
        decode(canonical(top))


def test_a_configuration_without_inference_round_trips() -> None:
    data = encode(a_config(**NO_MODEL))
    top = loads(data)
    assert (top["engine"], top["models"]) == (None, [])
    assert top.keys() == loads(encode(a_config())).keys()
    config = decode(data)
    assert encode(config) == data
    assert (config.engine, config.models) == (None, ())
    assert [event.name for event in sequence(config)] == ["config", "system-ready"]


@pytest.mark.parametrize("gone", [("engine",), ("models",), ("engine", "models")])
def test_an_absent_engine_is_null_and_no_field_is_omitted(gone: tuple[str, ...]) -> None:
    top = loads(encode(a_config(**NO_MODEL)))
    for key in gone:
        del top[key]
    with pytest.raises(EvidenceError, match=rf"config\.{gone[0]}: missing"):
        decode(canonical(top))


def test_the_encoding_of_a_configuration_with_inference_is_pinned() -> None:
    """Format v4: the measurements of an image with a model must not change."""
    config = a_config(listen=8443)
    assert encode(config) == (
        b'{"agent":{"listen":8443,"max_concurrency":2},"devices":["virtio-blk","virtio-net"],'
        b'"engine":{"argv":["/usr/bin/llama-server","--model","/run/privml/model/model.gguf"],'
        b'"name":"llama-server"},"format":"privml-config/v4","models":[{"file":"model.gguf","name":"tiny",'
        b'"verity":{"block_size":4096,"data_blocks":4,"hash_start":1,"root_hash":"'
        + b"aa" * 32
        + b'","salt":"'
        + b"bb" * 32
        + b'"}}],"name":"demo","rtmr3":"staged","services":[],"variant":"development"}'
    )


def test_configuration_must_be_canonical() -> None:
    with pytest.raises(EvidenceError, match="canonical"):
        decode(encode(a_config()) + b"\n")


@pytest.mark.parametrize(
    ("numbers", "name"),
    [
        ((0x1AF4, 0x1042, 0x010000), "virtio-blk"),
        ((0x1AF4, 0x1001, 0x010000), "virtio-blk"),
        ((0x1AF4, 0x1041, 0x020000), "virtio-net"),
        ((0x8086, 0x29C0, 0x060000), None),
        ((0x10DE, 0x2331, 0x030200), "nvidia-gpu"),
        ((0x10DE, 0x22A3, 0x068000), "nvidia-nvswitch"),
        ((0x1234, 0x1111, 0x030000), "pci-1234:1111"),
        ((0x1B36, 0x000C, 0x060400), "pcie-root-port"),
    ],
)
def test_device_names(numbers: tuple[int, int, int], name: str | None) -> None:
    assert devices.kind(*numbers) == name
