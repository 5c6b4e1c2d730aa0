"""Every program that shapes an image comes from the tools tree: builds work with the host's programs hidden.

In the outer sandbox, an empty file that cannot be run covers every host program that the tree also has. What works
there works without the host's tools.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.real.conftest import ROOT, processes, settled

from privml.image import fixednames
from privml.image.tools import Bind, ToolsTree
from privml.output.manifest import read

pytestmark = pytest.mark.real

FOLDERS = tuple(f"{place}/{name}" for place in ("/usr/local", "/usr", "") for name in ("bin", "sbin"))
PROGRAMS = {
    "mkfs.erofs": "usr/bin/mkfs.erofs",
    "qemu-system-x86_64": "usr/bin/qemu-system-x86_64",
    "swtpm": "usr/bin/swtpm",
    "ukify": "usr/bin/ukify",
    "mkosi": "usr/bin/mkosi",
    "systemd-repart": "usr/bin/systemd-repart",
    "apt-get": "usr/bin/apt-get",
}
RUN = """
import json, sys
from privml.image.workplace import Workplace
tools = Workplace().tools()
told = {}
for name in sys.argv[1:]:
    done = tools.run([name, "--version"])
    place = tools.run(["sh", "-c", 'stat -L -c %d:%i "$(command -v "$0")"', name])
    told[name] = [(done.stdout + done.stderr).decode(), place.stdout.decode().strip()]
print(json.dumps(told))
"""


def hidden(tools: ToolsTree) -> list[str]:
    """The host's programs that the tree also has, except Python, which the host provides."""
    names = {path.name for folder in ("bin", "sbin") for path in (tools.root / "usr" / folder).iterdir()}
    found = {Path(os.path.realpath(f"{folder}/{name}")) for folder in FOLDERS for name in names}
    # `ld.so` is a link to the host's loader, without which nothing of the host runs, Python included.
    programs = {path for path in found if path.is_file() and str(path.parent) in FOLDERS}
    return sorted(str(path) for path in programs if not path.name.startswith("python"))


@pytest.fixture(scope="module")
def bare(tools: ToolsTree, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """argv prefix that runs a program on this host without the host's tools, and with an empty PATH."""
    place = tmp_path_factory.mktemp("bare")
    nothing = place / "nothing"
    nothing.touch(mode=0o444)
    (place / "empty").mkdir()
    words = [sys.executable, "-I", str(tools.mkosi_packages / "mkosi/sandbox.py"), "--bind", "/", "/"]
    for path in hidden(tools):
        words += ["--ro-bind", str(nothing), path]
    return [*words, "--setenv", "PATH", str(place / "empty"), "--"]


def run(*words: str, **more: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=600, **more)  # type: ignore[call-overload, no-any-return]


def test_the_host_s_tools_are_hidden(tools: ToolsTree, bare: list[str]) -> None:
    paths = hidden(tools)
    assert any(path.endswith(("/apt-get", "/tar")) for path in paths)
    code = "import os, sys; print([p for p in sys.argv[1:] if os.access(p, os.X_OK) or os.path.getsize(p)])"
    done = run(*bare, sys.executable, "-c", code, *paths)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
    done = run(*bare, sys.executable, "-c", "import shutil; print(shutil.which('tar'), shutil.which('sh'))")
    assert done.stdout == "None None\n"


def test_programs_come_from_the_tree_and_run(tools: ToolsTree, bare: list[str]) -> None:
    done = run(*bare, sys.executable, "-c", RUN, *PROGRAMS)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    for name, path in PROGRAMS.items():
        version, place = told[name]
        assert any(character.isdigit() for character in version), (name, version)
        status = (tools.root / path).stat()
        assert place == f"{status.st_dev}:{status.st_ino}", name
    assert "11.1" in told["qemu-system-x86_64"][0]


def test_mkosi_starts_with_only_the_tree_s_unshare(tools: ToolsTree, bare: list[str]) -> None:
    unshare = [*tools.loader("usr/bin/unshare"), "--net", *(["--user", "--map-root-user"] if os.geteuid() else [])]
    done = run(
        *bare,
        *unshare,
        "--",
        sys.executable,
        "-m",
        "mkosi",
        "--version",
        env={"PYTHONPATH": str(tools.mkosi_packages), "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("mkosi 2")


def test_a_command_sees_only_the_named_files_of_the_host(tools: ToolsTree, tmp_path: Path) -> None:
    (tmp_path / "given").mkdir()
    (tmp_path / "given/file").write_text("x")
    script = (
        "echo /*; ls /work; cut -d' ' -f5 /proc/self/mountinfo | sort; "
        'for p in "$0" /home /var/lib /opt /sys /boot; do [ ! -e "$p" ] || echo seen "$p"; done; '
        "ls -A /root /tmp /run; cat /proc/net/dev | wc -l"
    )
    done = tools.run(["sh", "-c", script, str(tmp_path)], binds=[Bind(tmp_path / "given", "/work")])
    lines = done.stdout.decode().splitlines()
    assert lines[0].split() == [
        "/bin", "/dev", "/etc", "/lib", "/lib64", "/proc", "/root", "/run", "/sbin", "/tmp", "/usr", "/var", "/work",
    ]  # fmt: skip
    assert lines[1] == "file"
    mounted = [line for line in lines[2:] if line.startswith("/") and not line.startswith(("/dev", "/proc"))]
    assert sorted(set(mounted) - {"/root:", "/run:", "/tmp:"}) == [
        "/", "/etc", "/root", "/run", "/tmp", "/usr", "/var/tmp", "/work",
    ]  # fmt: skip
    assert not [line for line in lines if line.startswith("seen")]
    assert lines[-1] == "3"  # two lines of heading, and the loopback


@pytest.mark.parametrize("target", ["/usr/x", "/etc/x", "/work/x"])
def test_the_tree_and_read_only_binds_cannot_be_written(tools: ToolsTree, tmp_path: Path, target: str) -> None:
    done = tools.run(["touch", target], binds=[Bind(tmp_path, "/work")], check=False)
    assert done.returncode != 0
    assert b"Read-only file system" in done.stderr


def test_an_image_is_the_same_without_the_host_s_tools(
    demo_cpu: Path, bare: list[str], tmp_path: Path, full: bool
) -> None:
    if not full:
        pytest.skip("a whole build more: `make check-full` does it")
    command = str(Path(sys.executable).with_name("privml-build"))
    done = run(*bare, command, "image", "demo-cpu", "--output", str(tmp_path / "image"), cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert read(tmp_path / "image").artefacts == read(demo_cpu).artefacts


def test_a_folder_in_memory_has_the_size_that_is_asked_for(tools: ToolsTree, tmp_path: Path) -> None:
    """Without one it has half of the memory, however much is free."""
    size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * 3 // 4 >> 20 << 20
    show = "import os, sys; found = os.statvfs(sys.argv[1]); print(found.f_blocks * found.f_frsize)"
    seen = [fixednames.ROOT / name for name in ("work", "room")]
    for place, expected in zip(seen, (None, size), strict=True):
        words = [*tools.cell(), *fixednames.arguments({"work": tmp_path, "room": size})]
        done = run(*map(str, words), sys.executable, "-c", show, str(place))
        assert done.returncode == 0, done.stderr
        assert expected is None or int(done.stdout) == expected


def test_no_process_outlives_the_run_that_started_it(tools: ToolsTree, tmp_path: Path) -> None:
    """Not even a daemon in its own session, when only the command that started it is killed."""
    mark = tmp_path / "mark"
    daemon = ["sh", "-c", f"setsid sleep 999 & echo > {mark}; wait"]
    inside = f"import subprocess; subprocess.run({daemon!r}, cwd={str(tmp_path)!r})"
    maker = tmp_path / "maker.py"
    maker.write_text(f"import subprocess\nsubprocess.run({[*tools.cell(), sys.executable, '-c', inside]!r})\n")
    child = subprocess.Popen([sys.executable, str(maker)])
    end = time.monotonic() + 20
    while not mark.exists() and time.monotonic() < end:
        time.sleep(0.05)
    found = processes(str(tmp_path))
    child.kill()
    child.wait()
    assert any(line.endswith("sleep 999 ") for line in found), found
    assert len(found) >= 4, "maker, namespaces, program, shell, daemon"
    assert settled(str(tmp_path), 10) == []
