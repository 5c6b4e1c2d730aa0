"""Sizes: text and number of bytes, in both directions."""

from __future__ import annotations

import pytest

from privml.base.sizes import size_of, size_text


@pytest.mark.parametrize(
    ("text", "size"), [("2GiB", 2 << 30), ("1536MiB", 1536 << 20), ("1KiB", 1024), ("1TiB", 1 << 40)]
)
def test_sizes_are_read_and_written(text: str, size: int) -> None:
    assert size_of(text) == size
    assert size_text(size) == text


@pytest.mark.parametrize(
    "text", ["", "2", "2GB", "2 GiB", "-2GiB", "02GiB", "1.5GiB", "2gib", "2GiB\n", "٢GiB", "0GiB"]
)
def test_other_sizes_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected a number with KiB, MiB, GiB or TiB, as in 2GiB"):
        size_of(text)


def test_a_unit_that_is_not_allowed_is_refused() -> None:
    assert size_of("2GiB", ("MiB", "GiB")) == 2 << 30
    with pytest.raises(ValueError, match="size `2TiB`: expected a number with MiB or GiB, as in 2GiB"):
        size_of("2TiB", ("MiB", "GiB"))
    with pytest.raises(ValueError, match="expected a number with MiB, as in 2MiB"):
        size_of("2GiB", ("MiB",))


def test_a_size_is_written_in_the_largest_unit_that_divides_it() -> None:
    assert size_text(1 << 40, ("MiB", "GiB")) == "1024GiB"
    assert size_text(1 << 40, ("GiB", "MiB")) == "1024GiB"
    assert size_text(1536 << 20, ("MiB", "GiB")) == "1536MiB"


def test_a_size_that_no_unit_divides_is_written_in_bytes() -> None:
    assert size_text((2 << 30) + 1) == "2147483649 bytes"
    assert size_text(0) == "0 bytes"
