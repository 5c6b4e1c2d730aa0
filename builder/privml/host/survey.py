"""Collect the facts about this machine without changing it; only the signed states of archives are fetched."""

from __future__ import annotations

import hashlib
import http.client
import os
import pwd
import shutil
import sys
import urllib.parse
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

from privml.base import home
from privml.base.errors import HostError, InputsError
from privml.base.http import Connections
from privml.base.run import run
from privml.base.wayout import WayOut, host_way_out, without_password
from privml.host.facts import HostFacts, Kvm, MirrorFact
from privml.host.qemu import look as qemu_look
from privml.image import namespaces
from privml.image import tools as tools_room
from privml.image.unpack import tree_key
from privml.lock.contents import digests
from privml.lock.debian import parse_inrelease
from privml.lock.lockfile import read_lock, read_tools_lock
from privml.lock.models import Lock, ToolsLock
from privml.lock.record import parse_time
from privml.lock.states import judge
from privml.recipe.distributions import Suite
from privml.recipe.platform import PlatformFile
from privml.store.mirrors import Mirrors, configured_addresses, host_mirrors
from privml.store.objects import Store
from privml.vm.accelerator import choose

SECONDS = 5.0
_MAX_STATE = 4 * 1024 * 1024


def look(
    tools_lock: Path, locks: Sequence[Path], platforms: Iterable[PlatformFile] = (), *, root: Path = Path("/")
) -> HostFacts:
    """The facts of this machine, for recipes with these ``locks`` and ``platforms``; its files are below ``root``."""
    store = Store()
    known, problem = _tools(tools_lock)
    recipes = [lock for path in locks if (lock := _lock(path)) is not None]
    dated = [lock.archives for lock in recipes] + [lock.archives for lock in known]
    now = datetime.now(UTC)
    mirrors, mirrors_problem = _mirrors(known, recipes, now)
    user = pwd.getpwuid(os.geteuid()).pw_name if _has_name() else ""
    return HostFacts(
        root=os.geteuid() == 0,
        namespaces_problem=namespaces.problem(),
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
        now=now,
        qemu=qemu_look(root, platforms),
        store_owner=home.other_owner(_existing(store.root)),
    )


def subordinate(table: Path, user: str, uid: int) -> int:
    """Number of subordinate ids of the user in ``/etc/subuid`` or ``/etc/subgid``."""
    try:
        rows = [line.split(":") for line in table.read_text(encoding="utf-8", errors="replace").splitlines()]
    except OSError:
        return 0
    mine = [row[2] for row in rows if len(row) == 3 and row[0] in (user, str(uid)) and row[0]]
    return sum(int(count) for count in mine if count.isdigit())


def ask(suite: Suite, mirror: str, way: WayOut, origin: str, now: datetime) -> MirrorFact:
    """Whether a mirror is an archive with this suite: the same client as a build's reads its signed state.

    An empty ``origin`` accepts any.

    The state's signature is checked when something is locked. An expired state is a state.
    """
    name = f"{suite.archive}/{suite.name}"
    parts = urllib.parse.urlsplit(without_password(mirror))
    host = parts.hostname or mirror
    url = f"{mirror}/dists/{suite.name}/InRelease"
    try:
        with Connections(way, timeout=SECONDS) as connections, connections.get(url) as response:
            if response.status != 200:
                return MirrorFact(name, host, f"status {response.status}")
            data = response.read(_MAX_STATE + 1)
        if len(data) > _MAX_STATE:
            return MirrorFact(name, host, f"its InRelease has more than {_MAX_STATE} bytes")
        digest = hashlib.sha256(data).hexdigest()
        state = judge(suite, parse_inrelease(data), digest, (), allow_expired=True, now=now, origin=origin)
    except InputsError as error:
        return MirrorFact(name, host, error.message.removeprefix(f"{name}: "))
    except (OSError, ValueError, http.client.HTTPException) as error:
        return MirrorFact(name, host, str(error) or type(error).__name__)
    return MirrorFact(name, host, date=state.date[:10])


def _mirrors(
    known: Sequence[ToolsLock], recipes: Sequence[Lock], now: datetime
) -> tuple[tuple[MirrorFact, ...], str]:
    try:
        mirrors: Mirrors = host_mirrors()
        way = host_way_out(configured_addresses())
    except HostError as error:
        return (), error.message
    questions = [
        (suite, mirror, way, distribution.origin_of(suite), now)
        for lock in known
        for archive in lock.archives
        for distribution in (lock.base.record.distribution,)
        for suite in (distribution.suites.get(archive.suite, Suite(archive.label, archive.suite)),)
        for mirror in mirrors.get(archive.label, ())
    ]
    added = {Suite(each.label, each.suite, each.components, "") for lock in recipes for each in lock.added_archives}
    nowhere = []
    for suite in sorted(added, key=lambda suite: (suite.archive, suite.name)):
        if not mirrors.get(suite.archive):
            nowhere.append(MirrorFact(f"{suite.archive}/{suite.name}", "mirrors.yaml", "names no address of it"))
        questions += [(suite, mirror, way, "", now) for mirror in mirrors.get(suite.archive, ())]
    with ThreadPoolExecutor(8) as pool:
        return (*pool.map(lambda question: ask(*question), questions), *nowhere), ""


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
    settings = {
        name: os.environ[name] for name in ("HOME", "XDG_CONFIG_HOME", "PIP_CONFIG_FILE") if name in os.environ
    }
    done = run([sys.executable, "-m", "pip", "config", "list"], env=settings, check=False, what="pip config")
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
