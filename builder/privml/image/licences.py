"""Declared licences of an image's contents, from Debian copyright files and wheel metadata.

Sources: the machine-readable debian/copyright format 1.0 ("DEP-5"), Debian Policy 12.5, core metadata 2.4, the SPDX
licence list. A name becomes an SPDX id only where both lists mean the same text, and a choice of such names an SPDX
expression; otherwise it is kept as it was found.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from privml.base import strictjson
from privml.lock import deb, wheels
from privml.lock.models import Lock
from privml.recipe import drivers
from privml.store.objects import Store

UNKNOWN = "NOASSERTION"
# Written by finalize: {"copyright": {package: text}, "common": {name: target of the link}}.
FILE = "licences.json"
_FORMAT = re.compile(r"^Format:\s*\S*(?:copyright-format|dep5)", re.IGNORECASE | re.MULTILINE)
_COMMON = re.compile(r"/usr/share/common-licenses/([A-Za-z0-9][A-Za-z0-9.+-]*[A-Za-z0-9+])")

# DEP-5's short names that mean exactly one text of the SPDX list. Not among them, on purpose: `MIT` (DEP-5: "there
# are many versions of the MIT license"), `BSD`, `Artistic`, `GFDL-*` (invariant sections), `public-domain`.
SPDX = {
    "0BSD": "0BSD",
    "Apache-1.0": "Apache-1.0",
    "Apache-1.1": "Apache-1.1",
    "Apache-2.0": "Apache-2.0",
    "Artistic-2.0": "Artistic-2.0",
    "BSD-2-clause": "BSD-2-Clause",
    "BSD-2-Clause-Patent": "BSD-2-Clause-Patent",
    "BSD-3-clause": "BSD-3-Clause",
    "BSD-4-clause": "BSD-4-Clause",
    "Beerware": "Beerware",
    "BSL-1.0": "BSL-1.0",
    "CC0-1.0": "CC0-1.0",
    "CC-BY-3.0": "CC-BY-3.0",
    "CC-BY-4.0": "CC-BY-4.0",
    "CC-BY-SA-3.0": "CC-BY-SA-3.0",
    "CC-BY-SA-4.0": "CC-BY-SA-4.0",
    "Expat": "MIT",
    "FSFAP": "FSFAP",
    "FSFUL": "FSFUL",
    "FSFULLR": "FSFULLR",
    "ISC": "ISC",
    "MIT-0": "MIT-0",
    "MPL-1.1": "MPL-1.1",
    "MPL-2.0": "MPL-2.0",
    "OFL-1.1": "OFL-1.1",
    "Python": "Python-2.0",
    "QPL-1.0": "QPL-1.0",
    "Sleepycat": "Sleepycat",
    "Unicode-DFS-2016": "Unicode-DFS-2016",
    "Unlicense": "Unlicense",
    "W3C": "W3C",
    "Zlib": "Zlib",
} | {
    f"{family}-{short}{plus}": f"{family}-{number}-{'or-later' if plus else 'only'}"
    for family, versions in {
        "AGPL": {"3": "3.0"},
        "GPL": {"1": "1.0", "2": "2.0", "3": "3.0"},
        "LGPL": {"2": "2.0", "2.1": "2.1", "3": "3.0"},
    }.items()
    for short, number in {**versions, **{number: number for number in versions.values()}}.items()
    for plus in ("", "+")
}
# Exceptions that mean exactly one text of the SPDX list. Not among them, on purpose: those whose text has versions
# that the name does not tell apart (`Bison`, `GCC`, `Autoconf`, `OpenSSL`).
_EXCEPTIONS = {
    "linux-syscall-note": "Linux-syscall-note",
    "llvm": "LLVM-exception",
    "llvm-exception": "LLVM-exception",
}
# SPDX ids are also accepted as names, except `MIT`, which as a name can be any licence of that family.
_EXACT = {spdx.lower(): spdx for spdx in SPDX.values() if spdx != "MIT"}
_EXACT |= {name.lower(): spdx for name, spdx in SPDX.items()}


def short_names(text: str, common: Mapping[str, str] | None = None) -> list[str]:
    """The licences declared by a Debian copyright file, sorted.

    For a machine-readable file, its synopses; for a free-form file, the files of ``common-licenses`` that it mentions
    (with links resolved by ``common``); ``NOASSERTION`` when none is found.
    """
    if _FORMAT.search(text.partition("\n\n")[0]):
        found = {name for line in _synopses(text) for name in _parts(line)}
    else:
        named = {name.rstrip(".") for name in _COMMON.findall(text)}
        found = {f"common-licenses/{(common or {}).get(name, name)}" for name in named}
    return sorted(found) or [UNKNOWN]


def _synopses(text: str) -> Iterable[str]:
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon and key.strip().lower() == "license" and not line[:1].isspace() and value.strip():
            yield " ".join(value.split())


def _parts(synopsis: str) -> list[str]:
    """Split a conjunction into its licences; a choice or an exception stays one name."""
    if re.search(r"\bor\b|\bwith\b|,", synopsis, re.IGNORECASE):
        return [synopsis]
    return re.split(r" and ", synopsis, flags=re.IGNORECASE)


def declared(names: Iterable[str], *, spdx: bool = False) -> list[dict[str, Any]]:
    """``licenses`` of a CycloneDX 1.6 component, all of which apply.

    Each is an SPDX id if its name means exactly one licence, else the name. If there is a choice or an exception and
    all have a meaning in SPDX, they are one expression: the format allows no expression next to other licences.
    ``spdx``: the names are those of SPDX already, as in wheels and recipes, so that ``MIT`` is exact.
    """
    names = set(names)
    meant = {name: expression(name, spdx=spdx) for name in names}
    known = sorted({text for text in meant.values() if text is not None}, key=str.lower)
    if None not in meant.values() and any(" " in text for text in known):
        alone = len(known) == 1
        return [{"expression": " AND ".join(text if alone or " OR " not in text else f"({text})" for text in known)}]
    rows = {("name", name) if text is None or " " in text else ("id", text) for name, text in meant.items()}
    return [{"license": {key: value}} for key, value in sorted(rows, key=lambda row: (row[1].lower(), row))]


def expression(name: str, *, spdx: bool = False) -> str | None:
    """What a licence's name means in SPDX: an id, or an expression for a choice or an exception; None if unclear.

    ``and`` binds more than ``or``, in DEP-5 as in SPDX. A comma changes that in DEP-5, so such names stay names, and
    so do those with parentheses.
    """
    choices = re.split(r"\s+or\s+", name.strip(), flags=re.IGNORECASE)
    both = [re.split(r"\s+and\s+", choice, flags=re.IGNORECASE) for choice in choices]
    found = [[_exact(part, spdx=spdx) for part in parts] for parts in both]
    if any(part is None for parts in found for part in parts):
        return None
    joined = sorted({" AND ".join(sorted(set(map(str, parts)), key=str.lower)) for parts in found}, key=str.lower)
    return " OR ".join(f"({each})" if " AND " in each and len(joined) > 1 else each for each in joined)


def _exact(name: str, *, spdx: bool) -> str | None:
    if spdx and name.lower() == "mit":
        return "MIT"
    licence, _, exception = re.sub(r"\s+with\s+", "\0", name, count=1, flags=re.IGNORECASE).partition("\0")
    found = _EXACT.get(licence.lower())
    if not exception or found is None:
        return found
    added = _EXCEPTIONS.get(re.sub(r"\s+exception$", "", exception, flags=re.IGNORECASE).lower())
    return None if added is None else f"{found} WITH {added}"


def of_tree(path: Path) -> dict[str, list[str]]:
    """Package -> licences, from the copyright files that finalize read and then removed."""
    document = strictjson.loads(path.read_bytes(), what=FILE)
    return {name: short_names(text, document["common"]) for name, text in document["copyright"].items()}


def of_inputs(lock: Lock, store: Store) -> dict[str, list[str]]:
    """Package or wheel -> licences, for what is not installed as a package: firmware, driver and wheels."""
    found: dict[str, list[str]] = {}
    of_driver = () if lock.driver is None else lock.driver.packages
    if lock.driver is not None and isinstance(record := lock.driver.record.source, drivers.Runfile):
        found[record.name] = list(record.licences)
    board = None if lock.driver is None else lock.driver.board
    found |= {each.name: list(each.licences) for each in (board.archives.values() if board else ())}
    for package in (*lock.firmware_debs, *of_driver):
        text = _copyright(store.read(package.sha256, verify=False), package.name)
        found[package.name] = short_names(text)
    for wheel in lock.wheels:
        found[wheel.name] = [wheels.licence(store, wheel) or UNKNOWN]
    return found


def _copyright(body: bytes, name: str) -> str:
    with deb.tar_of(body, "data.tar", name) as archive:
        for entry in archive:
            if entry.isfile() and entry.name.lstrip("./") == f"usr/share/doc/{name}/copyright":
                file = archive.extractfile(entry)
                return file.read().decode("utf-8", "replace") if file else ""
    return ""
