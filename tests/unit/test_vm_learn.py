"""`platform learn`: the file that it writes, what makes it refuse, and predictions from what it kept."""

from __future__ import annotations

import hashlib
import lzma
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from learnt_tables import generated
from test_machine_commandline import CPU, NEW

from privml.base.errors import HostError, InputsError, MeasurementError, PrivmlError, RecipeError, UsageError
from privml.cli import platform as verb
from privml.cli.store import store as store_verb
from privml.image.tools import ToolsTree
from privml.image.workplace import Workplace
from privml.lock.tables import bring_tables, known_tables, tables_of
from privml.machine import commandline
from privml.machine.platform import KINDS, Platform, Size, Tables
from privml.measure.tables import decode, measured_files
from privml.recipe.loader import load_platform, shipped
from privml.recipe.platform import PlatformDevice
from privml.store.objects import Store
from privml.store.pools import Pool
from privml.vm import foreign, learn
from privml.vm.foreign import ForeignQemu
from privml.vm.platforms import record
from privml.vm.predicted import measured_launch
from privml.vm.qtest import Qemu, blobs

TOOLS = ToolsTree(Path("/nowhere"), "")
FOUND = ForeignQemu(Qemu(TOOLS), "10.0.13", "Debian 1:10.0.13+ds-0+deb13u1", "ab" * 32)
SIZES = ((1, 2, 8), (2 << 30, 64 << 30))
CPU_WORDS = ",".join(f"{key}={value}" for key, value in CPU.items())


def fake(
    _: Qemu, __: ToolsTree, platform: Platform, size: Size, *, kernel: bool = True, words: Sequence[str] | None = None
) -> dict[str, bytes]:
    assert kernel
    assert not platform.tpm
    return generated(size)


@pytest.fixture(autouse=True)
def _no_qemu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learn, "read_of", fake)
    monkeypatch.setattr(ForeignQemu, "machine", lambda self, name: {"q35": "pc-q35-10.0"}[name])


def learnt(name: str = "mine") -> learn.Learnt:
    return learn.learn(name, TOOLS, FOUND, commandline.read(NEW, CPU), SIZES)


def test_a_platform_file_says_what_was_learnt(tmp_path: Path) -> None:
    found = learnt()
    (tmp_path / "platforms").mkdir()
    (tmp_path / "platforms/mine.yaml").write_text(found.text)
    file = load_platform("mine", tmp_path)
    assert file == found.file
    assert (file.vmm.version, file.vmm.package, file.vmm.binary) == ("10.0.13", FOUND.package, "ab" * 32)
    assert (file.machine.type, file.vmm.page_order, file.max_vcpus) == ("pc-q35-10.0", "single-pass", 8)
    assert file.registers == {"mrtd": "firmware", "rtmr0": "tables"}
    assert [(one.kind, one.slot) for one in file.devices] == [("virtio-net", "01.0"), ("virtio-blk", "05.0")]
    assert file.tables is not None
    assert file.tables.sha256 == hashlib.sha256(found.tables).hexdigest()
    tables = decode(found.tables)
    assert sorted(tables.by_vcpus) == [1, 2, 4, 8]
    assert sorted(tables.by_memory) == [2 << 30, 4 << 30, 64 << 30]
    assert learnt().text == found.text


def test_qemu_8_2_adds_all_pages_first_unless_it_is_said() -> None:
    old = replace(FOUND, version="8.2.2", package=None)
    line = commandline.read(NEW, CPU)
    assert learn.learn("mine", TOOLS, old, line, SIZES).file.vmm.page_order == "two-pass"
    assert learn.learn("mine", TOOLS, old, line, SIZES, "single-pass").file.vmm.page_order == "single-pass"
    assert [learn.page_order(version) for version in ("8.1.0", "9.0.0", "11.1.2")] == ["single-pass"] * 3


def test_what_a_file_cannot_say_is_not_learnt(monkeypatch: pytest.MonkeyPatch) -> None:
    def differs(*args: object, words: Sequence[str] | None = None) -> dict[str, bytes]:
        size = args[3]
        assert isinstance(size, Size)
        return generated(size, salt=b"" if words is None else b"other")

    monkeypatch.setattr(learn, "read_of", differs)
    with pytest.raises(
        MeasurementError, match=r"mine: etc/acpi/tables \(DSDT, RSDT\) is not the same by its own words"
    ):
        learnt()


def test_sizes_that_do_not_follow_are_not_learnt(monkeypatch: pytest.MonkeyPatch) -> None:
    def odd(*args: object, words: Sequence[str] | None = None) -> dict[str, bytes]:
        size = args[3]
        assert isinstance(size, Size)
        return generated(size, salt=b"odd" if size == Size(8, 64 << 30) else b"")

    monkeypatch.setattr(learn, "read_of", odd)
    with pytest.raises(MeasurementError, match="is not the same at 8 vCPU / 64GiB"):
        learnt()


def test_more_vcpus_than_interrupts_reach_are_refused() -> None:
    on = [word.replace("kernel_irqchip=split", "kernel_irqchip=on") for word in NEW]
    with pytest.raises(UsageError, match="300 vCPUs: expected at most 255 without kernel_irqchip=split"):
        learn.learn("mine", TOOLS, FOUND, commandline.read(on, CPU), ((300,), ()))


@pytest.mark.parametrize("text", ["family=6", "vendor=x,wild=1", CPU_WORDS + ",more=1"])
def test_a_cpu_is_named_whole(text: str) -> None:
    with pytest.raises(UsageError, match="expected vendor=N, family=N"):
        learn.identity(text)
    assert learn.identity(CPU_WORDS) == CPU
    assert learn.identity("") == {}


def kept(store: Store) -> Platform:
    found = learnt()
    store.add_bytes(found.tables)
    return record(found.file)


def test_predictions_need_the_object_and_no_qemu(tmp_path: Path) -> None:
    store = Store(tmp_path)
    platform = kept(store)
    size = Size(8, 2 << 30)
    assert blobs(TOOLS, platform, size, tmp_path) == measured_files(generated(size))
    with pytest.raises(MeasurementError, match="platform mine: 3 vCPU / 2GiB: this platform was learnt with"):
        blobs(TOOLS, platform, Size(3, 2 << 30), tmp_path)
    with pytest.raises(RecipeError, match="9 vCPUs, expected at most 8"):
        blobs(TOOLS, platform, Size(9, 2 << 30), tmp_path)
    for other, kernel, said in ((platform, False, "a boot from a disk"), (replace(platform, tpm=True), True, "TPM")):
        with pytest.raises(MeasurementError, match=said):
            blobs(TOOLS, other, size, tmp_path, kernel=kernel)


def test_tables_that_are_missing_or_damaged_are_named(tmp_path: Path) -> None:
    store = Store(tmp_path)
    platform = record(learnt().file)
    with pytest.raises(InputsError, match="are not in the store") as caught:
        blobs(TOOLS, platform, Size(1, 2 << 30), tmp_path)
    assert "store import" in str(caught.value.hint)
    assert platform.tables is not None
    kept(store)
    path = store.path(platform.tables.sha256)
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(InputsError, match="is damaged"):
        blobs(TOOLS, platform, Size(1, 2 << 30), tmp_path)
    other = replace(platform, tables=Tables(store.add_bytes(b"[]"), 2))
    with pytest.raises(MeasurementError, match="platform mine: tables of a platform: expected an object"):
        blobs(TOOLS, other, Size(1, 2 << 30), tmp_path)


def test_pools_carry_the_tables(tmp_path: Path) -> None:
    file = learnt().file
    pool, store = Store(tmp_path / "pool"), Store(tmp_path / "store")
    kept(pool)
    with pytest.raises(InputsError, match=r"tables of platform mine .* could not be fetched"):
        bring_tables(store, [file])
    bring_tables(store, [file], [Pool(tmp_path / "pool/objects")])
    assert [store.has(item.sha256) for item in tables_of([file])] == [True]


def test_gc_keeps_the_tables_of_platforms_that_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PRIVML_STORE", str(tmp_path / "store"))
    store = Store()
    kept(store)
    file = learnt().file
    path = tmp_path / "recipes/platforms/mine.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(learnt().text)
    (path.parent / "broken.yaml").write_text("schema: [")
    assert known_tables([tmp_path / "recipes", tmp_path / "none"]) == {item.sha256 for item in tables_of([file])}
    tools_lock = str(shipped() / "tools.lock.json")
    assert CliRunner().invoke(store_verb, ["gc", tools_lock]).exit_code == 0
    assert list(store.digests()) == [item.sha256 for item in tables_of([file])]
    path.unlink()
    assert CliRunner().invoke(store_verb, ["gc", tools_lock]).exit_code == 0
    assert list(store.digests()) == []


def test_a_platform_has_the_kinds_of_devices_that_machines_have() -> None:
    (kinds,) = {field.annotation for name, field in PlatformDevice.model_fields.items() if name == "kind"}
    assert {str(one) for one in kinds.__args__} == {name.replace("memory", "vfio") for name in KINDS}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PRIVML_STORE", str(tmp_path / "store"))
    monkeypatch.setattr(Workplace, "tools", lambda self: TOOLS)
    monkeypatch.setattr(foreign, "find", lambda *_: FOUND)
    (tmp_path / "qemu").touch()
    return tmp_path


def invoke(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(verb.platform, ["learn", *words])
    if isinstance(done.exception, PrivmlError):
        return done.exception.exit_code, done.exception.message
    return done.exit_code, done.output


def test_the_verb_writes_a_file_and_an_object(place: Path) -> None:
    words = ("mine", "--qemu", "qemu", "--cpu", CPU_WORDS, "--vcpus", "1,2", "--memory", "2GiB", "--", *NEW)
    code, output = invoke(*words)
    assert code == 0, output
    assert "wrote recipes/platforms/mine.yaml: QEMU 10.0.13, pc-q35-10.0, single-pass, tables of" in output
    assert "wrote recipes/platforms/mine.tables.xz: these tables, " in output
    (digest,) = Store().digests()
    packed = place / "recipes/platforms/mine.tables.xz"
    assert hashlib.sha256(lzma.decompress(packed.read_bytes())).hexdigest() == digest
    platform = record(load_platform("mine", place / "recipes"))
    assert blobs(TOOLS, platform, Size(1, 2 << 30), place / "another") == measured_files(generated(Size(1, 2 << 30)))
    assert invoke(*words) == (2, "recipes/platforms/mine.yaml already exists")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("mine", "--qemu", "qemu"), "expected a machine: QEMU's arguments after `--`"),
        (("mine", "--xml", "qemu", "--", "-S"), "expected a machine"),
        (("../mine", "--", "-S"), "not a valid name of a platform"),
        (("mine", "--", *NEW), "no QEMU is named"),
        (("mine", "--qemu", "qemu", "--", "-append", "x"), "this machine cannot be predicted"),
        (("mine", "--qemu", "qemu", "--vcpus", "0", "--", *NEW), "--vcpus 0: expected 1 to"),
        (("mine", "--qemu", "qemu", "--cpu", "family=6", "--", *NEW), "--cpu: got family"),
        (("mine", "--xml", "qemu"), "XML: extra bytes"),
    ],
)
def test_bad_input_is_named_and_nothing_is_written(place: Path, words: tuple[str, ...], said: str) -> None:
    code, message = invoke(*words)
    assert (code, said in message) == (2, True), message
    assert sorted(path.name for path in place.iterdir()) == ["qemu"]


@pytest.mark.parametrize("error", [HostError("qemu exited with status 1"), MeasurementError("two versions")])
def test_a_qemu_that_dies_or_lies_leaves_nothing(
    place: Path, error: PrivmlError, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> ForeignQemu:
        raise error

    monkeypatch.setattr(foreign, "find", fails)
    assert invoke("mine", "--qemu", "qemu", "--cpu", CPU_WORDS, "--", *NEW) == (error.exit_code, error.message)
    assert sorted(path.name for path in place.iterdir()) == ["qemu"]


def test_a_qemu_that_dies_at_one_of_the_sizes_leaves_nothing(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(*args: object, words: Sequence[str] | None = None) -> dict[str, bytes]:
        size = args[3]
        assert isinstance(size, Size)
        if size == Size(4, 8 << 30):
            raise MeasurementError("qtest: QEMU exited at `outl 0xcf8 0x80000060`")
        return generated(size)

    monkeypatch.setattr(learn, "read_of", dies)
    code, message = invoke("mine", "--qemu", "qemu", "--cpu", CPU_WORDS, "--memory", "8GiB", "--", *NEW)
    assert (code, message) == (7, "qtest: QEMU exited at `outl 0xcf8 0x80000060`")
    assert sorted(path.name for path in place.iterdir()) == ["qemu"]


def answers(monkeypatch: pytest.MonkeyPatch, asked: str, **said: str) -> None:
    words = {
        "--version": "QEMU emulator version 10.0.13 (Debian 1:10)",
        "-accel": "tcg\nkvm\n",
        "-machine": "",
    } | said
    monkeypatch.setattr(foreign, "_said", lambda qemu, option, *_: words[option])
    monkeypatch.setattr(foreign, "_asked_version", lambda _: asked)


def qemu_in(folder: Path) -> Path:
    path = folder / "usr/bin/qemu-system-x86_64"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"a program")
    return path


def test_a_qemu_is_named_by_version_package_and_binary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, "10.0.13")
    path = qemu_in(tmp_path)
    found = foreign.find(TOOLS, path)
    assert (found.version, found.package) == ("10.0.13", "Debian 1:10")
    assert found.binary == hashlib.sha256(b"a program").hexdigest()
    assert (found.qemu.accelerator, found.qemu.leaves, found.qemu.exits) == ("stopped", False, ())
    # Without a loader next to it, it is of this host, and what is beside its folder is seen.
    assert found.qemu.tools.root == Path("/")
    assert [bind.source for bind in found.qemu.binds] == [tmp_path / "usr"]
    (tmp_path / "usr/lib64").mkdir()
    (tmp_path / "usr/lib64/ld-linux-x86-64.so.2").touch()
    found = foreign.find(TOOLS, path)
    assert (found.qemu.tools.root, found.qemu.program) == (tmp_path, "/usr/bin/qemu-system-x86_64")
    assert found.qemu.binds == ()


def test_a_qemu_that_lies_about_its_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, "9.2.0")
    with pytest.raises(MeasurementError, match=r"`--version` says 10\.0\.13, its monitor says 9\.2\.0"):
        foreign.find(TOOLS, qemu_in(tmp_path))


def test_a_path_without_a_qemu_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="is not a file, expected a QEMU"):
        foreign.find(TOOLS, tmp_path)
    answers(monkeypatch, "10.0.13", **{"--version": "GNU bash"})
    with pytest.raises(UsageError, match="is not QEMU: `--version` prints `GNU bash`"):
        foreign.find(TOOLS, qemu_in(tmp_path))


def test_an_alias_of_a_machine_type_is_resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    types = (
        "Supported machines are:\n"
        "pc-q35-10.0          Standard PC (Q35 + ICH9, 2009)\n"
        "q35                  Standard PC (Q35 + ICH9, 2009) (alias of pc-q35-10.0)\n"
    )
    answers(monkeypatch, "10.0.13", **{"-machine": types})
    assert [FOUND.machine(name) for name in ("q35", "pc-q35-10.0")] == ["pc-q35-10.0"] * 2
    with pytest.raises(UsageError, match=r"has no machine type `pc-q35-11\.1`: it has pc-q35-10\.0"):
        FOUND.machine("pc-q35-11.1")


def test_a_cards_bars_are_those_of_the_host(tmp_path: Path) -> None:
    folder = tmp_path / "sys/bus/pci/devices/0000:18:00.0"
    folder.mkdir(parents=True)
    rows = [
        "0x00000000f0000000 0x00000000f0ffffff 0x0000000000040200",
        "0x0000000000000000 0x0000000000000000 0x0000000000000000",
        "0x0000382000000000 0x0000383fffffffff 0x000000000014220c",
        "0x0000000000000000 0x0000000000000000 0x0000000000000000",
        "0x0000384000000000 0x0000384001ffffff 0x000000000014220c",
    ]
    (folder / "resource").write_text("\n".join(rows) + "\n")
    assert learn.bars_below(tmp_path, "18:00.0") == (128 << 30, 32 << 20)
    assert learn.bars_below(tmp_path, "0000:19:00.0") == ()
    (folder / "resource").write_text("what\n")
    assert learn.bars_below(tmp_path, "18:00.0") == ()


def test_a_platform_with_an_order_has_one_value_of_mrtd() -> None:
    class Prediction:
        mrtd_single, mrtd_two, events = b"1" * 48, b"2" * 48, ()

        def evidence(self) -> dict[str, object]:
            from privml.events.event import Evidence
            from privml.events.registers import TDX_REGISTERS

            return dict.fromkeys(TDX_REGISTERS, Evidence.SOURCE)

        def registers(self) -> dict[str, bytes]:
            from privml.events.registers import TDX_REGISTERS

            return dict.fromkeys(TDX_REGISTERS, b"1" * 48)

    def accepted(platform: Platform) -> tuple[bytes, ...]:
        return measured_launch(Prediction(), platform, Size(1, 2 << 30)).accepted("mrtd")  # type: ignore[arg-type]

    one = record(learnt().file)
    assert accepted(one) == (b"1" * 48,)
    assert accepted(replace(one, page_order="two-pass")) == (b"2" * 48,)
    assert accepted(replace(one, page_order=None)) == (b"1" * 48, b"2" * 48)
