"""Collect the facts about this machine without changing it; only HTTP headers are fetched."""

from __future__ import annotations

import os
import pwd
import shutil
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

from privml.base.errors import HostError, InputsError
from privml.base.run import run
from privml.host.facts import HostFacts, Kvm, MirrorFact
from privml.image import tools as tools_room
from privml.image.unpack import tree_key
from privml.lock.contents import digests
from privml.lock.models import Lock, ToolsLock, parse_time, read_lock, read_tools_lock
from privml.store.http import AGENT
from privml.store.mirrors import Mirrors, host_mirrors
from privml.store.objects import Store
from privml.vm.accelerator import choose

SECONDS = 5.0
# The test includes mount(2): where AppArmor restricts it, a user namespace can be created but not used.
_TRIAL = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
flags = 0x20000 | (0 if os.geteuid() == 0 else 0x10000000)
if libc.unshare(flags) or libc.mount(b"none", b"/", None, 0x4000 | 0x40000, None):
    sys.exit(os.strerror(ctypes.get_errno()))
"""


def look(tools_lock: Path, locks: Sequence[Path], *, root: Path = Path("/")) -> HostFacts:
    """The facts of this machine, for recipes with these ``locks``; /proc, /sys, /dev and /etc are below ``root``."""
    store = Store()
    known, problem = _tools(tools_lock)
    recipes = [lock for path in locks if (lock := _lock(path)) is not None]
    dated = [lock.archives for lock in recipes] + [lock.archives for lock in known]
    mirrors, mirrors_problem = _mirrors(known)
    user = pwd.getpwuid(os.geteuid()).pw_name if _has_name() else ""
    return HostFacts(
        root=os.geteuid() == 0,
        namespaces_problem=namespaces_problem(),
        apparmor_restricts=_word(root / "proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1",
        subuids=subordinate(root / "etc/subuid", user, os.geteuid()),
        subgids=subordinate(root / "etc/subgid", user, os.geteuid()),
        id_programs=all(shutil.which(name) for name in ("newuidmap", "newgidmap")),
        store=store.root,
        store_problem=_writable(store.root),
        store_size=store.size()[1],
        store_free=shutil.disk_usage(_existing(store.root)).free,
        out=Path("out").absolute(),
        out_free=shutil.disk_usage(_existing(Path("out").absolute())).free,
        tools_lock_problem=problem,
        locked_at=max((parse_time(archive.date) for archives in dated for archive in archives), default=None),
        missing=_missing(store, recipes, known),
        mirrors=mirrors,
        mirrors_problem=mirrors_problem,
        pip=_pip(),
        pip_configured=_pip_configured(),
        kvm=_kvm(root, store, known),
        tdx_host=_word(root / "sys/module/kvm_intel/parameters/tdx"),
        tdx_guest=(root / "dev/tdx_guest").exists(),
        now=datetime.now(UTC),
    )


def namespaces_problem() -> str:
    """Why a build cannot create its namespaces; empty if it can."""
    done = run([sys.executable, "-I", "-c", _TRIAL], check=False, what="testing namespaces")
    return "" if done.returncode == 0 else done.stderr.decode("utf-8", "replace").strip() or "unknown"


def subordinate(table: Path, user: str, uid: int) -> int:
    """Number of subordinate ids of the user in ``/etc/subuid`` or ``/etc/subgid``."""
    try:
        rows = [line.split(":") for line in table.read_text(encoding="utf-8", errors="replace").splitlines()]
    except OSError:
        return 0
    mine = [row[2] for row in rows if len(row) == 3 and row[0] in (user, str(uid)) and row[0]]
    return sum(int(count) for count in mine if count.isdigit())


def ask(suite: str, mirror: str) -> MirrorFact:
    """Whether a mirror has a suite, by a header request for its InRelease; passwords in its address are not shown."""
    host = urllib.parse.urlsplit(mirror).hostname or mirror
    request = urllib.request.Request(
        f"{mirror}/dists/{suite.partition('/')[2]}/InRelease", method="HEAD", headers={"User-Agent": AGENT}
    )
    try:
        with urllib.request.urlopen(request, timeout=SECONDS):
            return MirrorFact(suite, host)
    except urllib.error.HTTPError as error:
        return MirrorFact(suite, host, f"status {error.code}")
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        return MirrorFact(suite, host, str(reason) or type(error).__name__)


def _mirrors(known: Sequence[ToolsLock]) -> tuple[tuple[MirrorFact, ...], str]:
    try:
        mirrors: Mirrors = host_mirrors()
    except HostError as error:
        return (), error.message
    pairs = [
        (f"{archive.label}/{archive.suite}", mirror)
        for lock in known
        for archive in lock.archives
        for mirror in mirrors.get(archive.label, ())
    ]
    with ThreadPoolExecutor(8) as pool:
        return tuple(pool.map(lambda pair: ask(*pair), pairs)), ""


def _tools(path: Path) -> tuple[list[ToolsLock], str]:
    try:
        return [read_tools_lock(path)], ""
    except InputsError as error:
        return [], error.message


def _lock(path: Path) -> Lock | None:
    try:
        return read_lock(path)
    except InputsError:
        return None


def _missing(store: Store, recipes: Sequence[Lock], known: Sequence[ToolsLock]) -> int:
    return sum(not store.has(digest) for digest in digests([*recipes, *known]))


def _kvm(root: Path, store: Store, known: Sequence[ToolsLock]) -> Kvm:
    device = root / "dev/kvm"
    if not device.exists():
        return "absent"
    if not os.access(device, os.R_OK | os.W_OK):
        return "forbidden"
    if not known or not (store.root / "trees" / tree_key(known[0].packages)).is_dir():
        return "untried"
    return "usable" if choose(tools_room.ensure(store, known[0])) == "kvm" else "failing"


def _pip() -> str:
    done = run([sys.executable, "-m", "pip", "--version"], check=False, what="pip")
    if done.returncode == 0:
        return " ".join(done.stdout.decode("utf-8", "replace").split()[:2])
    return "pip" if shutil.which("pip3") or shutil.which("pip") else ""


def _pip_configured() -> bool:
    """True if an index is configured. Its address may contain a password and is not shown."""
    if any(os.environ.get(name) for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS")):
        return True
    home = {name: os.environ[name] for name in ("HOME", "XDG_CONFIG_HOME", "PIP_CONFIG_FILE") if name in os.environ}
    done = run([sys.executable, "-m", "pip", "config", "list"], env=home, check=False, what="pip config")
    return any(word in done.stdout for word in (b"index-url", b"find-links"))


def _writable(path: Path) -> str:
    place = _existing(path)
    what = "it" if place == path else str(place)
    if not place.is_dir():
        return f"{what} is not a directory"
    return "" if os.access(place, os.W_OK | os.X_OK) else f"{what} is not writable"


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path


def _word(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _has_name() -> bool:
    try:
        pwd.getpwuid(os.geteuid())
    except KeyError:
        return False
    return True
