"""Parse the index files of a Debian archive: InRelease headers and Packages stanzas."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

from pydantic import ValidationError

from privml.base.errors import InputsError
from privml.lock.models import Package

_BEGIN = "-----BEGIN PGP SIGNED MESSAGE-----"
_END = "-----BEGIN PGP SIGNATURE-----"


@dataclass(frozen=True)
class Release:
    """The header fields of an InRelease file, whose signature apt has checked."""

    origin: str
    label: str
    suite: str
    codename: str
    date: datetime
    valid_until: datetime | None


def parse_inrelease(data: bytes) -> Release:
    """Read the fields of the signed part; unsigned text around it is refused."""
    lines = data.decode("utf-8", "replace").splitlines()
    if not lines or lines[0] != _BEGIN or "" not in lines or lines.count(_END) != 1 or lines.count(_BEGIN) != 1:
        raise InputsError("InRelease: expected exactly one clear-signed message")
    fields = fields_of("\n".join(lines[lines.index("") + 1 : lines.index(_END)]))
    until = fields.get("Valid-Until")
    return Release(
        fields.get("Origin", ""),
        fields.get("Label", ""),
        fields.get("Suite", ""),
        fields.get("Codename", ""),
        _date(fields, "Date"),
        _date(fields, "Valid-Until") if until else None,
    )


def _date(fields: dict[str, str], name: str) -> datetime:
    try:
        moment = parsedate_to_datetime(fields[name])
    except (KeyError, ValueError) as error:
        raise InputsError(f"InRelease: {name} is missing or is not a date") from error
    if moment.tzinfo is None or moment.utcoffset():
        raise InputsError(f"InRelease: {name} `{fields[name]}` is not in UTC")
    return moment


def fields_of(stanza: str) -> dict[str, str]:
    """The fields of a control stanza (deb822), with the continuation lines of each."""
    fields: dict[str, str] = {}
    name = ""
    for line in stanza.splitlines():
        if line[:1] in (" ", "\t"):
            if name:
                fields[name] += "\n" + line.strip()
        elif ":" in line:
            name, _, value = line.partition(":")
            fields[name] = value.strip()
    return fields


class PackagesIndex:
    """The Packages file of a suite's component, searched by archive path without parsing all of it."""

    def __init__(self, data: bytes, *, archive: str, suite: str, component: str, base: str) -> None:
        self._data = data
        self._where = {"archive": archive, "suite": suite, "component": component}
        self.base = base.rstrip("/")
        self._at = {match[1]: match.start() for match in re.finditer(rb"^Filename: (\S+)$", data, re.M)}

    @classmethod
    def read(cls, path: Path, *, archive: str, suite: str, component: str, base: str) -> PackagesIndex:
        """Read apt's uncompressed list."""
        return cls(path.read_bytes(), archive=archive, suite=suite, component=component, base=base)

    def has(self, path: str) -> bool:
        """Whether the archive path is listed."""
        return path.encode() in self._at

    def fields(self, path: str) -> dict[str, str]:
        """All fields of the package at an archive path."""
        at = self._at[path.encode()]
        start = self._data.rfind(b"\n\n", 0, at) + 2 if b"\n\n" in self._data[:at] else 0
        end = self._data.find(b"\n\n", at)
        return fields_of(self._data[start : end if end >= 0 else None].decode("utf-8"))

    def names(self) -> Iterator[str]:
        """The names of all packages, and those that they provide."""
        for match in re.finditer(rb"^(?:Package|Provides): (.*)$", self._data, re.M):
            yield from dependency_names(match[1].decode("utf-8", "replace"))

    def stanzas(self) -> Iterator[dict[str, str]]:
        """The fields of all packages."""
        try:
            text = self._data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise InputsError(f"{'/'.join(self._where.values())}: its list is not UTF-8") from error
        for stanza in text.split("\n\n"):
            if fields := fields_of(stanza):
                yield fields

    def package(self, path: str) -> Package:
        """The lock record of the package at an archive path."""
        return self.record(self.fields(path))

    def record(self, fields: Mapping[str, str]) -> Package:
        """The lock record of a package with these fields."""
        try:
            return Package.model_validate(
                {
                    "name": fields["Package"],
                    "version": fields["Version"],
                    "architecture": fields["Architecture"],
                    "sha256": fields["SHA256"],
                    "size": int(fields["Size"]),
                    "path": fields["Filename"].removeprefix("./"),
                    **self._where,
                }
            )
        except (KeyError, ValueError) as error:
            where = "/".join(self._where.values())
            named = fields.get("Filename", fields.get("Package", "a package"))
            raise InputsError(f"{where}: the entry of {named} is malformed: {_first(error)}") from error


def _first(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"it has no {error.args[0]}"
    if not isinstance(error, ValidationError):
        return str(error)
    wrong = error.errors(include_url=False)[0]
    return f"{'.'.join(map(str, wrong['loc']))}: {wrong['msg']}"


def not_essential(fields: Mapping[str, str], what: str) -> None:
    """Raise ``InputsError`` for a package that every system must have: only the base's may say so of themselves."""
    if fields.get("Essential", "no").lower() != "no":
        raise InputsError(
            f"{what} is marked `Essential: {fields['Essential']}`, expected a package that nothing else needs",
            hint="packages from outside the base are installed last; leave the mark out of this one",
        )


def upstream_version(version: str) -> str:
    """The numeric upstream version in a package version: ``0.7.0`` for ``1:0.7.0+dfsg-2``; empty if there is none."""
    match = re.match(r"(?:\d+:)?(\d+(?:\.\d+)*)", version)
    return match[1] if match else ""


def dependency_names(field: str) -> list[str]:
    """The first alternative of each dependency, without versions and architectures."""
    names = []
    for group in field.split(","):
        match = re.match(r"\s*([a-z0-9][a-z0-9+.-]+)", group)
        if match:
            names.append(match[1])
    return names


def dependencies(stanzas: Iterable[Mapping[str, str]]) -> dict[str, tuple[str, ...]]:
    """For each package, which of the others its Depends and Pre-Depends are met by.

    Versions are not compared, because apt has solved them. Of alternatives the first that is there counts, and of a
    virtual package all that provide it.
    """
    known = {fields["Package"]: fields for fields in stanzas}
    providers: dict[str, set[str]] = {name: {name} for name in known}
    for name, fields in known.items():
        for provided in dependency_names(fields.get("Provides", "")):
            if provided not in known:
                providers.setdefault(provided, set()).add(name)
    found = {}
    for name, fields in known.items():
        edges: set[str] = set()
        for group in ",".join(fields.get(key, "") for key in ("Pre-Depends", "Depends")).split(","):
            alternatives = (dependency_names(word) for word in group.split("|"))
            edges |= next((providers[word[0]] for word in alternatives if word and word[0] in providers), set())
        found[name] = tuple(sorted(edges - {name}))
    return found
