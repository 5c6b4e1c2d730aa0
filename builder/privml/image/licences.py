"""Declared licences of an image's contents, from Debian copyright files and wheel metadata.

Sources: the machine-readable debian/copyright format 1.0 ("DEP-5"), Debian Policy 12.5, core metadata 2.4, the SPDX
licence list. A name becomes an SPDX id only where both lists mean the same text; otherwise it is kept as it was
found.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from privml.base import strictjson
from privml.lock import deb, wheels
from privml.lock.models import Lock
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


def declared(names: Iterable[str]) -> list[dict[str, Any]]:
    """``licenses`` of a CycloneDX 1.6 component: the SPDX id if the name means exactly one licence, else the name."""
    rows = {("id", _EXACT[name.lower()]) if name.lower() in _EXACT else ("name", name) for name in names}
    return [{"license": {key: value}} for key, value in sorted(rows, key=lambda row: (row[1].lower(), row))]


def of_tree(path: Path) -> dict[str, list[str]]:
    """Package -> licences, from the copyright files that finalize read and then removed."""
    document = strictjson.loads(path.read_bytes(), what=FILE)
    return {name: short_names(text, document["common"]) for name, text in document["copyright"].items()}


def of_inputs(lock: Lock, store: Store) -> dict[str, list[str]]:
    """Package or wheel -> licences, for components that are never in the tree: firmware and wheels."""
    found = {}
    for package in lock.firmware_debs:
        text = _copyright(store.read(package.sha256, verify=False), package.name)
        found[package.name] = short_names(text)
    for wheel in lock.python:
        found[wheel.name] = [wheels.licence(store, wheel) or UNKNOWN]
    return found


def _copyright(body: bytes, name: str) -> str:
    with deb.tar_of(body, "data.tar", name) as archive:
        for entry in archive:
            if entry.isfile() and entry.name.lstrip("./") == f"usr/share/doc/{name}/copyright":
                file = archive.extractfile(entry)
                return file.read().decode("utf-8", "replace") if file else ""
    return ""
