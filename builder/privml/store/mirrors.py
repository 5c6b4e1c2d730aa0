"""Find mirrors of archives and the model hub in the user's ``mirrors.yaml``, then in the host's configuration.

privml-build names no package host. ``$XDG_CONFIG_HOME/privml-build/mirrors.yaml`` maps an archive's label to
addresses, for example::

    debian: [https://mirror.example.invalid/debian]
    debian-security: [https://mirror.example.invalid/debian-security]
    acme: [https://packages.example.invalid/debian]
    hub: [https://hub.example.invalid]

``acme`` is an archive that a recipe adds, whose addresses only this file has. ``hub`` is the model hub; without that
entry ``HF_ENDPOINT`` counts. Without an entry for the label of a distribution's archive, its addresses come from the
host's ``sources.list`` and ``sources.list.d``: every http(s) address (also in the files that ``mirror+file:`` names)
of a suite of a known distribution with the component ``main``, signed by its archive keyring or without a named key
(``recipe.distributions.HostSources``). Files from a mirror are always checked by signature or digest.
"""

from __future__ import annotations

import os
import re
import shlex
import urllib.parse
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from privml.base.errors import HostError
from privml.base.home import user_folder
from privml.base.wayout import without_password
from privml.recipe.distributions import DISTRIBUTIONS

Mirrors = dict[str, tuple[str, ...]]

HUB = "hub"
"""The label of the model hub in ``mirrors.yaml``."""
HUB_VARIABLE = "HF_ENDPOINT"
"""The environment variable with the model hub's address, as hub clients read it."""


@dataclass(frozen=True)
class Source:
    """One binary-package source of the host's apt configuration."""

    uris: tuple[str, ...]
    suites: tuple[str, ...]
    components: tuple[str, ...]
    signed_by: str = ""

    @property
    def label(self) -> str | None:
        """The label of the matching archive of a known distribution; None if there is none."""
        keyring = Path(self.signed_by).name
        found = (each.sources.archive(self.suites, keyring) for each in DISTRIBUTIONS.values())
        return next((label for label in found if label is not None), None) if "main" in self.components else None


def host_mirrors(apt: Path = Path("/etc/apt"), config: Path | None = None) -> Mirrors:
    """Addresses by archive label, best first, without a final slash; the user's file replaces a label's list.

    They have no passwords: `base.wayout` has those.
    """
    mirrors = _mirrors(apt, config)
    return {label: tuple(map(without_password, addresses)) for label, addresses in mirrors.items()}


def configured_addresses(apt: Path = Path("/etc/apt"), config: Path | None = None) -> tuple[str, ...]:
    """The same addresses as they are configured, with the passwords in them; never show one."""
    return tuple(address for addresses in _mirrors(apt, config).values() for address in addresses)


def _mirrors(apt: Path, config: Path | None) -> Mirrors:
    found: dict[str, list[str]] = {}
    # A source with the archive's keyring is a more certain match than one without, so it comes first.
    for source in sorted(apt_sources(apt), key=lambda source: not source.signed_by):
        if (label := source.label) is not None:
            addresses = found.setdefault(label, [])
            for uri in _expand(source.uris):
                if uri not in addresses:
                    addresses.append(uri)
    mirrors: Mirrors = {label: tuple(addresses) for label, addresses in found.items()}
    if endpoint := os.environ.get(HUB_VARIABLE, ""):
        mirrors[HUB] = (_address(endpoint, HUB_VARIABLE),)
    mirrors.update(_configured(config or _config_file()))
    return mirrors


def apt_sources(apt: Path) -> list[Source]:
    """Every enabled ``deb`` source below ``apt``, in one-line and deb822 format."""
    sources: list[Source] = []
    parts = apt / "sources.list.d"
    files = [apt / "sources.list", *(sorted(parts.iterdir()) if parts.is_dir() else [])]
    for file in files:
        if not file.is_file():
            continue
        text = file.read_text(encoding="utf-8", errors="replace")
        if file.suffix == ".list":
            sources += [source for line in text.splitlines() if (source := one_line(line))]
        elif file.suffix == ".sources":
            sources += deb822_sources(text)
    return sources


def one_line(line: str) -> Source | None:
    """``deb [options] URI SUITE COMPONENT...``; None for anything else."""
    match = re.match(r"\s*deb\s+(?:\[(?P<options>[^\]]*)\]\s*)?(?P<rest>[^#]*)", line)
    if not match:
        return None
    words = match["rest"].split()
    if len(words) < 2:
        return None
    try:
        options = dict(word.partition("=")[::2] for word in shlex.split(match["options"] or ""))
    except ValueError:
        return None
    return Source((words[0],), (words[1],), tuple(words[2:]), options.get("signed-by", ""))


def deb822_sources(text: str) -> list[Source]:
    """The stanzas of a ``.sources`` file."""
    sources = []
    for fields in _stanzas(text):
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() in (
            "no",
            "false",
            "0",
        ):
            continue
        sources.append(
            Source(
                tuple(fields.get("uris", "").split()),
                tuple(fields.get("suites", "").split()),
                tuple(fields.get("components", "").split()),
                fields.get("signed-by", ""),
            )
        )
    return sources


def _stanzas(text: str) -> Iterator[dict[str, str]]:
    for block in re.split(r"\n[ \t]*\n", text):
        fields: dict[str, str] = {}
        name = ""
        for line in block.splitlines():
            if line.startswith("#"):
                continue
            if line[:1] in (" ", "\t") and name:
                fields[name] += "\n" + line.strip()
            elif ":" in line:
                name, _, value = line.partition(":")
                name = name.strip().lower()
                fields[name] = value.strip()
        if fields:
            yield fields


def _expand(uris: Iterable[str]) -> Iterator[str]:
    for uri in uris:
        if uri.startswith("mirror+file:"):
            listing = Path("/" + uri.partition(":")[2].lstrip("/"))
            if listing.is_file():
                lines = listing.read_text(encoding="utf-8", errors="replace").splitlines()
                yield from _expand(words[0] for line in lines if (words := line.split("#")[0].split()))
        elif uri.startswith(("http://", "https://")):
            yield uri.rstrip("/")


def _config_file() -> Path:
    return user_folder("XDG_CONFIG_HOME", ".config") / "privml-build" / "mirrors.yaml"


def _configured(file: Path) -> Mirrors:
    if not file.is_file():
        return {}
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise HostError(f"{file}: not readable as YAML: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise HostError(f"{file}: expected a mapping of an archive's label to a list of addresses")
    mirrors: Mirrors = {}
    for label, addresses in content.items():
        listed = [addresses] if isinstance(addresses, str) else addresses
        if not isinstance(listed, list) or not all(isinstance(address, str) for address in listed):
            raise HostError(f"{file}: {label}: expected a list of addresses")
        mirrors[str(label)] = tuple(_address(address, f"{file}: {label}") for address in listed)
    return mirrors


def _address(address: str, where: str) -> str:
    """An address without its final slash; ``HostError`` if it is not one of a web server."""
    if urllib.parse.urlsplit(address).scheme not in ("http", "https"):
        raise HostError(f"{where}: `{without_password(address)}` is not an http(s) address")
    return address.rstrip("/")


def urls_of(archive: str, path: str, mirrors: Mirrors) -> tuple[str, ...]:
    """Addresses of the file at ``path`` of an archive."""
    return tuple(f"{mirror}/{urllib.parse.quote(path, safe='/')}" for mirror in mirrors.get(archive, ()))
