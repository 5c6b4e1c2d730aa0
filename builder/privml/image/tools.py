"""The tools tree: all programs used to build an image, unpacked from locked .debs and run in a sandbox.

Programs run through mkosi-sandbox (part of the locked mkosi, a separate process): the tree is /usr, only bound paths
of the host's file system are visible, and there is no network unless requested. It works as root and, with user
namespaces, as any user.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from privml.base.errors import HostError, InputsError, PrivmlError
from privml.base.files import directory_atomic, locked, remove_tree, write_atomic
from privml.base.run import Completed, run
from privml.base.steps import say, step
from privml.image import content
from privml.image.leftovers import remove_leftovers
from privml.image.unpack import fill, tree_key
from privml.lock.models import ToolsLock
from privml.store.objects import Store
from privml.store.room import STORE_HINT, writing

GENERIC_FIRMWARE = "/usr/share/ovmf/OVMF.fd"
"""A firmware in the tree that starts any machine, for what needs one and does not measure it."""
_SHOWN = 6


@dataclass(frozen=True)
class Bind:
    """A host path visible in the sandbox at ``target`` (read-only unless ``writable``)."""

    source: Path
    target: str
    writable: bool = False


@dataclass(frozen=True)
class ToolsTree:
    """An unpacked tools tree; ``environment`` holds extra variables for its programs (used by `repro`).

    ``sandbox`` is the tree with the sandbox, if it is another.
    """

    root: Path
    digest: str
    environment: Mapping[str, str] = field(default_factory=dict, hash=False)
    sandbox: Path | None = None

    @property
    def mkosi_packages(self) -> Path:
        """The directory that contains the Python package ``mkosi``."""
        return (self.sandbox or self.root) / "usr/lib/python3/dist-packages"

    def other(self, root: Path) -> ToolsTree:
        """The programs of another tree, in this tree's sandbox."""
        return ToolsTree(root, "", sandbox=self.root)

    def loader(self, program: str) -> list[str]:
        """argv prefix to run ``program`` outside the sandbox with the tree's own loader and libraries."""
        usr = self.root / "usr"
        return [
            str(usr / "lib64/ld-linux-x86-64.so.2"),
            "--library-path",
            str(usr / "lib/x86_64-linux-gnu"),
            str(self.root / program.lstrip("/")),
        ]

    def cell(self) -> list[str]:
        """argv prefix to run a multi-process program outside the sandbox, without a network, killed when we exit.

        The network namespace has only a loopback, which is down. The program is PID 1 of a PID namespace whose parent
        is killed with the thread that started it (PR_SET_PDEATHSIG), so that even after `kill -9` no daemon survives.
        The death signal is set last: a change of user, such as entering a user namespace, clears it.
        """
        first = [*self.loader("usr/bin/unshare"), "--net"]
        if os.geteuid() != 0:
            first += ["--user", "--map-auto", "--map-root-user", "--mount"]
        wish = [*self.loader("usr/bin/setpriv"), "--pdeathsig", "KILL"]
        second = [*self.loader("usr/bin/unshare"), "--pid", "--fork", "--kill-child=KILL"]
        return [*first, "--", *wish, "--", *second, "--"]

    def remove_of_subordinates(self, path: Path) -> None:
        """Remove a tree with files owned by this user's subordinate ids, which requires a user namespace."""
        code = "import shutil, sys; shutil.rmtree(sys.argv[1], ignore_errors=True)"
        unshare = [*self.loader("usr/bin/unshare"), "--user", "--map-auto", "--map-root-user"]
        run([*unshare, "--", sys.executable, "-I", "-c", code, path], what="removing leftovers of a killed build")

    def command(
        self,
        argv: Sequence[str | os.PathLike[str]],
        *,
        binds: Sequence[Bind] = (),
        network: bool = False,
        devices: bool = False,
        env: Mapping[str, str] | None = None,
        chdir: str | None = None,
    ) -> list[str]:
        """The host argv that runs ``argv`` in the sandbox, for ``run()`` and for long-running children."""
        words = [sys.executable, "-I", str(self.mkosi_packages / "mkosi/sandbox.py")]
        words += ["--ro-bind", str(self.root / "usr"), "/usr", "--ro-bind", str(self.root / "etc"), "/etc"]
        for link in ("bin", "sbin", "lib", "lib64"):
            words += ["--symlink", f"usr/{link}", f"/{link}"]
        words += ["--bind", "/proc", "/proc"]
        words += ["--bind", "/dev", "/dev"] if devices else ["--dev", "/dev"]
        for directory in ("/tmp", "/run", "/var/tmp", "/root"):  # noqa: S108 - inside the sandbox
            words += ["--tmpfs", directory]
        for bind in binds:
            words += ["--bind" if bind.writable else "--ro-bind", str(bind.source), bind.target]
        if not network:
            words.append("--unshare-net")
        words.append("--become-root")
        for key, value in {"HOME": "/root", **self.environment, **(env or {})}.items():
            words += ["--setenv", key, value]
        if chdir:
            words += ["--chdir", chdir]
        return [*words, "--", *(os.fspath(word) for word in argv)]

    def run(
        self,
        argv: Sequence[str | os.PathLike[str]],
        *,
        binds: Sequence[Bind] = (),
        network: bool = False,
        env: Mapping[str, str] | None = None,
        chdir: str | None = None,
        stdin: bytes | None = None,
        check: bool = True,
        timeout: float | None = None,
        what: str | None = None,
        error: type[PrivmlError] = HostError,
    ) -> Completed:
        """Run a program of the tree; see ``base.run.run`` for errors."""
        return run(
            self.command(argv, binds=binds, network=network, env=env, chdir=chdir),
            stdin=stdin,
            check=check,
            timeout=timeout,
            what=what or f"tools: {os.fspath(argv[0])}",
            error=error,
        )


def is_there(store: Store, lock: ToolsLock) -> bool:
    """True if the tree of ``lock`` is already unpacked, so that its packages are not needed."""
    key = tree_key(lock.packages)
    return (store.root / "trees" / key).is_dir() and _record(store, key).is_file()


def ensure(store: Store, lock: ToolsLock) -> ToolsTree:
    """The tools tree of ``lock``, unpacked under the store if needed; its .debs must then be in the store.

    An existing tree must be unchanged since it was unpacked. If not, it is removed and ``InputsError`` names the
    changes; the next run unpacks it again.
    """
    key = tree_key(lock.packages)
    root = store.root / "trees" / key
    record = _record(store, key)
    seen = root.with_name(f"{key}.seen")
    if root.is_dir() and record.is_file() and _same(seen, content.look(root)):
        return ToolsTree(root, key)
    with locked(root.with_name(f"{key}.lock")):
        known = content.saved(record)
        if root.is_dir() and known is None:
            say("unpacking the tools tree again: it has no listing to check it with")
        if root.is_dir() and known is not None:
            if not _same(seen, content.look(root)):
                with step("Checking the tools tree, because something in it was touched"):
                    _check(root, known, record)
        else:
            remove_leftovers(root)
            with (
                step(f"Unpacking the tools tree ({len(lock.packages)} packages)"),
                writing(store.root, "the store", STORE_HINT),
                directory_atomic(root) as fresh,
            ):
                made, seen_at = ToolsTree(fresh, key), [Bind(fresh, "/tree", writable=True)]
                fill(store, lock.packages, fresh, lambda argv: made.run(argv, binds=seen_at))
                # Before the tree is renamed into place: a tree without a listing would have to be unpacked again.
                content.save(content.read(fresh), record)
        write_atomic(seen, content.look(root).encode())
    return ToolsTree(root, key)


def _record(store: Store, key: str) -> Path:
    return store.root / "trees" / f"{key}.content"


def _same(seen: Path, look: str) -> bool:
    return seen.is_file() and seen.read_bytes() == look.encode()


def _check(root: Path, known: content.Listing, record: Path) -> None:
    changed = known.differences(content.read(root))
    if not changed:
        return
    record.unlink()
    remove_tree(root)
    lines = "\n".join(f"  {line}" for line in changed[:_SHOWN])
    more = f"\n  and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
    raise InputsError(
        f"the tools tree {root} changed since it was unpacked:\n{lines}{more}",
        hint="it was removed; find out what writes there, then run the same command to unpack it again",
    )
