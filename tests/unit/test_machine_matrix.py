"""Ranges of processors and memory."""

import pytest

from privml.base.errors import UsageError
from privml.machine.matrix import asked_shapes, memory_sizes, shapes, vcpu_counts

GIB = 1 << 30


def test_counts_and_sizes_are_expanded() -> None:
    assert vcpu_counts("2") == (2,) and vcpu_counts("1,2,4") == (1, 2, 4)
    assert vcpu_counts("1..64") == tuple(range(1, 65)) and vcpu_counts("2,1..3") == (2, 1, 3)
    assert memory_sizes("2GiB..512GiB") == tuple(GIB << shift for shift in range(1, 10))
    assert memory_sizes("2815MiB,4GiB") == (2815 << 20, 4 * GIB)
    assert len(shapes("1..64", "2GiB..512GiB")) == 576
    assert str(shapes("1,2", "2GiB")[1]) == "2 vCPU / 2GiB"


def test_a_shape_is_asked_for_with_both_options() -> None:
    assert asked_shapes(None, None) == ()
    assert asked_shapes("1,2", "2GiB") == shapes("1,2", "2GiB")
    for half in (("2", None), (None, "2GiB")):
        with pytest.raises(UsageError, match="a shape needs both --vcpus and --memory"):
            asked_shapes(*half)


def test_vcpus_are_enough_where_memory_does_not_count() -> None:
    assert [size.vcpus for size in asked_shapes("1..3", None, memory_counts=False)] == [1, 2, 3]
    assert asked_shapes("1", "2GiB", memory_counts=False) == shapes("1", "2GiB")
    assert asked_shapes(None, None, memory_counts=False) == ()
    with pytest.raises(UsageError, match="--memory needs --vcpus"):
        asked_shapes(None, "2GiB", memory_counts=False)
    with pytest.raises(UsageError, match="expected 1 to"):
        asked_shapes("0", None, memory_counts=False)


@pytest.mark.parametrize("text", ["0", "", "x", "4..2", "1..4097", "1...2", "-1", "1,,2"])
def test_bad_counts_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--vcpus"):
        vcpu_counts(text)


@pytest.mark.parametrize("text", ["", "2", "2GB", "4GiB..2GiB", "2GiB..5GiB", "2GiB..4GiB..8GiB", "1KiB"])
def test_bad_sizes_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--memory"):
        memory_sizes(text)


def test_too_many_shapes_are_refused() -> None:
    with pytest.raises(UsageError, match="at most"):
        shapes("1..255", ",".join(f"{size}MiB" for size in range(1024, 1064)))
