"""The surroundings of legs, without a build: a leg observes what was requested."""

from __future__ import annotations

import json
import os
import pwd
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import image_fake
import pytest

from privml.base import run as base_run
from privml.base.errors import BuildError, HostError
from privml.base.strictjson import b64
from privml.image import build as room
from privml.image.root import Probe
from privml.image.tools import ToolsTree
from privml.output import volumekey
from privml.output.volumekey import VolumeKey
from privml.repro import child, legs, namespaces, surroundings
from privml.repro.surroundings import CLOCK_FOLDER, CLOCK_LIBRARY, Leg
from privml.repro.variations import NAMES
from privml.store.objects import Store

LEG = Leg(
    name="b", recipe="r.yaml", lock="l.json", tools_lock="t.json", refreshed=False, volumes="/v", workspace="/w",
    output="/w/out", store="/s", import_from="/o", umask=0o077, processors=1, host_name="h.invalid",
    user=namespaces.MAPPED, clock="+400d",
)  # fmt: skip


@pytest.fixture
def tools(tmp_path: Path) -> ToolsTree:
    library = tmp_path / "tools/usr/lib/x86_64-linux-gnu/faketime" / CLOCK_LIBRARY
    library.parent.mkdir(parents=True)
    library.write_bytes(b"clock")
    return ToolsTree(tmp_path / "tools", "f" * 64)


def test_a_leg_round_trips() -> None:
    assert Leg.decode(LEG.encode()) == LEG


def test_the_leg_s_clock_applies_to_every_program_of_its_tree(tools: ToolsTree) -> None:
    assert surroundings.with_clock(tools, "") is tools
    other = surroundings.with_clock(tools, "+400d")
    assert (tools.root / CLOCK_FOLDER / CLOCK_LIBRARY).read_bytes() == b"clock"
    words = other.command(["date"])
    assert words[words.index("FAKETIME") + 1] == "+400d"
    assert words[words.index("NO_FAKE_STAT") + 1] == "1"
    assert "FAKETIME" not in tools.command(["date"])


def test_the_clock_is_installed_for_maintainer_scripts_and_removed(tools: ToolsTree) -> None:
    assert set(surroundings.probe_files(tools)) == {"mkosi.postinst"}
    files = surroundings.probe_files(surroundings.with_clock(tools, "+400d"))
    assert f"mkosi.skeleton/{CLOCK_FOLDER}/{CLOCK_LIBRARY}" in files
    assert files["mkosi.conf.d/90-clock.conf"].data == b"[Content]\nRemoveFiles=/usr/lib/privml-clock\n"


def test_a_probe_runs_in_mkosi_and_its_output_is_kept(tmp_path: Path) -> None:
    fake = image_fake.make(tmp_path)
    fake.mkosi.write_text(
        image_fake.MKOSI
        + '(here / "env").write_bytes((source / "mkosi.env").read_bytes())\n'
        + '(source / "clock.tool").write_text("2027-01-01T00:00:00Z")\n'
    )
    place = fake.root / "usr/lib/x86_64-linux-gnu/faketime" / CLOCK_LIBRARY
    place.parent.mkdir(parents=True)
    place.write_bytes(b"clock")
    other = surroundings.with_clock(fake.tools, "+400d")
    probe = Probe(surroundings.probe_files(other), {"clock.tool": tmp_path / "seen", "none": tmp_path / "none"})
    plain = room.build(fake.order(), tmp_path / "out/a")
    probed = room.build(fake.order(tools=lambda: other), tmp_path / "out/b", probe=probe)
    assert (tmp_path / "seen").read_text() == "2027-01-01T00:00:00Z"
    assert not (tmp_path / "none").exists()
    assert "FAKETIME=+400d\n" in (fake.root / "env").read_text()
    assert "mkosi.postinst" in fake.read("seen.json")
    assert plain.manifest == probed.manifest


def test_every_observation_of_a_leg_has_a_name(
    tmp_path: Path, tools: ToolsTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TZ", "LC_ALL", "HOME"):
        monkeypatch.setenv(name, "x")
    seen = surroundings.look_around(replace(LEG, workspace=str(tmp_path)), tools)
    assert set(seen) == set(NAMES) - {"tool_clock", "script_clock"}
    assert all(seen.values())
    before = os.umask(0o027)
    try:
        assert surroundings.look_around(replace(LEG, workspace=str(tmp_path)), tools)["umask"] == "0027"
    finally:
        os.umask(before)


def test_exactly_the_locked_inputs_are_imported(tmp_path: Path) -> None:
    fake = image_fake.make(tmp_path)
    fake.store.add_bytes(b"of somebody else")
    package = image_fake.keep(fake.store, "tool", b"tool")
    tools = image_fake.TOOLS_LOCK.model_copy(update={"packages": (package,)})
    target = Store(tmp_path / "empty")
    child.bring_from(fake.store, target, fake.lock, tools)
    named = {item.sha256 for item in (*fake.lock.debs, *fake.lock.python, package)}
    assert set(target.digests()) == named


@pytest.fixture
def open_to_all() -> Iterator[Path]:
    """A directory that other users can enter, unlike pytest's own."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        yield Path(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes ids for another user")
def test_a_process_in_its_own_namespaces_has_other_ids_and_another_name(
    open_to_all: Path,
) -> None:
    before = os.uname().nodename
    done = base_run.run(
        [
            legs.sys.executable,
            "-c",
            "import os, sys; from privml.repro import namespaces as n\n"
            "code = n.enter('leg.invalid', n.MAPPED)\n"
            "sys.exit(code) if code is not None else None\n"
            f"open({str(open_to_all / 'mine')!r}, 'w').close()\n"
            "print(os.uname().nodename, os.geteuid(), n.id_map()); sys.exit(7)",
        ],
        env={"PYTHONPATH": str(Path(namespaces.__file__).parents[2])},
        check=False,
    )
    assert done.stderr == b""
    assert done.returncode == 7
    assert done.stdout.decode().split() == ["leg.invalid", "0", "0", str(namespaces.FIRST_ID), str(namespaces.IDS)]
    assert (open_to_all / "mine").stat().st_uid == namespaces.FIRST_ID
    assert os.uname().nodename == before


def test_a_directory_that_other_users_cannot_read_is_named(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    (closed / "a").write_bytes(b"")
    assert legs._closed([closed / "a"]) in (closed, *closed.parents)


def test_a_failing_leg_fails_the_command_with_its_output(tmp_path: Path) -> None:
    leg = replace(LEG, workspace=str(tmp_path), host_name="", user="", recipe=str(tmp_path / "none.yaml"))
    with pytest.raises(BuildError, match=r"none\.yaml") as caught:
        legs._build(leg, {"TZ": "UTC"}, b"[]")
    assert caught.value.exit_code == 6


def test_a_leg_in_which_no_tool_ran_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A build that copied the other leg's output would agree with it without having observed anything."""
    seen = {"tool_clock": ""}
    monkeypatch.setattr(legs, "run", lambda *_, **__: (tmp_path / child.OBSERVED).write_text(json.dumps(seen)))
    leg = replace(LEG, workspace=str(tmp_path), user="", host_name="")
    with pytest.raises(BuildError, match="not an independent build"):
        legs._build(leg, {"TZ": "UTC"}, b"[]")
    seen["tool_clock"] = "2026-01-01T00:00:00Z"
    (tmp_path / "home-of-b").rmdir()
    assert legs._build(leg, {"TZ": "UTC"}, b"[]") == seen


def test_a_leg_without_observations_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(legs, "run", lambda *_, **__: None)
    with pytest.raises(HostError, match="did not write its observations"):
        legs._build(replace(LEG, workspace=str(tmp_path), user=""), {}, b"[]")


def etc(folder: Path, subuid: str, subgid: str | None = None) -> Path:
    folder.mkdir()
    (folder / "subuid").write_text(subuid)
    (folder / "subgid").write_text(subuid if subgid is None else subgid)
    return folder


def test_the_unprivileged_user_is_the_first_with_subordinate_ids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(namespaces.shutil, "which", lambda name: f"/usr/bin/{name}")
    name = pwd.getpwuid(1).pw_name
    rows = f"root:1:65536\nnobody-knows-me:1:65536\n{name}:200000:65536\n"
    found = namespaces.unprivileged_account(etc(tmp_path / "a", rows))
    assert found is not None
    assert (found.uid, found.gid, found.users) == (1, pwd.getpwuid(1).pw_gid, (200_000, 65_536))
    assert namespaces.unprivileged_account(etc(tmp_path / "few", f"{name}:200000:1000\n")) is None
    assert namespaces.unprivileged_account(etc(tmp_path / "no groups", rows, "")) is None
    assert namespaces.unprivileged_account(tmp_path / "absent") is None
    monkeypatch.setattr(namespaces.shutil, "which", lambda _: None)
    assert namespaces.unprivileged_account(tmp_path / "a") is None


def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uid: int, own: object) -> tuple[Leg, dict[str, str]]:
    monkeypatch.setattr(legs.os, "geteuid", lambda: uid)
    monkeypatch.setattr(legs, "account", lambda _: own)
    monkeypatch.setattr(legs, "unprivileged_account", lambda: own)
    monkeypatch.setattr(legs, "_closed", lambda _: None)
    files = legs.Inputs(Path("r"), Path("l"), Path("t"), refreshed=True)
    reasons: dict[str, str] = {}
    _, leg = legs._plan(files, tmp_path, "n", tmp_path / "a", tmp_path / "b", reasons)
    assert leg.refreshed
    return leg, reasons


def test_leg_b_s_user_depends_on_the_caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = namespaces.Account(1001, 1002, (1, 65536), (1, 65536))
    assert plan(tmp_path, monkeypatch, 0, own)[0].user == "1001:1002"
    assert plan(tmp_path, monkeypatch, 0, None)[0].user == namespaces.MAPPED
    leg, reasons = plan(tmp_path, monkeypatch, 1001, own)
    assert (leg.user, leg.host_name) == (namespaces.OWN_RANGE, "privml-leg-b.invalid")
    assert not {"user", "host_name"} & set(reasons)
    leg, reasons = plan(tmp_path, monkeypatch, 1001, None)
    assert (leg.user, leg.host_name) == ("", "")
    assert {"user", "host_name"} <= set(reasons)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes somebody else")
def test_root_drops_to_an_unprivileged_user(open_to_all: Path) -> None:
    done = base_run.run(
        [
            legs.sys.executable,
            "-c",
            "import os, sys; from privml.repro import namespaces as n\n"
            "code = n.enter('leg.invalid', '1:1')\n"
            "sys.exit(code) if code is not None else None\n"
            f"open({str(open_to_all / 'mine')!r}, 'w').close()\n"
            "print(os.uname().nodename, os.getresuid(), os.getresgid(), os.getgroups())",
        ],
        env={"PYTHONPATH": str(Path(namespaces.__file__).parents[2])},
    )
    assert done.stdout.decode().strip() == "leg.invalid (1, 1, 1) (1, 1, 1) []"
    assert (open_to_all / "mine").stat().st_uid == 1


def test_a_leg_that_needs_more_than_the_memory_is_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(legs, "file_system", lambda place: str(place))
    monkeypatch.setattr(legs, "_MEMORY", tmp_path)
    monkeypatch.setattr(legs, "free_memory", lambda: 8 << 30)
    reasons: dict[str, str] = {}
    assert legs._memory(reasons, legs.NEEDED) == tmp_path
    assert reasons == {}
    assert legs._memory(reasons, 9 << 30) == legs.disk()
    assert reasons == {"file_system": "less than 9 GiB of memory are free"}


def test_a_key_reaches_a_leg_through_a_pipe_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = VolumeKey("model/small", 1, bytes(range(64)))
    seen: dict[str, bytes] = {}

    def run(words: list[str], *, env: dict[str, str], stdin: bytes, **_: object) -> None:
        seen["rest"] = repr((words, env)).encode() + (tmp_path / "leg.json").read_bytes()
        # The process reads it as the leg's own does, in a build that stops at once.
        monkeypatch.setattr(child.sys, "stdin", SimpleNamespace(buffer=BytesIO(stdin)))
        monkeypatch.setattr(child, "work", lambda leg, keys: seen.update(keys=volumekey.encode_all(keys)))
        monkeypatch.setattr(child, "enter", lambda *_: None)
        assert child.main(words[-1]) == 0
        (tmp_path / child.OBSERVED).write_text(json.dumps({"tool_clock": "now"}))

    monkeypatch.setattr(legs, "run", run)
    given = volumekey.encode_all((key,))
    legs._build(replace(LEG, workspace=str(tmp_path), user=""), {}, given)
    assert seen["keys"] == given
    assert b"leg.json" in seen["rest"] and b"t.json" in seen["rest"]
    forms = (key.key, key.key.hex().encode(), b64(key.key).encode())
    assert [form in given for form in forms] == [False, False, True], "the pipe has it"
    assert not any(form in seen["rest"] for form in forms)
