"""Mutation tests of the checker: every cause of the table is injected into a tree and must be found and named."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest
from repro_faults import TREE_FAULTS, put

from privml.repro.causes import FOLLOWS, OUTSIDE, TABLE, TREE, Symptom, name_cause
from privml.repro.findings import Findings
from privml.repro.layers import Layer, Report
from privml.repro.owners import Owners
from privml.repro.tree import Entry, FileTree, read_cpio, read_tree
from privml.repro.treecomparison import TreeComparer

EPOCH = 1_700_000_000


def base(root: Path) -> Path:
    """A small honest tree."""
    for path, data in {
        "usr/bin/program": b"\x7fELF program",
        "usr/lib/unit.service": b"[Service]\n",
        "etc/hostname": b"privml\n",
        "etc/empty": b"",
    }.items():
        put(root, path, data)
    (root / "usr/lib/link").symlink_to("unit.service")
    return root


def settle(root: Path) -> None:
    for path in [root, *root.rglob("*")]:
        if path.lstat().st_mtime > 100:
            os.utime(path, (EPOCH, EPOCH), follow_symlinks=False)


def compared(one: FileTree, two: FileTree, owners: Owners | None = None, surroundings=None) -> Report:
    findings = Findings(owners or Owners())
    TreeComparer(findings, surroundings or {}).compare("root.raw", one, two)
    findings.count(Layer.BYTES)
    return Report(tuple(findings.mismatches), findings.compared, {})


class OneOwner(Owners):
    """A package database in which two paths belong to `base`."""

    def package(self, path: str) -> str:
        return "base" if path in ("etc/a", "usr/lib/victim") else "unknown"


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return base(tmp_path / "one"), base(tmp_path / "two")


def test_unchanged_trees_are_equal_and_completely_compared(pair: tuple[Path, Path]) -> None:
    for root in pair:
        settle(root)
    report = compared(*map(read_tree, pair))
    assert report.equal
    assert report.exit_code == 0
    assert report.compared[Layer.TREE] == 1 + len([*pair[0].rglob("*")])


def test_every_cause_has_a_mutation() -> None:
    assert {cause.id for cause in TREE} - {"member-order"} == set(TREE_FAULTS)
    assert len({cause.id for cause in TABLE}) == len(TABLE)
    assert {cause.id for cause in OUTSIDE} > FOLLOWS  # no difference inside a tree merely follows from another


@pytest.mark.parametrize("identifier", sorted(TREE_FAULTS))
def test_an_injected_difference_is_found_and_named(pair: tuple[Path, Path], identifier: str) -> None:
    if identifier in ("owner", "acl", "security-label") and os.geteuid() != 0:
        pytest.skip("only root can give files away and label them")
    try:
        TREE_FAULTS[identifier](*pair)
    except OSError as error:
        pytest.skip(f"this file system cannot hold it: {error}")
    for root in pair:
        settle(root)
    report = compared(*map(read_tree, pair))
    assert not report.equal
    assert report.exit_code == 1
    assert identifier in {finding.cause.id for finding in report.findings}, [f.text() for f in report.findings]
    found = next(finding for finding in report.findings if finding.cause.id == identifier)
    assert found.cause.fix
    assert found.a != found.b
    assert len({finding.cause.id for finding in report.findings}) == 1


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("type", {"type": "link"}),
        ("content", {"content": "2" * 64}),
        ("mode", {"mode": 0o755}),
        ("uid", {"uid": 1}),
        ("gid", {"gid": 1}),
        ("mtime", {"mtime": 2}),
        ("xattrs", {"xattrs": (("security.ima", "00"),)}),
        ("links", {"links": "b"}),
    ],
)
def test_every_field_of_an_entry_is_compared(field: str, change: dict[str, object]) -> None:
    entry = Entry("file", "1" * 64, 0o644, 0, 0, 3, 1)
    other = dataclasses.replace(entry, **change)
    report = compared(FileTree({"a": entry}), FileTree({"a": other}))
    assert [finding.field for finding in report.findings] == [field]
    assert report.exit_code == 1


@pytest.mark.parametrize("count", [1, 255, 256, 257, 512, 65_536])
def test_the_exit_status_does_not_wrap_at_256_differences(count: int) -> None:
    one = FileTree({f"{n:06}": Entry("file", "1" * 64, 0o644, 0, 0, 1, 1) for n in range(count)})
    two = FileTree({f"{n:06}": Entry("file", "2" * 64, 0o644, 0, 0, 1, 1) for n in range(count)})
    report = compared(one, two)
    assert len(report.findings) == count
    assert (report.equal, report.exit_code, report.exit_code % 256) == (False, 1, 1)


def test_known_surroundings_take_precedence_as_the_cause() -> None:
    one, two = b"made in leg-a-host", b"made in leg-b-host"
    known = {"builder-name": (("leg-a-host", "leg-b-host"),)}
    symptom = Symptom("content", "etc/a", None, None, one, two, known)
    assert name_cause(symptom).id == "builder-name"
    assert name_cause(dataclasses.replace(symptom, surroundings={})).id != "builder-name"


def test_a_file_of_1_tib_with_another_digest_is_a_difference() -> None:
    one = Entry("file", "1" * 64, 0o644, 0, 0, 1 << 40, 1)
    report = compared(FileTree({"a": one}), FileTree({"a": dataclasses.replace(one, content="2" * 64)}))
    assert [finding.cause.id for finding in report.findings] == ["unknown-content"]


def test_the_package_of_a_path_is_named(pair: tuple[Path, Path]) -> None:
    put(pair[0], "etc/a", b"1")
    put(pair[1], "etc/a", b"2x")
    put(pair[0], "usr/lib/victim", b"1")
    report = compared(*map(read_tree, pair), owners=OneOwner())
    assert {finding.place: finding.package for finding in report.findings if finding.cause.id != "file-time"} == {
        "root.raw:/etc/a": "base",
        "root.raw:/usr/lib/victim": "base",
    }


def test_an_archive_in_another_order_is_a_difference() -> None:
    from privml.measure.cpio import Member, archive

    members = {"a": Member(b"1"), "b": Member(b"2")}
    data = archive(members, mtime=1)
    tree = read_cpio(data)
    assert list(tree.entries) == ["a", "b"]
    first, second = data[:116], data[116 : 116 * 2]
    swapped = read_cpio(second + first + data[116 * 2 :])
    report = compared(tree, swapped)
    assert {finding.cause.id for finding in report.findings} == {"member-order"}
    assert read_cpio(archive(members, mtime=2)).entries != tree.entries


def test_every_cause_outside_the_tree_can_be_named() -> None:
    for cause in OUTSIDE:
        path = cause.globs[0].replace("*", "x") if cause.globs != ("*",) else "x"
        assert name_cause(Symptom(cause.fields[0], path)).id == cause.id
