"""The tools tree: what a sandboxed command sees, and when a tree is unpacked."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from image_fake import BASE, keep
from test_lock_deb import file, folder, link, package

from privml.base.errors import BuildError, HostError, InputsError
from privml.image import code, content
from privml.image import tools as room
from privml.image.tools import Bind, ToolsTree, ensure, is_there
from privml.image.unpack import tree_key
from privml.lock.models import Package, ToolsLock
from privml.store.objects import Store

TREE = ToolsTree(Path("/store/trees/k"), "k")
MOUNTS = {"--ro-bind": 2, "--bind": 2, "--symlink": 2, "--dev": 1, "--tmpfs": 1, "--setenv": 2, "--chdir": 1}


def mounts(words: list[str]) -> dict[str, list[tuple[str, ...]]]:
    """The sandbox's options before ``--``, by name; an option unknown to this test is an error."""
    assert words[:3] == [sys.executable, "-I", "/store/trees/k/usr/lib/python3/dist-packages/mkosi/sandbox.py"]
    found: dict[str, list[tuple[str, ...]]] = {}
    left = words[3 : words.index("--")]
    while left:
        name, *left = left
        count = MOUNTS.get(name, 0)
        assert count or name in ("--unshare-net", "--become-root"), name
        found.setdefault(name, []).append(tuple(left[:count]))
        left = left[count:]
    return found


def test_a_command_sees_the_tree_and_the_named_paths() -> None:
    words = TREE.command(
        ["mkfs.erofs", Path("/work/x")], binds=[Bind(Path("/a"), "/work", writable=True), Bind(Path("/b"), "/c")]
    )
    assert words[words.index("--") + 1 :] == ["mkfs.erofs", "/work/x"]
    found = mounts(words)
    assert found["--ro-bind"] == [("/store/trees/k/usr", "/usr"), ("/store/trees/k/etc", "/etc"), ("/b", "/c")]
    assert found["--bind"] == [("/proc", "/proc"), ("/a", "/work")]
    assert found["--symlink"] == [(f"usr/{name}", f"/{name}") for name in ("bin", "sbin", "lib", "lib64")]
    assert found["--dev"] == [("/dev",)]
    assert found["--tmpfs"] == [("/tmp",), ("/run",), ("/var/tmp",), ("/root",)]
    assert found["--setenv"] == [("HOME", "/root")]
    assert "--unshare-net" in found


def test_network_and_devices_are_only_given_when_requested() -> None:
    found = mounts(TREE.command(["apt"], network=True, devices=True, env={"A": "1", "HOME": "/h"}, chdir="/work"))
    assert "--unshare-net" not in found
    assert ("/dev", "/dev") in found["--bind"]
    assert "--dev" not in found
    assert found["--setenv"] == [("HOME", "/h"), ("A", "1")]
    assert found["--chdir"] == [("/work",)]


def test_a_program_on_the_bare_host_has_the_tree_s_loader_and_libraries() -> None:
    assert TREE.loader("usr/bin/unshare") == TREE.loader("/usr/bin/unshare") == [
        "/store/trees/k/usr/lib64/ld-linux-x86-64.so.2",
        "--library-path",
        "/store/trees/k/usr/lib/x86_64-linux-gnu",
        "/store/trees/k/usr/bin/unshare",
    ]  # fmt: skip


SANDBOX = b"""
import pathlib, sys
words = sys.argv[1:]
argv = words[words.index("--") + 1 :]
if argv[0] == "ldconfig":
    tree = pathlib.Path(words[words.index("/tree") - 1])
    (tree / "etc/ld.so.cache").write_text("made")
elif argv[0] == "fails":
    sys.exit("it says why")
print(argv)
"""


def lock_of(*packages: Package) -> ToolsLock:
    return ToolsLock(
        base=BASE,
        source_date_epoch=0,
        archives=(),
        packages_requested=(),
        packages=tuple(sorted(packages, key=lambda p: p.name)),
    )


@pytest.fixture
def lock(store: Store) -> ToolsLock:
    base = [
        folder("usr"),
        folder("usr/bin"),
        folder("usr/lib"),
        link("bin", "usr/bin"),
        link("lib", "usr/lib"),
        folder("etc"),
    ]
    # In the order of names "aaa" comes first; its /bin must still go through base-files' link.
    return lock_of(
        keep(store, "base-files", package(base)),
        keep(store, "aaa", package([folder("bin"), file("bin/mawk", b"awk", 0o755)])),
        keep(
            store,
            "mkosi",
            package(
                [
                    file("usr/lib/python3/dist-packages/mkosi/sandbox.py", SANDBOX),
                    file("usr/share/base-passwd/passwd.master", b"root:*:0:0::/root:/bin/sh\n"),
                    file("usr/share/base-passwd/group.master", b"root:*:0:\n"),
                    file("usr/share/ca-certificates/mozilla/b.crt", b"B\n"),
                    file("usr/share/ca-certificates/mozilla/a.crt", b"A\n"),
                ]
            ),
        ),
    )


def test_a_tree_is_unpacked_and_finished(store: Store, lock: ToolsLock) -> None:
    tree = ensure(store, lock)
    assert tree.root == store.root / "trees" / tree_key(lock.packages)
    assert tree.digest == tree.root.name
    assert (tree.root / "bin").is_symlink()
    assert (tree.root / "usr/bin/mawk").read_bytes() == b"awk"
    assert (tree.root / "usr/bin/awk").readlink() == Path("mawk")
    assert (tree.root / "etc/passwd").read_text().startswith("root:")
    assert (tree.root / "etc/ssl/certs/ca-certificates.crt").read_bytes() == b"A\nB\n"
    assert (tree.root / "etc/ld.so.cache").read_text() == "made"
    assert (tree.root / "etc/resolv.conf").read_bytes() == b""


def test_an_existing_tree_needs_no_packages(store: Store, lock: ToolsLock) -> None:
    assert not is_there(store, lock)
    first = ensure(store, lock)
    assert is_there(store, lock)
    for entry in lock.packages:
        store.path(entry.sha256).unlink()
    assert ensure(store, lock) == first


def _write(path: Path) -> None:
    path.chmod(0o755)
    path.write_bytes(b"awl")


CHANGES: dict[str, Callable[[Path], object]] = {
    "usr/bin/mawk changed": lambda root: _write(root / "usr/bin/mawk"),
    "etc/passwd changed": lambda root: (root / "etc/passwd").chmod(0o600),
    "usr/bin/mawk is missing": lambda root: (root / "usr/bin/mawk").unlink(),
    "usr/bin/mark is new": lambda root: (root / "usr/bin/mark").touch(),
    "usr/bin/empty is new": lambda root: (root / "usr/bin/empty").mkdir(),
    "usr/bin/awk changed": lambda root: ((root / "usr/bin/awk").unlink(), (root / "usr/bin/awk").symlink_to("x")),
}


@pytest.mark.parametrize("told", CHANGES)
def test_a_changed_tree_is_named_and_unpacked_again(store: Store, lock: ToolsLock, told: str) -> None:
    root = ensure(store, lock).root
    before = content.read(root)
    CHANGES[told](root)
    with pytest.raises(InputsError, match=rf"changed since it was unpacked:\n  {told}$") as caught:
        ensure(store, lock)
    assert "run the same command" in (caught.value.hint or "")
    assert not root.exists()
    assert content.read(ensure(store, lock).root) == before


def test_a_change_that_restores_the_times_is_seen(store: Store, lock: ToolsLock) -> None:
    program = ensure(store, lock).root / "usr/bin/mawk"
    status = program.stat()
    program.write_bytes(b"awl")
    os.utime(program, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert program.stat().st_size == status.st_size
    with pytest.raises(InputsError, match="usr/bin/mawk changed"):
        ensure(store, lock)


def test_a_touched_tree_is_hashed_once(
    store: Store, lock: ToolsLock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = ensure(store, lock)
    (tree.root / "usr/bin/mawk").touch()
    capsys.readouterr()
    assert ensure(store, lock) == tree
    assert "something in it was touched" in capsys.readouterr().err
    monkeypatch.setattr(content, "read", lambda _: pytest.fail("it was read although nothing changed"))
    assert ensure(store, lock) == tree


@pytest.mark.parametrize("record", [None, b"", b"0" * 64 + b"\nusr\tdirectory\t0755\t-\n"])
def test_a_tree_without_its_record_is_unpacked_again(store: Store, lock: ToolsLock, record: bytes | None) -> None:
    root = ensure(store, lock).root
    (root / "mark").touch()
    kept = root.with_name(f"{root.name}.content")
    kept.unlink()
    if record is not None:
        kept.write_bytes(record)
    assert not (ensure(store, lock).root / "mark").exists()


def test_leftovers_of_a_killed_unpack_are_removed(store: Store, lock: ToolsLock) -> None:
    key = tree_key(lock.packages)
    trees = store.root / "trees"
    for name in (f".{key}.abcd1234", f".{key}.old.abcd1234", f".{'0' * 64}.abcd1234"):
        (trees / name / "usr").mkdir(parents=True)
    ensure(store, lock)
    assert sorted(path.name for path in trees.iterdir() if path.is_dir()) == [f".{'0' * 64}.abcd1234", key]


def test_an_unfinished_tree_is_not_installed(store: Store, lock: ToolsLock, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise HostError("no user namespaces")

    monkeypatch.setattr(room, "fill", fails)
    with pytest.raises(HostError):
        ensure(store, lock)
    assert [path.suffix for path in (store.root / "trees").iterdir()] == [".lock"]


def test_the_key_covers_bytes_and_names(lock: ToolsLock) -> None:
    packages = lock.packages
    key = tree_key(packages)
    assert key == tree_key(packages[::-1])
    keys = {
        key,
        tree_key(packages[1:]),
        tree_key([packages[0].model_copy(update={"sha256": "0" * 64}), *packages[1:]]),
        tree_key([packages[0].model_copy(update={"name": "other"}), *packages[1:]]),
    }
    assert len(keys) == 4


def test_a_failing_tool_is_named(store: Store, lock: ToolsLock) -> None:
    tree = ensure(store, lock)
    assert tree.run(["works", "x"]).stdout == b"['works', 'x']\n"
    with pytest.raises(HostError, match=r"^tools: fails failed with status 1\n  \| it says why$"):
        tree.run(["fails"])
    with pytest.raises(BuildError, match=r"^ukify failed"):
        tree.run(["fails"], what="ukify", error=BuildError)
    assert tree.run(["fails"], check=False).returncode == 1


def test_a_tree_is_hashable_with_an_environment() -> None:
    """Results of the accelerator trial are cached by tree."""
    assert hash(ToolsTree(Path("/t"), "d", {"A": "1"})) == hash(ToolsTree(Path("/t"), "d"))


@pytest.mark.parametrize("module", ["image/unpack.py", "lock/deb.py"])
def test_the_code_that_unpacks_is_in_the_tree_s_key(
    lock: ToolsLock, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tree_key(lock.packages)
    real = code.digests

    def changed(patterns: Iterable[str]) -> dict[str, str]:
        return {name: "another" if name == f"module {module}" else was for name, was in real(patterns).items()}

    monkeypatch.setattr(code, "digests", changed)
    assert tree_key(lock.packages) != before
