"""Two output directories: every kind of difference is reported in its layer with its cause."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import attestation_samples as samples
import pytest
from image_volume import reseal, volume
from test_image_manifest import sample
from test_image_manifest import without_model as sample_without_model
from test_measure_pe import make_uki

from privml.base.errors import Differs, UsageError
from privml.cli.repro import show_report
from privml.events.event import Evidence
from privml.events.gpt import Partition
from privml.events.registers import MRTD
from privml.measure.cpio import Member, archive
from privml.output import manifest as manifests
from privml.output.artefacts import DISK, FIRMWARE, UKI, artefact
from privml.output.contents import Package
from privml.output.manifest import Manifest
from privml.output.prediction import write_prediction
from privml.repro import current
from privml.repro import page as pages
from privml.repro.compare import compare, required_of
from privml.repro.layers import Layer, Report
from privml.repro.variations import NAMES, variations
from privml.statement.launch import Accepted, MeasuredLaunch

EPOCH = 1_700_000_000
REQUIRED = ("uki.efi", "root.raw", "model.raw", "firmware.fd", *current.DOCUMENTS)


def initrd(body: bytes = b"init") -> bytes:
    return archive({"init": Member(body, executable=True), "lib/a": Member(b"1")}, mtime=1)


def sealed(folder: Path, **changes: object) -> Manifest:
    """Write manifest and prediction for the files in ``folder``, as a build does at its end."""
    made = replace(sample(folder.parent / "sample"), **changes)
    disk = (DISK,) if made.boot == "disk" else ()
    names = (UKI, FIRMWARE["tdx"], *made.volumes, *disk)
    made = replace(made, artefacts={name: artefact(folder / name) for name in names})
    (folder / "manifest.json").write_bytes(made.encode())
    predicted(folder)
    return made


def predicted(folder: Path, **changes: object) -> None:
    """A prediction of the manifest in ``folder``."""
    made = manifests.read(folder)
    write_prediction(folder, made, replace(samples.PREDICATE, manifest_sha256=made.sha256, **changes))


def other_firmware() -> MeasuredLaunch:
    """The first launch of the samples, started with another firmware file."""
    first = samples.PREDICATE.launches[0]
    return replace(first, registers={**first.registers, MRTD: Accepted((b"\1" * 48,), Evidence.TPM_BOOT)})


def output(folder: Path) -> Path:
    """A small complete image; its trees are next to it, where ``opener`` finds them."""
    folder.mkdir(parents=True)
    (folder / "uki.efi").write_bytes(make_uki(initrd=initrd()))
    (folder / "root.raw").write_bytes(volume("privml-root"))
    (folder / "model.raw").write_bytes(volume("privml-model"))
    (folder / "firmware.fd").write_bytes(b"firmware")
    for name in ("sbom.cdx.json", "provenance.json"):
        (folder / name).write_bytes(b'{"components": []}')
    for name in ("root.raw", "model.raw"):
        tree = folder.parent / f"{folder.name}.{name}.tree"
        (tree / "etc").mkdir(parents=True)
        (tree / "etc/name").write_bytes(b"privml")
    sealed(folder)
    return folder


def without_model(folder: Path) -> Path:
    """The same image without its model."""
    (folder / "model.raw").unlink()
    bare = sample_without_model(folder.parent / "sample")
    sealed(folder, models=(), engine=None, agent_events=bare.agent_events, purposes=bare.purposes)
    return folder


@contextmanager
def opener(path: Path, _: Partition) -> Iterator[Path]:
    tree = path.parent.parent / f"{path.parent.name}.{path.name}.tree"
    for place in [tree, *tree.rglob("*")]:
        os.utime(place, (EPOCH, EPOCH), follow_symlinks=False)
    yield tree


def bend(path: Path, at: int, data: bytes) -> None:
    body = bytearray(path.read_bytes())
    body[at : at + len(data)] = data
    path.write_bytes(bytes(body))


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return output(tmp_path / "one"), output(tmp_path / "two")


def judged(pair: tuple[Path, Path]) -> Report:
    report = compare(*pair, opener=opener)
    assert report.exit_code == (0 if report.equal else 1)
    return report


def causes(report: Report) -> set[str]:
    return {finding.cause.id for finding in report.findings}


def test_equal_images_are_equal_in_every_layer(pair: tuple[Path, Path]) -> None:
    report = judged(pair)
    assert report.equal, [finding.text() for finding in report.findings]
    assert all(report.compared[layer] for layer in Layer)
    assert set(report.digests) == set(REQUIRED)


def test_images_without_a_model_are_compared_completely(pair: tuple[Path, Path]) -> None:
    for folder in pair:
        without_model(folder)
        assert required_of(folder) == ("firmware.fd", "root.raw", "uki.efi", *current.DOCUMENTS)
    report = judged(pair)
    assert report.equal, [finding.text() for finding in report.findings]
    assert all(report.compared[layer] for layer in Layer)
    (pair[0] / "firmware.fd").unlink()
    (pair[1] / "firmware.fd").unlink()
    assert causes(judged(pair)) == {"absent-artefact"}


def test_a_model_on_one_side_only_is_a_difference(pair: tuple[Path, Path]) -> None:
    without_model(pair[1])
    report = judged(pair)
    assert {finding.place for finding in report.findings if finding.layer is Layer.ROOT_HASH} == {
        f"model.raw:{fact}" for fact in ("root_hash", "salt", "data_blocks", "hash_start")
    }
    assert [finding.b for finding in report.findings if finding.place == "model.raw"] == ["missing"]


@pytest.mark.parametrize("side", [0, 1])
def test_a_model_named_by_one_manifest_is_missing_on_both_sides(pair: tuple[Path, Path], side: int) -> None:
    without_model(pair[1 - side])
    (pair[side] / "model.raw").unlink()
    found = [finding for finding in judged(pair).findings if finding.place == "model.raw"]
    assert [(finding.a, finding.b, finding.cause.id) for finding in found] == [
        ("missing", "missing", "absent-artefact")
    ]


def test_a_model_that_the_manifest_does_not_name_is_a_difference(pair: tuple[Path, Path]) -> None:
    for folder in pair:
        without_model(folder)
    (pair[1] / "model.raw").write_bytes(volume("privml-model"))
    assert causes(judged(pair)) == {"surplus-artefact"}


@pytest.mark.parametrize("name", REQUIRED)
@pytest.mark.parametrize("sides", [(0,), (1,), (0, 1)])
def test_a_file_missing_on_both_sides_is_a_difference(
    pair: tuple[Path, Path], name: str, sides: tuple[int, ...]
) -> None:
    for side in sides:
        (pair[side] / name).unlink()
    assert causes(judged(pair)) == {"absent-artefact"}


@pytest.mark.parametrize("name", REQUIRED)
@pytest.mark.parametrize("sides", [(0,), (0, 1)])
def test_a_file_empty_on_both_sides_is_a_difference(
    pair: tuple[Path, Path], name: str, sides: tuple[int, ...]
) -> None:
    for side in sides:
        (pair[side] / name).write_bytes(b"")
    assert "empty-artefact" in causes(judged(pair))


def test_an_extra_file_is_a_difference(pair: tuple[Path, Path]) -> None:
    (pair[1] / "notes.txt").write_bytes(b"x")
    assert causes(judged(pair)) == {"surplus-artefact"}


def test_a_link_in_place_of_an_artefact_is_a_difference(pair: tuple[Path, Path]) -> None:
    (pair[1] / "root.raw").unlink()
    (pair[1] / "root.raw").symlink_to(pair[0] / "root.raw")
    assert causes(judged(pair)) == {"unlike-artefact"}


def test_comparing_a_directory_or_file_with_itself_is_refused(pair: tuple[Path, Path]) -> None:
    with pytest.raises(UsageError, match="the same directory"):
        compare(pair[0], pair[0], opener=opener)
    (pair[1] / "root.raw").unlink()
    os.link(pair[0] / "root.raw", pair[1] / "root.raw")
    with pytest.raises(UsageError, match="same file"):
        compare(*pair, opener=opener)


def test_a_different_kernel_under_the_same_root_is_reported_by_section(pair: tuple[Path, Path]) -> None:
    (pair[1] / "uki.efi").write_bytes(make_uki(initrd=initrd(), linux=b"kernel??"))
    sealed(pair[1])
    report = judged(pair)
    assert report.first is Layer.UKI
    assert [f.place for f in report.findings if f.layer is Layer.UKI] == ["uki.efi:.linux"]
    assert "other-kernel" in causes(report)
    assert not [f for f in report.findings if f.layer in (Layer.ROOT_HASH, Layer.TREE)]


def test_a_kernel_that_the_manifest_does_not_describe_is_reported(pair: tuple[Path, Path]) -> None:
    (pair[1] / "uki.efi").write_bytes(make_uki(initrd=initrd(), linux=b"kernel??"))
    report = judged(pair)
    assert report.first is Layer.REGISTERS
    assert {"false-manifest", "other-kernel"} <= causes(report)


def test_a_prediction_for_other_files_on_both_sides_is_reported(pair: tuple[Path, Path]) -> None:
    for folder in pair:
        document = json.loads((folder / "prediction.json").read_bytes())
        document["subject"][0]["digest"]["sha256"] = "d" * 64
        (folder / "prediction.json").write_text(json.dumps(document))
    assert causes(judged(pair)) == {"false-manifest"}


def test_a_prediction_for_another_manifest_on_both_sides_is_reported(pair: tuple[Path, Path]) -> None:
    for folder in pair:
        write_prediction(folder, manifests.read(folder), samples.PREDICATE)
    assert causes(judged(pair)) == {"false-manifest"}


def test_a_manifest_that_does_not_match_its_files_on_both_sides_is_reported(pair: tuple[Path, Path]) -> None:
    for folder in pair:
        (folder / "firmware.fd").write_bytes(b"other firmware")
    report = judged(pair)
    assert causes(report) == {"false-manifest"}
    assert {finding.place for finding in report.findings} == {
        "manifest.json:firmware.fd",
        "prediction.json:firmware.fd",
    }


def test_a_different_initrd_member_is_named(pair: tuple[Path, Path]) -> None:
    (pair[1] / "uki.efi").write_bytes(make_uki(initrd=initrd(b"tini")))
    sealed(pair[1])
    report = judged(pair)
    assert "uki.efi:.initrd:/init" in [finding.place for finding in report.findings]


def test_registers_are_reported_first(pair: tuple[Path, Path]) -> None:
    predicted(pair[1], launches=(other_firmware(), *samples.PREDICATE.launches[1:]))
    report = judged(pair)
    assert report.first is Layer.REGISTERS
    assert "firmware-register" in causes(report)
    assert "mrtd" in report.findings[0].place


def test_a_shape_that_one_prediction_lacks_is_a_difference(pair: tuple[Path, Path]) -> None:
    write_prediction(
        pair[1], manifests.read(pair[1]), replace(samples.PREDICATE, launches=samples.PREDICATE.launches[:1])
    )
    assert len([f for f in judged(pair).findings if f.layer is Layer.REGISTERS and f.b == "none"]) == 5


def test_a_file_of_the_tree_is_named_with_its_cause(pair: tuple[Path, Path]) -> None:
    bend(pair[1] / "root.raw", 40 * 512, b"other data")
    (pair[1].parent / "two.root.raw.tree/etc/name").write_bytes(b"made 2026-01-01 01:02:03")
    (pair[0].parent / "one.root.raw.tree/etc/name").write_bytes(b"made 2027-02-02 02:03:04")
    sealed(pair[1], root=replace(manifests.read(pair[1]).root, root_hash=b"a" * 32))
    report = judged(pair)
    assert report.first is Layer.ROOT_HASH
    found = next(finding for finding in report.findings if finding.layer is Layer.TREE)
    assert (found.place, found.cause.id) == ("root.raw:/etc/name", "time-stamp")
    assert {"tree-hash", "explained-above"} <= causes(report)
    assert report.findings[0].cause.id == "tree-hash"
    assert report.reason == found
    assert report.to_dict()["look_first"]["place"] == "root.raw:/etc/name"
    assert "<dd>root.raw:/etc/name</dd>" in pages.page("t", report)


def test_equal_trees_in_different_bytes_are_a_difference_of_layout(pair: tuple[Path, Path]) -> None:
    bend(pair[1] / "root.raw", 40 * 512, b"other data")
    sealed(pair[1])
    report = judged(pair)
    assert report.first is Layer.PARTITIONS
    assert "filesystem-layout" in causes(report)


def test_a_malformed_superblock_is_a_difference_not_an_error(pair: tuple[Path, Path]) -> None:
    bend(pair[1] / "root.raw", 56 * 512 + 80, (300).to_bytes(2, "little"))
    sealed(pair[1])
    found = {finding.place: finding.b for finding in judged(pair).findings}
    assert "a salt of 300 bytes" in found["root.raw:privml-root-verity:superblock"]


def erofs(identifier: bytes, seconds: int) -> bytes:
    return struct.pack("<IIIBBHQQIIII16s", 0xE0F5E1E2, 0, 0, 12, 0, 36, 5, seconds, 0, 2, 0, 0, identifier)


def test_ids_and_times_of_partition_table_and_file_systems_are_reported(pair: tuple[Path, Path]) -> None:
    for number, folder in enumerate(pair):
        bend(folder / "root.raw", 40 * 512 + 1024, erofs(bytes([number]) * 16, number))
        bend(folder / "root.raw", 512 + 56, bytes([number]) * 16)
        bend(folder / "root.raw", 1024 + 16, bytes([number]) * 16)
        reseal(folder / "root.raw")
        bend(folder / "root.raw", 56 * 512 + 88, bytes([number]) * 32)
        sealed(folder)
    report = judged(pair)
    assert {"filesystem-id", "filesystem-time", "partition-id", "verity-salt"} <= causes(report)
    assert {"root.raw:disk id", "root.raw:privml-root id"} <= {finding.place for finding in report.findings}


@pytest.mark.parametrize("at", [100, 63 * 512 + 500])
def test_bytes_outside_every_layer_are_compared(pair: tuple[Path, Path], at: int) -> None:
    bend(pair[1] / "root.raw", at, b"\x77")
    sealed(pair[1])
    report = judged(pair)
    assert not report.equal
    assert "unexplained-bytes" in causes(report)
    assert f"from byte {at}, in 1 blocks" in next(f.b for f in report.findings if f.cause.id == "unexplained-bytes")


def test_an_unreadable_file_on_both_sides_is_a_difference(pair: tuple[Path, Path]) -> None:
    for folder in pair:
        (folder / "uki.efi").write_bytes(b"no UKI")
        (folder / "root.raw").write_bytes(b"no disk")
        sealed(folder)
    report = judged(pair)
    assert sorted(f.place for f in report.findings if f.cause.id == "unreadable-artefact") == ["root.raw", "uki.efi"]


def test_packages_and_other_fields_of_documents_are_reported(pair: tuple[Path, Path]) -> None:
    sealed(pair[1], packages=(Package("bash", "5.4", "amd64", "9" * 64),), kernel="7.0")
    report = judged(pair)
    assert "manifest.json:packages/bash" in [finding.place for finding in report.findings]
    assert "manifest.json:/kernel" in [finding.place for finding in report.findings]


def test_a_document_in_another_encoding_is_a_difference(pair: tuple[Path, Path]) -> None:
    path = pair[1] / "manifest.json"
    path.write_bytes(json.dumps(json.loads(path.read_bytes())).encode())
    assert causes(judged(pair)) == {"unreadable-artefact", "document-field", "false-manifest"}


class Well(HTMLParser):
    """Checks that tags are closed in order and that nothing is loaded from elsewhere."""

    void = ("meta", "wbr")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.rows = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag != "script"
        assert not {name for name, _ in attrs} & {"src", "href", "onclick"}
        self.rows += tag == "tr"
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize("differ", [False, True])
def test_the_page_is_well_formed_whatever_names_files_have(pair: tuple[Path, Path], differ: bool) -> None:
    if differ:
        (pair[1] / "<script>alert(1)").write_bytes(b"x")
        for n in range(pages.SHOWN + 5):
            (pair[1] / f"extra-{n}").write_bytes(b"x")
    report = judged(pair)
    text = pages.page("a <b> & c", report, variations({"umask": "0022"}, {"umask": "0077"}, {}))
    parser = Well()
    parser.feed(text)
    parser.close()
    assert parser.open == []
    assert parser.rows > len(NAMES)
    assert ("6 more are in the JSON report" in text) is differ
    assert ("Equal, byte for byte" in text) is not differ


def test_the_verb_exits_with_1_and_names_the_first_layer(
    pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for n in range(256):
        (pair[1] / f"extra-{n}").write_bytes(b"x")
    with pytest.raises(Differs, match="first in files, byte by byte; 256 differences; causes: surplus") as caught:
        show_report("t", judged(pair), (), html=tmp_path / "r.html", as_json=True)
    assert caught.value.exit_code == 1
    document = json.loads(capsys.readouterr().out)
    assert len(document["findings"]) == document["differences"] == 256
    assert (tmp_path / "r.html").read_text().startswith("<!doctype html>")


def test_the_verb_says_that_equal_images_are_equal(
    pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    show_report("t", judged(pair), (), html=None, as_json=False)
    assert "equal, bit for bit" in capsys.readouterr().out


def test_only_observed_differences_count_as_varied() -> None:
    a = dict.fromkeys(NAMES, "same") | {"umask": "0022", "tool_clock": "2026-01-01T00:00:00Z"}
    b = dict.fromkeys(NAMES, "same") | {"umask": "0077", "tool_clock": "2026-01-01T23:00:00Z"}
    del b["home"]
    found = {one.name: one for one in variations(a, b, {"kernel": "one machine"})}
    assert [one.name for one in found.values() if one.varied] == ["umask"]
    assert found["kernel"].text() == "not varied: kernel: one machine (same)"
    assert found[NAMES["home"]].why == "a leg did not observe it"
    assert not found[NAMES["tool_clock"]].varied  # the same day: a leg takes minutes, that proves nothing
    later = variations(a, b | {"tool_clock": "2027-02-02T00:00:00Z"}, {})
    assert {one.name for one in later if one.varied} == {"umask", NAMES["tool_clock"]}


def test_a_record_names_the_digests_that_changed(pair: tuple[Path, Path]) -> None:
    for folder in pair:
        for name in set(current.DOCUMENTS) - set(REQUIRED):
            (folder / name).write_bytes(b'{"components": []}')
    first = current.of(pair[0])
    assert current.differences(first, current.of(pair[1])) == []
    (pair[1] / "root.raw").write_bytes(b"other")
    lines = current.differences(first, current.of(pair[1]))
    assert len(lines) == 1
    assert lines[0].startswith("files/root.raw: recorded ")
    recorded = json.loads(current.of(without_model(pair[0])))
    assert set(recorded["root_hashes"]) == {"root.raw"}
    assert set(recorded["files"]) == {"firmware.fd", "root.raw", "uki.efi", *current.DOCUMENTS}


def test_a_comparison_of_nothing_is_not_equal(tmp_path: Path) -> None:
    assert not Report((), {}, {}).equal
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    report = compare(tmp_path / "a", tmp_path / "b", opener=opener)
    assert causes(report) == {"absent-artefact"}
    assert len(report.findings) == len(REQUIRED)
    shutil.rmtree(tmp_path / "b")
    with pytest.raises(UsageError, match="not a directory"):
        compare(tmp_path / "a", tmp_path / "b", opener=opener)
