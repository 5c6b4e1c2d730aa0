"""`deploy`: options, a script and a unit whose words are those of `run --tdx`, and what is refused."""

from __future__ import annotations

import shlex
import shutil
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import attestation_samples as samples
import pytest
from deployed import CARD, ODD, document, invoke, of, shipped_platform
from test_image_manifest import on_one_disk, sample

from privml.agent.server import DRAIN
from privml.base.errors import UsageError
from privml.cli.deploy import deploy as verb
from privml.deploy import script, unit
from privml.deploy.deployment import STOPPING
from privml.deploy.kinds import KINDS
from privml.image.tools import ToolsTree
from privml.machine.platform import Tables
from privml.output.prediction import write_prediction
from privml.recipe.loader import shipped
from privml.vm import simulation, td
from privml.vm.launch import launch_of
from privml.vm.qtest import Qemu

PLAIN = shipped_platform("qemu-11-q35")
H100 = shipped_platform("qemu-11-q35-h100")
LEARNT = replace(PLAIN, tables=Tables("0" * 64, 1), name="mine", qemu="10.1.0", binary="ab" * 32)
# Any program: it prints its words, a line each, and says that it is a QEMU.
FAKE = """#!/bin/sh
if [ "$*" = --version ]; then printf 'QEMU emulator version {version} (Debian 1)\\nCopyright\\n'; exit; fi
printf '%s\\n' "$@"
"""


@pytest.fixture
def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The directory of an image with a prediction, in a folder without recipes."""
    folder = tmp_path / "image"
    made = sample(folder)
    (folder / "manifest.json").write_bytes(made.encode())
    write_prediction(folder, made, replace(samples.PREDICATE, manifest_sha256=made.sha256))
    monkeypatch.chdir(tmp_path)
    return str(folder)


def fake(place: Path, version: str) -> str:
    place.mkdir(parents=True, exist_ok=True)
    program = place / "qemu"
    program.write_text(FAKE.format(version=version))
    program.chmod(0o755)
    return str(program)


def ran(text: str, place: Path) -> subprocess.CompletedProcess[str]:
    path = place / "start.sh"
    path.write_text(text)
    return subprocess.run(
        ["/bin/sh", str(path)], capture_output=True, text=True, check=False, env={"PATH": "/usr/bin:/bin"}
    )


@pytest.mark.parametrize("platform", [PLAIN, H100], ids=lambda one: one.name)
@pytest.mark.parametrize("folder", ["/srv/demo-cpu", ODD], ids=["plain", "odd"])
def test_the_script_starts_exactly_the_arguments(platform: object, folder: str, tmp_path: Path) -> None:
    own = tmp_path / "a b $x%"
    deployment = of(platform, folder, qemu=fake(own, "11.1.2"), state=own / "state")  # type: ignore[arg-type]
    done = ran(script.write(deployment).text, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == deployment.arguments()
    assert (own / "state").stat().st_mode & 0o777 == 0o700


def test_the_script_has_the_words_that_run_shows(image: str, tmp_path: Path) -> None:
    launch = launch_of(Path(image), sample(Path(image)), shipped())
    shown = td.shown(launch, td.TdHost((2, 4050), (), Qemu(ToolsTree(tmp_path, ""))))
    _, *words = shlex.split(shown)
    text = document(image, "--for", "qemu", "--state", "/tmp/privml-td")["text"]
    _, _, command = text.partition('exec "$qemu" \\\n')
    assert [word for word in shlex.split(command) if word != "\n"] == words


@pytest.mark.parametrize("version", ["11.1.20", "11.1.1", "10.0.13"])
def test_the_script_refuses_another_qemu(version: str, tmp_path: Path) -> None:
    done = ran(script.write(of(PLAIN, qemu=fake(tmp_path, version), state=tmp_path / "s")).text, tmp_path)
    assert (done.returncode, done.stdout) == (5, "")
    assert "is not QEMU 11.1.2, whose tables are predicted" in done.stderr


def test_the_script_of_a_learnt_platform_refuses_another_binary(tmp_path: Path) -> None:
    program = fake(tmp_path, "10.1.0")
    done = ran(script.write(of(LEARNT, qemu=program, state=tmp_path / "s")).text, tmp_path)
    assert (done.returncode, done.stdout) == (5, "")
    assert "is not the binary that mine was learnt from" in done.stderr
    digest = subprocess.run(["sha256sum", program], capture_output=True, text=True, check=True).stdout.split()[0]
    own = replace(LEARNT, binary=digest)
    assert ran(script.write(of(own, qemu=program, state=tmp_path / "s")).text, tmp_path).returncode == 0


def words_of(line: str) -> list[str]:
    """The words of a unit's line, by systemd.syntax(7): double quotes, C escapes, `%%`."""
    found, word, inside, characters = [], "", False, iter(line)
    for character in characters:
        if character == "\\":
            following = next(characters)
            word += "" if following == "\n" else following
        elif character == '"':
            inside = not inside
        elif character in " \n" and not inside:
            found += [word] if word else []
            word = ""
        else:
            word += character
            if character == "%":
                assert next(characters) == "%", "a specifier"
    assert not inside
    return [*found, *([word] if word else [])]


@pytest.mark.parametrize("platform", [PLAIN, H100], ids=lambda one: one.name)
@pytest.mark.parametrize("folder", ["/srv/demo-cpu", ODD], ids=["plain", "odd"])
def test_the_unit_starts_exactly_the_arguments(platform: object, folder: str) -> None:
    deployment = of(platform, folder)  # type: ignore[arg-type]
    text = unit.write(deployment).text
    line = text.partition("ExecStart=:")[2].partition("\nRestart=")[0]
    assert words_of(line) == [deployment.qemu, *deployment.arguments()]
    assert words_of(text.partition("BindReadOnlyPaths=")[2].partition("\n")[0]) == [folder]


def test_a_unit_gives_the_devices_of_its_platform_and_no_others() -> None:
    plain, cards = unit.write(of(PLAIN)).text, unit.write(of(H100)).text
    assert [line for line in plain.splitlines() if line.startswith("DeviceAllow")] == ["DeviceAllow=/dev/kvm rw"]
    assert "DynamicUser=yes" in plain and "LimitMEMLOCK" not in plain
    assert "DeviceAllow=char-vfio rw" in cards and "LimitMEMLOCK=infinity" in cards and "User=root" in cards


def test_stopping_the_unit_presses_the_power_button_and_waits_for_the_end(tmp_path: Path) -> None:
    lines = unit.write(of(PLAIN)).text.splitlines()
    (line,) = [line.removeprefix("ExecStop=-:") for line in lines if line.startswith("ExecStop=")]
    program, *words, monitor = words_of(line)
    assert (program, monitor) == ("/usr/bin/python3", "/run/privml-demo-cpu/qmp.sock")
    path = tmp_path / "qmp.sock"
    command = [sys.executable, *words, str(path)]
    assert subprocess.run(command, capture_output=True, check=True).stderr == b"", "QEMU has ended by itself"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        with subprocess.Popen(command) as stopping:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b'{"QMP":{}}\n{"return":{}}\n')
                assert connection.recv(4096) == b'{"execute":"qmp_capabilities"}{"execute":"system_powerdown"}'
                assert stopping.poll() is None, "QEMU has not ended"
            assert stopping.wait(20) == 0
    assert f"TimeoutStopSec={STOPPING}" in lines
    assert STOPPING > DRAIN


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not here")
@pytest.mark.parametrize("platform", [PLAIN, H100], ids=lambda one: one.name)
def test_systemd_accepts_the_unit(platform: object, tmp_path: Path) -> None:
    folder = tmp_path / 'a b\'s "x" $HOME 100%'
    folder.mkdir()
    deployment = of(platform, str(folder), qemu=fake(tmp_path, "11.1.2"))  # type: ignore[arg-type]
    path = tmp_path / "demo-cpu.service"
    path.write_text(unit.write(deployment).text)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(path)], capture_output=True, text=True, check=False
    )
    ours = [line for line in done.stderr.splitlines() if "demo-cpu" in line]
    assert (done.returncode, ours) == (0, [])
    path.write_text(path.read_text().replace("Restart=always", "Restart=sometimes"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(path)], capture_output=True, text=True, check=False
    )
    assert "demo-cpu.service" in done.stderr, "a mistake is seen"


# --- the verb -------------------------------------------------------------------------------------------------------


def test_a_file_is_written_once_with_its_mode(image: str, tmp_path: Path) -> None:
    code, output = invoke(image, "--for", "qemu", "-o", "start.sh")
    assert (code, output) == (0, "wrote start.sh: demo-cpu: 2 vCPU / 2GiB, platform qemu-11-q35\n")
    assert (tmp_path / "start.sh").stat().st_mode & 0o777 == 0o755
    code, message = invoke(image, "--for", "qemu", "-o", "start.sh")
    assert (code, "start.sh already exists" in message) == (2, True)
    (tmp_path / "link").symlink_to("nowhere")
    code, message = invoke(image, "--for", "qemu", "-o", "link")
    assert (code, "link already exists" in message) == (2, True)


def test_the_command_that_learns_the_machine_of_a_domain_can_be_pasted(image: str) -> None:
    code, output = invoke(image, "--for", "libvirt", "-o", "a domain.xml")
    assert code == 0
    (line,) = [line for line in output.splitlines() if line.startswith("to predict that machine")]
    words = shlex.split(line.partition(": ")[2])
    assert words[:6] == ["privml-build", "platform", "learn", "NAME", "--xml", "a domain.xml"]


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_says_what_is_known_of_the_registers(kind: str, image: str) -> None:
    more = ("--container", "reg.example/demo:1") if kind == "kubevirt" else ()
    found = document(image, "--for", kind, *more)
    rest = {"rtmr1": "predicted", "rtmr2": "predicted", "rtmr3": "predicted"}
    first = {
        "libvirt": {"mrtd": "predicted", "rtmr0": "differs"},
        "kubevirt": {"mrtd": "unknown", "rtmr0": "unknown"},
    }.get(kind, {"mrtd": "predicted", "rtmr0": "predicted"})
    assert found["registers"] == first | rest
    assert (found["kind"], found["name"], found["vcpus"], found["memory"]) == (kind, "demo-cpu", 2, 2 << 30)
    assert found["text"] and found["file"] is None
    assert (found["learn"] is not None) == (kind == "libvirt")


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_that_boots_from_its_disk_has_a_file_of_each_kind(kind: str, image: str) -> None:
    folder = Path(image)
    made = replace(on_one_disk(folder), platforms=("qemu-11-q35-libvirt-one-disk",))
    (folder / "manifest.json").write_bytes(made.encode())
    more = ("--container", "reg.example/demo:1") if kind == "kubevirt" else ("--folder", "/srv/x")
    found = document(image, "--for", kind, *more)
    text = found["text"]
    assert "disk.raw" in text
    assert all(word not in text for word in ("root.raw", "model.raw", "uki.efi", "<kernel", "-kernel", "kernelBoot"))
    rtmr0 = {"libvirt": "depends-on-host", "kubevirt": "unknown"}.get(kind, "predicted")
    assert found["registers"]["rtmr0"] == rtmr0
    assert found["learn"] is None
    assert any("a copy of the platform's file" in note for note in found["notes"]) == (kind == "libvirt")


def test_options_change_the_machine_and_the_host_side(image: str) -> None:
    size = ("--vcpus", "4", "--memory", "8GiB")
    places = ("--folder", "/srv/x", "--qemu", "/opt/qemu", "--port", "9000", "--name", "two")
    found = document(image, "--for", "qemu", *size, *places, "--quote-socket", "/run/q")
    text = found["text"]
    for words in ("-smp 4", "-m 8192M", "-bios /srv/x/firmware.fd", "tcp:127.0.0.1:9000-:8443", "qemu=/opt/qemu"):
        assert words in text
    assert "file:/run/privml-two/console.log" in text and '"path":"/run/q"' in text
    (note,) = found["notes"]
    assert note.startswith("the image's prediction has no 4 vCPU / 8GiB on qemu-11-q35: add it to the recipe")


def test_a_development_image_is_named(image: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(image)
    # Its firmware here is none that could be measured.
    monkeypatch.setattr(simulation, "tdx", lambda _: {})
    (folder / "manifest.json").write_bytes(replace(sample(folder), variant="development").encode())
    assert any("is a development image" in note for note in document(image, "--for", "qemu")["notes"])


def test_cards_are_those_of_the_platform(image: str) -> None:
    found = document(image, "--for", "systemd", "--platform", "qemu-11-q35-h100", "--gpu", CARD)
    assert f"vfio-pci,host={CARD}" in found["text"]
    code, message = invoke(image, "--for", "systemd", "--platform", "qemu-11-q35-h100")
    assert (code, "got 0 GPUs, but platform qemu-11-q35-h100 has 1" in message) == (2, True)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--for", "qemu", "--container", "x"), "--for qemu takes no --container"),
        (("--for", "kubevirt", "--port", "80"), "--for kubevirt takes no --port"),
        (("--for", "kubevirt", "--gpu", CARD), "--for kubevirt takes no --gpu"),
        (("--for", "libvirt", "--state", "/run/x"), "--for libvirt takes no --state"),
        (("--for", "kubevirt"), "--container is missing"),
        (
            ("--for", "kubevirt", "--container", "x", "--platform", "qemu-11-q35-h100"),
            "resource names are those of the",
        ),
        (("--for", "systemd", "--state", "/run/.."), "expected a folder of /run"),
        (("--for", "kubevirt", "--container", "a\nb"), "expected the name of an image"),
        (("--for", "qemu", "--folder", "a"), "--folder `a`: expected an absolute path"),
        (("--for", "qemu", "--folder", "/a\nb"), "--folder `/a\\nb`: expected an absolute path without control"),
        (("--for", "qemu", "--qemu", "/a\x1b"), "--qemu `/a\\x1b`"),
        (("--for", "qemu", "--state", "/a\tb"), "--state `/a\\tb`"),
        (("--for", "qemu", "--quote-socket", "/a\nb"), "--quote-socket `/a\\nb`"),
        (("--for", "qemu", "--quote-socket", "qgs"), "expected vsock:CID:PORT"),
        (("--for", "libvirt", "--quote-socket", "vsock:2:4050"), "libvirt takes the path of a Unix socket only"),
        (("--for", "qemu", "--name", "A B"), "--name A B: expected at most 63"),
        (("--for", "qemu", "--vcpus", "2"), "a shape needs both"),
        (("--for", "qemu", "--vcpus", "1..4", "--memory", "2GiB"), "name 4 sizes, expected one"),
        (("--for", "libvirt", "--vcpus", "300", "--memory", "8GiB"), "libvirt starts at most 255"),
        (("--for", "qemu", "--platform", "qemu-11-q35-tpm"), "platform qemu-11-q35-tpm is not one of TDs"),
        (("--for", "qemu", "--platform", "qemu-11-q35-one-disk"), "has 1 disks, but the image has 2 volumes"),
        (("--for", "systemd", "--state", "/var/x"), "expected a folder of /run"),
        (("--for", "systemd", "--folder", "/a:b"), "expected a path without a colon"),
    ],
    ids=lambda value: None if isinstance(value, str) else " ".join(value).encode("unicode_escape").decode(),
)
def test_what_does_not_fit_is_refused(words: tuple[str, ...], said: str, image: str, tmp_path: Path) -> None:
    code, message = invoke(image, *words, "-o", "file")
    assert (code, said in message) == (2, True), message
    assert not (tmp_path / "file").exists()


def test_an_unknown_image_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, message = invoke("no-such-image", "--for", "qemu")
    assert (code, "no-such-image" in message) == (3, True)


def test_an_image_whose_files_changed_is_refused(image: str) -> None:
    (Path(image) / "uki.efi").write_bytes(b"another")
    code, message = invoke(image, "--for", "qemu")
    assert (code, "uki.efi" in message) == (6, True)


def test_a_size_that_the_platform_has_not_is_refused(image: str) -> None:
    code, message = invoke(image, "--for", "qemu", "--vcpus", "1024", "--memory", "2GiB")
    assert (code, "1024 vCPUs, expected at most 512" in message) == (3, True)


def test_each_option_of_a_kind_is_an_option_of_the_verb() -> None:
    known = {option.lstrip("-") for param in verb.params for option in param.opts}
    assert {option for kind in KINDS.values() for option in kind.takes} <= known


def test_a_comma_in_a_path_adds_no_option() -> None:
    argv = of(PLAIN, "/srv/a,readonly=off", state=Path("/run/x,y")).arguments()
    assert any(word.endswith("file.filename=/srv/a,,readonly=off/root.raw") for word in argv)
    assert "unix:/run/x,,y/qmp.sock,server=on,wait=off" in argv
    assert "file:/run/x,y/console.log" in argv  # QEMU takes the rest of the word as the path


def test_a_unit_is_of_its_own_folder_of_run() -> None:
    with pytest.raises(UsageError, match="expected a folder of /run"):
        unit.write(of(PLAIN, state=Path("/run/a/b")))
