"""Declared policy fields: what a file may say, what it may not, and which refusals a field can relax."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from privml.base.errors import UsageError
from privml.verify import policyfield
from privml.verify.policyfield import (
    hex_list,
    hexadecimal,
    number,
    records,
    restricted,
    section,
    setting,
    switch,
    text,
    texts,
)


@dataclass(frozen=True)
class Pair:
    driver: str = setting(text(), "", "The driver.")
    vbios: str = setting(text(), "", "The VBIOS.")


@dataclass(frozen=True)
class Inner:
    statuses: frozenset[str] = setting(texts("good", "old"), frozenset({"good"}), "Statuses.", relaxes={"status"})
    floor: int = setting(number(0, 99), 18, "The floor.", relaxes={"floor"}, strictest=max)
    machines: frozenset[bytes] = setting(hex_list(2), frozenset(), "Machines.")
    pairs: frozenset[Pair] = setting(records(Pair), frozenset(), "Pairs.")
    even: bytes = setting(
        restricted(hexadecimal(1), lambda value: "odd" if value[0] & 1 else ""), b"\0", "An even byte."
    )
    hidden: int = 1

    def __post_init__(self) -> None:
        policyfield.check(self)


@dataclass(frozen=True)
class Outer:
    needed: bool = setting(switch(), True, "Whether it is needed.", relaxes={"needed"})
    inner: Inner = section(Inner(), "The inner policy.")


def test_a_whole_file() -> None:
    found = policyfield.read(
        Outer,
        {
            "needed": False,
            "inner": {
                "statuses": ["good", "old"],
                "floor": 3,
                "machines": ["0102"],
                "pairs": [{"driver": "1", "vbios": "2"}],
                "even": "02",
            },
        },
    )
    assert found == Outer(
        False, Inner(frozenset({"good", "old"}), 3, frozenset({b"\1\2"}), frozenset({Pair("1", "2")}), b"\2")
    )
    assert policyfield.read(Outer, {}) == Outer()


WRONG: dict[str, tuple[Any, str]] = {
    "not a table": ([], "policy: a list, expected a table"),
    "unknown": ({"other": 1}, "other: unknown field"),
    "not for the file": ({"inner": {"hidden": 2}}, "inner.hidden: unknown field"),
    "section": ({"inner": 1}, "inner: an integer, expected a table"),
    "boolean": ({"needed": 1}, "needed: an integer, expected true or false"),
    "integer": ({"inner": {"floor": True}}, "inner.floor: a boolean, expected an integer"),
    "float": ({"inner": {"floor": 1.0}}, "inner.floor: float, expected an integer"),
    "range": ({"inner": {"floor": 100}}, "inner.floor: got 100, expected 0 to 99"),
    "list": ({"inner": {"statuses": "good"}}, "inner.statuses: a string, expected a list"),
    "item": ({"inner": {"statuses": [1]}}, "inner.statuses[0]: an integer, expected a string"),
    "choice": ({"inner": {"statuses": ["bad"]}}, "inner.statuses: got `bad`, expected one of good, old"),
    "twice": ({"inner": {"statuses": ["old", "old"]}}, "inner.statuses: an item is given twice"),
    "long": ({"inner": {"pairs": [{"driver": "x" * 257, "vbios": ""}]}}, "inner.pairs[0].driver: 257 characters"),
    "many": ({"inner": {"machines": ["0102"] * 4097}}, "inner.machines: 4097 items, expected at most 4096"),
    "hex": ({"inner": {"machines": ["01FF"]}}, "inner.machines[0]: expected lower-case hex digits"),
    "size": ({"inner": {"even": "0102"}}, "inner.even: 2 bytes, expected 1"),
    "objection": ({"inner": {"even": "01"}}, "inner.even: odd"),
    "missing": ({"inner": {"pairs": [{"driver": "1"}]}}, "inner.pairs[0].vbios: missing"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_a_file_may_not_say(name: str) -> None:
    value, message = WRONG[name]
    with pytest.raises(UsageError) as caught:
        policyfield.read(Outer, value)
    assert caught.value.message.startswith(message)


def test_a_value_that_no_policy_may_have_cannot_be_made_in_code_either() -> None:
    for changes in (
        {"even": b"\1"},
        {"floor": 100},
        {"statuses": frozenset({"bad"})},
        {"machines": frozenset({b""})},
    ):
        with pytest.raises(ValueError, match=next(iter(changes))):
            Inner(**changes)  # type: ignore[arg-type]


def test_the_strict_policy_keeps_what_only_tightens() -> None:
    given = Outer(False, Inner(frozenset({"good", "old"}), 3, frozenset({b"\1\2"}), hidden=7))
    assert policyfield.strict(given) == Outer(True, Inner(machines=frozenset({b"\1\2"}), hidden=7))
    tight = Outer(True, Inner(frozenset(), 20))
    assert policyfield.strict(tight) == tight
    assert policyfield.strict(Outer(inner=Inner(frozenset({"old"})))) == Outer(inner=Inner(frozenset()))
    with pytest.raises(TypeError, match="strictest=max or strictest=min"):
        setting(number(0, 9), 1, "A floor.", relaxes={"floor"})
    assert [(name, set(made.relaxes)) for name, made in policyfield.every(Outer) if made.relaxes] == [
        ("needed", {"needed"}),
        ("inner.statuses", {"status"}),
        ("inner.floor", {"floor"}),
    ]


def test_the_schema_has_every_field_with_its_default() -> None:
    made = policyfield.schema(Outer)
    inner = made["properties"]["inner"]["properties"]
    assert set(inner) == set(policyfield.settings(Inner))
    assert inner["statuses"]["default"] == ["good"]
    assert inner["floor"] == {
        "description": "The floor.",
        "type": "integer",
        "minimum": 0,
        "maximum": 99,
        "default": 18,
    }
    written = {name: policyfield.settings(Inner)[name].form.write(getattr(Inner(), name)) for name in inner}
    assert policyfield.read(Inner, written) == Inner()
