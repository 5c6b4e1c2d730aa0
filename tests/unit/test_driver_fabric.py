"""GPUs in protected PCIe mode: what a recipe must name, what is locked, and what the image gets of it.

The archives are stand-ins with the real layout: NVIDIA's own could not be fetched.
"""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import re
import shutil
import stat
from pathlib import Path
from typing import Any

import fabric_files as f
import pytest
import runfile_file as r
import test_driver_runfile as runfiles
from test_driver_runfile import DATA, driver_in, modules
from test_lock_deb import file, folder, link
from test_lock_driver import Apt
from test_lock_make import solver
from test_lock_modelsources import served  # noqa: F401 - a fixture

from privml.base.errors import InputsError, RecipeError
from privml.events import configuration
from privml.events.gpus import Gpu
from privml.events.verity import Verity
from privml.image import driver as room
from privml.image import driverfiles, inputs, licences, render, root, sbom
from privml.image.config import measured_config
from privml.image.description import command_line
from privml.image.resources import templates
from privml.lock import contents, moves, vendorarchive
from privml.lock.changes import changes
from privml.lock.driver import driver_of, same_driver
from privml.lock.lockfile import parse, read_lock, serialise
from privml.lock.make import bring
from privml.lock.models import Driver, Lock, VendorArchive
from privml.lock.trees import guest_tree, images_folder, overlays
from privml.recipe import fabrics
from privml.recipe.lint import lint
from privml.recipe.loader import Recipe, load, shipped
from privml.recipe.packages import guest_packages
from privml.repro.lockchanges import lock_changes
from privml.store.fetch import GoneError
from privml.store.objects import Store

ARCHIVES = {name: f.made(name) for name in fabrics.NAMES}
DIGESTS = {name: hashlib.sha256(data).hexdigest() for name, data in ARCHIVES.items()}
NAMES = {name: f.BOARD.archives[name].name for name in fabrics.NAMES}
HERE = "https://vendor.invalid"
Served = tuple[str, Path]


def given(url: str = HERE, **digests: str) -> str:
    """The field `fabric` of a recipe."""
    rows = {name: f"{{url: {url}/{name}.tar.xz, sha256: {(DIGESTS | digests)[name]}}}" for name in fabrics.NAMES}
    return "{" + ", ".join(f"{name}: {row}" for name, row in rows.items()) + "}"


def recipe_of(place: Path, text: str | None = None, **changes: str) -> Recipe:
    """tdx-gpu-min with a whole board; ``changes`` replace parts of its `gpu`."""
    parts = {
        "count": "8", "ppcie": ", ppcie: true", "fabric": f", fabric: {text or given()}", "version": r.VERSION,
        "runfile": f", runfile: {{url: {runfiles.URL}, sha256: {runfiles.DIGEST}}}", **changes,
    }  # fmt: skip
    if not (place / "platforms").is_dir():
        shutil.copytree(shipped() / "platforms", place / "platforms")
    old = "count: 1, driver: {version: 550.163.01}"
    new = "count: {count}, driver: {{version: {version}{runfile}{fabric}}}{ppcie}".format(**parts)
    whole = (shipped() / "tdx-gpu-min.yaml").read_text()
    assert old in whole
    path = place / "board.yaml"
    path.write_text(whole.replace(old, new))
    return load(path)


@pytest.fixture(scope="module")
def lock() -> Lock:
    return read_lock(shipped() / "tdx-gpu-min.lock.json")


@pytest.fixture
def apt(lock: Lock, monkeypatch: pytest.MonkeyPatch) -> Apt:
    return Apt(lock, monkeypatch)


def locked(url: str = HERE, **digests: str) -> tuple[VendorArchive, ...]:
    return tuple(
        VendorArchive(
            name=NAMES[name], version=r.VERSION, url=f"{url}/{name}.tar.xz",
            sha256=(DIGESTS | digests)[name], size=len(ARCHIVES[name]),
        )
        for name in fabrics.NAMES
    )  # fmt: skip


def board_in(lock: Lock, **more: Any) -> Driver:
    return driver_in(lock, fabric=locked(), **more)


# -- the recipe ------------------------------------------------------------------------------------------------------


def test_a_recipe_with_a_whole_board_knows_its_switches(tmp_path: Path) -> None:
    gpu = recipe_of(tmp_path).content.gpu
    assert gpu is not None and gpu.board is f.BOARD
    assert (gpu.count, gpu.switches) == (8, 4)
    alone = runfiles.recipe_of(tmp_path).content.gpu
    assert alone is not None and (alone.ppcie, alone.board, alone.switches) == (False, None, 0)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"count": "4"}, r"got 4 GPUs of hopper, expected 8 of hopper: the guest has a whole board, with its 4 swi"),
        (
            {"fabric": ""},
            rf"expected `driver\.fabric` with the `url` and `sha256` of {NAMES['manager']}\.tar\.xz and ",
        ),
        ({"ppcie": ""}, r"got `driver\.fabric` without `ppcie: true`"),
        ({"ppcie": ", ppcie: false"}, r"got `driver\.fabric` without `ppcie: true`"),
        (
            {"version": "550.163.01", "runfile": "", "fabric": ""},
            r"the driver 550\.163\.01 has no record of its archives for switches: expected 595\.71\.05",
        ),
    ],
)
def test_protected_pcie_without_its_parts_is_refused(tmp_path: Path, changes: dict[str, str], said: str) -> None:
    with pytest.raises(RecipeError) as caught:
        recipe_of(tmp_path, **changes)
    assert re.search(rf"gpu.*: {said}.*\[gpu-ppcie\]", caught.value.message), caught.value.message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (given(manager="1234"), r"gpu\.driver\.fabric\.manager\.sha256"),
        (given("http://vendor.invalid"), r"gpu\.driver\.fabric\.manager\.url.*https://"),
        (
            "{manager: {url: 'https://x.invalid/a', sha256: '" + "0" * 64 + "'}}",
            r"gpu\.driver\.fabric\.nscq: missing",
        ),
        (given().replace("nscq:", "nvsdm:"), r"gpu\.driver\.fabric\.nvsdm: unknown field"),
    ],
)
def test_archives_that_are_not_pinned_are_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        recipe_of(tmp_path, text)


def test_a_recipe_without_a_board_keeps_its_digest(tmp_path: Path) -> None:
    one = runfiles.recipe_of(tmp_path).effective["content"]["gpu"]
    assert "ppcie" not in one and "fabric" not in one["driver"]
    other = recipe_of(tmp_path).effective["content"]["gpu"]
    assert other["ppcie"] is True and set(other["driver"]["fabric"]) == set(fabrics.NAMES)


def test_lint_compares_the_platform_with_gpus_and_switches(tmp_path: Path) -> None:
    findings = list(lint(recipe_of(tmp_path)))
    found = {finding.rule: finding.text for finding in findings}
    assert "8 and 4 switches, but `qemu-11-q35-one-disk` has none" in found["gpu-platform"]
    driver, board = (finding.text for finding in findings if finding.rule == "driver-untried")
    assert driver.startswith("gpu.driver.version: ") and "nothing of it was unpacked" in driver
    assert board.startswith("gpu.ppcie: ") and "neither its archives nor such a board were at hand" in board


def test_the_guest_gets_what_the_programs_for_the_switches_need(tmp_path: Path) -> None:
    names = [request.name for request in guest_packages(recipe_of(tmp_path))]
    assert {*f.BOARD.guest} <= set(names) and len(names) == len(set(names))


# -- the lock --------------------------------------------------------------------------------------------------------


def serve(served: Served, **others: bytes) -> str:  # noqa: F811
    address, place = served
    for name, data in (ARCHIVES | others).items():
        (place / f"{name}.tar.xz").write_bytes(data)
    (place / "a.run").write_bytes(DATA)
    return address


def served_recipe(place: Path, address: str, **digests: str) -> Recipe:
    runfile = f", runfile: {{url: {address}/a.run, sha256: {runfiles.DIGEST}}}"
    return recipe_of(place, given(address, **digests), runfile=runfile)


def test_lock_fetches_the_archives_and_checks_them(
    tmp_path: Path,
    apt: Apt,
    lock: Lock,
    store: Store,
    served: Served,  # noqa: F811
) -> None:
    address = serve(served)
    recipe = served_recipe(tmp_path, address)
    made = driver_of(recipe, lock.packages, None, store, solver())
    assert made is not None and made.fabric == locked(address) and made.board is f.BOARD
    assert [store.read(digest) for digest in DIGESTS.values()] == list(ARCHIVES.values())
    whole = lock.model_copy(update={"driver": made})
    assert parse(serialise(whole), Lock, "lock") == whole
    assert [set(row) for row in json.loads(serialise(whole))["driver"]["fabric"]] == [
        {"name", "version", "url", "sha256", "size"}
    ] * 2
    # A lock that is current asks nobody.
    for path in served[1].iterdir():
        path.unlink()
    assert driver_of(recipe, lock.packages, whole, Store(tmp_path / "other"), solver()) == made
    assert len(apt.asked) == 1


@pytest.mark.parametrize(
    ("others", "said"),
    [
        (
            {"nscq": f.made("nscq", "libnvidia_nscq-linux-x86_64-595.58.03-archive")},
            r"^gpu-ppcie: .*board\.yaml:\d+.*got an archive with libnvidia_nscq-linux-x86_64-595\.58\.03-archive, "
            r"expected the folder libnvidia_nscq-linux-x86_64-595\.71\.05-archive",
        ),
        ({"nscq": ARCHIVES["manager"]}, r"got an archive with fabricmanager-linux-x86_64-595\.71\.05-archive"),
        (
            {"nscq": f.made("nscq", changes={"lib/libnvidia-nscq.so.595.71.05": None})},
            r"has no file libnvidia_nscq.*/lib/libnvidia-nscq\.so\.595\.71\.05",
        ),
        ({"manager": b"<html>sign in</html>"}, r"manager.*: it is not a file compressed by xz"),
        ({"manager": lzma.compress(b"no tar file" * 99)}, "manager.*: its tar file cannot be read"),
    ],
    ids=["version", "other", "file", "page", "no-tar"],
)
def test_another_archive_than_the_drivers_is_refused(
    tmp_path: Path,
    apt: Apt,
    lock: Lock,
    store: Store,
    served: Served,  # noqa: F811
    others: dict[str, bytes],
    said: str,
) -> None:
    address = serve(served, **others)
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in others.items()}
    with pytest.raises(InputsError) as caught:
        driver_of(served_recipe(tmp_path, address, **digests), lock.packages, None, store, solver())
    assert re.search(said, caught.value.message), caught.value.message
    assert "board.yaml:" in caught.value.message


def test_an_archive_that_cannot_be_fetched_is_named(
    tmp_path: Path,
    apt: Apt,
    lock: Lock,
    store: Store,
    served: Served,  # noqa: F811
) -> None:
    address = serve(served)
    (served[1] / "nscq.tar.xz").unlink()
    with pytest.raises(InputsError, match=rf"board\.yaml:\d+.*(.|\n)*{NAMES['nscq']}\.tar\.xz"):
        driver_of(served_recipe(tmp_path, address), lock.packages, None, store, solver())


def test_a_recipe_with_other_archives_makes_the_lock_stale(tmp_path: Path, lock: Lock) -> None:
    board = board_in(lock)
    assert same_driver(recipe_of(tmp_path), lock.packages, board)
    assert not same_driver(recipe_of(tmp_path, given(nscq="0" * 64)), lock.packages, board)
    assert not same_driver(recipe_of(tmp_path, given("https://b.invalid")), lock.packages, board)
    assert not same_driver(recipe_of(tmp_path), lock.packages, driver_in(lock))
    assert not same_driver(runfiles.recipe_of(tmp_path), lock.packages, board)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda rows: rows[:1], "fabric: expected fabricmanager.* and libnvidia_nscq.*, of version 595.71.05"),
        (lambda rows: rows[::-1], "fabric: expected fabricmanager"),
        (lambda rows: [rows[0], rows[1] | {"version": "595.58.03"}], "fabric: expected fabricmanager"),
        (lambda rows: [rows[0], rows[1] | {"name": "libnvidia_nscq-linux-x86_64-595.58.03-archive"}], "fabric: exp"),
        (lambda rows: [rows[0], rows[1] | {"url": "http://x.invalid/a"}], r"driver\.fabric\[1\]\.url"),
        (lambda rows: [*rows, rows[0]], "fabric: expected fabricmanager"),
    ],
)
def test_a_lock_with_other_archives_than_the_drivers_is_refused(lock: Lock, change: Any, said: str) -> None:
    document = json.loads(serialise(lock.model_copy(update={"driver": board_in(lock)})))
    document["driver"]["fabric"] = change(document["driver"]["fabric"])
    with pytest.raises(InputsError, match=said):
        parse(json.dumps(document).encode(), Lock, "lock")


def test_a_driver_without_a_record_of_archives_has_none_in_its_lock(lock: Lock) -> None:
    document = json.loads(serialise(lock))
    assert "fabric" not in document["driver"]
    document["driver"]["fabric"] = json.loads(serialise(lock.model_copy(update={"driver": board_in(lock)})))[
        "driver"
    ]["fabric"]
    with pytest.raises(InputsError, match="fabric: expected nothing"):
        parse(json.dumps(document).encode(), Lock, "lock")


def test_the_archives_are_inputs_like_any_other(
    lock: Lock,
    store: Store,
    tmp_path: Path,
    served: Served,  # noqa: F811
) -> None:
    one = lock.model_copy(update={"driver": board_in(lock)})
    two = lock.model_copy(update={"driver": driver_in(lock, fabric=locked(nscq="0" * 64))})
    assert {*DIGESTS.values()} <= contents.digests([one])
    assert moves.moves(one, two) == ["RTMR1 moves: the driver", "RTMR2 moves: the driver"]
    (found,) = lock_changes(one, two)
    assert (found.kind, found.name, found.before) == ("driver package", NAMES["nscq"], r.VERSION)
    assert f"driver + {NAMES['manager']}.tar.xz" in changes(lock, one)
    address = serve(served)
    assert bring(store, locked(address), mirrors=dict) == sum(map(len, ARCHIVES.values()))
    (served[1] / "nscq.tar.xz").unlink()
    with pytest.raises(GoneError, match=rf"{NAMES['nscq']}\.tar\.xz"):
        bring(Store(tmp_path / "fresh"), locked(address), mirrors=dict)


# -- the archives ----------------------------------------------------------------------------------------------------


def read(data: bytes, *wanted: str) -> dict[str, bytes]:
    return vendorarchive.read(io.BytesIO(data), "top", wanted, "x.tar.xz")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (f.packed([file("top/a"), file("other/b")]), "got an archive with other, top, expected the folder top"),
        (f.packed([]), "got an archive with nothing, expected the folder top"),
        (f.packed([file("top/../../a")]), "leaves its folder"),
        (f.packed([file("/top/a")]), "leaves its folder"),
        (f.packed([folder("top"), link("top/a", "/etc/passwd")]), "top/a is not a regular file"),
        (f.packed([file("top/a"), file("top/a")]), "`top/a` is there twice"),
        (f.packed([file("top/b")]), "has no file top/a"),
        (f.packed([file("top/a")])[:-20], "it ends before its content does"),
        (b"", "it ends before its content does"),
        (f.packed([file("top/a")]) + b"more", "there are bytes after its content"),
        (b"\x28\xb5\x2f\xfd" + bytes(40), "it is not a file compressed by xz"),
    ],
)
def test_each_fault_of_an_archive_is_refused_by_name(data: bytes, said: str) -> None:
    with pytest.raises(InputsError, match=rf"^gpu-ppcie: x\.tar\.xz: .*{said}"):
        read(data, "a")


def test_an_archive_that_unpacks_to_too_much_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read(f.packed([file("top/a", b"1")]), "a") == {"a": b"1"}
    monkeypatch.setattr(vendorarchive, "MAX_TAR", 1 << 20)
    with pytest.raises(InputsError, match="it unpacks to more than 1 MiB"):
        read(f.packed([file("top/a", bytes(2 << 20))]), "a")


# -- the image -------------------------------------------------------------------------------------------------------


def files_of(lock: Lock, store: Store, place: Path, driver: Driver) -> dict[str, render.File]:
    for data in (DATA, *ARCHIVES.values()):
        store.add_bytes(data)
    return driverfiles.files_of(driver, "hopper", modules(), store, r.Tools.of(), place / "runfile")


def test_the_root_gets_four_files_more_and_no_script(lock: Lock, store: Store, tmp_path: Path) -> None:
    alone = files_of(lock, store, tmp_path, driver_in(lock))
    board = files_of(lock, store, tmp_path, board_in(lock))
    assert sorted(board.keys() - alone.keys()) == [
        "usr/bin/nv-fabricmanager",
        "usr/lib/nvidia/libnvidia-nscq.so.2",
        f"usr/lib/nvidia/libnvidia-nscq.so.{r.VERSION}",
        "usr/lib/nvidia/nvswitch/dgxh100_hgxh100_topology",
    ]
    assert {path: board[path] for path in alone} == alone
    assert board["usr/bin/nv-fabricmanager"].data == b"content of bin/nv-fabricmanager"
    assert [path for path, each in board.items() if each.executable] == [
        "usr/bin/nv-fabricmanager",
        "usr/bin/nvidia-persistenced",
    ]
    assert board["usr/lib/nvidia/libnvidia-nscq.so.2"].link == f"libnvidia-nscq.so.{r.VERSION}"
    assert all(driverfiles.is_of_driver(path, board_in(lock)) for path in board)
    assert not driverfiles.is_of_driver("usr/bin/nv-fabricmanager", driver_in(lock))


def test_the_modules_are_those_of_the_driver_alone(lock: Lock) -> None:
    """The switches' part of the driver is in the module of the GPUs, so nothing is compiled again."""
    assert room.key(board_in(lock)) == room.key(driver_in(lock))


def test_the_archives_decide_what_is_in_the_root(lock: Lock) -> None:
    one, two = (
        inputs._driver(lock.model_copy(update={"driver": driver}))
        for driver in (board_in(lock), driver_in(lock, fabric=locked(nscq="0" * 64)))
    )
    assert [name for name in one if one[name] != two[name]] == [f"driver archive {NAMES['nscq']}"]
    assert {"module lock/vendorarchive.py", "module lock/vendortar.py"} < set(one)
    assert "module lock/vendorarchive.py" not in inputs._driver(lock)


def test_the_command_line_has_the_mode_of_the_driver_only_with_a_board(lock: Lock) -> None:
    verity = Verity(b"r" * 32, b"s" * 32, 1, 2)
    alone, board = (
        command_line(verity, lock.model_copy(update={"driver": driver})).split()
        for driver in (driver_in(lock), board_in(lock))
    )
    assert [word for word in board if word not in alone] == ["nvidia.NVreg_RegistryDwords=RmEnableProtectedPcie=0x1"]
    assert [word for word in alone if word not in board] == []


def test_the_measured_configuration_and_the_tree_have_the_board(lock: Lock, store: Store, tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path)
    whole = lock.model_copy(update={"driver": board_in(lock)})
    config = measured_config(recipe, whole, ())
    assert config.gpu == Gpu("nvidia", "hopper", 8, r.VERSION, switches=4)
    assert (config.devices.count("nvidia-gpu"), config.devices.count("nvidia-nvswitch")) == (8, 4)
    assert configuration.decode(configuration.encode(config)).gpu == config.gpu
    plan = root.plan_of(recipe, whole, configuration.encode(config), files_of(lock, store, tmp_path, board_in(lock)))
    found = render.tree(plan, templates())
    facts = json.loads(found["privml.json"].data)
    assert "nv-fabricmanager" in facts["programs"] and "nv-fabricmanager" in facts["own_programs"]
    for path in (
        f"{fabrics.FOLDER}/fabricmanager.cfg",
        f"{fabrics.FOLDER}/dgxh100_hgxh100_topology",
        "usr/lib/systemd/system/privml-gpu-fabric.service",
        "usr/lib/sysusers.d/privml-fabric.conf",
    ):
        assert path in facts["overlay"] and f"mkosi.extra/{path}" in found
    assert not [path for path in facts["overlay"] if path.startswith("usr/share/")], "the guest has no such folder"


def test_a_recipe_without_a_board_is_rendered_as_before(tmp_path: Path) -> None:
    recipe = load(shipped() / "tdx-gpu-min.yaml")
    assert "guest/ppcie" not in overlays(recipe.content) and "guest/ppcie" in overlays(recipe_of(tmp_path).content)
    assert not [entry for entry in guest_tree(images_folder(), recipe.content).files if "ppcie" in entry.path]


def test_sbom_and_provenance_name_the_archives(lock: Lock, store: Store) -> None:
    whole = lock.model_copy(update={"driver": board_in(lock), "firmware": {}})
    said = licences.of_inputs(whole, store)
    assert {*NAMES.values()} < set(said)
    manager, nscq, source = sbom._driver(whole, said)
    assert [part["type"] for part in (manager, nscq, source)] == ["library", "library", "device-driver"]
    assert nscq["purl"] == (
        f"pkg:generic/libnvidia_nscq-linux-x86_64@595.71.05?checksum=sha256:{DIGESTS['nscq']}"
        "&download_url=https%3A%2F%2Fvendor.invalid%2Fnscq.tar.xz"
    )
    assert [row["license"]["name"] for row in manager["licenses"]] == list(f.BOARD.archives["manager"].licences)


def test_the_stand_ins_have_programs_that_the_guest_does_not_get() -> None:
    """Their scripts are executable there, so an image that unpacked them as they are would have programs more."""
    rows = {entry.name: stat.S_IMODE(entry.mode) for entry, _ in f.entries("manager")}
    assert rows[f"{NAMES['manager']}/bin/nvidia-fabricmanager-start.sh"] & 0o111
