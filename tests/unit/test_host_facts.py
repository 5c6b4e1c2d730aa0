"""`doctor` judges every state of a machine and names the remedy for each problem."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path

import fake_archive
import pytest
from click.testing import CliRunner
from pool_server import serving

from privml.base.errors import HostError
from privml.base.wayout import WayOut
from privml.cli import doctor as verb
from privml.host import survey
from privml.host.facts import GIB, HostFacts, MirrorFact, judge, summary
from privml.host.line import Line
from privml.host.qemu import QemuFact
from privml.recipe.distributions import Suite
from privml.recipe.loader import qemus_in, shipped

HEALTHY = HostFacts(
    root=False,
    namespaces_problem="",
    apparmor_restricts=False,
    subuids=65536,
    subgids=65536,
    id_programs=True,
    store=Path("/store"),
    store_problem="",
    store_size=GIB,
    store_free=20 * GIB,
    out=Path("/work/out"),
    out_free=20 * GIB,
    tools_lock_problem="",
    locked_at=datetime(2026, 11, 1, tzinfo=UTC),
    missing=0,
    mirrors=(MirrorFact("debian/forky", "mirror.example.invalid"),),
    mirrors_problem="",
    pip="pip 26.0",
    pip_configured=True,
    kvm="usable",
    tdx_host="Y",
    tdx_guest=False,
    now=datetime(2026, 11, 21, tzinfo=UTC),
)
QEMU = QemuFact("/usr/bin/qemu-system-x86_64", "10.0.13", "Debian 1:10.0.13", False, ())
AWAY = (MirrorFact("debian/forky", "mirror.example.invalid", "timed out"),)

# (what differs from a healthy machine, the line, its status, words of it)
STATES: list[tuple[dict[str, object], str, str, str]] = [
    ({}, "userns", "ok", "not root"),
    ({"root": True}, "userns", "ok", "root, namespaces work"),
    ({"namespaces_problem": "Operation not permitted"}, "userns", "fail", "Operation not permitted; allow user"),
    ({"namespaces_problem": "no", "root": True}, "userns", "fail", "CAP_SYS_ADMIN"),
    ({"namespaces_problem": "pivot_root: no", "root": True}, "userns", "fail", "seccomp=unconfined"),
    ({}, "apparmor", "ok", "does not restrict"),
    ({"apparmor_restricts": True}, "apparmor", "ok", "but not here"),
    ({"apparmor_restricts": True, "root": True}, "apparmor", "ok", "but not here"),
    ({"apparmor_restricts": True, "namespaces_problem": "no"}, "apparmor", "fail", "sysctl kernel.apparmor"),
    ({}, "subids", "ok", "65536 user ids"),
    ({"root": True, "subuids": 0, "id_programs": False}, "subids", "ok", "not needed by root"),
    ({"id_programs": False}, "subids", "fail", "install uidmap"),
    ({"subuids": 65535}, "subids", "fail", "65535 subordinate user ids"),
    ({"subgids": 0}, "subids", "fail", "usermod --add-subuids"),
    ({}, "store", "ok", "/store, 1.0 GiB"),
    ({"store_problem": "may not be written"}, "store", "fail", "set PRIVML_STORE"),
    ({"store_owner": "somebody", "root": True}, "store", "warn", "belongs to somebody; what you add will not be"),
    ({"store_free": 0}, "store-disk", "ok", "0.0 GiB free"),
    ({"store_free": GIB, "missing": 1}, "store-disk", "fail", "a build needs 2; free some space"),
    ({"store_free": 3 * GIB, "missing": 1}, "store-disk", "warn", "enough for one image"),
    ({"store_free": 4 * GIB, "missing": 1}, "store-disk", "ok", "4.0 GiB free"),
    ({"out_free": 2 * GIB - 1}, "out-disk", "fail", "a build needs 2; free some space in /work/out"),
    ({"out_free": 2 * GIB}, "out-disk", "warn", "enough for one image"),
    ({"out_free": 6 * GIB}, "out-disk", "ok", "6.0 GiB free"),
    ({}, "tools-lock", "ok", "the store has all"),
    ({"missing": 3}, "tools-lock", "ok", "3 locked files are not in the store"),
    ({"tools_lock_problem": "it is not there"}, "tools-lock", "fail", "it is not there; restore"),
    ({}, "clock", "ok", "2026-11-21, after the locks' 2026-11-01"),
    ({"now": datetime(2026, 10, 31, tzinfo=UTC)}, "clock", "fail", "set the clock"),
    ({}, "mirrors", "ok", "1 answered for debian/forky"),
    ({"mirrors": ()}, "mirrors", "warn", "no mirror is configured; name mirrors"),
    ({"mirrors": (), "missing": 1}, "mirrors", "fail", "no mirror is configured"),
    ({"mirrors": AWAY}, "mirrors", "warn", "mirror.example.invalid: timed out"),
    ({"mirrors": AWAY, "missing": 1}, "mirrors", "fail", "timed out; name mirrors"),
    ({"mirrors": (*AWAY, MirrorFact("debian/forky", "b")), "missing": 1}, "mirrors", "warn", "other mirrors have"),
    ({"mirrors_problem": "mirrors.yaml: not readable", "missing": 1}, "mirrors", "fail", "not readable"),
    ({}, "pip", "ok", "pip 26.0, configured"),
    ({"pip_configured": False}, "pip", "ok", "with its default index"),
    ({"pip": ""}, "pip", "warn", "install python3-pip"),
    ({"pip": "", "missing": 1}, "pip", "fail", "install python3-pip"),
    ({}, "kvm", "ok", "runs the firmware"),
    ({"kvm": "absent"}, "kvm", "warn", "emulated"),
    ({"kvm": "forbidden"}, "kvm", "warn", "join the group kvm"),
    ({"kvm": "failing"}, "kvm", "warn", "cannot run the firmware"),
    ({"kvm": "untried"}, "kvm", "ok", "once the tools are unpacked"),
    ({}, "qemu", "ok", "none of this host's own, which is not needed"),
    (
        {"qemu": QEMU},
        "qemu",
        "ok",
        "/usr/bin/qemu-system-x86_64 10.0.13 (Debian 1:10.0.13); builds and boots here use",
    ),
    ({"qemu": QEMU}, "platform", "warn", "platform learn NAME --qemu /usr/bin/qemu-system-x86_64 -- ARGS"),
    ({"qemu": replace(QEMU, platforms=("a",))}, "platform", "ok", "platform: a fits it"),
    ({"qemu": replace(QEMU, platforms=("a", "b"))}, "platform", "ok", "platform: a, b fit it"),
    ({}, "tdx-host", "ok", "kvm_intel has TDX"),
    ({"tdx_host": "N"}, "tdx-host", "warn", "kvm_intel says N"),
    ({"tdx_host": ""}, "tdx-host", "warn", "has no TDX support"),
    ({}, "tdx-guest", "ok", "this is not a TD"),
    ({"tdx_guest": True}, "tdx-guest", "ok", "this is a TD"),
]


def line(facts: HostFacts, name: str) -> Line:
    (found,) = [line for line in judge(facts) if line.name == name]
    return found


@pytest.mark.parametrize(("changes", "name", "status", "words"), STATES)
def test_each_state_has_its_line(changes: dict[str, object], name: str, status: str, words: str) -> None:
    found = line(replace(HEALTHY, **changes), name)
    assert (found.status, words in str(found)) == (status, True), str(found)
    assert bool(found.remedy) == (status != "ok")


def test_every_fact_changes_the_report() -> None:
    decisive = {name for changes, *_ in STATES for name in changes}
    assert {field.name for field in fields(HostFacts)} - decisive == {"store", "store_size", "out", "locked_at"}


def test_without_locks_the_clock_is_not_judged() -> None:
    assert "clock" not in [line.name for line in judge(replace(HEALTHY, locked_at=None))]


def test_only_what_a_build_needs_ends_in_exit_5(monkeypatch: pytest.MonkeyPatch) -> None:
    emulated = replace(HEALTHY, kvm="absent", tdx_host="")
    monkeypatch.setattr(verb, "look", lambda *_: emulated)
    done = CliRunner().invoke(verb.doctor, [])
    assert done.exit_code == 0
    assert "warn kvm: not available, machines are emulated; enable" in done.stdout
    monkeypatch.setattr(verb, "look", lambda *_: replace(emulated, out_free=0))
    done = CliRunner().invoke(verb.doctor, ["--json"])
    assert isinstance(done.exception, HostError)
    assert done.exception.message == "a build needs: out-disk"
    told = json.loads(done.stdout)
    assert told["ok"] is False
    assert [line["name"] for line in told["lines"] if line["status"] == "fail"] == ["out-disk"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "can build, can boot with KVM, can run a TD"),
        ({"kvm": "failing", "tdx_host": ""}, "can build, can boot emulated, cannot run a TD"),
        ({"kvm": "untried", "tdx_host": "N"}, "can build, can boot (KVM is there, not tried yet), cannot run a TD"),
        ({"out_free": 0}, "cannot build, can boot with KVM, can run a TD"),
    ],
)
def test_the_summary_line_says_what_the_machine_can_do(
    changes: dict[str, object], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert summary(replace(HEALTHY, **changes)) == said
    monkeypatch.setattr(verb, "look", lambda *_: replace(HEALTHY, **changes))
    done = CliRunner().invoke(verb.doctor, [])
    assert done.stdout.splitlines()[-1] == f"this machine {said}"
    next_command = "next: `privml-build image demo-cpu`\n"
    assert done.stderr == ("" if "cannot build" in said else next_command)


def test_an_empty_machine_is_surveyed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PRIVML_STORE", str(tmp_path / "a/b/store"))
    monkeypatch.setattr(survey, "host_mirrors", dict)
    facts = survey.look(shipped() / "tools.lock.json", [shipped() / "demo-cpu.lock.json"], root=tmp_path)
    assert (facts.kvm, facts.tdx_host, facts.tdx_guest, facts.apparmor_restricts) == ("absent", "", False, False)
    assert facts.missing > 100
    assert facts.mirrors == ()
    assert facts.store_problem == ""
    assert facts.pip.startswith("pip")
    assert facts.qemu is None
    assert facts.locked_at is not None
    assert not (tmp_path / "a").exists(), "looking made the store"
    (tmp_path / "proc/sys/kernel").mkdir(parents=True)
    (tmp_path / "proc/sys/kernel/apparmor_restrict_unprivileged_userns").write_text("1\n")
    (tmp_path / "sys/module/kvm_intel/parameters").mkdir(parents=True)
    (tmp_path / "sys/module/kvm_intel/parameters/tdx").write_text("Y\n")
    (tmp_path / "dev").mkdir()
    for device in ("kvm", "tdx_guest"):
        (tmp_path / "dev" / device).touch()
    (tmp_path / "usr/bin").mkdir(parents=True)
    (tmp_path / "usr/bin/qemu-system-x86_64").write_text("#!/bin/sh\necho 'QEMU emulator version 9.2.1 (Ours 1)'\n")
    (tmp_path / "usr/bin/qemu-system-x86_64").chmod(0o755)
    facts = survey.look(tmp_path / "tools.lock.json", [], qemus_in(shipped()), root=tmp_path)
    assert facts.qemu == QemuFact(f"{tmp_path}/usr/bin/qemu-system-x86_64", "9.2.1", "Ours 1", False, ())
    assert (facts.kvm, facts.tdx_host, facts.tdx_guest, facts.apparmor_restricts) == ("untried", "Y", True, True)
    assert "does not exist" in facts.tools_lock_problem
    assert facts.locked_at is None


def test_a_store_below_a_file_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("PRIVML_STORE", str(tmp_path / "file/store"))
    monkeypatch.setattr(survey, "host_mirrors", dict)
    assert "is not a directory" in survey.look(tmp_path / "none", [], root=tmp_path).store_problem


def test_subordinate_ids_are_counted_by_name_and_number(tmp_path: Path) -> None:
    table = tmp_path / "subuid"
    table.write_text("me:100000:65536\nother:165536:65536\n1000:300000:10\nme:broken\n:1:5\nme:1:x\n")
    assert survey.subordinate(table, "me", 1000) == 65546
    assert survey.subordinate(table, "", 7) == 0
    assert survey.subordinate(tmp_path / "none", "me", 1000) == 0


def asked(folder: Path, suite: str = "forky", origin: str = "Debian") -> MirrorFact:
    with serving(folder) as (address, _):
        return survey.ask(Suite("debian", suite), address, WayOut(), origin, datetime(2026, 11, 1, tzinfo=UTC))


def test_a_mirror_is_asked_whether_it_is_the_archive(folder: Path, no_proxy: None) -> None:
    assert asked(folder) == MirrorFact("debian/forky", "127.0.0.1", date="2026-10-30")
    assert asked(folder, "trixie").problem == "status 404"
    assert asked(folder, origin="Acme").problem == (
        "the signed state is for Debian forky (testing), expected Acme forky"
    )
    state = folder / "dists/forky/InRelease"
    state.write_text("<html>Welcome to the hotel's network</html>")
    assert asked(folder).problem == "InRelease: expected exactly one clear-signed message"
    state.write_bytes((fake_archive.HERE / "future.InRelease").read_bytes())
    assert "this machine's clock says" in asked(folder).problem


def test_a_mirror_is_shown_without_its_password(no_proxy: None) -> None:
    place = "http://me:secret@127.0.0.1:1/debian"
    away = survey.ask(Suite("debian", "forky"), place, WayOut(), "Debian", datetime.now(UTC))
    assert away.problem
    assert "secret" not in f"{away}"
