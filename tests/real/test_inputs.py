"""Build from a pool alone, and kill fetch and unpack at random points."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tests.real.conftest import ROOT, only_full, privml, succeeded

from privml.base.files import sha256_file
from privml.image import content
from privml.image.workplace import Workplace
from privml.lock.locate import tools_lock_path
from privml.lock.lockfile import read_tools_lock
from privml.output.manifest import read
from privml.recipe.loader import shipped
from privml.store.objects import Store

pytestmark = [pytest.mark.real, only_full]

COMMAND = str(Path(sys.executable).with_name("privml-build"))
NOWHERE = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every input of demo-cpu, exported."""
    folder = tmp_path_factory.mktemp("pool") / "pool"
    succeeded(privml("store", "export", "demo-cpu", str(folder)))
    return folder


def cut_off(place: Path) -> tuple[list[str], dict[str, str]]:
    """A command prefix and an environment without network and with a new store."""
    (place / "config/privml-build").mkdir(parents=True)
    (place / "config/privml-build/mirrors.yaml").write_text(f"debian: [{NOWHERE}/debian]\n")
    environment = {
        **os.environ,
        "PRIVML_STORE": str(place / "store"),
        "XDG_CONFIG_HOME": str(place / "config"),
        "PIP_INDEX_URL": f"{NOWHERE}/simple",
        "PIP_CONFIG_FILE": "/dev/null",
        "PIP_RETRIES": "0",
    }
    # Not even a loopback: nothing but files.
    return (["unshare", "--net", "--"] if os.geteuid() == 0 else []), environment


def test_an_image_from_a_pool_alone_has_the_same_bytes(demo_cpu: Path, pool: Path, tmp_path: Path) -> None:
    prefix, environment = cut_off(tmp_path)
    output = tmp_path / "image"
    words = [*prefix, COMMAND, "image", "demo-cpu", "--pool", str(pool), "--output", str(output)]
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1500, check=False)
    assert done.returncode == 0, done.stderr
    assert read(output).artefacts == read(demo_cpu).artefacts
    assert (output / "manifest.json").read_bytes() == (demo_cpu / "manifest.json").read_bytes()
    shutil.rmtree(tmp_path / "store")


def test_a_build_without_pool_and_network_lists_the_missing_inputs(tmp_path: Path) -> None:
    prefix, environment = cut_off(tmp_path)
    words = [*prefix, COMMAND, "image", "demo-cpu", "--output", str(tmp_path / "image")]
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 4, done.stderr
    assert not (tmp_path / "image").exists()


class Slow(SimpleHTTPRequestHandler):
    """Serves in small pieces, so that a kill hits running downloads."""

    def log_message(self, *_: object) -> None:
        pass

    def copyfile(self, source: object, outputfile: object) -> None:
        while block := source.read(1 << 16):  # type: ignore[attr-defined]
            time.sleep(0.01)
            try:
                outputfile.write(block)  # type: ignore[attr-defined]
            except OSError:
                return


@pytest.fixture
def address(pool: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Slow, directory=str(pool)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def run_and_kill(words: list[str], environment: dict[str, str], after: float) -> int:
    """Kill the whole session after a time; 0 if it succeeded before."""
    child = subprocess.Popen(
        words, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        return child.wait(after)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        return child.wait()


def whole(store: Store) -> int:
    """Check that every object matches its name, and return their number."""
    digests = list(store.digests())
    for digest in digests:
        assert sha256_file(store.path(digest)) == digest
    return len(digests)


def test_kill_9_at_20_points_of_fetch_and_unpack(address: str, tmp_path: Path) -> None:
    """No incomplete file ever has its final name, and each run continues where the killed one stopped."""
    lock = read_tools_lock(tools_lock_path(shipped() / "any.yaml"))
    place = tmp_path / "store"
    environment = {**os.environ, "PRIVML_STORE": str(place), "no_proxy": "*"}
    program = (
        "import sys\nfrom privml.image.workplace import Workplace\nfrom privml.store.pools import Pool\n"
        "print(Workplace([Pool(sys.argv[1])]).tools().root)"
    )
    words = [sys.executable, "-c", program, address]
    seed = random.randrange(1 << 30)
    print("seed", seed)
    chance = random.Random(seed)
    store, trees = Store(place), place / "trees"
    killed, counts = 0, [0]
    while killed < 20:
        code = run_and_kill(words, environment, chance.uniform(0.3, 3.0))
        killed += code == -signal.SIGKILL
        counts.append(whole(store))
        assert counts[-1] >= counts[-2], "a killed run lost an object"
        for tree in trees.glob("[0-9a-f]*"):
            if tree.is_dir():
                kept = content.saved(trees / f"{tree.name}.content")
                assert kept is not None
                assert content.read(tree) == kept
        if code == 0:
            # It came to its end: begin the unpacking anew, so that later kills find something to do.
            for tree in trees.glob("[0-9a-f]*"):
                shutil.rmtree(tree) if tree.is_dir() else tree.unlink()
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    assert whole(store) == len({package.sha256 for package in lock.packages})
    tree = Path(done.stdout.strip())
    assert content.read(tree) == content.read(Workplace().tools().root)
    left = [path.name for path in trees.iterdir() if path.is_dir()]
    assert left == [tree.name], "the temporary trees of killed runs are gone"
    print(json.dumps({"kills": killed, "objects_after_each": counts}))
    shutil.rmtree(place)


def test_two_processes_on_one_store(address: str, tmp_path: Path) -> None:
    environment = {**os.environ, "PRIVML_STORE": str(tmp_path / "store"), "no_proxy": "*"}
    program = (
        "import sys\nfrom privml.image.workplace import Workplace\nfrom privml.store.pools import Pool\n"
        "print(Workplace([Pool(sys.argv[1])]).tools().root)"
    )
    words = [sys.executable, "-c", program, address]
    children = [
        subprocess.Popen(words, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    told = [child.communicate(timeout=600) for child in children]
    assert [child.returncode for child in children] == [0, 0], told
    assert told[0][0] == told[1][0]
    assert whole(Store(tmp_path / "store"))
    assert not list((tmp_path / "store/temp").iterdir())
    shutil.rmtree(tmp_path / "store")
