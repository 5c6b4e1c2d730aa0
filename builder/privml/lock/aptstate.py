"""Configuration of a temporary apt state: apt.conf, pins, and a local repository of locked packages."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from privml.base.wayout import WayOut
from privml.lock import deb
from privml.lock.models import Package
from privml.store.objects import Store

KEPT = "kept"
_REPOSITORY = "repository-"


@dataclass(frozen=True)
class Kept:
    """A locked package in our store, which apt may choose even if no archive lists it any more."""

    package: Package
    control: str

    @classmethod
    def of(cls, store: Store, package: Package) -> Kept:
        """Read the control fields from the .deb in the store, checking its digest."""
        return cls(package, deb.control(store.read(package.sha256), str(package)))


def blamed(message: str, pins: Mapping[str, str]) -> list[str]:
    """The pinned packages named in apt's error; all of them if it names none."""
    # Only lines about relations: apt's prose contains words such as "file" and "time", which are package names too.
    lines = [line for line in message.splitlines() if re.search(r"Depends|Breaks|Conflicts|selected", line)]
    words = {word.strip("`'\",.;()[]").partition(":")[0] for line in lines for word in line.split()}
    return sorted(words & pins.keys()) or sorted(pins)


def conclusion(message: str) -> str:
    """apt's error without its list of unmet dependencies, where its solver says what contradicts what.

    The list names nearly every package then, because without a solution none of them is going to be installed.
    """
    first, _, rest = message.partition("\n")
    lines = rest.splitlines()
    at = next((n for n, line in enumerate(lines) if "E: Unable to satisfy dependencies" in line), None)
    return message if at is None else "\n".join([first, *lines[at:]])


def write_repository(folder: Path, name: str, packages: Sequence[Kept]) -> str:
    """Write a repository into the state's directory; returns its line of sources.list, or an empty string.

    It needs no signature: each SHA-256 is from a lock, from a file here, or from a list that apt has checked.
    """
    if not packages:
        return ""
    place = folder / f"{_REPOSITORY}{name}"
    place.mkdir(exist_ok=True)
    stanzas = "".join(
        f"{each.control}\nFilename: ./{each.package.sha256}.deb\nSize: {each.package.size}\n"
        f"SHA256: {each.package.sha256}\n\n"
        for each in packages
    ).encode()
    (place / "Packages").write_bytes(stanzas)
    (place / "Release").write_text(
        f"Origin: {_origin(name)}\nSHA256:\n {hashlib.sha256(stanzas).hexdigest()} {len(stanzas)} Packages\n",
        encoding="utf-8",
    )
    return f"deb [trusted=yes] file:{place} ./\n"


def repository(folder: Path, uri: str) -> str | None:
    """The SHA-256 of a package in a repository that ``write_repository`` made; None for other addresses."""
    inside = f"file:{folder}/{_REPOSITORY}"
    return uri.rpartition("/")[2].removesuffix(".deb") if uri.startswith(inside) else None


def _origin(name: str) -> str:
    """The Origin that only our repository ``name`` has in a state."""
    return f"privml-build {name}"


def preferences(
    pins: Mapping[str, str],
    named: Mapping[str, str],
    others: Iterable[str],
    from_archives: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """The preferences file, most specific records first (apt_preferences(5): the first matching record counts).

    ``pins`` are versions to choose even if newer ones exist. ``named`` maps packages, by name or pattern, to the
    suite they must come from. Other packages are taken from ``others``, the suites outside the base, only if the base
    lacks them. A suite is named by its code name (``n``) or its current alias (``a``), such as unstable.
    ``from_archives`` maps packages to the archive outside the base, by label, that they must come from.
    """
    records = [(name, f"version {version}", 1001) for name, version in sorted(pins.items())]
    for pattern, suite in named.items():
        records += [(pattern, f"release {key}={suite}", 990) for key in "na"]
    records += [(name, f"release o={_origin(label)}", 990) for name, label in from_archives.items()]
    for suite in others:
        records += [("*", f"release {key}={suite}", 100) for key in "na"]
    return "".join(f"Package: {name}\nPin: {pin}\nPin-Priority: {priority}\n\n" for name, pin, priority in records)


def apt_configuration(folder: Path, way: WayOut, addresses: Iterable[str] = ()) -> str:
    """apt.conf of a state in ``folder``, which reaches ``addresses`` by ``way``; no other configuration is read.

    We check Date and Valid-Until ourselves: apt can only ignore them, or fail without mentioning this machine's
    clock.
    """
    settings = {
        "Dir::Etc::main": "/dev/null",
        "Dir::Etc::parts": "/dev/null",
        "Dir::Etc::sourcelist": f"{folder}/sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::Etc::preferences": f"{folder}/preferences",
        "Dir::Etc::preferencesparts": "/dev/null",
        "Dir::Etc::netrc": f"{folder}/auth.conf",
        "Dir::Etc::netrcparts": "/dev/null",
        "Dir::Etc::trusted": "/dev/null",
        "Dir::Etc::trustedparts": "/dev/null",
        "Dir::State": f"{folder}/state",
        "Dir::State::lists": f"{folder}/lists",
        "Dir::State::status": f"{folder}/status",
        "Dir::Cache": f"{folder}/cache",
        "Dir::Log": f"{folder}/log",
        "APT::Architecture": "amd64",
        "APT::Architectures": "amd64",
        "APT::Install-Recommends": "false",
        "APT::Install-Suggests": "false",
        "APT::Sandbox::User": "root",
        "Acquire::AllowInsecureRepositories": "false",
        "Acquire::AllowWeakRepositories": "false",
        "Acquire::Check-Date": "false",
        "Acquire::Check-Valid-Until": "false",
        "Acquire::GzipIndexes": "false",
        "Acquire::Languages": "none",
        "Acquire::PDiffs": "false",
        "Acquire::Retries": "8",
    }
    settings |= way.apt_settings(addresses)
    if way.certificates is not None:
        # A copy, because apt runs in a tree that has no certificates of this host.
        (folder / "certificates.pem").write_bytes(way.certificates.read_bytes())
        settings["Acquire::https::CaInfo"] = f"{folder}/certificates.pem"
    return "".join(f'{name} "{value}";\n' for name, value in settings.items())
