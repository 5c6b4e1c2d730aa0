"""The guest's unit files contain what the agent's code relies on."""

from __future__ import annotations

import configparser
import importlib.util
import re
from pathlib import Path

import pytest
import yaml

from privml.agent import boot, gpucheck, gpumachine, gpureader, outbound, restarts, server
from privml.agent.layout import ENGINE_ID, FABRIC_ID, GPU_ID, SERVER_ID, SWITCH_ID, Layout
from privml.engines.registry import ENGINES
from privml.events import services as own
from privml.image import render
from privml.lock.trees import agent_tree, overlays
from privml.recipe import fabrics, guestroot, tees
from privml.recipe.drivers import DRIVERS
from privml.recipe.models import Content

GUEST = Path(__file__).parents[2] / "images" / "guest"
COMMON = GUEST / "common"
ENGINE = GUEST / "engine"
UNITS = COMMON / "usr" / "lib" / "systemd" / "system"
ENGINE_UNITS = ENGINE / "usr" / "lib" / "systemd" / "system"
REPLACED = COMMON / "etc" / "systemd" / "system"
GPU = GUEST / "gpu"
GPU_UNITS = GPU / "usr" / "lib" / "systemd" / "system"
SIMULATED_GPU = GUEST / "gpu-development"
PPCIE = GUEST / "ppcie"
PPCIE_UNITS = PPCIE / "usr" / "lib" / "systemd" / "system"
READER = GPU_UNITS / "privml-gpu@.service"
OWN_UNIT = GUEST / "services/usr/lib/systemd/system/privml-service@.service"
SERVICES = ("attestor", "boot", "server", "engine")


def unit(path: Path) -> dict[str, dict[str, list[str]]]:
    """A unit file: section, key, values."""
    sections: dict[str, dict[str, list[str]]] = {}
    section: dict[str, list[str]] = {}
    for line in path.read_text().splitlines():
        if line.startswith("["):
            section = sections.setdefault(line.strip("[]"), {})
        elif line and not line.startswith("#"):
            key, _, value = line.partition("=")
            section.setdefault(key, []).append(value)
    return sections


def service_of(name: str) -> dict[str, list[str]]:
    folder = ENGINE_UNITS if name == "engine" else UNITS
    return unit(folder / f"privml-{name}.service")["Service"]


@pytest.mark.parametrize("name", SERVICES)
def test_services_start_modules_that_exist(name: str) -> None:
    service = service_of(name)
    module = service["ExecStart"][-1].split()[-1]
    assert module == f"privml.agent.{name}"
    assert importlib.util.find_spec(module) is not None
    assert service["NoNewPrivileges"] == ["yes"]
    assert service["Environment"] == ["PYTHONPATH=/usr/lib/privml"]


FOLDERS = (UNITS, ENGINE_UNITS, GPU_UNITS, PPCIE_UNITS, REPLACED, OWN_UNIT.parent)
OURS = sorted(path for folder in FOLDERS for path in folder.iterdir() if path.is_file())


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.name)
def test_no_unit_pulls_in_the_distribution_s_default_units(path: Path) -> None:
    assert unit(path)["Unit"]["DefaultDependencies"] == ["no"]


def test_every_service_but_the_two_root_ones_has_its_own_user() -> None:
    users = {name: service_of(name).get("User") for name in SERVICES}
    assert users == {"attestor": None, "boot": None, "server": ["privml"], "engine": ["privml-engine"]}


def test_what_the_engine_writes_is_data() -> None:
    """Its directory, and shared memory; all else is read-only to it."""
    engine = service_of("engine")
    assert engine["NoExecPaths"] == ["/run -/dev/shm"]
    assert engine["RuntimeDirectory"] == ["privml-engine"] and "RuntimeDirectoryPreserve" not in engine
    assert (engine["RemoveIPC"], engine["KillMode"]) == (["yes"], ["control-group"])
    assert engine["TimeoutStopSec"] == ["10s"]


def test_systemd_restarts_the_attestor_a_few_times_and_neither_boot_nor_engine() -> None:
    for name in ("boot", "engine"):
        assert service_of(name)["Restart"] == ["no"]
    attestor = unit(UNITS / "privml-attestor.service")
    assert attestor["Service"]["Restart"] == ["on-failure"]
    assert attestor["Service"]["RuntimeDirectoryPreserve"] == ["yes"]  # its place, and the keys of this boot
    assert attestor["Unit"]["StartLimitIntervalSec"] == ["infinity"]
    assert attestor["Unit"]["StartLimitBurst"] == [str(restarts.ATTESTOR + 1)]
    assert float(attestor["Service"]["RestartSec"][0]) < boot.ATTESTOR_AGAIN / 4
    assert unit(UNITS / "privml-boot.service")["Unit"]["FailureAction"] == ["poweroff-force"]


def test_memory_that_runs_out_costs_the_server_before_engine_boot_and_attestor() -> None:
    given = {name: int(service_of(name).get("OOMScoreAdjust", ["0"])[0]) for name in SERVICES}
    assert given["server"] == 1000, "whatever their sizes"
    assert given["engine"] > max(given["boot"], given["attestor"])


def test_a_server_that_exits_is_started_again_however_often() -> None:
    made = unit(UNITS / "privml-server.service")
    assert (made["Service"]["Restart"], made["Unit"]["StartLimitIntervalSec"]) == (["on-failure"], ["0"])
    assert float(made["Service"]["RestartSec"][0]) >= 1


def test_the_kernel_can_open_encrypted_volumes_and_their_keys_are_in_a_keyring_of_their_own() -> None:
    loaded = (COMMON / "etc/modules-load.d/privml.conf").read_text().splitlines()
    assert set(render.CRYPT_MODULES) <= {*loaded} & {*render.GUEST_MODULES}
    assert service_of("boot")["KeyringMode"] == ["private"]


def test_the_guest_of_each_tee_loads_the_module_that_gives_it_evidence() -> None:
    loaded = (COMMON / "etc/modules-load.d/privml.conf").read_text().splitlines()
    assert set(tees.GUEST_MODULES) == {"tdx_guest", "sev_guest"} <= {*loaded} & {*render.GUEST_MODULES}


def test_a_guest_without_an_engine_has_no_engine_user() -> None:
    """A unit whose user or group does not exist does not start."""
    common = [path for path in COMMON.rglob("*") if path.is_file()]
    assert not [path for path in common if b"privml-engine" in path.read_bytes()]


def test_the_server_is_stopped_first_and_has_time_for_its_answers() -> None:
    """What is after another unit is stopped before it; the end of the boot process turns the machine off."""
    after = " ".join(unit(UNITS / "privml-server.service")["Unit"]["After"]).split()
    assert {"privml-boot.service", "privml-attestor.service", "systemd-networkd.service"} <= set(after)
    for path in (ENGINE_UNITS / "privml-engine.service", OWN_UNIT):
        assert "privml-server.service" in unit(path)["Unit"]["Before"]
    assert float(service_of("server")["TimeoutStopSec"][0].removesuffix("s")) > server.DRAIN


def test_nothing_but_the_boot_starts_the_engine() -> None:
    for started in ("privml-engine.service", "privml-service@"):
        for path in OURS:
            assert started not in path.read_text() or path.name.startswith(started)
    assert f'Unit("{"privml-engine.service"}", ' in Path(boot.__file__).read_text()


def test_user_ids_and_directories_match_the_code() -> None:
    text = (COMMON / "usr/lib/sysusers.d/privml.conf").read_text()
    assert re.search(rf"^u privml {SERVER_ID}:{SERVER_ID} ", text, re.MULTILINE)
    assert "privml-engine" not in text  # a guest without an engine has no user for one
    text = (ENGINE / "usr/lib/sysusers.d/privml-engine.conf").read_text()
    assert re.search(rf"^u privml-engine {ENGINE_ID}:{ENGINE_ID} ", text, re.MULTILINE)
    layout = Layout()
    folders = unit(UNITS / "privml-attestor.service")["Service"]["RuntimeDirectory"][0].split()
    assert folders == [str(path.relative_to("/run")) for path in (layout.run, layout.stage_socket.parent)]


def test_prompts_go_to_an_engine_without_a_network_over_a_socket_that_only_the_server_may_open() -> None:
    engine = service_of("engine")
    assert engine["PrivateNetwork"] == ["yes"]
    assert engine["RestrictAddressFamilies"] == ["AF_UNIX"]
    assert (engine["RuntimeDirectoryMode"], engine["UMask"]) == (["0710"], ["0007"])
    assert [Path("/run") / name for name in engine["RuntimeDirectory"]] == [Layout().engine]
    # A drop-in of the engine's overlay: without an engine there is no such group, and no server would start in it.
    drop_in = "etc/systemd/system/privml-server.service.d/engine.conf"
    members = [
        path.relative_to(GUEST).as_posix()
        for path in GUEST.rglob("*")
        if path.is_file() and b"SupplementaryGroups" in path.read_bytes()
    ]
    gpus = "etc/systemd/system/privml-engine.service.d/gpu.conf"
    reader = "etc/systemd/system/privml-gpu@.service.d/ppcie.conf"
    linked = [f"ppcie/{reader}", f"ppcie/usr/lib/systemd/system/{gpumachine.FABRIC}"]
    assert sorted(members) == [f"engine/{drop_in}", f"gpu/{gpus}", *linked]
    assert unit(GPU / gpus)["Service"]["SupplementaryGroups"] == ["privml-gpu"]
    assert unit(PPCIE / reader) == {"Service": {"SupplementaryGroups": ["privml-switch"]}}
    assert unit(ENGINE / drop_in)["Service"]["SupplementaryGroups"] == engine["Group"]
    for record in ENGINES.values():
        assert str(Layout().engine_socket(record)) == record.socket


def test_a_service_of_the_image_has_a_user_of_its_own_no_network_and_sees_nothing_of_the_guest() -> None:
    service = unit(OWN_UNIT)["Service"]
    assert service["ExecStart"] == ["/usr/bin/python3 -B -P -m privml.agent.service %i"]
    assert (service["User"], service["Group"]) == ([own.user("%i")], [own.user("%i")])
    assert OWN_UNIT.name == own.unit("")
    assert ["/run/" + name for name in service["RuntimeDirectory"]] == [own.directory("%i")]
    assert (service["RuntimeDirectoryMode"], service["UMask"]) == (["0710"], ["0007"])
    assert service["Slice"] == [Path(outbound.GROUP).name]  # outgoing connections are forbidden for the whole slice
    assert (service["PrivateNetwork"], service["RestrictAddressFamilies"]) == (["yes"], ["AF_UNIX"])
    hidden = {path.lstrip("-") for path in service["InaccessiblePaths"][0].split()}
    assert {str(Layout().run), str(Layout().engine)} <= hidden
    for setting in ("PrivateDevices", "NoNewPrivileges", "RestrictNamespaces", "RestrictSUIDSGID"):
        assert service[setting] == ["yes"]
    assert service["CapabilityBoundingSet"] == [""]
    assert service["Restart"] == ["no"]


def test_sysctl_settings_harden_the_kernel() -> None:
    parser = configparser.ConfigParser()
    parser.read_string("[sysctl]\n" + (COMMON / "etc/sysctl.d/privml.conf").read_text())
    values = parser["sysctl"]
    assert values["kernel.modules_disabled"] == "1"
    assert values["kernel.sysrq"] == "0"
    assert values["kernel.kexec_load_disabled"] == "1"


@pytest.mark.parametrize("name", ["emergency", "rescue"])
def test_emergency_and_rescue_mode_power_off(name: str) -> None:
    service = unit(REPLACED / f"{name}.service")["Service"]
    assert service["ExecStart"] == ["/usr/bin/systemctl poweroff --force --force"]


def test_simulation_is_in_the_development_overlay_only() -> None:
    assert not any("privml.sim" in path.read_text() for path in COMMON.rglob("*") if path.is_file())
    dropin = GUEST / "development/etc/systemd/system/privml-attestor.service.d/simulated.conf"
    assert unit(dropin)["Service"]["ExecStart"] == ["", "/usr/bin/python3 -B -P -m privml.sim.attestor"]


def test_udev_has_no_rules_and_no_helpers() -> None:
    assert not (COMMON / "etc/udev").exists()
    assert not [path for path in guestroot.ALLOWED if "udev" in path]


def test_only_network_devices_are_announced_to_udev_again() -> None:
    dropin = REPLACED / "systemd-udev-trigger.service.d/privml.conf"
    assert unit(dropin)["Service"]["ExecStart"] == ["", "-udevadm trigger --action=add --subsystem-match=net"]


def test_the_target_s_units_are_on_the_list() -> None:
    wanted = {name for line in unit(UNITS / "privml.target")["Unit"]["Wants"] for name in line.split()}
    assert wanted - {path.name for path in OURS} <= set(guestroot.UNITS)


def test_the_connection_filter_covers_every_service_except_the_network_s() -> None:
    dropin = REPLACED / "systemd-networkd.service.d/privml.conf"
    assert unit(dropin)["Service"]["Slice"] == ["network.slice"]
    for path in OURS:
        # A template unit is in a slice of its own unless it names another.
        fabric = PPCIE_UNITS / gpumachine.FABRIC
        slices = ["system.slice"] if path in (OWN_UNIT, READER, fabric) else None
        assert unit(path).get("Service", {}).get("Slice") == slices
    assert outbound.GROUP.endswith("/system.slice")


def test_dhcp_gives_an_address_and_a_gateway_and_nothing_else() -> None:
    dhcp = unit(COMMON / "etc/systemd/network/10-privml.network")["DHCPv4"]
    assert dhcp.pop("UseGateway") == ["yes"]
    assert {value for values in dhcp.values() for value in values} == {"no"}


@pytest.mark.parametrize("name", ["systemd-sysctl", "systemd-networkd"])
def test_the_distribution_s_services_import_no_credential(name: str) -> None:
    assert unit(REPLACED / f"{name}.service.d/privml.conf")["Service"]["ImportCredential"] == [""]


# -- guests with GPUs ------------------------------------------------------------------------------------------------
def test_the_library_of_the_driver_is_loaded_without_keys_by_a_user_of_its_own() -> None:
    reader = unit(READER)["Service"]
    assert reader["ExecStart"] == ["/usr/bin/python3 -B -P -m privml.agent.gpureader"]
    assert (reader["User"], reader["Group"], reader["CapabilityBoundingSet"]) == (
        ["privml-gpu"],
        ["privml-gpu"],
        [""],
    )
    assert (reader["StandardInput"], reader["StandardOutput"]) == (["socket"], ["null"])
    assert float(reader["RuntimeMaxSec"][0].removesuffix("s")) > gpureader.LIMIT
    assert gpureader.LIMIT < gpucheck.TIMEOUT
    socket = unit(GPU_UNITS / "privml-gpu.socket")["Socket"]
    assert socket["ListenStream"] == [str(Layout().gpu_socket)]
    assert (socket["Accept"], socket["SocketMode"], socket["SocketUser"]) == (["yes"], ["0600"], ["root"])


@pytest.mark.parametrize("name", [READER.name, gpumachine.READY, gpumachine.PERSISTENCE, gpumachine.FABRIC])
def test_processes_of_the_gpus_have_their_nodes_and_nothing_else(name: str) -> None:
    service = unit((PPCIE_UNITS if name == gpumachine.FABRIC else GPU_UNITS) / name)["Service"]
    assert service["DevicePolicy"] == ["closed"]
    console = ["/dev/console rw"] if service["StandardError"] == ["tty"] else []
    assert service["DeviceAllow"] == ["char-nvidia* rw", *console]
    assert (service["PrivateNetwork"], service["RestrictAddressFamilies"]) == (["yes"], ["AF_UNIX"])
    hidden = {path.lstrip("-") for path in service["InaccessiblePaths"][0].split()}
    layout = Layout()
    assert {str(path) for path in (layout.run, layout.engine, layout.services, layout.gpu)} <= hidden
    for setting in ("NoNewPrivileges", "RestrictNamespaces", "RestrictSUIDSGID", "LockPersonality"):
        assert service[setting] == ["yes"]
    assert service["Restart"] == ["no"]
    assert "PrivateTmp" not in service  # the root is read-only, and has no /tmp to make one in


def test_only_the_ready_state_is_set_by_root_and_nothing_but_the_boot_starts_it() -> None:
    ready = unit(GPU_UNITS / gpumachine.READY)["Service"]
    assert ready["ExecStart"] == ["/usr/bin/python3 -B -P -m privml.agent.gpuready"]
    assert (ready["Type"], ready["CapabilityBoundingSet"], ready.get("User")) == (
        ["oneshot"],
        ["CAP_SYS_ADMIN"],
        None,
    )
    for name in (gpumachine.READY, gpumachine.PERSISTENCE, gpumachine.FABRIC):
        for path in (*GPU.rglob("*"), *PPCIE.rglob("*")):
            assert not path.is_file() or path.name == name or name not in path.read_text()


def test_the_engine_has_no_device_but_the_gpus_of_a_guest_that_has_some() -> None:
    assert service_of("engine")["PrivateDevices"] == ["yes"]
    drop_in = unit(GPU / "etc/systemd/system/privml-engine.service.d/gpu.conf")["Service"]
    assert (drop_in["PrivateDevices"], drop_in["DevicePolicy"]) == (["no"], ["closed"])
    assert drop_in["DeviceAllow"] == ["char-nvidia* rw"]


def test_the_group_of_the_nodes_is_that_of_the_code() -> None:
    text = (GPU / "usr/lib/sysusers.d/privml-gpu.conf").read_text()
    assert re.search(rf"^u privml-gpu {GPU_ID}:{GPU_ID} ", text, re.MULTILINE)
    assert GPU_ID not in (SERVER_ID, ENGINE_ID) and own.FIRST_ID > GPU_ID


def test_the_guest_with_gpus_listens_for_questions_before_boot_and_attestor_start() -> None:
    assert unit(GPU / "etc/systemd/system/privml.target.d/gpu.conf")["Unit"]["Wants"] == ["privml-gpu.socket"]
    for name in ("boot", "attestor"):
        drop_in = unit(GPU / f"etc/systemd/system/privml-{name}.service.d/gpu.conf")["Unit"]
        assert drop_in == {"Wants": ["privml-gpu.socket"], "After": ["privml-gpu.socket"]}


def gpu_content(variant: str) -> Content:
    text = (GUEST.parents[1] / "recipes/tdx-gpu-min.yaml").read_text()
    return Content.model_validate(yaml.safe_load(text) | {"variant": variant})


def test_fabric_manager_has_a_user_of_its_own_and_the_engine_no_way_to_the_switches() -> None:
    service = unit(PPCIE_UNITS / gpumachine.FABRIC)["Service"]
    assert (service["User"], service["Group"], service["CapabilityBoundingSet"]) == (
        ["privml-fabric"],
        ["privml-fabric"],
        [""],
    )
    assert service["SupplementaryGroups"] == ["privml-gpu privml-switch"]
    text = (PPCIE / "usr/lib/sysusers.d/privml-fabric.conf").read_text()
    assert re.search(rf"^u privml-fabric {FABRIC_ID}:{FABRIC_ID} ", text, re.MULTILINE)
    assert re.search(rf"^g privml-switch {SWITCH_ID}$", text, re.MULTILINE)
    assert len({SERVER_ID, ENGINE_ID, GPU_ID, FABRIC_ID, SWITCH_ID}) == 5 and max(FABRIC_ID, SWITCH_ID) < own.FIRST_ID
    engine = unit(GPU / "etc/systemd/system/privml-engine.service.d/gpu.conf")["Service"]
    assert not {"privml-fabric", "privml-switch"} & set(" ".join(engine["SupplementaryGroups"]).split())
    assert not list(PPCIE.rglob("privml-engine*"))


def test_fabric_manager_is_given_our_settings_and_listens_on_unix_sockets_only() -> None:
    service = unit(PPCIE_UNITS / gpumachine.FABRIC)["Service"]
    program, option, file = service["ExecStart"][0].split()
    (board,) = (record.fabric for record in DRIVERS.values() if record.fabric is not None)
    assert program.removeprefix("/") in board.archives["manager"].files.values()
    assert Path(program).name in board.programs
    assert (option, file) == ("-c", f"/{fabrics.FOLDER}/fabricmanager.cfg")
    lines = (PPCIE / file.removeprefix("/")).read_text().splitlines()
    settings = dict(line.split("=", 1) for line in lines if not line.startswith("#"))
    folder = f"/run/{service['RuntimeDirectory'][0]}/"
    assert settings["UNIX_SOCKET_PATH"].startswith(folder) and settings["FM_CMD_UNIX_SOCKET_PATH"].startswith(folder)
    assert not [name for name in settings if "INTERFACE" in name or "PORT" in name]
    assert settings["TOPOLOGY_FILE_PATH"] == f"/{fabrics.FOLDER}"
    assert any(target.startswith(f"{fabrics.FOLDER}/") for target in board.archives["manager"].files.values())
    # In the foreground, for one owner of the whole board, and it ends rather than going on with less.
    wanted = {"DAEMONIZE": "0", "FABRIC_MODE": "0", "FM_STAY_RESIDENT_ON_FAILURES": "0", "LOG_FILE_NAME": ""}
    wanted |= {f"{name}_FAILURE_MODE": "0" for name in ("ACCESS_LINK", "TRUNK_LINK", "NVSWITCH")}
    assert wanted.items() <= settings.items()
    assert (service["Type"], service["StandardError"]) == (["exec"], ["tty"])


def test_simulated_gpus_are_in_development_images_only() -> None:
    assert overlays(gpu_content("production")) == ("guest/common", "guest/gpu", "guest/production")
    assert overlays(gpu_content("development"))[-3:] == ("guest/gpu", "guest/development", "guest/gpu-development")
    assert not any("privml.sim" in path.read_text() for path in GPU.rglob("*") if path.is_file())
    for path in SIMULATED_GPU.rglob("*.conf"):
        module = unit(path)["Service"]["ExecStart"][-1].split()[-1]
        assert module.startswith("privml.sim.") and importlib.util.find_spec(module) is not None
    production = [file.path for file in agent_tree("production").files]
    assert [path for path in production if "/sim/" in path] == []
    assert "privml/sim/gpumachine.py" in [file.path for file in agent_tree("development").files]
