"""A driver's modules: the checks by name, the store, the record, and the files in the root."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import module_file
import pytest
from image_fake import keep as keep_deb
from test_lock_deb import file, link, package

from privml.base import strictjson
from privml.base.errors import BuildError, Differs, EvidenceError, InputsError
from privml.events.verity import Verity
from privml.image import driver as room
from privml.image import driverfiles, driverrecord
from privml.image.render import File
from privml.image.tools import ToolsTree
from privml.image.uki import command_line
from privml.lock.lockfile import read_lock
from privml.lock.models import Driver
from privml.recipe import drivers
from privml.recipe.drivers import DRIVERS
from privml.recipe.loader import shipped
from privml.store.objects import Store

RELEASE = "7.3.4+deb13-amd64"
DRIVER_RECORDS = shipped().parent / driverrecord.FOLDER
CRYPTO = tuple(group[0] for group in drivers.driver("nvidia", "550.163.01").crypto)
SYMVERS = "".join(f"0x00000000\t{name}\tvmlinux\tEXPORT_SYMBOL\t\n" for name in ("printk", *CRYPTO)).encode()


def nvidia(**changes: Any) -> bytes:
    return module_file.made(**{"needed": ("printk", *CRYPTO), "exports": ("nvUvmInterfaceOpen",), **changes})


def modules(**changes: Any) -> dict[str, bytes]:
    return {"nvidia.ko": nvidia(**changes), "nvidia-uvm.ko": module_file.made(needed=("nvUvmInterfaceOpen",))}


@pytest.fixture(scope="module")
def locked() -> Driver:
    found = read_lock(shipped() / "tdx-gpu-min.lock.json").driver
    assert found is not None
    return found


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def test_good_modules_say_which_cryptography_of_the_kernel_they_use(locked: Driver) -> None:
    assert room.check(locked, modules(), SYMVERS) == tuple(sorted(CRYPTO))


@pytest.mark.parametrize("gone", CRYPTO)
def test_a_driver_whose_cryptography_is_stubs_is_refused(locked: Driver, gone: str) -> None:
    made = modules(needed=("printk", *(name for name in CRYPTO if name != gone)))
    with pytest.raises(BuildError, match=rf"^driver-crypto: no module uses {gone}"):
        room.check(locked, made, SYMVERS)


def test_another_symbol_of_the_same_group_will_do(locked: Driver) -> None:
    names = [*CRYPTO[:-1], "crypto_alloc_sig"]
    assert "crypto_alloc_akcipher" in CRYPTO
    symvers = SYMVERS + b"0x0\tcrypto_alloc_sig\tvmlinux\tEXPORT_SYMBOL_GPL\t\n"
    assert "crypto_alloc_sig" in room.check(locked, modules(needed=names), symvers)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"needed": ("strncpy", *CRYPTO)}, "driver-symbols: nvidia.ko needs strncpy"),
        ({"exports": ()}, "driver-symbols: nvidia-uvm.ko needs nvUvmInterfaceOpen"),
        ({"facts": [("vermagic", "6.12.1 SMP"), ("version", "550.163.01")]}, "driver-vermagic: .* 6.12.1"),
        ({"facts": [("version", "550.163.01")]}, "driver-vermagic: nvidia.ko is for the kernel none"),
        ({"facts": [("vermagic", f"{RELEASE} SMP"), ("version", "1.2")]}, "driver-version: .* 1.2, expected 550"),
        ({"sections": (".debug_info",)}, "driver-debug: nvidia.ko has .debug_info"),
        ({"sections": (".rela.debug_line",)}, "driver-debug"),
    ],
)
def test_each_fault_of_a_module_has_a_name(locked: Driver, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(BuildError, match=said):
        room.check(locked, modules(**changes), SYMVERS)


def test_a_weak_symbol_may_be_missing(locked: Driver) -> None:
    room.check(locked, modules(weak=("not_there",)), SYMVERS)


def test_a_broken_list_of_the_kernels_symbols_is_refused(locked: Driver) -> None:
    with pytest.raises(BuildError, match=r"Module\.symvers: got the line `nonsense`"):
        room.check(locked, modules(), SYMVERS + b"nonsense\n")


# -- the store -------------------------------------------------------------------------------------------------------
Made = tuple[dict[str, bytes], bytes]


def compiling(monkeypatch: pytest.MonkeyPatch, *results: dict[str, bytes]) -> list[Path]:
    """Let compilations give these modules in turn; the directories they were made in."""
    places: list[Path] = []

    def compiled(_: Driver, __: Any, ___: Mapping[str, bytes], ____: Store, _____: ToolsTree, place: Path) -> Made:
        places.append(place)
        return results[len(places) - 1], SYMVERS

    monkeypatch.setattr(room, "compiled", compiled)
    return places


TOOLS = ToolsTree(Path("/nonexistent"), "f" * 64)


def test_modules_are_compiled_once_and_then_taken_from_the_store(
    locked: Driver, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = compiling(monkeypatch, modules(), modules(weak=("x",)))
    assert not room.is_kept(locked, store)
    assert room.modules_of(locked, store, TOOLS, tmp_path / "one") == modules()
    assert room.is_kept(locked, store)
    assert room.modules_of(locked, store, TOOLS, tmp_path / "two") == modules()
    assert places == [tmp_path / "one"]
    assert room.modules_of(locked, store, TOOLS, tmp_path / "three", forced=True) == modules(weak=("x",))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "store", "three"]


def test_damaged_modules_in_the_store_are_compiled_again(
    locked: Driver, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = compiling(monkeypatch, modules(), modules())
    room.modules_of(locked, store, TOOLS, tmp_path / "one")
    place = store.root / "drivers" / room.key(locked)
    place.chmod(0o600)
    place.write_bytes(place.read_bytes()[:-1] + b"x")
    assert room.modules_of(locked, store, TOOLS, tmp_path / "two") == modules()
    assert len(places) == 2


def test_modules_with_a_fault_are_not_kept(
    locked: Driver, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiling(monkeypatch, modules(needed=("printk",)))
    with pytest.raises(BuildError, match="driver-crypto"):
        room.modules_of(locked, store, TOOLS, tmp_path / "one")
    assert not room.is_kept(locked, store)


@pytest.mark.parametrize(
    "change",
    [
        lambda one: one.model_copy(update={"kernel": "7.3.5+deb13-amd64"}),
        lambda one: one.model_copy(update={"source": one.source.model_copy(update={"sha256": "0" * 64})}),
        lambda one: one.model_copy(update={"toolchain": one.toolchain[1:]}),
    ],
)
def test_whatever_decides_the_modules_is_in_their_key(locked: Driver, change: Callable[[Driver], Driver]) -> None:
    assert room.key(change(locked)) != room.key(locked)


def test_the_user_space_does_not_compile_anything_again(locked: Driver) -> None:
    assert room.key(locked.model_copy(update={"parts": locked.parts[:1]})) == room.key(locked)


def test_a_patch_is_in_the_key(locked: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    before, (name,) = room.key(locked), room.patches_of(locked)
    monkeypatch.setattr(room, "patches_of", lambda _: {name: b"another"})
    assert room.key(locked) != before


# -- the record ------------------------------------------------------------------------------------------------------
@pytest.fixture
def records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of records."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(driverrecord, "shipped", lambda: tmp_path / "other/recipes")
    folder = tmp_path / driverrecord.FOLDER
    folder.mkdir(parents=True)
    return folder


def test_two_compilations_make_a_record_that_later_ones_are_compared_with(
    locked: Driver, store: Store, records: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiling(monkeypatch, modules(), modules())
    driverrecord.compare(locked, modules())  # nothing to compare with
    (tmp_path / "work").mkdir()
    data = driverrecord.record(locked, store, TOOLS, tmp_path / "work")
    assert room.is_kept(locked, store)
    (records / f"{room.key(locked)}.json").write_bytes(data)
    assert driverrecord.recorded(locked) == driverrecord.digests_of(modules())
    driverrecord.compare(locked, modules())
    with pytest.raises(
        BuildError, match=r"driver-record: (?s:.*)nvidia\.ko: got [0-9a-f]{64}, recorded [0-9a-f]{64}"
    ):
        driverrecord.compare(locked, modules(weak=("x",)))
    assert json.loads(data)["symbols"] == sorted(CRYPTO)


def test_two_compilations_that_differ_make_no_record(
    locked: Driver, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiling(monkeypatch, modules(), modules(weak=("x",)))
    with pytest.raises(Differs, match=r"gave different nvidia\.ko$"):
        driverrecord.record(locked, store, TOOLS, tmp_path)


def altered(document: dict[str, Any], path: str, value: object) -> bytes:
    at = document
    *parents, last = path.split("/")
    for parent in parents:
        at = at[parent]
    at[last] = value
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("format", "privml-driver/v0"),
        ("inputs/kernel", "6.12"),
        ("inputs/package more", "1"),
        ("outputs/nvidia.ko/sha256", "AA" * 32),
        ("outputs/nvidia.ko/more", 1),
        ("symbols", "crypto"),
        ("seconds", -1),
        ("more", None),
    ],
)
def test_a_record_of_other_inputs_or_another_form_is_refused(locked: Driver, path: str, value: object) -> None:
    good = driverrecord.encode(locked, modules(), CRYPTO, 3)
    assert driverrecord.decode(good, locked, "record") == driverrecord.digests_of(modules())
    with pytest.raises(EvidenceError):
        driverrecord.decode(altered(json.loads(good), path, value), locked, "record")


LOCKED = {
    path.name: path
    for path in sorted(shipped().rglob("*.lock.json"))
    if json.loads(path.read_bytes()).get("driver") is not None
}


def test_locks_with_a_driver_are_found() -> None:
    assert LOCKED.keys() >= {"tdx-gpu-min.lock.json", "tdx-h100-vllm.lock.json"}


@pytest.mark.parametrize("name", LOCKED)
def test_each_shipped_lock_has_a_record_of_its_driver(name: str) -> None:
    """`make check` compiles no driver: these inputs were compiled twice, with these results."""
    driver = read_lock(LOCKED[name]).driver
    assert driver is not None
    found = driverrecord.recorded(driver)
    assert found is not None, (
        f"no record of {room.key(driver)}: python -m privml.image.driverrecord {name.removesuffix('.lock.json')}"
    )
    assert sorted(found) == sorted(f"{module}.ko" for module in driver.record.modules)


@pytest.mark.parametrize("path", sorted(DRIVER_RECORDS.iterdir()), ids=lambda path: path.stem[:8])
def test_a_record_has_the_name_of_the_inputs_that_are_in_it(path: Path) -> None:
    inputs = json.loads(path.read_bytes())["inputs"]
    assert path.name == f"{hashlib.sha256(strictjson.canonical(inputs)).hexdigest()}.json"


# -- the files in the root ------------------------------------------------------------------------------------------
def with_parts(locked: Driver, store: Store, **changes: bytes | None) -> Driver:
    """The driver with packages that have just their files, and some that the guest must not get."""
    parts = []
    for each in locked.record.user_space("hopper"):
        found = {name: changes.get(each.package, name.encode()) for name in each.files}
        entries = [file(f"./{name}", data) for name, data in found.items() if data is not None]
        entries += [file("./usr/share/doc/x/copyright", b"x"), link("./etc/alternatives/x", "/usr/bin/x")]
        parts.append(keep_deb(store, each.package, package(entries)))
    return locked.model_copy(update={"parts": tuple(sorted(parts, key=lambda part: part.name))})


def files_of(driver: Driver, store: Store) -> dict[str, File]:
    return driverfiles.files_of(driver, "hopper", modules(), store, TOOLS, Path("/nonexistent"))


def test_the_root_gets_modules_libraries_firmware_and_programs_and_nothing_else(locked: Driver, store: Store) -> None:
    files = files_of(with_parts(locked, store), store)
    assert sorted(files) == [
        "etc/modules-load.d/privml-gpu.conf",
        "usr/bin/nvidia-persistenced",
        "usr/lib/firmware/nvidia/550.163.01/gsp_ga10x.bin",
        f"usr/lib/modules/{RELEASE}/kernel/drivers/video/nvidia-uvm.ko",
        f"usr/lib/modules/{RELEASE}/kernel/drivers/video/nvidia.ko",
        "usr/lib/nvidia/libcuda.so.1",
        "usr/lib/nvidia/libcuda.so.550.163.01",
        "usr/lib/nvidia/libnvidia-cfg.so.1",
        "usr/lib/nvidia/libnvidia-cfg.so.550.163.01",
        "usr/lib/nvidia/libnvidia-ml.so.1",
        "usr/lib/nvidia/libnvidia-ml.so.550.163.01",
        "usr/lib/nvidia/libnvidia-pkcs11-openssl3.so.550.163.01",
        "usr/lib/nvidia/libnvidia-ptxjitcompiler.so.1",
        "usr/lib/nvidia/libnvidia-ptxjitcompiler.so.550.163.01",
    ]
    assert files["usr/lib/nvidia/libcuda.so.1"].link == "libcuda.so.550.163.01"
    assert [path for path, each in files.items() if each.executable] == ["usr/bin/nvidia-persistenced"]
    loaded = files["etc/modules-load.d/privml-gpu.conf"].data.decode().split()
    assert loaded.index("ecdh_generic") < loaded.index("nvidia") < loaded.index("nvidia_uvm")


def test_a_package_without_its_file_is_refused(locked: Driver, store: Store) -> None:
    with pytest.raises(InputsError, match=r"libnvidia-pkcs11-openssl3 .*has no file usr/lib/x86_64-linux-gnu/"):
        files_of(with_parts(locked, store, **{"libnvidia-pkcs11-openssl3": None}), store)


def test_a_link_is_not_taken_for_a_file(locked: Driver, store: Store) -> None:
    made = with_parts(locked, store)
    (name,) = drivers.driver("nvidia", "550.163.01").parts[0].files
    other = keep_deb(store, "libcuda1", package([link(f"./{name}", "/etc/shadow")]))
    parts = tuple(other if part.name == "libcuda1" else part for part in made.parts)
    with pytest.raises(InputsError, match="is not a regular file"):
        files_of(made.model_copy(update={"parts": parts}), store)


def test_a_driver_of_a_kernel_without_a_record_has_no_patches(locked: Driver) -> None:
    assert list(room.patches_of(locked)) == ["nvidia-550.163.01-linux-7.3.patch"]
    assert room.patches_of(locked.model_copy(update={"kernel": "6.12.1-amd64"})) == {}
    assert dataclasses.replace(locked.record, kernels=()).kernel((7, 3)) is None


def test_a_kernel_that_takes_the_drivers_modules_starts_without_lockdown() -> None:
    """The agent locks it down once they are loaded; besides, the line has the modules' parameters."""
    root, driver = Verity(b"r" * 32, b"s" * 32, 1, 2), DRIVERS["nvidia", "550.163.01"]
    plain, words = (command_line(root, ("nosmt",), driver=each).split() for each in (None, driver))
    assert [word for word in plain if word not in words] == ["lockdown=integrity"]
    assert [word for word in words if word not in plain] == list(driver.parameters)
    # The libraries of the driver leave the device nodes of the boot process alone.
    assert driver.parameters == ("nvidia.NVreg_ModifyDeviceFiles=0",)
