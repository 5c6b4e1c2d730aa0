"""Attempts to fool the checker: different things that look equal, and equal things that look different."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attestation_samples as samples
import pytest
from repro_faults import put
from test_measure_pe import make_uki
from test_repro_compare import bend, causes, compare, initrd, judged, other_firmware, output, predicted, sealed
from test_repro_mutation import compared

from privml.base.errors import BuildError
from privml.image.inputs import FILE as INPUTS_FILE
from privml.output import manifest as manifests
from privml.repro import page as pages
from privml.repro.layers import Layer
from privml.repro.tree import FileTree, read_cpio, read_tree, read_trees


@pytest.fixture
def roots(tmp_path: Path) -> tuple[Path, Path]:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    return tmp_path / "one", tmp_path / "two"


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return output(tmp_path / "one"), output(tmp_path / "two")


def still(*roots: Path) -> tuple[FileTree, ...]:
    for root in roots:
        for path in [root, *root.rglob("*")]:
            os.utime(path, ns=(1, 1), follow_symlinks=False)
    return tuple(read_tree(root) for root in roots)


def fields(one: FileTree, two: FileTree) -> list[tuple[str, str]]:
    return [(finding.place, finding.field) for finding in compared(one, two).findings]


def test_link_loops_are_compared_by_their_targets(roots: tuple[Path, Path]) -> None:
    for root in roots:
        (root / "self").symlink_to("self")
        (root / "up").symlink_to("..")
        (root / "a").symlink_to("b")
        (root / "b").symlink_to("a")
    assert fields(*still(*roots)) == []
    (roots[1] / "up").unlink()
    (roots[1] / "up").symlink_to("../.")
    assert fields(*still(*roots)) == [("root.raw:/up", "content")]


def test_equal_bytes_with_another_mode_are_a_difference(roots: tuple[Path, Path]) -> None:
    for root, mode in zip(roots, (0o644, 0o4755), strict=True):
        put(root, "a", b"same").chmod(mode)
    assert fields(*still(*roots)) == [("root.raw:/a", "mode")]


def test_a_time_that_differs_by_less_than_a_second_is_a_difference(roots: tuple[Path, Path]) -> None:
    for number, root in enumerate(roots):
        os.utime(put(root, "a", b"same"), ns=(5, 10**9 + number))
        os.utime(root, ns=(5, 5))
    report = compared(*map(read_tree, roots))
    assert [(f.place, f.a, f.b) for f in report.findings] == [("root.raw:/a", "1", "1.000000001")]


def test_holes_equal_zeros_only(roots: tuple[Path, Path]) -> None:
    with (roots[0] / "a").open("wb") as file:
        file.truncate(1 << 20)
    (roots[1] / "a").write_bytes(bytes(1 << 20))
    assert fields(*still(*roots)) == []
    with (roots[1] / "a").open("r+b") as file:
        file.seek(700_000)
        file.write(b"\1")
    assert fields(*still(*roots)) == [("root.raw:/a", "content")]


def test_hard_links_grouped_differently_are_a_difference(roots: tuple[Path, Path]) -> None:
    for root, pairs in zip(roots, (("ab", "cd"), ("ac", "bd")), strict=True):
        for first, second in pairs:
            os.link(put(root, first, b"same"), root / second)
    assert {name for name, _ in fields(*still(*roots))} == {"root.raw:/b", "root.raw:/c", "root.raw:/d"}


def test_pipes_are_not_opened(roots: tuple[Path, Path]) -> None:
    os.mkfifo(roots[0] / "a")
    (roots[1] / "a").write_bytes(b"")
    assert fields(*still(*roots)) == [("root.raw:/a", "type")]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes devices")
def test_devices_are_compared_by_number(roots: tuple[Path, Path]) -> None:
    for root, minor in zip(roots, (3, 5), strict=True):
        try:
            os.mknod(root / "null", stat.S_IFCHR | 0o666, os.makedev(1, minor))
        except OSError as error:
            if error.errno == errno.EPERM:
                pytest.skip("no devices in this container")
            raise
    assert fields(*still(*roots)) == [("root.raw:/null", "content")]


def test_names_of_any_bytes_are_reported(roots: tuple[Path, Path], tmp_path: Path) -> None:
    (roots[0] / os.fsdecode(b"\xff\x1b[2J\n")).write_bytes(b"x")
    report = compared(*still(*roots))
    assert [finding.place for finding in report.findings] == [r"root.raw:/\udcff\x1b[2J\n"]
    json.dumps(report.to_dict()).encode()
    assert r"\udcff" in pages.page("t", report).encode().decode()


def test_reading_both_trees_at_once_equals_reading_each(roots: tuple[Path, Path]) -> None:
    for number, root in enumerate(roots):
        put(root, f"d/{number}", b"x" * number)
    assert read_trees(*roots) == (read_tree(roots[0]), read_tree(roots[1]))


def cpio(*members: tuple[bytes, int, bytes], inode: int = 1) -> bytes:
    """newc, written by hand: (name, mode, body) in the order given."""
    out = b""
    for number, (name, mode, body) in enumerate((*members, (b"TRAILER!!!", 0, b""))):
        head = [
            inode + number,
            mode,
            0,
            0,
            1,
            1,
            len(body),
            0,
            0,
            5,
            number if mode & 0o20000 else 0,
            len(name) + 1,
            0,
        ]
        out += b"070701" + b"".join(b"%08x" % value for value in head) + name + b"\0"
        out += bytes(-len(out) % 4) + body
        out += bytes(-len(out) % 4)
    return out


def with_initrds(pair: tuple[Path, Path], one: bytes, two: bytes) -> list[tuple[str, str, str]]:
    for folder, body in zip(pair, (one, two), strict=True):
        (folder / "uki.efi").write_bytes(make_uki(initrd=body))
        sealed(folder)
    report = judged(pair)
    assert not report.equal
    assert report.first is Layer.UKI
    return [(f.layer.name, f.place, f.cause.id) for f in report.findings if f.place.startswith("uki.efi:")]


def test_a_reordered_initrd_is_reported_as_reordered(pair: tuple[Path, Path]) -> None:
    a, b = (b"a", 0o100644, b"1"), (b"b", 0o100644, b"2")
    found = with_initrds(pair, cpio(a, b), cpio(b, a))
    assert found == [
        ("UKI", "uki.efi:.initrd", "other-initrd"),
        ("TREE", "uki.efi:.initrd:/a", "member-order"),
        ("TREE", "uki.efi:.initrd:/b", "member-order"),
    ]


def test_an_initrd_with_only_different_inode_numbers_is_reported_as_such(pair: tuple[Path, Path]) -> None:
    member = (b"a", 0o100644, b"1")
    found = with_initrds(pair, cpio(member), cpio(member, inode=9))
    assert [cause for *_, cause in found] == ["other-initrd", "initrd-layout"]
    found = with_initrds(pair, cpio(member), cpio(member) + bytes(512))
    assert [cause for *_, cause in found] == ["other-initrd", "initrd-layout"]


def test_a_member_hidden_by_a_second_one_of_its_name_is_seen(pair: tuple[Path, Path]) -> None:
    one, two, last = (b"a", 0o100644, b"1"), (b"a", 0o100644, b"2"), (b"a", 0o100644, b"3")
    assert ("UKI", "uki.efi:.initrd", "other-initrd") in with_initrds(pair, cpio(one, last), cpio(two, last))


def test_a_device_in_an_initrd_is_compared_by_number() -> None:
    one, two = (read_cpio(cpio((b"x", 0, b""), *members)) for members in ([], [(b"null", 0o20666, b"")]))
    assert two.entries["null"].type == "character device"
    assert two.entries["null"].content == "5:1"
    assert "null" not in one.entries


@pytest.mark.parametrize("name", ["sbom.cdx.json", "provenance.json"])
def test_a_document_nothing_depends_on_is_compared(pair: tuple[Path, Path], name: str) -> None:
    for number, folder in enumerate(pair):
        (folder / name).write_text(json.dumps({"a": {"b": number}}))
    report = judged(pair)
    assert [(f.place, f.cause.id) for f in report.findings] == [(f"{name}:/a/b", "document-field")]


def test_the_build_s_own_note_is_not_compared(pair: tuple[Path, Path]) -> None:
    (pair[0] / INPUTS_FILE).write_bytes(b"1")
    assert judged(pair).equal
    (pair[1] / INPUTS_FILE).write_bytes(b"2")
    assert judged(pair).equal


def test_empty_predictions_are_not_equal(pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("privml.repro.compare._registers", lambda _: {})
    report = judged(pair)
    assert causes(report) == {"nothing-compared"}
    assert report.first is Layer.REGISTERS


def test_a_tree_that_cannot_be_opened_is_a_difference_not_an_error(pair: tuple[Path, Path]) -> None:
    @contextmanager
    def broken(_: Path, __: object) -> Iterator[Path]:
        raise BuildError("fsck.erofs failed with status 1")
        yield Path()

    bend(pair[1] / "root.raw", 40 * 512, b"other data")
    sealed(pair[1])
    report = compare(*pair, opener=broken)
    assert report.exit_code == 1
    assert "unreadable-artefact" in causes(report)
    assert "fsck.erofs failed" in next(f.b for f in report.findings if f.field == "reading")


@pytest.mark.parametrize("count", [255, 256, 257])
def test_more_than_256_differing_files_are_counted(pair: tuple[Path, Path], count: int) -> None:
    bend(pair[1] / "root.raw", 40 * 512, b"other data")
    sealed(pair[1])
    for number in range(count):
        put(pair[1].parent / "two.root.raw.tree", f"etc/more/{number}", b"x")
    report = judged(pair)
    assert len([f for f in report.findings if f.layer is Layer.TREE]) == count + 1  # and their folder
    assert report.exit_code == 1


def test_a_changed_byte_in_any_output_is_a_difference(pair: tuple[Path, Path]) -> None:
    """A change in only one output, in any file, is a difference, even if the other layers are equal."""
    for path in sorted(pair[1].iterdir()):
        data = path.read_bytes()
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        assert judged(pair).exit_code == 1, path.name
        path.write_bytes(data)
    assert judged(pair).equal


def test_origins_are_recipe_lines(pair: tuple[Path, Path]) -> None:
    lines = {
        ".linux": "r.yaml:4 kernel.package",
        ".cmdline": "r.yaml:3 base.release",
        "config": "r.yaml:9 agent.listen",
    }
    bend(pair[1] / "root.raw", 40 * 512, b"other data")
    for folder, name in zip(pair, ("one", "two"), strict=True):
        (folder / "uki.efi").write_bytes(make_uki(initrd=initrd(), linux=name.encode() * 4))
        for path in ("etc/privml/config.json", "usr/lib/modules/7/a.ko", "usr/bin/x"):
            put(folder.parent / f"{name}.root.raw.tree", path, name.encode())
        sealed(folder, origins=lines)
    predicted(pair[1], launches=(other_firmware(), *samples.PREDICATE.launches[1:]))
    found = {finding.place: finding.origin for finding in judged(pair).findings}
    assert found["uki.efi:.linux"] == found["root.raw:/usr/lib/modules/7/a.ko"] == lines[".linux"]
    assert found["root.raw:/etc/privml/config.json"] == lines["config"]
    assert found["root.raw:/usr/bin/x"] == lines[".cmdline"]
    assert manifests.read(pair[0]).origins == lines
