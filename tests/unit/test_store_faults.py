"""Faults of this machine: a full disk, kill -9 at any point, and the files that `gc` may remove."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from image_fake import BASE, keep
from pool_server import serving
from test_lock_deb import file, folder, package

from privml.base.errors import HostError
from privml.base.files import sha256_file
from privml.image.tools import ensure
from privml.lock.models import ToolsLock
from privml.store.fetch import Item, fetch
from privml.store.objects import Store
from privml.store.pools import Pool, export, objects_in, relative, take_in
from privml.store.room import writing
from privml.store.sweep import STALE, sweep

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small tmpfs")
BLOBS = [bytes([n]) * (40_000 + n) for n in range(30)]
ITEMS = [(hashlib.sha256(blob).hexdigest(), len(blob)) for blob in BLOBS]

pytestmark = pytest.mark.usefixtures("no_proxy")


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    folder = tmp_path / "pool"
    for (digest, _), blob in zip(ITEMS, BLOBS, strict=True):
        (folder / relative(digest)).parent.mkdir(parents=True, exist_ok=True)
        (folder / relative(digest)).write_bytes(blob)
    return folder


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of 512 KiB."""
    place = tmp_path / "small"
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "none", str(place)], check=False)
    if done.returncode != 0:
        pytest.skip("this root may not mount")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def items() -> list[Item]:
    return [Item(digest, size, "thing", ()) for digest, size in ITEMS]


def whole(store: Store) -> set[str]:
    found = set(store.digests())
    for digest in found:
        assert hashlib.sha256(store.path(digest).read_bytes()).hexdigest() == digest
    return found


@needs_root
@pytest.mark.parametrize("web", [True, False])
def test_a_full_disk_is_reported_at_once_and_the_next_run_resumes(small: Path, pool: Path, *, web: bool) -> None:
    store = Store(small / "store")
    with serving(pool) as (address, _):
        places = [Pool(address) if web else Pool(pool)]
        begun = time.monotonic()
        with pytest.raises(HostError, match="cannot be written: no space left on device") as caught:
            fetch(store, items(), pools=places)
        assert time.monotonic() - begun < 5, "a full disk is nothing to wait and try again for"
        assert "store gc" in (caught.value.hint or "")
        had = whole(store)
        assert not list((store.root / "temp").iterdir())
        subprocess.run(["mount", "-o", "remount,size=4m", str(small)], check=True)
        fetched = fetch(store, items(), pools=places)
    assert whole(store) == {digest for digest, _ in ITEMS}
    assert fetched == sum(size for digest, size in ITEMS if digest not in had)


CHILD = """
import sys
from pathlib import Path
from privml.image.tools import ensure
from privml.lock.models import ToolsLock
from privml.store.fetch import Item, fetch
from privml.store.objects import Store
from privml.store.pools import Pool
items = [Item(word.split(":")[0], int(word.split(":")[1]), "thing", ()) for word in sys.argv[3:]]
print("ready", flush=True)
fetch(Store(Path(sys.argv[1])), items, pools=[Pool(sys.argv[2])])
"""


def test_kill_9_at_random_points_of_a_fetch(tmp_path: Path, pool: Path) -> None:
    chance = random.Random()
    store = Store(tmp_path / "store")
    words = [f"{digest}:{size}" for digest, size in ITEMS]
    environment = {"PYTHONPATH": os.pathsep.join(sys.path), "PATH": os.environ["PATH"]}
    with serving(pool) as (address, _):
        for _ in range(6):  # tests/real/test_inputs.py does it 20 times, with the tools
            child = subprocess.Popen(
                [sys.executable, "-c", CHILD, str(store.root), address, *words],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
            assert child.stdout is not None
            assert child.stdout.readline() == b"ready\n"
            time.sleep(chance.uniform(0, 0.06))
            child.send_signal(signal.SIGKILL)
            child.communicate()
            before = whole(store)
            # Make room for the next kill to hit something.
            for digest in chance.sample(sorted(before), len(before) // 2):
                store.path(digest).unlink()
        fetch(store, items(), pools=[Pool(address)])
    assert whole(store) == {digest for digest, _ in ITEMS}


def test_gc_keeps_the_objects_of_the_named_locks(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    keep, drop = store.add_bytes(b"keep"), store.add_bytes(b"drop it")
    kept, dropped, busy = "a" * 64, "b" * 64, "c" * 64
    for key in (kept, dropped, busy):
        (store.root / "trees" / key / "usr").mkdir(parents=True)
        (store.root / "trees" / key / "usr/file").write_bytes(b"12345")
        (store.root / "trees" / f"{key}.content").touch()
    old, fresh = store.temporary(), store.temporary()
    os.utime(old, (1, 1))
    with (store.root / "trees" / f"{busy}.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        told = sweep(store, {keep}, {kept}, dry_run=True)
        assert (told.objects, told.trees, told.temporary) == ((drop,), (dropped,), (old.name,))
        assert told.bytes == len(b"drop it") + 5
        assert store.has(drop)
        assert old.exists()
        assert sweep(store, {keep}, {kept}, dry_run=False) == told
    assert set(store.digests()) == {keep}
    trees = store.root / "trees"
    assert {path.name for path in trees.iterdir() if path.is_dir()} == {kept, busy}
    assert not (trees / f"{dropped}.content").exists()
    assert fresh.exists()
    assert not old.exists()
    assert sweep(store, {keep}, {kept, busy}, dry_run=False, now=time.time() + 2 * STALE).temporary == (fresh.name,)


def test_gc_removes_files_unused_for_a_day(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    for key in ("a" * 64, "b" * 64):
        (tmp_path / key).write_bytes(b"tree")
        store.derived.keep(key, tmp_path / key)
    (store.root / "digests").mkdir()
    (store.root / "digests/1-2").write_bytes(b"of a file that is no more")
    for path in [*(store.root / "derived").iterdir(), store.root / "digests/1-2"]:
        os.utime(path, (1, 1))
    assert store.derived.take("a" * 64, tmp_path / "back")
    assert len(sweep(store, set(), set(), dry_run=False).temporary) == 3
    assert [store.derived.has(key) for key in ("a" * 64, "b" * 64)] == [True, False]
    assert not list((store.root / "digests").iterdir())


@needs_root
def test_a_full_disk_while_unpacking_the_tools_tree_is_reported(small: Path) -> None:
    store = Store(small / "store")
    head = [folder("usr"), folder("usr/bin"), folder("etc")]
    bulk = [file(f"usr/bin/program-{n}", os.urandom(60_000)) for n in range(5)]
    lock = ToolsLock(
        base=BASE,
        source_date_epoch=0,
        archives=(),
        packages_requested=(),
        packages=(keep(store, "base-files", package([*head, *bulk])),),
    )
    with pytest.raises(HostError, match=rf"the store {small}/store cannot be written: no space left") as caught:
        ensure(store, lock)
    assert "PRIVML_STORE" in (caught.value.hint or "")
    assert [path.suffix for path in (store.root / "trees").iterdir()] == [".lock"]
    assert whole(store) == {lock.packages[0].sha256}


@needs_root
def test_a_full_pool_is_reported_and_keeps_its_objects(small: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    digests = [store.add_bytes(blob) for blob in BLOBS]
    with pytest.raises(HostError, match=rf"the pool {small}/pool cannot be written: no space left") as caught:
        export(store, digests, small / "pool")
    assert "export to another directory" in (caught.value.hint or "")
    kept = dict(objects_in(small / "pool"))
    assert kept
    assert all(sha256_file(path) == digest for digest, path in kept.items())
    assert not list((small / "pool").rglob(".*.part"))
    with pytest.raises(HostError, match=rf"the store {small}/store cannot be written: no space left"):
        take_in(Store(small / "store"), store.root / "objects")
    subprocess.run(["mount", "-o", "remount,size=8m", str(small)], check=True)
    assert export(store, digests, small / "pool")[0] == len(BLOBS) - len(kept)
    assert take_in(Store(small / "store"), store.root / "objects")[0] > 0
    assert whole(Store(small / "store")) == set(digests)


@needs_root
def test_a_read_only_store_is_named(small: Path, pool: Path) -> None:
    store = Store(small / "store")
    fetch(store, items()[:1], pools=[Pool(pool)])
    subprocess.run(["mount", "-o", "remount,ro", str(small)], check=True)
    with pytest.raises((HostError, OSError)) as caught:
        fetch(store, items(), pools=[Pool(pool)])
    told = str(caught.value)
    assert str(small / "store") in told
    assert "ead-only file system" in told


def test_only_errors_of_the_place_are_host_errors(tmp_path: Path) -> None:
    told = "the thing .* cannot be written: disk quota exceeded"
    with pytest.raises(HostError, match=told), writing(tmp_path, "the thing", "make room"):
        raise OSError(errno.EDQUOT, "Disk quota exceeded")
    with pytest.raises(OSError, match="Connection reset") as caught, writing(tmp_path, "the thing", "make room"):
        raise OSError(errno.ECONNRESET, "Connection reset")
    assert not isinstance(caught.value, HostError)
