"""A driver from the vendor's runfile: locked, fetched again, compiled and placed in the root, on a stand-in of it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import module_file
import pytest
import runfile_file as r
from image_fake import keep
from test_image_driver import CRYPTO, RELEASE, SYMVERS
from test_lock_deb import file, package
from test_lock_driver import Apt
from test_lock_make import solver
from test_lock_modelsources import served  # noqa: F401 - a fixture

from privml.base.errors import BuildError, InputsError, RecipeError
from privml.image import driver as room
from privml.image import driverfiles, licences, sbom
from privml.lock import contents, moves
from privml.lock.changes import changes
from privml.lock.driver import driver_of, same_driver
from privml.lock.lockfile import parse, read_lock, serialise
from privml.lock.make import bring
from privml.lock.models import Driver, Lock, Runfile
from privml.lock.trees import guest_tree, images_folder
from privml.recipe import drivers
from privml.recipe.lint import lint
from privml.recipe.loader import Recipe, load, shipped
from privml.repro.lockchanges import lock_changes
from privml.store.fetch import GoneError
from privml.store.objects import Store
from privml.store.pools import Pool, export

DATA = r.made()
DIGEST = hashlib.sha256(DATA).hexdigest()
URL = f"https://vendor.invalid/{r.NAME}.run"
RECORD = r.RECORD
Served = tuple[str, Path]


def recipe_of(folder: Path, url: str = URL, sha256: str = DIGEST, driver: str | None = None) -> Recipe:
    """tdx-gpu-min with the driver from a runfile."""
    if not (folder / "platforms").is_dir():
        shutil.copytree(shipped() / "platforms", folder / "platforms")
    text = (shipped() / "tdx-gpu-min.yaml").read_text()
    given = driver or f"{{version: {r.VERSION}, runfile: {{url: {url}, sha256: {sha256}}}}}"
    assert "{version: 550.163.01}" in text
    path = folder / "runfile.yaml"
    path.write_text(text.replace("{version: 550.163.01}", given))
    return load(path)


@pytest.fixture(scope="module")
def lock() -> Lock:
    return read_lock(shipped() / "tdx-gpu-min.lock.json")


@pytest.fixture
def apt(lock: Lock, monkeypatch: pytest.MonkeyPatch) -> Apt:
    return Apt(lock, monkeypatch)


def driver_in(lock: Lock, source: Runfile | None = None, **more: Any) -> Driver:
    """The driver of the lock with a runfile as its source."""
    given = source or Runfile(name=r.NAME, version=r.VERSION, url=URL, sha256=DIGEST, size=len(DATA))
    assert lock.driver is not None
    return lock.driver.model_copy(update={"version": r.VERSION, "source": given, "parts": (), **more})


# -- the recipe ------------------------------------------------------------------------------------------------------


def test_a_recipe_names_the_runfile_exactly_where_the_record_needs_it(tmp_path: Path) -> None:
    gpu = recipe_of(tmp_path).content.gpu
    assert gpu is not None and gpu.record is RECORD
    assert gpu.driver.runfile is not None and (gpu.driver.runfile.url, gpu.driver.runfile.sha256) == (URL, DIGEST)


@pytest.mark.parametrize(
    ("driver", "said"),
    [
        (f"{{version: {r.VERSION}}}", r"no archive of the release.*`sha256` of NVIDIA-.*\[driver-runfile\]"),
        (
            f"{{version: 550.163.01, runfile: {{url: {URL}, sha256: {DIGEST}}}}}",
            r"in the release's packages: leave `runfile` out \[driver-runfile\]",
        ),
        (f"{{version: {r.VERSION}, runfile: {{url: {URL}}}}}", "sha256"),
        (f"{{version: {r.VERSION}, runfile: {{url: {URL}, sha256: '1234'}}}}", "sha256"),
        (f"{{version: {r.VERSION}, runfile: {{url: 'http://x.invalid/a.run', sha256: {DIGEST}}}}}", "url.*https://"),
        (f"{{version: {r.VERSION}, runfile: {{url: 'https://x.invalid/a/', sha256: {DIGEST}}}}}", "url.*of a file"),
        (f"{{version: {r.VERSION}, runfile: {{url: 'file:a.run', sha256: {DIGEST}}}}}", "url.*address of a file"),
        (f"{{version: {r.VERSION}, runfile: {{url: 'https://u:p@x.invalid/a', sha256: {DIGEST}}}}}", "without user"),
    ],
)
def test_a_runfile_that_is_not_needed_not_named_or_not_pinned_is_refused(
    tmp_path: Path, driver: str, said: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        recipe_of(tmp_path, driver=driver)
    assert re.search(said, caught.value.message), caught.value.message


def test_lint_says_that_nobody_has_tried_this_driver(tmp_path: Path) -> None:
    found = {finding.rule: finding.text for finding in lint(recipe_of(tmp_path))}
    assert {"driver-untried", "gpu-platform"} <= set(found)
    assert "nothing of it was unpacked, compiled or booted" in found["driver-untried"]
    assert drivers.known_of("nvidia", r.VERSION) == []


def test_the_lock_of_another_driver_has_only_its_own_patches(tmp_path: Path, lock: Lock) -> None:
    """A patch for one driver must not make the locks of others stale."""
    images = images_folder()
    found = {
        name: [entry.path for entry in guest_tree(images, recipe.content).files if entry.path.startswith("drivers/")]
        for name, recipe in {"550": load(shipped() / "tdx-gpu-min.yaml"), "595": recipe_of(tmp_path)}.items()
    }
    assert found == {
        "550": ["drivers/nvidia-550.163.01-linux-7.3.patch"],
        "595": ["drivers/nvidia-595.71.05-linux-7.3.patch"],
    }


# -- the lock --------------------------------------------------------------------------------------------------------


def test_lock_fetches_the_runfile_and_takes_the_rest_from_the_release(
    tmp_path: Path,
    apt: Apt,
    lock: Lock,
    store: Store,
    served: Served,  # noqa: F811
) -> None:
    address, folder = served
    url = f"{address}/{r.NAME}.run"
    (folder / f"{r.NAME}.run").write_bytes(DATA)
    recipe = recipe_of(tmp_path, url)
    made = driver_of(recipe, lock.packages, None, store, solver())
    assert made == driver_in(lock, Runfile(name=r.NAME, version=r.VERSION, url=url, sha256=DIGEST, size=len(DATA)))
    (wanted,) = apt.asked
    assert wanted.alone == ()
    assert {"gcc-14", "make", "patch", "linux-headers-7.3.4+deb13-common"} < {each.name for each in wanted.install}
    suites = {suite.name: suite.components for suite in wanted.suites}
    assert suites["trixie-backports"] == ("main",), "nothing of it needs non-free"
    assert store.read(DIGEST) == DATA
    whole = lock.model_copy(update={"driver": made})
    assert parse(serialise(whole), Lock, "lock") == whole
    assert json.loads(serialise(whole))["driver"]["source"] == {
        "name": r.NAME, "version": r.VERSION, "url": url, "sha256": DIGEST, "size": len(DATA),
    }  # fmt: skip
    # A lock that is current asks neither apt nor the vendor.
    (folder / f"{r.NAME}.run").unlink()
    assert driver_of(recipe, lock.packages, whole, Store(tmp_path / "other"), solver()) == made
    assert len(apt.asked) == 1


@pytest.mark.parametrize(
    ("data", "asked", "said"),
    [
        (b"<html>sign in</html>", None, r"^driver-runfile: .*runfile\.yaml:\d+.* does not begin with `#!/bin/sh`"),
        (DATA, "0" * 64, r"could not be fetched.*\n.*sha256 got [0-9a-f]{64}, expected 0{64}"),
        (
            r.made(head=r.script(version_string="595.58.03", targetdir="NVIDIA-Linux-x86_64-595.58.03")),
            None,
            r"^driver-version: .*got a file that unpacks to NVIDIA-Linux-x86_64-595\.58\.03, version 595\.58\.03, "
            r"expected NVIDIA-Linux-x86_64-595\.71\.05",
        ),
        (r.made(head=r.script(targetdir=f"{r.NAME}-no-compat32")), None, "driver-version.*no-compat32"),
    ],
)
def test_another_file_than_the_drivers_is_refused(
    tmp_path: Path,
    apt: Apt,
    lock: Lock,
    store: Store,
    served: Served,  # noqa: F811
    data: bytes,
    asked: str | None,
    said: str,
) -> None:
    address, folder = served
    (folder / "x.run").write_bytes(data)
    recipe = recipe_of(tmp_path, f"{address}/x.run", asked or hashlib.sha256(data).hexdigest())
    with pytest.raises(InputsError, match=said) as caught:
        driver_of(recipe, lock.packages, None, store, solver())
    assert "runfile.yaml:" in caught.value.message
    assert not store.has("0" * 64)


def test_a_recipe_that_names_another_file_makes_the_lock_stale(tmp_path: Path, lock: Lock) -> None:
    driver = driver_in(lock)
    assert same_driver(recipe_of(tmp_path), lock.packages, driver)
    assert not same_driver(recipe_of(tmp_path, sha256="0" * 64), lock.packages, driver)
    assert not same_driver(recipe_of(tmp_path, url="https://other.invalid/a.run"), lock.packages, driver)
    assert not same_driver(recipe_of(tmp_path), lock.packages, lock.driver)
    assert not same_driver(load(shipped() / "tdx-gpu-min.yaml"), lock.packages, driver)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda d: d | {"version": "550.163.01"},
            "source: got another form than that of the driver nvidia 550.163.01",
        ),
        (lambda d: d | {"parts": d["toolchain"][:1]}, "parts: expected packages if the source is one, else none"),
        (lambda d: d | {"source": d["toolchain"][0]}, "source: got another form"),
        (lambda d: d | {"source": d["source"] | {"url": "http://x.invalid/a"}}, r"driver\.source\.runfile\.url"),
        (lambda d: d | {"source": d["source"] | {"path": "a.deb"}}, r"driver\.source\.runfile\.path"),
        (lambda d: d | {"source": None}, r"driver\.source"),
    ],
)
def test_a_lock_whose_driver_has_two_forms_or_none_is_refused(
    lock: Lock, change: Callable[[dict[str, Any]], dict[str, Any]], said: str
) -> None:
    document = json.loads(serialise(lock.model_copy(update={"driver": driver_in(lock)})))
    document["driver"] = change(document["driver"])
    with pytest.raises(InputsError, match=said):
        parse(json.dumps(document).encode(), Lock, "lock")


def test_the_runfile_is_an_input_like_any_other(lock: Lock, store: Store, tmp_path: Path) -> None:
    one = lock.model_copy(update={"driver": driver_in(lock)})
    other = Runfile(name=r.NAME, version=r.VERSION, url=URL, sha256="0" * 64, size=1)
    two = lock.model_copy(update={"driver": driver_in(lock, other)})
    assert DIGEST in contents.digests([one]) and DIGEST in contents.kept([one], store)
    assert moves.moves(one, two) == ["RTMR1 moves: the driver", "RTMR2 moves: the driver"]
    (found,) = lock_changes(one, two)
    assert (found.kind, found.name, found.before) == ("driver package", r.NAME, r.VERSION)
    said = [line for line in changes(lock, one) if line.startswith("driver")]
    assert f"driver + {r.NAME}.run" in said and any("driver - libcuda1" in line for line in said)


def test_a_locked_runfile_is_fetched_again_and_missed_by_name(
    lock: Lock,
    store: Store,
    tmp_path: Path,
    served: Served,  # noqa: F811
) -> None:
    address, folder = served
    given = Runfile(name=r.NAME, version=r.VERSION, url=f"{address}/a.run", sha256=DIGEST, size=len(DATA))
    (folder / "a.run").write_bytes(DATA)
    assert bring(store, [given], mirrors=dict) == len(DATA)
    (folder / "a.run").unlink()
    with pytest.raises(GoneError, match=f"{r.NAME}\\.run"):
        bring(Store(tmp_path / "fresh"), [given], mirrors=dict)
    export(store, [DIGEST], tmp_path / "pool")
    assert bring(Store(tmp_path / "fresh"), [given], pools=[Pool.parse(str(tmp_path / "pool"))], mirrors=dict) > 0


# -- the image -------------------------------------------------------------------------------------------------------


def modules(**changes: Any) -> dict[str, bytes]:
    facts = (("version", r.VERSION), ("vermagic", f"{RELEASE} SMP preempt"))
    whole = {"facts": facts, "needed": ("printk", *CRYPTO), "exports": ("nvUvmInterfaceOpen",), **changes}
    other = module_file.made(facts=facts, needed=("nvUvmInterfaceOpen",))
    return {"nvidia.ko": module_file.made(**whole), "nvidia-uvm.ko": other}


def with_toolchain(lock: Lock, store: Store) -> Driver:
    """A driver whose toolchain has only what the compilation reads of it, and whose runfile is in the store."""
    store.add_bytes(DATA)
    symvers = file(f"./usr/src/linux-headers-{RELEASE}/Module.symvers", SYMVERS)
    rows = {"base-files": [file("./usr/bin/x")], "linux-headers": [symvers]}
    toolchain = tuple(keep(store, name, package(entries)) for name, entries in rows.items())
    return driver_in(lock, toolchain=toolchain)


def test_the_modules_are_compiled_from_the_runfiles_source(lock: Lock, store: Store, tmp_path: Path) -> None:
    driver = with_toolchain(lock, store)
    tools = r.Tools.of(modules())
    assert room.modules_of(driver, store, tools, tmp_path / "driver") == modules()
    unpack, *patches, make, strip = tools.calls
    assert unpack == ["prlimit", f"--fsize={8 << 30}", "xz", "--decompress", "--quiet", "/work/payload.tar.xz"]
    assert [words[0] for words in patches] == ["patch"]
    assert tools.stdin == [(images_folder() / "drivers" / name).read_bytes() for name in RECORD.patches]
    assert make[0] == "make" and {
        "modules",
        "NV_KERNEL_MODULES=nvidia nvidia-uvm",
        "SYSSRC=/usr/src/linux-headers-7.3.4+deb13-common",
        f"SYSOUT=/usr/src/linux-headers-{RELEASE}",
        f"KERNEL_UNAME={RELEASE}",
        "CC=gcc-14",
    } < set(make)
    assert [Path(word).name for word in strip[2:]] == ["nvidia.ko", "nvidia-uvm.ko"]
    assert tools.seen == r.SOURCE, "the compiler sees kernel-open, and nothing else of the runfile"
    assert not (tmp_path / "driver/build/runfile").exists()
    assert room.is_kept(driver, store)
    # Taken from the store, nothing is unpacked.
    again = r.Tools.of()
    assert room.modules_of(driver, store, again, tmp_path / "again") == modules() and again.calls == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"needed": ("printk", *CRYPTO[1:])}, "^driver-crypto"),
        ({"needed": ("strncpy", *CRYPTO)}, "^driver-symbols: nvidia.ko needs strncpy"),
        ({"facts": (("version", "550.163.01"), ("vermagic", RELEASE))}, "^driver-version: .* expected 595.71.05"),
    ],
)
def test_the_modules_are_checked_as_those_of_packages(
    lock: Lock, store: Store, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(BuildError, match=said):
        room.modules_of(with_toolchain(lock, store), store, r.Tools.of(modules(**changes)), tmp_path / "driver")


def test_the_root_gets_its_files_of_the_runfile_and_nothing_else(lock: Lock, store: Store, tmp_path: Path) -> None:
    store.add_bytes(DATA)
    found = driverfiles.files_of(driver_in(lock), "hopper", modules(), store, r.Tools.of(), tmp_path / "runfile")
    assert sorted(found) == [
        "etc/modules-load.d/privml-gpu.conf",
        "usr/bin/nvidia-persistenced",
        "usr/lib/firmware/nvidia/595.71.05/gsp_ga10x.bin",
        f"usr/lib/modules/{RELEASE}/kernel/drivers/video/nvidia-uvm.ko",
        f"usr/lib/modules/{RELEASE}/kernel/drivers/video/nvidia.ko",
        "usr/lib/nvidia/libcuda.so.1",
        "usr/lib/nvidia/libcuda.so.595.71.05",
        "usr/lib/nvidia/libnvidia-cfg.so.1",
        "usr/lib/nvidia/libnvidia-cfg.so.595.71.05",
        "usr/lib/nvidia/libnvidia-gpucomp.so.595.71.05",
        "usr/lib/nvidia/libnvidia-ml.so.1",
        "usr/lib/nvidia/libnvidia-ml.so.595.71.05",
        "usr/lib/nvidia/libnvidia-nvvm.so.4",
        "usr/lib/nvidia/libnvidia-nvvm.so.595.71.05",
        "usr/lib/nvidia/libnvidia-pkcs11-openssl3.so.595.71.05",
        "usr/lib/nvidia/libnvidia-ptxjitcompiler.so.1",
        "usr/lib/nvidia/libnvidia-ptxjitcompiler.so.595.71.05",
    ]
    assert found["usr/lib/nvidia/libcuda.so.1"].link == "libcuda.so.595.71.05"
    assert found["usr/lib/nvidia/libcuda.so.595.71.05"].data == b"content of libcuda.so.595.71.05"
    assert [path for path, each in found.items() if each.executable] == ["usr/bin/nvidia-persistenced"]
    assert all(driverfiles.is_of_driver(path, driver_in(lock)) for path in found)
    assert not (tmp_path / "runfile").exists()


def test_a_runfile_without_a_file_is_refused_by_name(lock: Lock, store: Store, tmp_path: Path) -> None:
    data = r.made(r.entries({"libnvidia-pkcs11-openssl3.so.595.71.05": None}))
    given = Runfile(name=r.NAME, version=r.VERSION, url=URL, sha256=store.add_bytes(data), size=len(data))
    with pytest.raises(InputsError, match=r"driver-runfile: .*has no file libnvidia-pkcs11-openssl3\.so\.595"):
        driverfiles.files_of(driver_in(lock, given), "hopper", modules(), store, r.Tools.of(), tmp_path / "runfile")
    assert not (tmp_path / "runfile").exists()


def test_whatever_decides_the_modules_is_in_their_key(lock: Lock, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = driver_in(lock)
    found = room.inputs_of(driver)
    assert found[f"source {r.NAME}"] == f"{r.VERSION} {DIGEST}"
    assert {"module image/driverrunfile.py", "module lock/runfile.py", "module lock/vendortar.py"} < set(found)
    assert "module image/driverpackage.py" not in found
    assert lock.driver is not None and "module lock/runfile.py" not in room.inputs_of(lock.driver)
    other = Runfile(name=r.NAME, version=r.VERSION, url=URL, sha256="0" * 64, size=1)
    elsewhere = Runfile(name=r.NAME, version=r.VERSION, url="https://b.invalid/x", sha256=DIGEST, size=len(DATA))
    assert room.key(driver_in(lock, other)) != room.key(driver)
    assert room.key(driver_in(lock, elsewhere)) == room.key(driver), "where the same bytes came from decides nothing"


def test_sbom_and_provenance_name_the_runfile(lock: Lock, store: Store) -> None:
    whole = lock.model_copy(update={"driver": driver_in(lock), "firmware": {}})
    said = licences.of_inputs(whole, store)
    assert said == {r.NAME: list(RECORD.source.licences)}
    (part,) = sbom._driver(whole, said)
    assert (part["type"], part["name"], part["version"]) == ("device-driver", r.NAME, r.VERSION)
    assert part["hashes"] == [{"alg": "SHA-256", "content": DIGEST}]
    assert part["purl"] == (
        f"pkg:generic/NVIDIA-Linux-x86_64@595.71.05?checksum=sha256:{DIGEST}"
        f"&download_url=https%3A%2F%2Fvendor.invalid%2F{r.NAME}.run"
    )
    assert [row["license"]["name"] for row in part["licenses"]] == list(RECORD.source.licences)
    properties = {row["name"]: row["value"] for row in part["properties"]}
    assert properties["privml:modules"] == "nvidia nvidia-uvm"
    assert properties["privml:patches"] == " ".join(RECORD.patches)


@pytest.mark.skipif(shutil.which("patch") is None, reason="this machine has no `patch`")
def test_the_patch_fits_the_lines_that_it_is_written_for(tmp_path: Path) -> None:
    """Each hunk is whole, and applied to a file that has its lines it leaves no `strncpy` behind."""
    (name,) = RECORD.patches
    text = (images_folder() / "drivers" / name).read_text()
    assert text.isascii()
    files: dict[str, list[str]] = {}
    for part in text.split("\ndiff --git ")[1:]:
        path = re.search(r"^\+\+\+ b/(\S+)$", part, re.MULTILINE)[1]  # type: ignore[index]
        lines = files.setdefault(path, [])
        for old, count, new_count, body in re.findall(
            r"^@@ -(\d+),(\d+) \+\d+,(\d+) @@.*\n((?:[ +-].*\n|\n)*)", part + "\n", re.MULTILINE
        ):
            rows = body.rstrip("\n").split("\n")
            rows += [" "] * (int(count) - sum(row[:1] != "+" for row in rows))
            assert sum(row[:1] != "+" for row in rows) == int(count), path
            assert sum(row[:1] != "-" for row in rows) == int(new_count), path
            lines += [""] * (int(old) - 1 - len(lines))
            lines += [row[1:] for row in rows if row[:1] != "+"]
    for path, lines in files.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text("\n".join([*lines, ""]))
    argv = ["patch", "--strip=1", "--fuzz=0", "--no-backup-if-mismatch", "--batch"]
    subprocess.run(argv, input=text.encode(), cwd=tmp_path, check=True, capture_output=True)
    left = "".join(path.read_text() for path in tmp_path.rglob("*.c"))
    assert sorted(files) == ["nvidia-uvm/uvm_pmm_gpu.c", "nvidia/linux_nvswitch.c", "nvidia/os-interface.c"]
    assert "strncpy(" not in left and left.count("strscpy") == 2


def test_a_record_without_a_runfile_stays_as_it_is() -> None:
    old = drivers.driver("nvidia", "550.163.01")
    assert isinstance(old.source, drivers.Source) and old.untried == ""
    assert all(part.package for part in old.user_space("hopper"))
    assert all(part.package is None for part in RECORD.user_space("hopper"))
    assert dataclasses.replace(RECORD, kernels=()).patches == ()
