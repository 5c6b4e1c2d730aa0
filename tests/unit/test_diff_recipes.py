"""Two recipes: every field is told with what follows from it, and what follows from none is unexplained."""

from __future__ import annotations

import copy
import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import fabric_files
import pytest
import runfile_file
import wheel_file
from image_fake import keep
from image_varied import BASE, DATA, HASHES, Document, Workshop, reseal
from test_lock_deb import file as deb_file
from test_lock_deb import package as deb
from test_repro_compare import bend
from varied_inputs import KEYS

from privml.cli import diff as verb
from privml.engines.registry import ENGINES
from privml.image.inputs import FILE as INPUTS_FILE
from privml.image.target import Target
from privml.lock.lockfile import read_lock
from privml.lock.models import Driver, Requirements, Runfile, VendorArchive
from privml.measure import gpt
from privml.output import manifest as manifests
from privml.recipe import fabrics
from privml.recipe.fields import PLATFORM, fact_named, facts
from privml.recipe.loader import shipped
from privml.repro.causes import BY_ID
from privml.repro.change import FIELD, KEY, NAME, SUPERBLOCK, TEXT, Change
from privml.repro.explained import explain
from privml.repro.explainer import Explainer
from privml.repro.images import ImageDiff
from privml.repro.layers import Layer, Mismatch, Report
from privml.repro.recipechanges import recipe_changes, side_of

KERNEL = "linux-image-amd64"


def put(path: str, value: Any) -> Callable[[Document], None]:
    """Set the field at ``path``, whose parts are separated by blanks."""

    def mutate(document: Document) -> None:
        *most, last = path.split()
        for part in most:
            document = document[int(part)] if part.isdigit() else document.setdefault(part, {})
        document[int(last) if last.isdigit() else last] = value  # type: ignore[index]

    return mutate


@dataclass(frozen=True)
class Case:
    """A mutation of ``BASE``, the names of the changed fields, and what else follows for certain."""

    field: str
    mutate: Callable[[Document], None]
    names: tuple[str, ...]
    keys: tuple[str, ...] = ()
    also: dict[str, str] = field(default_factory=dict)
    # Registers that the model says may move and that this value does not.
    still: tuple[str, ...] = ()


MODEL = "inference models 0"
ACME = "archives acme"
CASES = (
    Case("description", put("description", "Another one."), ("description",)),
    Case(
        "variant", put("variant", "development"), ("variant",), ("variant",), {"kind": "guest file"}
    ),
    Case("kernel.package", put("kernel package", KERNEL), ("kernel.package",), (), {"kind": "kernel package"}),
    Case("kernel.suite", put("kernel suite", "sid"), ("kernel.suite",), (), {"kind": "kernel package"}),
    Case("boot", put("boot", "disk"), ("boot",)),
    # The images of these tests are not compressed.
    Case(
        "root.compression", put("root compression", "zstd"), ("root.compression",), still=("rtmr1", "rtmr2")
    ),
    Case("kernel.modules", put("kernel modules", ["tcp_bbr"]), ("kernel.modules",)),
    Case("kernel.options", put("kernel options", ["nosmt"]), ("kernel.options",), (), {"kind": "kernel option"}),
    Case("firmware.tdx.suite", put("firmware tdx suite", "sid"), ("firmware.tdx.suite",), (), {"kind": "firmware"}),
    Case("inference.models.name", put(f"{MODEL} name", "other"), ("inference.models[0].name",), ("models[0].name",)),
    Case(
        "inference.models.source",
        put(f"{MODEL} source", "https://models.invalid/big.gguf"),
        ("inference.models[0].source",),
        ("models[0].file",),
        {"kind": "model"},
    ),
    Case(
        "inference.models.sha256",
        put(f"{MODEL} sha256", "b" * 64),
        ("inference.models[0].sha256",),
        ("models[0].verity.root_hash",),
        {"kind": "model volume"},
    ),
    Case("inference.models.licence", put(f"{MODEL} licence", "MIT"), ("inference.models[0].licence",)),
    Case(
        "inference.models.chat_template",
        put(f"{MODEL} chat_template", "models/chat.jinja"),
        ("inference.models[0].chat_template",),
        ("engine.argv", "models[0].verity.root_hash"),
        {"kind": "model file"},
    ),
    Case(
        "inference.models.signature.file",
        put(f"{MODEL} signature file", "models/other.sig"),
        ("inference.models[0].signature.file",),
        (),
        {"kind": "model signature"},
    ),
    # The same key in another file.
    Case(
        "inference.models.signature.key",
        put(f"{MODEL} signature key", "models/copy.pem"),
        ("inference.models[0].signature.key",),
    ),
    Case("agent.listen", put("agent listen", 9000), ("agent.listen",), ("agent.listen",)),
    Case(
        "agent.max_concurrency",
        put("agent max_concurrency", 7),
        ("agent.max_concurrency",),
        ("agent.max_concurrency",),
    ),
    Case("agent.per_address", put("agent per_address", 0), ("agent.per_address",), ("agent.per_address",)),
    Case("agent.callers", put("agent callers", "outer"), ("agent.callers",), ("agent.callers",)),
    Case("agent.metrics", put("agent metrics", True), ("agent.metrics",), ("agent.metrics",)),
    Case(
        "inference.engine.options.context",
        put("inference engine options context", 1024),
        ("inference.engine.options.context",),
        ("engine.argv[8]",),
    ),
    Case(
        "inference.engine.options.slots",
        put("inference engine options slots", 2),
        ("inference.engine.options.slots",),
        ("engine.argv[10]",),
    ),
    Case(
        "inference.engine.options.threads",
        put("inference engine options threads", 3),
        ("inference.engine.options.threads",),
        ("engine.argv",),
    ),
    Case(
        "inference.engine.options.cache_type_k",
        put("inference engine options cache_type_k", "q8_0"),
        ("inference.engine.options.cache_type_k",),
        ("engine.argv",),
    ),
    Case(
        "inference.engine.options.cache_type_v",
        put("inference engine options cache_type_v", "q8_0"),
        ("inference.engine.options.cache_type_v",),
        ("engine.argv",),
    ),
    # Asks for nothing that the locked package is not.
    Case(
        "inference.engine.version",
        put("inference engine version", "1"),
        ("inference.engine.version",),
        still=("rtmr1", "rtmr2"),
    ),
    Case(
        "services.NAME.run",
        put("services metrics run", ["/usr/bin/python3", "-B"]),
        ("services.metrics.run",),
        ("services.metrics.argv[1]",),
    ),
    Case(
        "services.NAME.environment",
        put("services metrics environment", {"LEVEL": "1"}),
        ("services.metrics.environment.LEVEL",),
        ("services.metrics.environment.LEVEL",),
    ),
    Case(
        "services.NAME.memory",
        put("services metrics memory", "128MiB"),
        ("services.metrics.memory",),
        ("services.metrics.memory",),
        {"kind": "file"},
    ),
    Case(
        "services.NAME.required",
        put("services metrics required", True),
        ("services.metrics.required",),
        ("services.metrics.required",),
    ),
    Case(
        "services.NAME.scratch",
        put("services metrics scratch", "32MiB"),
        ("services.metrics.scratch",),
        ("services.metrics.scratch",),
        {"kind": "file"},
    ),
    Case("packages", put("packages", ["acme-tool/acme"]), ("packages",), (), {"kind": "package"}),
    Case("archives.LABEL.suite", put(f"{ACME} suite", "testing"), ("archives.acme.suite",), (), {"kind": "package"}),
    Case(
        "archives.LABEL.pins",
        put(f"{ACME} pins acme-lib", "1.1"),
        ("archives.acme.pins.acme-lib",),
        (),
        {"kind": "package"},
    ),
    # The same packages come of these.
    Case(
        "archives.LABEL.components",
        put(f"{ACME} components", ["main", "extra"]),
        ("archives.acme.components",),
        (),
        {"kind": "components of archive"},
    ),
    Case(
        "archives.LABEL.keyring",
        put(f"{ACME} keyring", "keys/acme.asc"),
        ("archives.acme.keyring",),
        (),
        {"kind": "keyring of archive"},
    ),
    Case(
        "archives.LABEL.fingerprints",
        put(f"{ACME} fingerprints", list(KEYS)),
        ("archives.acme.fingerprints",),
        (),
        {"kind": "keys of archive"},
    ),
    Case(
        "archives.LABEL.inrelease_sha256",
        put(f"{ACME} inrelease_sha256", "2" * 64),
        ("archives.acme.inrelease_sha256",),
        (),
        {"kind": "archive"},
    ),
    Case("programs", put("programs", []), ("programs",), (), {"kind": "file"}),
    Case(
        "files.PATH.source",
        put("files /etc/acme/b.json", {"source": "files/b.json"}),
        ("files./etc/acme/b.json.source",),
        (),
        {"kind": "recipe file"},
    ),
    Case(
        "files.PATH.executable",
        put("files /etc/acme/a.json executable", True),
        ("files./etc/acme/a.json.executable",),
        (),
        {"kind": "recipe file"},
    ),
    Case("sysctl", put("sysctl", {"vm.swappiness": 10}), ("sysctl.vm.swappiness",), (), {"kind": "recipe file"}),
    Case("devices", put("devices", [{"virtio-blk": 3}, {"virtio-net": 2}]), ("devices.virtio-blk",), ("devices",)),
    Case("network.use", put("network 1 use", "unused"), ("network[1].use",), ("network[1].use",), {"kind": "file"}),
    Case(
        "network.addresses",
        put("network 0 addresses 0", "10.0.2.16/24"),
        ("network[0].addresses",),
        ("network[0].addresses[0]",),
        {"kind": "file"},
    ),
    Case(
        "network.gateways",
        put("network 0 gateways", ["fd00::3"]),
        ("network[0].gateways",),
        ("network[0].gateways[0]",),
        {"kind": "file"},
    ),
    Case("platforms", put("platforms", ["qemu-11-q35", "qemu-11-q35-tpm"]), ("platforms",), still=("rtmr0",)),
    Case("shapes.vcpus", put("shapes 1 vcpus", 8), ("shapes[1].vcpus",), still=("rtmr0",)),
    Case("shapes.memory", put("shapes 1 memory", "8GiB"), ("shapes[1].memory",), still=("rtmr0",)),
)  # fmt: skip
# Fields that no second value exists for, or only together with others.
ELSEWHERE = {
    "schema", "extends", "base.distribution", "base.release", "firmware.tdx.package",
    "firmware.snp.package", "firmware.snp.suite", "inference.engine.name",
    "agent.issuer", "inference.models.file", "inference.models.files.name", "inference.models.files.sha256",
    *(f"inference.models.signature.identity.{name}" for name in ("subject", "issuer", "root")),
    "data.name", "data.source", "data.encrypt.broker", "data.encrypt.resource",
    "inference.models.encrypt.broker", "inference.models.encrypt.resource", "keys.brokers.BROKER.ed25519",
    "exceptions.kind", "exceptions.subject", "exceptions.reason",
    "gpu.vendor", "gpu.architecture", "gpu.count", "gpu.driver.version", "gpu.allowed.driver", "gpu.allowed.vbios",
    "gpu.driver.runfile.url", "gpu.driver.runfile.sha256", "gpu.ppcie",
    *(f"gpu.driver.fabric.{name}.{field}" for name in fabrics.NAMES for field in ("url", "sha256")),
    "python.requirements", "python.before", "python.remove", "python.imports", "python.programs",
    *(f"inference.engine.options.{name}" for name in ENGINES["vllm"].options if name not in ("context", "slots")),
}  # fmt: skip


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield Workshop(tmp_path_factory.mktemp("varied"), monkeypatch)


@pytest.fixture(scope="module")
def base(shop: Workshop) -> Path:
    return shop.image("base", BASE)


def varied(*mutations: Callable[[Document], None]) -> Document:
    document = copy.deepcopy(BASE)
    for mutate in mutations:
        mutate(document)
    return document


def of_kind(found: ImageDiff, *kinds: str) -> list[Change]:
    return [change for change in found.changes if change.kind in kinds]


def test_every_field_of_a_recipe_has_a_case() -> None:
    every = facts()
    leaves = {path for path in every if not any(other.startswith(f"{path}.") for other in every)}
    recipe = {path for path in leaves if not path.startswith(f"{PLATFORM}.")}
    assert recipe == {case.field for case in CASES} | ELSEWHERE
    assert not {case.field for case in CASES} & ELSEWHERE


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.field)
def test_one_changed_field_explains_everything_that_differs(shop: Workshop, base: Path, case: Case) -> None:
    found = shop.diff(base, shop.image(case.field, varied(case.mutate)))
    assert not found.report.equal
    told = of_kind(found, FIELD, NAME, TEXT)
    assert {change.name for change in told} == set(case.names)
    assert {fact.path for change in told if (fact := fact_named(change.name))} == {case.field}
    assert [change.text() for change in found.unexplained] == []
    assert [finding.text() for finding in found.report.findings if not finding.because] == []
    assert set(case.keys) <= {change.name for change in of_kind(found, KEY)}
    if case.also:
        assert of_kind(found, case.also["kind"])
    claimed = {register.lower() for change in told for register in change.moves}
    assert set(found.registers or {}) == claimed - set(case.still)
    for register, because in (found.registers or {}).items():
        assert set(because) >= {change.title for change in told if register in change.moves}
    assert found.changes[0].kind == FIELD


@pytest.mark.parametrize("section", ["inference", "services", "files", "packages", "archives", "network"])
def test_a_section_that_is_left_out_explains_everything_that_differs(
    shop: Workshop, base: Path, section: str
) -> None:
    document = varied()
    del document[section]
    if section in ("files", "packages"):  # they need each other's
        document.pop("services", None)
        document.pop("programs", None)
    if section == "packages":
        del document["archives"]
    if section == "archives":
        document["packages"].remove("acme-tool/acme")
    found = shop.diff(base, shop.image(f"without-{section}", document))
    assert [change.text() for change in found.unexplained] == []
    assert [finding.text() for finding in found.report.findings if not finding.because] == []
    assert {re.split(r"[.\[]", change.name)[0] for change in of_kind(found, FIELD)} >= {section}
    back = shop.diff(shop.folder / f"without-{section}/out", base)
    assert [change.text() for change in back.unexplained] == []


def test_the_issuer_of_tokens_explains_everything_that_differs(shop: Workshop) -> None:
    one, two = (
        shop.image(f"issuer-{digit}", varied(put("agent callers", "tokens"), put("agent issuer", digit * 64)))
        for digit in "ab"
    )
    found = shop.diff(one, two)
    assert [change.name for change in of_kind(found, FIELD)] == ["agent.issuer"]
    assert "agent.issuer" in {change.name for change in of_kind(found, KEY)}
    assert [change.text() for change in found.unexplained] == []
    assert set(found.registers or {}) == {"rtmr1", "rtmr2", "rtmr3"}


@pytest.fixture
def driver(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> Driver:
    """A driver whose packages are in the store, and whose modules need no compilation."""
    locked = read_lock(shipped() / "tdx-gpu-min.lock.json").driver
    assert locked is not None
    parts = []
    for each in locked.record.user_space("hopper"):
        parts.append(keep(shop.fake.store, each.package, deb([deb_file(f"./{name}", b"1") for name in each.files])))
    source = keep(shop.fake.store, locked.source.name, deb([deb_file("./usr/src/x", b"x")]))
    monkeypatch.setattr("privml.image.driver.modules_of", lambda *_, **__: {"nvidia.ko": b"module"})
    monkeypatch.setattr("privml.image.driver.is_kept", lambda *_: True)
    monkeypatch.setattr("privml.image.driverrecord.compare", lambda *_: None)
    ordered = tuple(sorted(parts, key=lambda part: part.name))
    return locked.model_copy(update={"source": source, "parts": ordered})


GPU = {"vendor": "nvidia", "architecture": "hopper", "count": 1, "driver": {"version": "550.163.01"}}


def with_gpus(count: int | None, *allowed: str) -> Document:
    document = varied(put("base release", "trixie"), put("kernel package", "linux-image-amd64"))
    firmware = {"allowed": [{"driver": "550.163.01", "vbios": vbios} for vbios in allowed]} if allowed else {}
    return document if count is None else document | {"gpu": GPU | {"count": count} | firmware}


def test_the_number_of_gpus_explains_everything_that_differs(shop: Workshop, driver: Driver) -> None:
    one, two = (shop.image(f"gpus-{count}", with_gpus(count), driver=driver) for count in (1, 2))
    assert json.loads((one / "manifest.json").read_bytes())["gpus"]["count"] == 1
    found = shop.diff(one, two)
    assert [change.name for change in of_kind(found, FIELD)] == ["gpu.count"]
    assert {"gpu.count", "devices"} <= {change.name for change in of_kind(found, KEY)}
    assert [change.text() for change in found.unexplained] == []
    assert [finding.text() for finding in found.report.findings if not finding.because] == []
    assert set(found.registers or {}) == {"rtmr1", "rtmr2", "rtmr3"}


FIRMWARE = ("96.00.74.00.1A", "96.00.A5.00.01", "96.00.A5.00.02")


@pytest.mark.parametrize(
    ("before", "after", "fields"),
    [
        ((), FIRMWARE[:1], {"gpu.allowed[0].driver", "gpu.allowed[0].vbios"}),
        (FIRMWARE[:2], FIRMWARE[1:], {"gpu.allowed[0].vbios", "gpu.allowed[1].vbios"}),
    ],
    ids=["none-before", "changed"],
)
def test_the_allowed_firmware_explains_everything_that_differs(
    shop: Workshop, driver: Driver, before: tuple[str, ...], after: tuple[str, ...], fields: set[str]
) -> None:
    one, two = (
        shop.image(f"firmware-{len(before)}-{number}", with_gpus(1, *allowed), driver=driver)
        for number, allowed in enumerate((before, after))
    )
    found = shop.diff(one, two)
    assert {change.name for change in of_kind(found, FIELD)} == fields
    assert {change.name for change in of_kind(found, KEY)} >= fields
    assert [change.text() for change in found.unexplained] == []
    assert [finding.text() for finding in found.report.findings if not finding.because] == []
    assert set(found.registers or {}) == {"rtmr1", "rtmr2", "rtmr3"}


def test_gpus_that_are_left_out_explain_everything_that_differs(shop: Workshop, driver: Driver) -> None:
    one = shop.image("with-gpu", with_gpus(1), driver=driver)
    two = shop.image("without-gpu", with_gpus(None))
    for found in (shop.diff(one, two), shop.diff(two, one)):
        assert [change.text() for change in found.unexplained] == []
        assert [finding.text() for finding in found.report.findings if not finding.because] == []
        assert {"libcuda1", "gcc-14"} <= {change.name for change in of_kind(found, "driver package")}
        assert {change.name.partition(".")[0] for change in of_kind(found, FIELD)} == {"gpu"}


def test_another_source_of_the_driver_is_an_input(shop: Workshop, driver: Driver) -> None:
    source = keep(shop.fake.store, driver.source.name, deb([deb_file("./usr/src/x", b"y")]))
    one = shop.image("source-1", with_gpus(1), driver=driver)
    two = shop.image("source-2", with_gpus(1), driver=driver.model_copy(update={"source": source}))
    found = shop.diff(one, two)
    assert [change.name for change in of_kind(found, "driver package")] == [source.name]
    assert [change.text() for change in found.unexplained] == []


def of_runfile(shop: Workshop, driver: Driver, text: bytes, url: str) -> tuple[Document, Driver]:
    """A recipe with the driver from a runfile, and what is locked for it."""
    sha256 = shop.fake.store.add_bytes(text)
    name, version = runfile_file.NAME, runfile_file.VERSION
    source = Runfile(name=name, version=version, url=url, sha256=sha256, size=len(text))
    given = {"version": version, "runfile": {"url": url, "sha256": sha256}}
    locked = driver.model_copy(update={"version": version, "source": source, "parts": ()})
    return with_gpus(1) | {"gpu": GPU | {"driver": given}}, locked


def test_another_runfile_explains_everything_that_differs(
    shop: Workshop, driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def files_in(wanted: list[str], locked: Runfile, *_: object) -> dict[str, bytes]:
        return dict.fromkeys(wanted, locked.sha256.encode())

    monkeypatch.setattr("privml.image.driverrunfile.files_in", files_in)
    here, there = "https://vendor.invalid/a.run", "https://vendor.invalid/b.run"
    rows = [(b"1", here), (b"2", here), (b"2", there)]
    made = [of_runfile(shop, driver, *row) for row in rows]
    one, two, three = (
        shop.image(f"runfile-{number}", document, driver=locked) for number, (document, locked) in enumerate(made)
    )
    found = shop.diff(one, two)
    assert [change.name for change in of_kind(found, FIELD)] == ["gpu.driver.runfile.sha256"]
    assert [change.name for change in of_kind(found, "driver package")] == [runfile_file.NAME]
    assert [change.text() for change in found.unexplained] == []
    assert [finding.text() for finding in found.report.findings if not finding.because] == []
    assert set(found.registers or {}) == {"rtmr1", "rtmr2"}
    # The same bytes from elsewhere are the same image.
    same = shop.diff(two, three)
    assert [change.name for change in of_kind(same, FIELD)] == ["gpu.driver.runfile.url"]
    assert of_kind(same, "driver package") == [] and same.unexplained == ()
    assert (two / "root.raw").read_bytes() == (three / "root.raw").read_bytes()


def of_board(
    shop: Workshop, driver: Driver, count: int = 8, *, ppcie: bool = True, **changes: bytes
) -> tuple[Any, Driver]:
    """A recipe with the GPUs of a board, linked or each for itself, and what is locked for it."""
    document, locked = of_runfile(shop, driver, b"1", "https://vendor.invalid/a.run")
    archives, given = [], {}
    for name in fabrics.NAMES:
        data = changes.get(name) or fabric_files.made(name)
        url, sha256 = f"https://vendor.invalid/{name}.tar.xz", shop.fake.store.add_bytes(data)
        given[name] = {"url": url, "sha256": sha256}
        row = {"name": fabric_files.BOARD.archives[name].name, "url": url, "sha256": sha256, "size": len(data)}
        archives.append(VendorArchive.model_validate(row | {"version": runfile_file.VERSION}))
    gpu = document["gpu"] | {"count": count}
    if not ppcie:
        return document | {"gpu": gpu}, locked
    gpu = gpu | {"ppcie": True, "driver": gpu["driver"] | {"fabric": given}}
    return document | {"gpu": gpu}, locked.model_copy(update={"fabric": tuple(archives)})


def test_protected_pcie_and_its_archives_explain_everything_that_differs(
    shop: Workshop, driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def files_in(wanted: list[str], locked: Runfile, *_: object) -> dict[str, bytes]:
        return dict.fromkeys(wanted, locked.sha256.encode())

    monkeypatch.setattr("privml.image.driverrunfile.files_in", files_in)
    other = fabric_files.made("nscq", changes={f"lib/libnvidia-nscq.so.{runfile_file.VERSION}": b"other"})
    made = (of_board(shop, driver, ppcie=False), of_board(shop, driver), of_board(shop, driver, nscq=other))
    alone, board, changed = (
        shop.image(f"board-{number}", document, driver=locked) for number, (document, locked) in enumerate(made)
    )
    assert json.loads((board / "manifest.json").read_bytes())["gpus"] == {
        "architecture": "hopper", "count": 8, "switches": 4,
    }  # fmt: skip
    found = shop.diff(alone, board)
    assert {change.name for change in of_kind(found, FIELD)} >= {"gpu.ppcie"}
    assert {change.name for change in of_kind(found, "driver package")} == {
        archive.name for archive in fabric_files.BOARD.archives.values()
    }
    assert [change.text() for change in found.unexplained] == []
    assert [finding.text() for finding in found.report.findings if not finding.because] == []
    assert {"rtmr1", "rtmr2"} <= set(found.registers or {})
    found = shop.diff(board, changed)
    assert [change.name for change in of_kind(found, FIELD)] == ["gpu.driver.fabric.nscq.sha256"]
    assert [change.name for change in of_kind(found, "driver package")] == [fabric_files.BOARD.archives["nscq"].name]
    assert [change.text() for change in found.unexplained] == []
    assert [finding.text() for finding in found.report.findings if not finding.because] == []


WHEELS = {"requirements": ["acme-web>=1"], "before": "2026-02-01"}


def with_wheels(shop: Workshop, side: str, text: str = "1", **fields: Any) -> Path:
    """An image with two wheels, of which one has the module's ``text``."""
    rows = {
        "acme_fast.py": b"",
        "acme_web/__init__.py": text.encode(),
        "acme_web/tests/a.py": b"x",
        "acme_web/bin": b"",
    }
    listed = {
        "acme-fast": {"acme_fast.py": b""},
        "acme-web": {n: d for n, d in rows.items() if n.startswith("acme_web")},
    }
    store = shop.fake.store
    wheels = tuple(
        wheel_file.locked(store, name, "1.0", wheel_file.wheel_bytes(name, "1.0", files))
        for name, files in listed.items()
    )
    python = WHEELS | fields
    asked = Requirements(
        python="3.14", requested=tuple(python["requirements"]), before=python["before"], wheels=wheels
    )
    return shop.image(side, varied() | {"python": python}, requirements=asked)


@pytest.mark.parametrize(
    ("field", "value", "registers"),
    [
        ("requirements", ["acme-web>=1.0"], {"rtmr1", "rtmr2"}),
        ("before", "2026-02-02", {"rtmr1", "rtmr2"}),
        ("remove", ["acme_web/tests"], {"rtmr1", "rtmr2"}),
        ("programs", ["acme_web/bin"], {"rtmr1", "rtmr2"}),
        ("imports", ["acme_web"], set()),
    ],
)
def test_a_field_of_the_wheels_explains_everything_that_differs(
    shop: Workshop, field: str, value: Any, registers: set[str]
) -> None:
    one = with_wheels(shop, f"wheels-{field}-1")
    two = with_wheels(shop, f"wheels-{field}-2", **{field: value})
    found = shop.diff(one, two)
    assert [change.name for change in of_kind(found, FIELD)] == [f"python.{field}"]
    assert {register.lower() for change in of_kind(found, FIELD) for register in change.moves} == registers
    assert [change.text() for change in found.unexplained] == []
    assert [finding.text() for finding in found.report.findings if not finding.because] == []


def test_a_changed_wheel_is_named_and_rebuilds_the_root_only(shop: Workshop) -> None:
    one, two = with_wheels(shop, "wheel-1"), with_wheels(shop, "wheel-2", "2")
    found = shop.diff(one, two)
    assert [change.name for change in of_kind(found, "Python wheel")] == ["acme-web"]
    (file,) = [change for change in of_kind(found, "file") if change.name.endswith("acme_web/__init__.py content")]
    assert file.because == ("Python wheel acme-web",)
    assert [change.text() for change in found.unexplained] == []
    assert set(found.registers or {}) == {"rtmr1", "rtmr2"}
    inputs = [json.loads((path / INPUTS_FILE).read_bytes())["steps"] for path in (one, two)]
    assert inputs[0]["base tree"] == inputs[1]["base tree"]
    changed = {name for name, value in inputs[0]["root.raw"].items() if inputs[1]["root.raw"][name] != value}
    assert changed == {"Python wheel acme-web"}


def test_wheels_that_are_left_out_explain_everything_that_differs(shop: Workshop, base: Path) -> None:
    one = with_wheels(shop, "with-wheels")
    for found in (shop.diff(one, base), shop.diff(base, one)):
        assert [change.text() for change in found.unexplained] == []
        assert [finding.text() for finding in found.report.findings if not finding.because] == []
        assert {change.name.partition(".")[0] for change in of_kind(found, FIELD)} == {"python"}
        assert "services.metrics.environment.PYTHONPATH" in {change.name for change in of_kind(found, KEY)}
        assert set(found.registers or {}) == {"rtmr1", "rtmr2", "rtmr3"}


def test_an_archive_moves_what_its_packages_move(shop: Workshop, base: Path) -> None:
    document = varied(put("packages", ["jq"]))
    del document["archives"]
    found = shop.diff(shop.image("without-archive", document), base)
    fields = ("suite", "components", "keyring", "fingerprints", "pins.acme-lib", "inrelease_sha256")
    assert {change.name: change.moves for change in of_kind(found, FIELD)} == dict.fromkeys(
        ("packages", *(f"archives.acme.{field}" for field in fields)), ("rtmr1", "rtmr2")
    )
    files = {change.name.split()[0]: change.because for change in of_kind(found, "file")}
    assert files["/usr/lib/acme-tool/tool.so"] == ("package acme-tool",)
    assert files["/usr/lib/acme-lib/lib.so"] == ("package acme-lib",)
    assert set(found.registers or {}) == {"rtmr1", "rtmr2"}
    assert found.unexplained == ()


def test_fields_of_an_archive_do_not_explain_what_its_unchanged_packages_cannot_move(
    shop: Workshop, base: Path
) -> None:
    document = varied(put(f"{ACME} keyring", "keys/acme.asc"), put("kernel options", ["nosmt"]))
    found = shop.diff(base, shop.image("keyring-and-option", document))
    assert found.registers == {"rtmr1": ("kernel.options",), "rtmr2": ("kernel.options",)}
    image = shop.image("keyring", varied(put(f"{ACME} keyring", "keys/acme.asc")))
    shop.bend(image, "usr/lib/acme-tool/tool.so", "x")
    (file,) = of_kind(shop.diff(base, image), "file")
    assert (file.name.split()[0], file.explained) == ("/usr/lib/acme-tool/tool.so", False)


def test_an_archive_of_an_image_without_its_lock_moves_what_its_packages_might(shop: Workshop, base: Path) -> None:
    one, two = side_of(base), side_of(shop.image("unlocked", varied(put(f"{ACME} keyring", "keys/acme.asc"))))
    assert [change.moves for change in recipe_changes(one, two)[0]] == [()]
    assert [change.moves for change in recipe_changes(one, replace(two, lock=None))[0]] == [("rtmr1", "rtmr2")]


def test_another_text_in_the_file_of_a_chat_template_is_an_input(shop: Workshop) -> None:
    document = varied(put(f"{MODEL} chat_template", "models/chat.jinja"))
    one, two = (
        shop.image(f"template-{text}", document, {"models/chat.jinja": f"{{{{ {text} }}}}"}) for text in ("a", "b")
    )
    found = shop.diff(one, two)
    assert of_kind(found, FIELD, TEXT) == []
    assert [change.title for change in of_kind(found, "model")] == ["model small"]
    assert [(change.name, change.because) for change in of_kind(found, "model file")] == [
        ("/chat_template.jinja content", ("model small",))
    ]
    assert found.registers == dict.fromkeys(("rtmr1", "rtmr2", "rtmr3"), ("model small",))
    assert found.unexplained == ()


def test_another_signature_in_the_same_file_is_an_input_that_moves_nothing(
    shop: Workshop, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shop, "signatures", {})
    found = shop.diff(base, shop.image("signed-again", BASE))
    (signature,) = of_kind(found, "model signature")
    assert signature.after == f"{signature.before}, different signature"
    assert found.registers == {}
    assert found.unexplained == ()
    documents = {change.name.split()[0]: change.because for change in of_kind(found, "output")}
    assert documents["manifest.json:/models/0/signature/sha256"] == ("model signature small",)


IDENTITY = {"subject": "a@b.invalid", "issuer": "https://b.invalid", "root": "models/root.json"}


@pytest.mark.parametrize(("name", "value"), [("subject", "c@b.invalid"), ("issuer", "d"), ("root", "models/r.json")])
def test_another_identity_is_an_input_that_moves_nothing(shop: Workshop, name: str, value: str) -> None:
    def signed(identity: dict[str, str]) -> Path:
        signature = {"file": "models/small.sig", "identity": identity}
        return shop.image(
            f"signed-by-{identity[name].replace('/', '-')}", varied(put(f"{MODEL} signature", signature))
        )

    found = shop.diff(signed(IDENTITY), signed(IDENTITY | {name: value}))
    (told,) = of_kind(found, FIELD, NAME, TEXT)
    assert told.name == f"inference.models[0].signature.identity.{name}"
    signers = [(change.before, change.after) for change in of_kind(found, "model signature")]
    changed = {"subject": "c@b.invalid (https://b.invalid)", "issuer": "a@b.invalid (d)"}.get(name)
    assert signers == ([("by identity a@b.invalid (https://b.invalid)", f"by identity {changed}")] if changed else [])
    assert found.registers == {}
    assert found.unexplained == ()


def test_one_network_card_does_not_excuse_another(shop: Workshop, base: Path) -> None:
    image = shop.image("cards", varied(put("network 1 use", "unused")))
    text = config(shop, image)
    shop.bend(image, "etc/privml/config.json", text.replace('"gateways":["fd00::2"]', '"gateways":["fd00::3"]'))
    eth0 = "etc/systemd/network/05-privml-eth0.network"
    shop.bend(image, eth0, "x")
    found = shop.diff(base, image)
    assert {change.name: change.because for change in of_kind(found, KEY)} == {
        "network[0].gateways[0]": (),
        "network[1].use": ("network[1].use",),
    }
    files = {change.name.split()[0]: change.because for change in of_kind(found, "file")}
    assert files[f"/{eth0}"] == ()
    assert files["/etc/systemd/network/05-privml-eth1.network"] == ("network[1].use",)


def test_a_card_that_is_added_explains_all_its_keys(shop: Workshop, base: Path) -> None:
    document = varied(put("devices", [{"virtio-blk": 2}, {"virtio-net": 3}]))
    document["network"].append({"use": "unused"})
    keys = {change.name: change.because for change in of_kind(shop.diff(base, shop.image("card", document)), KEY)}
    assert {name: why for name, why in keys.items() if name != "devices"} == {
        f"network[2].{key}": ("network[2].use",) for key in ("use", "addresses", "gateways")
    }
    assert keys["devices"] == ("devices.virtio-net",)


def test_the_file_for_dhcp_goes_with_the_last_card_that_has_it(shop: Workshop, base: Path) -> None:
    found = shop.diff(base, shop.image("static", varied(put("network 1 use", "unused"))))
    files = {change.name.split(" ", 1)[0]: change for change in of_kind(found, "file")}
    gone = files["/etc/systemd/network/10-privml.network"]
    assert (gone.before, gone.after, gone.because) == ("file", "missing", ("network[1].use",))


def test_sizes_are_shown_as_recipes_have_them(shop: Workshop, base: Path) -> None:
    found = shop.diff(base, shop.image("scratch", varied(put("services metrics scratch", "32MiB"))))
    (change,) = of_kind(found, FIELD)
    assert (change.before, change.after) == ("none", "32MiB")


def test_an_exception_and_the_field_that_needs_it_are_both_told(shop: Workshop, base: Path) -> None:
    exception = {"kind": "kernel-option", "subject": "mitigations=off", "reason": "Alone on the machine."}
    document = varied(put("kernel options", ["mitigations=off"]), put("exceptions", [exception]))
    found = shop.diff(base, shop.image("weaker", document))
    assert {change.name: change.after for change in of_kind(found, FIELD)} == {
        "kernel.options": "[mitigations=off]",
        **{f"exceptions[0].{key}": value for key, value in exception.items()},
    }
    assert [finding.text() for finding in found.report.findings if not finding.because] == []


def test_a_recipe_that_extends_another_is_compared_by_what_comes_of_it(shop: Workshop, base: Path) -> None:
    child = {"extends": "./parent.yaml", "agent": {"listen": 9000}}
    found = shop.diff(base, shop.image("child", child, {"parent.yaml": json.dumps(BASE)}))
    (change,) = of_kind(found, FIELD)
    assert (change.name, change.before, change.after) == ("agent.listen", "8443", "9000")


def test_the_name_of_a_recipe_moves_its_salt_and_its_configuration(shop: Workshop, base: Path) -> None:
    found = shop.diff(base, shop.image("renamed", BASE, name="another"))
    assert [change.title for change in of_kind(found, FIELD, NAME, TEXT)] == ["name of the recipe"]
    assert set(found.registers or {}) == {"rtmr1", "rtmr2", "rtmr3"}
    assert {change.name for change in of_kind(found, KEY)} == {"name"}
    assert [finding.text() for finding in found.report.findings if not finding.because] == []
    assert found.unexplained == ()


def test_equal_images_of_equal_recipes_have_no_changes(shop: Workshop, base: Path) -> None:
    found = shop.diff(base, shop.image("again", BASE))
    assert (found.report.equal, found.changes, found.notes) == (True, (), ())


def test_only_other_lines_of_a_recipe_are_told_as_its_text(shop: Workshop, base: Path) -> None:
    document = dict(reversed(list(BASE.items())))
    found = shop.diff(base, shop.image("lines", document))
    assert [change.kind for change in of_kind(found, FIELD, TEXT)] == [TEXT]
    assert found.registers == {}
    assert found.unexplained == ()


def test_two_recipes_do_not_get_the_causes_of_two_builds(shop: Workshop) -> None:
    """A date in a recipe's file is not the time of a build."""
    one, two = (
        shop.image(f"dated-{day}", BASE, {"files/a.json": f'{{"made": "2026-01-{day} 00:00:00"}}'})
        for day in (11, 12)
    )
    assert "time-stamp" in {finding.cause.id for finding in shop.compared(one, two).findings}
    found = shop.diff(one, two)
    assert {finding.cause.id for finding in found.report.findings} == {"intended"}
    assert [change.because for change in of_kind(found, "file")] == [("recipe file etc/acme/a.json",)]


def test_a_file_that_no_field_explains_is_unexplained_among_the_explained(shop: Workshop, base: Path) -> None:
    image = shop.image("stowaway", varied(put("agent listen", 9000)))
    shop.bend(image, "usr/lib/alpha/stowaway", "x")
    shop.bend(image, "usr/lib/alpha/a.so", "made at 2026-01-01 00:00:00")
    found = shop.diff(base, image)
    assert {change.name.split()[0] for change in found.unexplained} == {
        "/usr/lib/alpha/stowaway",
        "/usr/lib/alpha/a.so",
    }
    assert {change.because for change in of_kind(found, KEY)} == {("agent.listen",)}
    assert found.report.reason is not None
    assert found.report.reason.place.startswith("root.raw:/usr/lib/alpha/")
    assert "unexplained" in found.unexplained[0].text()


def test_one_field_of_a_service_does_not_excuse_another(shop: Workshop, base: Path) -> None:
    image = shop.image("service", varied(put("services metrics run", ["/usr/bin/python3", "-B"])))
    text = config(shop, image)
    assert '"memory":67108864' in text
    shop.bend(image, "etc/privml/config.json", text.replace('"memory":67108864', '"memory":134217728'))
    keys = {change.name: change.because for change in of_kind(shop.diff(base, image), KEY)}
    assert keys == {"services.metrics.argv[1]": ("services.metrics.run",), "services.metrics.memory": ()}


STOWAWAYS = (
    "usr/bin/backdoor",
    "usr/lib/privml/evil.py",
    "usr/lib/privml/privml/agent/__pycache__/evil.cpython-313.pyc",
    "etc/systemd/system/evil.service",
    "etc/acme/a.json2",
)


def test_no_field_excuses_a_file_that_nothing_puts_there(shop: Workshop, base: Path) -> None:
    """Many fields differ at once, and still none of them leads to these."""
    document = varied(
        put("variant", "development"), put("packages", []), put("programs", []), put("kernel package", KERNEL),
        lambda document: document.pop("archives"),
        put("services metrics required", True), put("files /etc/acme/a.json executable", True),
    )  # fmt: skip
    image = shop.image("smuggled", document)
    for path in STOWAWAYS:
        shop.bend(image, path, "x")
    shop.bend(image, "etc/passwd", "backdoor:x:0:0\n")
    found = shop.diff(base, image)
    folder = "/usr/lib/privml/privml/agent/__pycache__"
    assert {change.name.split()[0] for change in found.unexplained} == {folder, *(f"/{path}" for path in STOWAWAYS)}
    (accounts,) = [change for change in found.changes if change.name.startswith("/etc/passwd")]
    assert "; may follow from " in accounts.text()


def test_a_key_that_no_field_explains_is_unexplained(shop: Workshop, base: Path) -> None:
    image = shop.image("key", varied(put("description", "x")))
    shop.bend(image, "etc/privml/config.json", config(shop, base).replace(":8443", ":9443"))
    found = shop.diff(base, image)
    assert [(change.name, change.explained) for change in of_kind(found, KEY)] == [("agent.listen", False)]


def config(shop: Workshop, image: Path) -> str:
    with shop.opener(image / "root.raw", part_of(image)) as tree:
        return (tree / "etc/privml/config.json").read_text()


def part_of(image: Path) -> Any:
    return gpt.read(image / "root.raw").partitions[0]


def test_a_difference_between_builds_of_one_recipe_keeps_its_cause(shop: Workshop, base: Path) -> None:
    image = shop.image("unstable", BASE)
    shop.bend(image, "etc/machine-id", "ab" * 16)
    found = shop.diff(base, image)
    assert "machine-id" in {finding.cause.id for finding in found.report.findings}
    machine = next(change for change in found.changes if "machine-id" in change.name)
    assert machine.explained is False
    assert "a machine id was generated" in machine.text()


@pytest.mark.parametrize(
    ("volume", "at", "moves"),
    [
        ("root.raw", DATA + 1024 + 16, ("rtmr1", "rtmr2")),
        ("model.raw", DATA + 1024 + 16, ("rtmr1", "rtmr2", "rtmr3")),
        # The guest opens the volume with the parameters that are measured, and does not read this superblock.
        ("root.raw", HASHES + 16, ()),
        ("model.raw", HASHES + 16, ()),
    ],
)
def test_a_superblock_moves_the_registers_of_its_volume(
    shop: Workshop, base: Path, volume: str, at: int, moves: tuple[str, ...]
) -> None:
    image = shop.image(f"block-{volume}-{at}", BASE)
    bend(image / volume, at, b"\7")
    reseal(image)
    found = of_kind(shop.diff(base, image), SUPERBLOCK)
    assert [change.moves for change in found] == [moves]
    assert found[0].name.startswith(volume)


def test_a_salt_that_is_also_a_parameter_moves_the_registers_of_its_volume(shop: Workshop, base: Path) -> None:
    found = of_kind(shop.diff(base, shop.image("salted", varied(put(f"{MODEL} name", "other")))), SUPERBLOCK)
    salts = {change.name: (change.moves, change.because) for change in found if ":salt" in change.name}
    assert salts == {
        "model.raw privml-model-verity:salt (verity)": (
            ("rtmr1", "rtmr2", "rtmr3"),
            ("inference.models[0].name",),
        )
    }


def test_another_version_of_a_package_is_an_input(shop: Workshop, base: Path) -> None:
    found = shop.diff(base, shop.image("newer", BASE, versions={"alpha": "2"}))
    (package,) = of_kind(found, "package")
    assert (package.name, package.before, package.after, package.explained) == ("alpha", "1", "2", None)
    files = {change.name.split()[0]: change.because for change in of_kind(found, "file")}
    assert files["/usr/lib/alpha/a.so"] == ("package alpha",)
    assert files["/etc/ld.so.cache"] == ("perhaps package alpha",)
    assert found.unexplained == ()


def test_a_package_that_the_lock_does_not_have_is_unexplained(shop: Workshop, base: Path) -> None:
    image = shop.image("foreign", varied(put("agent listen", 9000)))
    reseal(image, packages=manifests.read(image).packages[1:])
    assert [change.kind for change in shop.diff(base, image).unexplained] == ["package"]


def test_another_time_is_one_line_for_all_files(shop: Workshop, base: Path) -> None:
    found = shop.diff(base, shop.image("later", BASE, source_date_epoch=1_800_000_000))
    assert [change.name for change in of_kind(found, "times")] == ["source_date_epoch"]
    assert found.unexplained == ()


def test_an_output_without_its_recipe_says_which_fields_cannot_be_told(shop: Workshop, base: Path) -> None:
    image = shop.image(
        "bare",
        varied(
            put("agent max_concurrency", 7), put("agent listen", 9000), put("kernel options", ["nosmt"]),
            put("network 1 use", "unused"), put(f"{ACME} suite", "testing"),
            put(f"{MODEL} chat_template", "models/chat.jinja"),
        ),
    )  # fmt: skip
    (image / INPUTS_FILE).unlink()
    found = shop.diff(base, image)
    assert {change.name for change in of_kind(found, FIELD)} == {
        "agent.listen", "kernel.options", "network[1].use", "archives.acme.suite",
        "inference.models[0].chat_template",
    }  # fmt: skip
    (note,) = found.notes
    assert str(image) in note
    assert "agent.max_concurrency" in note
    assert not re.search(r"agent\.listen|exceptions|shapes|kernel\.options|network|suite|chat_template", note)
    assert "archives.LABEL.keyring" in note
    keys = {change.name: change for change in of_kind(found, KEY)}
    assert keys["agent.max_concurrency"].text().endswith("may follow from agent.max_concurrency")
    assert keys["agent.listen"].because == ("agent.listen",)
    assert found.unexplained == ()


def test_a_recipe_that_changed_after_the_build_is_noted(shop: Workshop) -> None:
    target = Target(shop.folder / "edited/varied.yaml", shop.image("edited", BASE))
    assert verb.newer_recipe(target) == []
    shop.recipe("edited", varied(put("agent listen", 9000)), {}, "varied")
    (note,) = verb.newer_recipe(target)
    assert note.startswith("varied.yaml changed since ")
    target.recipe.write_text("schema: 2\n")  # type: ignore[union-attr]
    (note,) = verb.newer_recipe(target)
    assert note.startswith("varied.yaml has errors")


def test_bytes_outside_every_layer_stay_unexplained(shop: Workshop, base: Path) -> None:
    """A root that a field moves does not excuse bytes that no layer of the comparison has."""
    listen = Change(FIELD, "agent.listen", "1", "2", ("rtmr1", "rtmr2", "rtmr3"))
    explainer = Explainer([listen], (side_of(base), side_of(base)))
    row = Mismatch(Layer.BYTES, "root.raw", "bytes", "a", "b", BY_ID["unexplained-bytes"])
    report = Report((row, replace(row, cause=BY_ID["explained-above"])), {}, {})
    assert [finding.because for finding in explain(report, explainer).findings] == [(), ("agent.listen",)]


def test_an_unmeasured_field_of_a_model_does_not_explain_its_volume(shop: Workshop, base: Path) -> None:
    image = shop.image("licensed", varied(put(f"{MODEL} licence", "MIT")))
    bend(image / "model.raw", DATA + 1024 + 16, b"\7")
    reseal(image)
    found = shop.diff(base, image)
    assert [change.kind for change in of_kind(found, FIELD, SUPERBLOCK) if change.explained is not None] == [
        SUPERBLOCK
    ]
    assert of_kind(found, SUPERBLOCK)[0].explained is False


@pytest.mark.parametrize("key", ["models[99].name", "models[999].verity.salt", "models.x", "", "[]", "engine[", "."])
def test_a_strange_key_of_a_configuration_is_unexplained(shop: Workshop, base: Path, key: str) -> None:
    explainer = Explainer([Change(FIELD, "agent.listen", "1", "2", ("rtmr3",))], (side_of(base), side_of(base)))
    assert explainer.of(f"root.raw:/etc/privml/config.json:{key}", "key") == ()


def test_many_differences_are_explained_in_time(shop: Workshop, base: Path) -> None:
    """60,000 paths, and a thousand changed inputs."""
    image = shop.image("many", varied(put("agent listen", 9000)))
    report = shop.compared(base, image)
    template = report.findings[0]
    files = [
        replace(template, layer=Layer.TREE, place=f"root.raw:/usr/share/{number}", field="content")
        for number in range(60_000)
    ]
    sources = [Change("agent file", f"privml/{number}.py", "a", "b") for number in range(1000)]
    explainer = Explainer(sources, (side_of(base), side_of(image)))
    start = time.process_time()
    found = explain(replace(report, findings=tuple(files)), explainer)
    assert len(found.findings) == 60_000
    assert time.process_time() - start < 5


def test_a_record_of_another_recipe_is_not_believed(shop: Workshop, base: Path) -> None:
    image = shop.image("liar", varied(put("agent listen", 9000)))
    record = json.loads((image / INPUTS_FILE).read_bytes())
    record["recipe"]["content"]["agent"]["listen"] = 8443
    (image / INPUTS_FILE).write_text(json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False))
    found = shop.diff(base, image)
    assert "has another recipe than the one that manifest.json names" in found.notes[0]
    assert [change.name for change in of_kind(found, FIELD)] == ["agent.listen"]


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"format":"privml-inputs/v9"}'])
def test_a_damaged_record_is_a_note(shop: Workshop, base: Path, damage: bytes) -> None:
    image = shop.image("damaged", varied(put("agent listen", 9000)))
    (image / INPUTS_FILE).write_bytes(damage)
    found = shop.diff(base, image)
    assert "cannot be read" in found.notes[0]
    assert [change.name for change in of_kind(found, FIELD)] == ["agent.listen"]
