"""The legs' surroundings, without building anything: what is asked for is what a leg then sees."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import image_fake
import pytest

from privml.base import run as base_run
from privml.base.errors import BuildError
from privml.image import build as room
from privml.image.root import Probe
from privml.image.tools import ToolsTree
from privml.lock.models import ToolsLock
from privml.repro import child, legs, namespaces, surroundings
from privml.repro.surroundings import CLOCK_FOLDER, CLOCK_LIBRARY, Leg
from privml.repro.variations import NAMES
from privml.store.objects import Store

LEG = Leg(
    name="b", recipe="r.yaml", lock="l.json", tools_lock="t.json", refreshed=False, workspace="/w", output="/w/out",
    store="/s", import_from="/o", umask=0o077, processors=1, host_name="h.invalid", user=namespaces.MAPPED,
    clock="+400d",
)  # fmt: skip


@pytest.fixture
def tools(tmp_path: Path) -> ToolsTree:
    library = tmp_path / "tools/usr/lib/x86_64-linux-gnu/faketime" / CLOCK_LIBRARY
    library.parent.mkdir(parents=True)
    library.write_bytes(b"clock")
    return ToolsTree(tmp_path / "tools", "f" * 64)


def test_a_leg_comes_back_as_it_went() -> None:
    assert Leg.decode(LEG.encode()) == LEG


def test_a_clock_is_in_the_legs_own_tree_and_in_every_program_of_it(tools: ToolsTree) -> None:
    assert surroundings.with_clock(tools, "") is tools
    other = surroundings.with_clock(tools, "+400d")
    assert (tools.root / CLOCK_FOLDER / CLOCK_LIBRARY).read_bytes() == b"clock"
    words = other.command(["date"])
    assert words[words.index("FAKETIME") + 1] == "+400d"
    assert words[words.index("NO_FAKE_STAT") + 1] == "1"
    assert "FAKETIME" not in tools.command(["date"])


def test_the_clock_goes_to_maintainer_scripts_and_out_again(tools: ToolsTree) -> None:
    assert set(surroundings.probe_files(tools)) == {"mkosi.postinst"}
    files = surroundings.probe_files(surroundings.with_clock(tools, "+400d"))
    assert f"mkosi.skeleton/{CLOCK_FOLDER}/{CLOCK_LIBRARY}" in files
    assert files["mkosi.conf.d/90-clock.conf"].data == b"[Content]\nRemoveFiles=/usr/lib/privml-clock\n"


def test_a_probe_reaches_mkosi_and_what_it_leaves_is_kept(tmp_path: Path) -> None:
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
    plain = room.build(fake.recipe, fake.lock, fake.store, fake.tools, tmp_path / "out/a")
    probed = room.build(fake.recipe, fake.lock, fake.store, other, tmp_path / "out/b", probe=probe)
    assert (tmp_path / "seen").read_text() == "2027-01-01T00:00:00Z"
    assert not (tmp_path / "none").exists()
    assert "FAKETIME=+400d\n" in (fake.root / "env").read_text()
    assert "mkosi.postinst" in fake.read("seen.json")
    assert plain.manifest == probed.manifest


def test_what_a_leg_sees_has_a_name(tmp_path: Path, tools: ToolsTree, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_only_what_the_locks_name_is_imported_and_all_of_it(tmp_path: Path) -> None:
    fake = image_fake.make(tmp_path)
    fake.store.add_bytes(b"of somebody else")
    package = image_fake.keep(fake.store, "tool", b"tool")
    tools = ToolsLock(source_date_epoch=1, archives=(), packages_requested=("tool",), packages=(package,))
    target = Store(tmp_path / "empty")
    child.bring_from(fake.store, target, fake.lock, tools)
    named = {item.sha256 for item in (*fake.lock.packages, *fake.lock.firmware, *fake.lock.wheels, package)}
    assert set(target.digests()) == named


@pytest.fixture
def open_to_all() -> Iterator[Path]:
    """pytest's own directories are closed to other users."""
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


def test_a_place_that_others_cannot_read_is_named(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    (closed / "a").write_bytes(b"")
    assert legs._closed([closed / "a"]) in (closed, *closed.parents)


def test_a_leg_that_fails_fails_the_command_with_its_words(tmp_path: Path) -> None:
    leg = replace(LEG, workspace=str(tmp_path), host_name="", user="", recipe=str(tmp_path / "none.yaml"))
    with pytest.raises(BuildError, match=r"none\.yaml") as caught:
        legs._build(leg, {"TZ": "UTC"})
    assert caught.value.exit_code == 6
