"""Facts about a machine, and their consequences for building and running images.

Collecting the facts (``survey``) is separate, so that tests can evaluate every state of a machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from privml.host.line import Line
from privml.host.qemu import QemuFact, fitting
from privml.image import namespaces

GIB = 1 << 30
# Space for a demo image and its build; for the tools and inputs of one recipe.
OUT_NEED, OUT_EASY = 2 * GIB, 6 * GIB
STORE_NEED, STORE_EASY = 2 * GIB, 4 * GIB
SUBORDINATE_IDS = 65536

Kvm = Literal["usable", "absent", "forbidden", "failing", "untried"]


@dataclass(frozen=True)
class MirrorFact:
    """One suite on one configured mirror; ``problem`` is empty if it has that suite, in a state of ``date``."""

    suite: str
    address: str
    problem: str = ""
    date: str = ""


@dataclass(frozen=True)
class HostFacts:
    """Facts about one machine. Fields ``..._problem`` are empty if there is no problem; sizes are in bytes."""

    root: bool
    namespaces_problem: str
    apparmor_restricts: bool
    subuids: int
    subgids: int
    id_programs: bool
    store: Path
    store_problem: str
    store_size: int
    store_free: int
    out: Path
    out_free: int
    tools_lock_problem: str
    locked_at: datetime | None
    # Number of locked files missing from the store.
    missing: int
    mirrors: tuple[MirrorFact, ...]
    mirrors_problem: str
    pip: str
    pip_configured: bool
    kvm: Kvm
    tdx_host: str
    tdx_guest: bool
    now: datetime
    # The QEMU of this host's own; builds and boots here use that of the tools.
    qemu: QemuFact | None = None
    # The name of the store's owner if that is another user.
    store_owner: str = ""


def judge(facts: HostFacts) -> list[Line]:
    """All findings, in the order they affect a build."""
    return [*_rights(facts), *_disk(facts), *_inputs(facts), *_machines(facts)]


def summary(facts: HostFacts) -> str:
    """What this machine can do, in one line: build, boot, and run a TD."""
    boots: dict[Kvm, str] = {
        "usable": "can boot with KVM",
        "untried": "can boot (KVM is there, not tried yet)",
        "absent": "can boot emulated",
        "forbidden": "can boot emulated",
        "failing": "can boot emulated",
    }
    builds = not any(line.status == "fail" for line in judge(facts))
    return ", ".join(
        (
            f"{'can' if builds else 'cannot'} build",
            boots[facts.kvm],
            f"{'can' if facts.tdx_host == 'Y' else 'cannot'} run a TD",
        )
    )


def _rights(facts: HostFacts) -> Iterator[Line]:
    who = "root" if facts.root else "not root"
    if facts.namespaces_problem:
        yield Line("fail", "userns", *namespaces.words(facts.namespaces_problem, root=facts.root))
    else:
        yield Line("ok", "userns", f"{who}, namespaces work")
    if not facts.apparmor_restricts:
        yield Line("ok", "apparmor", "does not restrict user namespaces")
    elif facts.root or not facts.namespaces_problem:
        yield Line("ok", "apparmor", f"restricts user namespaces, but not here ({who})")
    else:
        remedy = "as root: sysctl kernel.apparmor_restrict_unprivileged_userns=0"
        yield Line("fail", "apparmor", "restricts user namespaces", remedy)
    if facts.root:
        yield Line("ok", "subids", "not needed by root")
    elif not facts.id_programs:
        yield Line("fail", "subids", "newuidmap or newgidmap is missing", "install uidmap")
    elif min(facts.subuids, facts.subgids) < SUBORDINATE_IDS:
        found = f"{facts.subuids} subordinate user ids and {facts.subgids} group ids, expected {SUBORDINATE_IDS}"
        remedy = "as root: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER"
        yield Line("fail", "subids", found, remedy)
    else:
        yield Line("ok", "subids", f"{facts.subuids} user ids and {facts.subgids} group ids")


def _disk(facts: HostFacts) -> Iterator[Line]:
    if facts.store_problem:
        remedy = "set PRIVML_STORE to a writable directory"
        yield Line("fail", "store", f"{facts.store}: {facts.store_problem}", remedy)
    elif facts.store_owner:
        remedy = "what you add will not be theirs: use `sudo -H`, or set PRIVML_STORE"
        yield Line("warn", "store", f"{facts.store} belongs to {facts.store_owner}", remedy)
    else:
        yield Line("ok", "store", f"{facts.store}, {facts.store_size / GIB:.1f} GiB")
    # A full store is not a problem if it has all inputs.
    need = STORE_NEED if facts.missing else 0
    remedy = "free some space, or set PRIVML_STORE to another disk"
    yield _room("store-disk", facts.store_free, need, STORE_EASY if facts.missing else 0, remedy)
    yield _room(
        "out-disk", facts.out_free, OUT_NEED, OUT_EASY, f"free some space in {facts.out}, or use `image --output`"
    )


def _room(name: str, free: int, need: int, easy: int, remedy: str) -> Line:
    found = f"{free / GIB:.1f} GiB free"
    if free < need:
        return Line("fail", name, f"{found}, a build needs {need / GIB:.0f}", remedy)
    if free < easy:
        return Line("warn", name, f"{found}, enough for one image", remedy)
    return Line("ok", name, found)


def _inputs(facts: HostFacts) -> Iterator[Line]:
    if facts.tools_lock_problem:
        remedy = "restore recipes/tools.lock.json, or create it with `privml-build lock --tools`"
        yield Line("fail", "tools-lock", facts.tools_lock_problem, remedy)
    elif facts.missing:
        yield Line("ok", "tools-lock", f"present; {facts.missing} locked files are not in the store yet")
    else:
        yield Line("ok", "tools-lock", "present, and the store has all locked files")
    if facts.locked_at is not None:
        if facts.now < facts.locked_at:
            found = f"{facts.now:%Y-%m-%d}, but the locks are from {facts.locked_at:%Y-%m-%d}"
            yield Line("fail", "clock", found, "set the clock: signatures and certificates depend on it")
        else:
            yield Line("ok", "clock", f"{facts.now:%Y-%m-%d}, after the locks' {facts.locked_at:%Y-%m-%d}")
    yield _mirrors(facts)
    if not facts.pip:
        status: Literal["warn", "fail"] = "fail" if facts.missing else "warn"
        yield Line(
            status,
            "pip",
            "not found, but needed to fetch wheels",
            "install python3-pip, or recreate the virtual environment",
        )
    else:
        yield Line("ok", "pip", f"{facts.pip}, {'configured' if facts.pip_configured else 'with its default index'}")


def _mirrors(facts: HostFacts) -> Line:
    away = [mirror for mirror in facts.mirrors if mirror.problem]
    there = {mirror.suite for mirror in facts.mirrors if not mirror.problem}
    lost = sorted({mirror.suite for mirror in away} - there)
    problems = "; ".join(f"{mirror.suite} at {mirror.address}: {mirror.problem}" for mirror in away)
    remedy = "name mirrors in mirrors.yaml (docs/BUILDING.md)"
    status: Literal["warn", "fail"] = "fail" if facts.missing else "warn"
    if facts.mirrors_problem:
        return Line(status, "mirrors", facts.mirrors_problem, remedy)
    if not facts.mirrors:
        return Line(status, "mirrors", "no mirror is configured", remedy)
    if lost:
        return Line(status, "mirrors", problems, remedy)
    if away:
        return Line("warn", "mirrors", problems, "other mirrors have the same suites")
    newest = {suite: max(mirror.date for mirror in facts.mirrors if mirror.suite == suite) for suite in sorted(there)}
    states = ", ".join(f"{suite} (state of {date})" if date else suite for suite, date in newest.items())
    return Line("ok", "mirrors", f"{len(facts.mirrors)} answered for {states}")


def _machines(facts: HostFacts) -> Iterator[Line]:
    states: dict[Kvm, Line] = {
        "usable": Line("ok", "kvm", "runs the firmware"),
        "absent": Line("warn", "kvm", "not available, machines are emulated", "enable virtualisation"),
        "forbidden": Line("warn", "kvm", "no permission to use /dev/kvm", "join the group kvm"),
        "failing": Line(
            "warn", "kvm", "available, but cannot run the firmware", "machines are emulated, which is slower"
        ),
        "untried": Line("ok", "kvm", "available; it is tested once the tools are unpacked"),
    }
    yield states[facts.kvm]
    if facts.qemu is None:
        yield Line("ok", "qemu", "none of this host's own, which is not needed: the tools have one")
    else:
        yield Line("ok", "qemu", f"{facts.qemu.name}; builds and boots here use that of the tools")
        yield from fitting(facts.qemu)
    if facts.tdx_host == "Y":
        yield Line("ok", "tdx-host", "kvm_intel has TDX")
    else:
        found = f"kvm_intel says {facts.tdx_host}" if facts.tdx_host else "kvm_intel has no TDX support"
        remedy = "no TD can run here, but images can be built and predicted"
        yield Line("warn", "tdx-host", found, remedy)
    yield Line("ok", "tdx-guest", "this is a TD" if facts.tdx_guest else "this is not a TD, which is not needed")
