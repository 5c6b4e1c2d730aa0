"""Faults during real builds: a full disk, a read-only place, `kill -9`, two builds at once, a wrong clock.

Nothing is lost: the next run continues or starts again, and gives the same bytes.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.real.conftest import ROOT, await_mkosi, in_mkosi, only_full, privml, processes, settled, succeeded
from tests.unit import fake_archive
from tests.unit.fake_archive import KEYRING
from tests.unit.pool_server import serving

from privml.base.errors import InputsError
from privml.base.run import Completed
from privml.image.tools import Bind, ToolsTree
from privml.image.workplace import Workplace
from privml.lock.apt import resolve
from privml.lock.apttools import AptTools
from privml.lock.wanted import Wanted
from privml.output.manifest import Manifest, read
from privml.recipe.distributions import base
from privml.recipe.packages import Request
from privml.store.objects import Store, default_root

pytestmark = [pytest.mark.real, only_full]

COMMAND = str(Path(sys.executable).with_name("privml-build"))
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small tmpfs")


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A separate file system of 24 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "none", str(place)], check=False)
    if done.returncode != 0:
        pytest.skip("this root may not mount a tmpfs")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def resize(place: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(place)], check=True)


def files(folder: Path) -> list[str]:
    """The files in a folder, except an output's lock file, which stays."""
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


def mounts(word: str) -> list[str]:
    return [line for line in Path("/proc/self/mounts").read_text().splitlines() if word in line]


def same(directory: Path, honest: Path) -> Manifest:
    made = read(directory)
    assert made.artefacts == read(honest).artefacts
    assert (directory / "manifest.json").read_bytes() == (honest / "manifest.json").read_bytes()
    assert (directory / "prediction.json").read_bytes() == (honest / "prediction.json").read_bytes()
    return made


@needs_root
def test_a_full_disk_during_a_build_is_reported(demo_cpu: Path, small: Path) -> None:
    """The disk fills while the model, mkosi's tree and the root volume are made; after that there is space."""
    output = small / "image"
    ended = []
    for size in (24, 160, 400, 700):
        resize(small, f"size={size}m")
        done = privml("image", "demo-cpu", "--output", str(output))
        ended.append((size, done.returncode, done.stderr.strip().splitlines()[-2:]))
        if done.returncode == 0:
            break
        assert done.returncode == 5, done.stderr
        assert f"no space left on the file system of {small} while building there; " in done.stderr, done.stderr
        assert "hint: free some space, or choose another directory with --output" in done.stderr
        assert "Traceback" not in done.stderr.split("  | ")[0]
        assert files(small) == [], "what was half-made is gone"
        assert not processes(str(small))
        assert not mounts(f"{small}/")
    print(json.dumps(ended))
    assert len([line for line in ended if line[1]]) >= 2
    resize(small, "size=6g")
    succeeded(privml("image", "demo-cpu", "--output", str(output)))
    same(output, demo_cpu)


@needs_root
def test_a_read_only_output_or_store_is_reported(demo_cpu: Path, small: Path) -> None:
    resize(small, "ro")
    for output in (small / "image", small / "deeper/image"):
        done = privml("image", "demo-cpu", "--output", str(output))
        assert done.returncode == 5, done.stderr
        assert f"privml-build: Read-only file system: {small}" in done.stderr
        assert "hint: that file system is read-only: choose another place (`--output`" in done.stderr
    done = privml("image", "demo-cpu", "--output", f"{demo_cpu}/manifest.json/image")
    assert done.returncode == 5
    assert "hint: a file is in the place of a folder" in done.stderr


@needs_root
def test_a_full_disk_during_unpacking_the_tools_tree_is_reported(small: Path) -> None:
    """First the packages do not fit, then the tree; with enough space, the next run continues each time."""
    objects = default_root() / "objects"
    words = ["image", "demo-cpu", "--pool", str(objects), "--render-only", str(small / "tree")]
    told = []
    for size in (24, 320):
        resize(small, f"size={size}m")
        done = subprocess.run(
            [COMMAND, *words],
            cwd=ROOT,
            env={**os.environ, "PRIVML_STORE": str(small / "store")},
            capture_output=True,
            text=True,
            timeout=500,
            check=False,
        )
        assert done.returncode == 5, done.stderr
        assert f"the store {small}/store cannot be written: no space left on device" in done.stderr
        assert "hint: free some space (`privml-build store gc" in done.stderr
        told.append("Unpacking the tools tree" in done.stderr)
        trees = small / "store/trees"
        assert [path for path in trees.glob("*") if path.is_dir()] == []
    assert told == [False, True], "the first had no room for the packages, the second none for the tree"
    had = set(Store(small / "store").digests())
    resize(small, "size=4g")
    environment = {**os.environ, "PRIVML_STORE": str(small / "store")}
    done = subprocess.run(
        [COMMAND, *words], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stderr
    assert had <= set(Store(small / "store").digests())


def test_kill_9_at_random_points_of_a_build(demo_cpu: Path, tmp_path: Path) -> None:
    """Only the command itself is killed, as by the kernel when memory runs out; its children must end too."""
    output = tmp_path / "image"
    words = [COMMAND, "image", "demo-cpu", "--output", str(output)]
    seed = random.randrange(1 << 30)
    print("seed", seed)
    chance = random.Random(seed)
    inside = 0
    for turn in range(20):
        child = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        # Half of the points are anywhere in the first seconds, half are in mkosi, whenever this machine gets there.
        end = time.monotonic() + 200
        while turn % 2 and not in_mkosi(tmp_path) and child.poll() is None and time.monotonic() < end:
            time.sleep(0.05)
        try:
            child.wait(chance.uniform(0.0, 12.0) if turn % 2 else chance.uniform(0.3, 6.0))
        except subprocess.TimeoutExpired:
            inside += in_mkosi(tmp_path)
            child.send_signal(signal.SIGKILL)
            child.wait()
            left = settled(str(tmp_path), 5.0)
            assert left == [], f"turn {turn}: these go on after the kill: {left}"
            if output.exists():  # the image was already in its place, and only the process had not ended
                same(output, demo_cpu)
                shutil.rmtree(output)
        else:
            shutil.rmtree(output)  # it came to its end before its time: once more
        assert mounts(str(tmp_path)) == []
    print("kills in mkosi", inside)
    assert inside >= 5
    succeeded(privml(*words[1:]))
    same(output, demo_cpu)
    assert files(tmp_path) == ["image"]


def test_ctrl_c_leaves_no_files_behind(tmp_path: Path) -> None:
    output = tmp_path / "image"
    words = [COMMAND, "image", "demo-cpu", "--output", str(output)]
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 130)):
        child = subprocess.Popen(
            words,
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            # A shell that starts the tests in the background makes them ignore SIGINT, and so their children.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        await_mkosi(tmp_path, child)
        child.send_signal(number)
        _, told = child.communicate(timeout=30)
        assert child.returncode == code
        assert told.endswith("privml-build: stopped\n")
        assert settled(str(tmp_path), 5.0) == []
        assert files(tmp_path) == []


def test_two_builds_at_once_on_one_store(demo_cpu: Path, tmp_path: Path) -> None:
    """Two builds of one output share a new store; the second reuses the first's result. A third writes elsewhere."""
    environment = {**os.environ, "PRIVML_STORE": str(tmp_path / "store")}
    pool = ["--pool", str(default_root() / "objects")]
    outputs = [tmp_path / "one", tmp_path / "one", tmp_path / "two"]
    children = [
        subprocess.Popen(
            [COMMAND, "image", "demo-cpu", *pool, "--output", str(output), "--json"],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for output in outputs
    ]
    told = [child.communicate(timeout=900) for child in children]
    assert [child.returncode for child in children] == [0, 0, 0], told
    assert sorted(json.loads(out)["cached"] for out, _ in told) == [False, False, True]
    for output in set(outputs):
        same(output, demo_cpu)
    assert not list((tmp_path / "store/temp").glob("*"))
    shutil.rmtree(tmp_path / "store")


def apt_at(tools: ToolsTree, offset: str) -> AptTools:
    """apt and sqv of the tools tree, with another clock and the test's keyring."""
    environment = {
        "LD_PRELOAD": "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1",
        "FAKETIME": offset,
        "NO_FAKE_STAT": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_DISABLE_SHM": "1",
    }
    faked = ToolsTree(tools.root, tools.digest, environment)

    def run(argv: list[str], folders: Mapping[str, str]) -> Completed:
        binds = [Bind(Path(outside), inside, writable=True) for outside, inside in folders.items()]
        return faked.run(argv, binds=[*binds, Bind(KEYRING, "/keyring.gpg")], network=True, timeout=60)

    return AptTools(run, "/keyring.gpg", "the tree's apt at another time")


@pytest.mark.parametrize(
    ("days", "message", "hint"),
    [
        (-10950, "Not live until 2025-01-01", "set the clock: it says "),
        (-200, "the mirror's state is of 2026-11-13T08:08:01Z, but this machine's clock says ", "set the clock"),
        (9000, "expired at 2026-11-20T08:08:01Z, and this machine's clock says 20", "--allow-expired"),
    ],
)
def test_a_wrong_clock_is_named(
    days: int, message: str, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("privml.base.wayout._apt_settings", dict)
    archive = fake_archive.write(tmp_path / "archive", "second")
    signed = datetime(2026, 11, 15, tzinfo=UTC)
    # The machine's real clock is whatever it is; the one that apt sees is that far from the archive's day.
    offset = f"{int((signed - datetime.now(UTC)).total_seconds() + days * 86400):+d}s"
    wanted = Wanted(base("debian", "forky"), (Request("app"),), (Request("firm"),))
    with serving(archive) as (address, _):
        tools = apt_at(Workplace().tools(), offset)
        with pytest.raises(InputsError) as caught:
            resolve(tools, {"debian": (address,)}, wanted, now=signed + timedelta(days))
        right = apt_at(Workplace().tools(), f"{int((signed - datetime.now(UTC)).total_seconds()):+d}s")
        assert len(resolve(right, {"debian": (address,)}, wanted, now=signed).packages) == 3
    assert message in caught.value.message
    assert hint in (caught.value.hint or "")
