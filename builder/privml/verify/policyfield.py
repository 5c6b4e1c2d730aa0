"""How a field of a policy is declared for the policy file.

A policy is a frozen dataclass (`Policy`, `TdxPolicy`). Each of its fields that a policy file may set is made with
`setting`, which says how the value is written, what it means, and which refusals it can relax. The reader of the
file, its JSON Schema, the verdict's relaxations and `verify --explain` are all derived from these declarations::

    @dataclass(frozen=True)
    class ExamplePolicy:
        statuses: frozenset[str] = setting(
            texts("UpToDate", "OutOfDate"), frozenset({"UpToDate"}), "Accepted statuses.", relaxes={"tcb-status"}
        )
        machines: frozenset[bytes] = setting(
            hex_list(16), frozenset(), "Accepted machines; empty means any.", sets={"machine"}
        )

        def __post_init__(self) -> None:
            check(self)

A field made without `setting` cannot be named in a policy file. A field that ``relaxes`` no code only tightens: it
``sets`` what the caller expects.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from privml.base.errors import EvidenceError, UsageError
from privml.base.strictjson import unhex

Value = TypeVar("Value")
Chosen = TypeVar("Chosen")
_KEY = "privml-policy"
_MAX_ITEMS = 4096
_MAX_TEXT = 256


@dataclass(frozen=True)
class Form(Generic[Value]):
    """How a value is written in a policy file.

    ``schema`` is the JSON Schema of the written value. ``read`` decodes one (``UsageError`` with the path for a wrong
    type or value), ``write`` is its inverse. ``objection`` says what is wrong with a value that no policy may have,
    and is empty for the others.
    """

    schema: Mapping[str, Any]
    read: Callable[[object, str], Value]
    write: Callable[[Value], Any]
    objection: Callable[[Value], str] = lambda _: ""


@dataclass(frozen=True)
class Setting:
    """The declaration of one field: its form, and a sentence for people.

    ``relaxes`` are the refusal codes that it can relax, ``sets`` those whose expected value it is. A field that can
    relax has ``strictest``: the value that accepts only what both of two values accept.
    """

    form: Form[Any]
    doc: str
    relaxes: frozenset[str] = frozenset()
    sets: frozenset[str] = frozenset()
    strictest: Callable[[Any, Any], Any] | None = None


@dataclass(frozen=True)
class Section:
    """The declaration of a field that holds another policy, a table of its own in the file."""

    doc: str


def setting(
    form: Form[Value],
    default: Value,
    doc: str,
    *,
    relaxes: Collection[str] = (),
    sets: Collection[str] = (),
    strictest: Callable[[Any, Any], Any] | None = None,
) -> Value:
    """Declare a dataclass field that a policy file may set.

    A number that ``relaxes`` needs ``strictest``: `max` for a floor, `min` for a limit. For a list it is what both
    have in common, for any other value the default.
    """
    if relaxes and strictest is None:
        if isinstance(default, int) and not isinstance(default, bool):
            raise TypeError("a number that can relax a refusal needs strictest=max or strictest=min")
        strictest = _common if isinstance(default, frozenset) else _default
    declared = Setting(form, doc, frozenset(relaxes), frozenset(sets), strictest)
    made: Value = field(default=default, metadata={_KEY: declared})
    return made


def _common(value: frozenset[Any], default: frozenset[Any]) -> frozenset[Any]:
    return value & default


def _default(_: Any, default: Any) -> Any:
    return default


def section(default: Value, doc: str) -> Value:
    """Declare a dataclass field that holds another policy: ``[name]`` in the file."""
    made: Value = field(default=default, metadata={_KEY: Section(doc)})
    return made


def settings(policy: type[Any]) -> dict[str, Setting]:
    """The fields of ``policy`` that a file may set, by name."""
    return {name: made for name, made in _declared(policy).items() if isinstance(made, Setting)}


def sections(policy: type[Any]) -> dict[str, tuple[Section, Any]]:
    """The sections of ``policy`` by name, each with its default policy."""
    defaults = {each.name: each.default for each in dataclasses.fields(policy)}
    return {name: (made, defaults[name]) for name, made in _declared(policy).items() if isinstance(made, Section)}


def default_of(policy: type[Any], name: str) -> Any:
    """The default value of a field made with `setting`."""
    return next(each.default for each in dataclasses.fields(policy) if each.name == name)


def check(policy: Any) -> None:
    """``ValueError`` if a field has a value that no policy may have; for ``__post_init__``."""
    for name, made in settings(type(policy)).items():
        wrong = made.form.objection(getattr(policy, name))
        if wrong:
            raise ValueError(f"{name}: {wrong}")


def read(policy: type[Chosen], value: object, path: str = "") -> Chosen:
    """Decode the table of a policy; ``UsageError`` for an unknown field, a wrong type or a value that is refused."""
    if not isinstance(value, dict):
        raise UsageError(f"{path or 'policy'}: {_name(value)}, expected a table")
    known, nested = settings(policy), sections(policy)
    given: dict[str, Any] = {}
    for name, item in value.items():
        where = f"{path}.{name[:80]}" if path else str(name)[:80]
        if name in nested:
            given[name] = read(type(nested[name][1]), item, where)
        elif name in known:
            given[name] = known[name].form.read(item, where)
            wrong = known[name].form.objection(given[name])
            if wrong:
                raise UsageError(f"{where}: {wrong}")
        else:
            raise UsageError(f"{where}: unknown field", hint=f"known fields: {', '.join(sorted([*known, *nested]))}")
    return policy(**given)


def schema(policy: type[Any]) -> dict[str, Any]:
    """The JSON Schema of a policy's table."""
    properties: dict[str, Any] = {}
    for name, made in _declared(policy).items():
        default = default_of(policy, name)
        if isinstance(made, Section):
            properties[name] = {"description": made.doc, **schema(type(default))}
        else:
            written = made.form.write(default)
            properties[name] = {"description": made.doc, **made.form.schema, "default": written}
    return {"type": "object", "properties": properties, "additionalProperties": False}


def strict(policy: Chosen) -> Chosen:
    """``policy`` without its relaxations: each field that can relax has the stricter of its value and its default.

    What the policy tightens stays.
    """
    kind = type(policy)
    changes: dict[str, Any] = {
        name: made.strictest(getattr(policy, name), default_of(kind, name))
        for name, made in settings(kind).items()
        if made.strictest is not None
    }
    changes |= {name: strict(getattr(policy, name)) for name in sections(kind)}
    return dataclasses.replace(policy, **changes)  # type: ignore[type-var]


def every(policy: type[Any], path: str = "") -> Iterator[tuple[str, Setting]]:
    """Each field of ``policy`` and its sections, with its name in the file (``tdx.statuses``)."""
    for name, made in _declared(policy).items():
        where = f"{path}.{name}" if path else name
        if isinstance(made, Section):
            yield from every(type(default_of(policy, name)), where)
        else:
            yield where, made


def number(low: int, high: int) -> Form[int]:
    """An integer from ``low`` to ``high``."""

    def decode(value: object, path: str) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise UsageError(f"{path}: {_name(value)}, expected an integer")
        return value

    def objection(value: int) -> str:
        return "" if low <= value <= high else f"got {value}, expected {low} to {high}"

    return Form({"type": "integer", "minimum": low, "maximum": high}, decode, int, objection)


def switch() -> Form[bool]:
    """True or false."""

    def decode(value: object, path: str) -> bool:
        if not isinstance(value, bool):
            raise UsageError(f"{path}: {_name(value)}, expected true or false")
        return value

    return Form({"type": "boolean"}, decode, bool)


def text(*one_of: str) -> Form[str]:
    """A string; one of ``one_of`` if any are given."""
    enum = {"enum": list(one_of)} if one_of else {"maxLength": _MAX_TEXT}
    return Form({"type": "string", **enum}, _text, str, lambda value: _not_one_of(value, one_of))


def texts(*one_of: str) -> Form[frozenset[str]]:
    """A list of different strings; each one of ``one_of`` if any are given."""
    return _list(text(*one_of))


def hexadecimal(size: int) -> Form[bytes]:
    """Exactly ``size`` bytes in lower-case hex."""

    def decode(value: object, path: str) -> bytes:
        try:
            return unhex(value, size, what=path)
        except EvidenceError as error:
            raise UsageError(error.message) from error

    def objection(value: bytes) -> str:
        return "" if len(value) == size else f"{len(value)} bytes, expected {size}"

    return Form({"type": "string", "pattern": f"^[0-9a-f]{{{2 * size}}}$"}, decode, bytes.hex, objection)


def hex_list(size: int) -> Form[frozenset[bytes]]:
    """A list of different values of ``size`` bytes in lower-case hex."""
    return _list(hexadecimal(size))


def records(kind: type[Chosen]) -> Form[frozenset[Chosen]]:
    """A list of different tables; ``kind`` is a frozen dataclass whose fields are all made with `setting`."""

    def decode(value: object, path: str) -> Chosen:
        if isinstance(value, dict):
            for name in settings(kind):
                if name not in value:
                    raise UsageError(f"{path}.{name}: missing")
        return read(kind, value, path)

    def write(value: Chosen) -> dict[str, Any]:
        return {name: made.form.write(getattr(value, name)) for name, made in settings(kind).items()}

    properties = {name: {"description": made.doc, **made.form.schema} for name, made in settings(kind).items()}
    table = {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
    return _list(Form(table, decode, write))


def restricted(form: Form[Value], objection: Callable[[Value], str], **schema: Any) -> Form[Value]:
    """``form`` with a further ``objection`` to some of its values, and what ``schema`` can say of it."""
    return dataclasses.replace(
        form,
        schema={**form.schema, **schema},
        objection=lambda value: form.objection(value) or objection(value),
    )


def _list(item: Form[Value]) -> Form[frozenset[Value]]:
    def decode(value: object, path: str) -> frozenset[Value]:
        if not isinstance(value, list):
            raise UsageError(f"{path}: {_name(value)}, expected a list")
        if len(value) > _MAX_ITEMS:
            raise UsageError(f"{path}: {len(value)} items, expected at most {_MAX_ITEMS}")
        items = [item.read(each, f"{path}[{number}]") for number, each in enumerate(value)]
        if len(set(items)) != len(items):
            raise UsageError(f"{path}: an item is given twice")
        return frozenset(items)

    def write(value: frozenset[Value]) -> list[Any]:
        written = [item.write(each) for each in value]
        return sorted(written, key=str)

    def objection(value: frozenset[Value]) -> str:
        return next((wrong for wrong in map(item.objection, value) if wrong), "")

    schema = {"type": "array", "items": dict(item.schema), "maxItems": _MAX_ITEMS, "uniqueItems": True}
    return Form(schema, decode, write, objection)


def _text(value: object, path: str) -> str:
    if not isinstance(value, str):
        raise UsageError(f"{path}: {_name(value)}, expected a string")
    if len(value) > _MAX_TEXT:
        raise UsageError(f"{path}: {len(value)} characters, expected at most {_MAX_TEXT}")
    return value


def _not_one_of(value: str, one_of: tuple[str, ...]) -> str:
    return f"got `{value[:80]}`, expected one of {', '.join(one_of)}" if one_of and value not in one_of else ""


def _declared(policy: type[Any]) -> dict[str, Setting | Section]:
    return {each.name: each.metadata[_KEY] for each in dataclasses.fields(policy) if _KEY in each.metadata}


def _name(value: object) -> str:
    names = {dict: "a table", list: "a list", str: "a string", bool: "a boolean", int: "an integer"}
    return names.get(type(value), type(value).__name__)
