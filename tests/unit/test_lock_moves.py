"""Which part of a lock changes which register."""

from __future__ import annotations

from typing import Any

import pytest
from test_lock_make import TREE, archive, package

from privml.lock.archiverecord import Base
from privml.lock.modelrecord import Data, LocalSource, Model, ModelFile, WheelSource
from privml.lock.models import Firmware, Lock, ToolsLock, Tree, TreeFile, Wheel
from privml.lock.moves import moves
from privml.recipe.section import ALL

OTHER = Tree.of([TreeFile(path="a/b.py", kind="file", sha256="9" * 64, size=1)])
WHEEL = Wheel(name="m", version="1", file="m-1-py3-none-any.whl", sha256="5" * 64, size=1)
MODEL = Model(
    name="m",
    source=WheelSource(wheel="m", pattern="*.gguf"),
    files=(ModelFile(path="m.gguf", size=1, sha256="6" * 64),),
    licence=None,
    signature=None,
)
DATA = Data(name="d", source=LocalSource(local="d/"), files=MODEL.files)
OTHER_FILE = (ModelFile(path="m.gguf", size=1, sha256="7" * 64),)
BASE = Base(distribution="debian", release="forky")


def firmware(version: str, digest: str) -> dict[str, Firmware]:
    return {"tdx": Firmware(requested="f", packages=(package("f", version, digest),))}


LOCK = Lock(
    base=BASE,
    recipe_sha256="0" * 64,
    source_date_epoch=5,
    archives=(archive(),),
    packages_requested=("a",),
    packages=(package("a"), package("linux-binary-7"), package("z")),
    firmware={"tdx": Firmware(requested="f", packages=(package("f"),))},
    models=(MODEL,),
    python=(WHEEL,),
    blobs=(),
    agent=TREE,
    guest=TREE,
    tools_sha256="0" * 64,
)
TOOLS = ToolsLock(
    base=BASE, source_date_epoch=5, archives=(archive(),), packages_requested=("a",), packages=(package("a"),)
)
BOTH = ("RTMR1", "RTMR2")


@pytest.mark.parametrize(
    ("change", "registers", "reason"),
    [
        ({"firmware": firmware("2", "7")}, ("MRTD", "RTMR0"), "firmware"),
        ({"packages": (package("a"), package("linux-binary-8"), package("z"))}, BOTH, "kernel"),
        ({"packages": (package("a", "2", "7"), *LOCK.packages[1:])}, BOTH, "1 guest package"),
        ({"packages": LOCK.packages[1:2]}, BOTH, "2 guest packages"),
        ({"data": (DATA,)}, (*BOTH, "RTMR3"), "data"),
        ({"agent": OTHER}, BOTH, "agent"),
        ({"guest": OTHER}, BOTH, "guest files"),
        ({"models": (MODEL.model_copy(update={"files": OTHER_FILE}),)}, (*BOTH, "RTMR3"), "model"),
        ({"models": (MODEL.model_copy(update={"name": "n"}),)}, (*BOTH, "RTMR3"), "model"),
        ({"source_date_epoch": 6}, (*BOTH, "RTMR3"), "times in root and model"),
    ],
)
def test_each_part_changes_its_registers(change: dict[str, Any], registers: tuple[str, ...], reason: str) -> None:
    assert moves(LOCK, LOCK.model_copy(update=change)) == [f"{register} moves: {reason}" for register in registers]


@pytest.mark.parametrize(("field", "reason"), [("tools_sha256", "other tools"), ("recipe_sha256", "the recipe")])
def test_a_change_of_unknown_extent_may_change_all_registers(field: str, reason: str) -> None:
    after = LOCK.model_copy(update={field: "1" * 64})
    assert moves(LOCK, after) == [f"{register} may move: {reason}" for register in ALL if register != "LAUNCH"]


def test_an_image_for_both_tees_has_the_registers_of_both() -> None:
    both = {**LOCK.firmware, "snp": firmware("1", "7")["tdx"]}
    after = LOCK.model_copy(update={"firmware": both})
    assert moves(LOCK, after) == ["LAUNCH moves: firmware"]
    assert moves(after, after.model_copy(update={"agent": OTHER})) == [
        f"{register} moves: agent" for register in (*BOTH, "LAUNCH")
    ]
    other = after.model_copy(update={"firmware": {**both, "tdx": firmware("2", "7")["tdx"]}})
    assert moves(after, other) == ["MRTD moves: firmware", "RTMR0 moves: firmware"]


def test_a_certain_change_is_not_listed_as_possible() -> None:
    after = LOCK.model_copy(update={"tools_sha256": "1" * 64, "firmware": firmware("2", "7")})
    assert moves(LOCK, after) == [
        "MRTD moves: firmware",
        "RTMR0 moves: firmware",
        "RTMR1 may move: other tools",
        "RTMR2 may move: other tools",
        "RTMR3 may move: other tools",
    ]


def test_repackaging_the_same_model_changes_no_register() -> None:
    assert moves(LOCK, LOCK.model_copy(update={"python": (WHEEL.model_copy(update={"sha256": "6" * 64}),)})) == []
    assert moves(LOCK, LOCK.model_copy(update={"models": (MODEL.model_copy(update={"licence": "MIT"}),)})) == []


def test_a_converted_lock_that_names_no_model_files_is_compared_by_its_wheels() -> None:
    converted = LOCK.model_copy(update={"models": ()})
    assert moves(converted, LOCK) == []
    other = LOCK.model_copy(update={"python": (WHEEL.model_copy(update={"sha256": "6" * 64}),)})
    assert moves(converted, other) == [f"{register} moves: model" for register in (*BOTH, "RTMR3")]


def test_a_kernel_that_cannot_extend_rtmr3_changes_it() -> None:
    def with_kernel(version: str) -> Lock:
        return LOCK.model_copy(update={"packages": (package("a"), package("linux-binary-7", version), package("z"))})

    found = moves(with_kernel("7.2-1"), with_kernel("6.12-1"))
    assert found == [f"{register} moves: RTMR3 is unused with this kernel" for register in (*BOTH, "RTMR3")]


def test_a_new_archive_state_with_the_same_bytes_changes_no_register() -> None:
    assert moves(LOCK, LOCK.model_copy(update={"archives": (archive("2026-11-30T08:08:01Z"),)})) == []
    assert moves(None, LOCK) == []
    assert moves(LOCK, LOCK) == []


def test_a_changed_tools_lock_may_change_all_registers() -> None:
    after = TOOLS.model_copy(update={"packages": (package("a", "2", "7"),)})
    assert moves(TOOLS, after) == [f"{register} may move: other tools" for register in ALL]
    assert moves(TOOLS, TOOLS) == []
