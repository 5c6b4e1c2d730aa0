"""The kernel's configuration: what is written is read, and of other bytes only ``InputsError`` comes."""

from __future__ import annotations

import contextlib

from hypothesis import given
from hypothesis import strategies as st

from privml.base.errors import InputsError
from privml.lock.kernelconfig import parse

NAMES = st.from_regex(r"[A-Za-z0-9_]{1,20}", fullmatch=True)
VALUES = st.sampled_from(["y", "m", "0", "-1", "0x1f", '""', '"a b"', '"=#"', '"ü"'])


@given(st.dictionaries(NAMES, VALUES), st.sets(NAMES), st.randoms(use_true_random=False))
def test_every_option_that_is_set_is_read(options: dict[str, str], off: set[str], order: object) -> None:
    lines = [f"CONFIG_{name}={value}" for name, value in options.items()]
    lines += [f"# CONFIG_{name} is not set" for name in off - set(options)] + ["", "# a comment"]
    order.shuffle(lines)  # type: ignore[attr-defined]
    assert parse("\n".join(lines).encode(), "x") == options


@given(st.one_of(st.binary(max_size=200), st.text("CONFIG_=# ym\n\r\0", max_size=80).map(str.encode)))
def test_other_bytes_are_refused_or_read(data: bytes) -> None:
    with contextlib.suppress(InputsError):
        assert all(name and value for name, value in parse(data, "x").items())
