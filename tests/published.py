"""Third-party vectors by name, as `tests/vectors/ORIGIN.md` lists them, unpacked where they are compressed."""

from __future__ import annotations

import lzma
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

VECTORS = Path(__file__).parent / "vectors"
_ROW = re.compile(r"^\| `([^`]+)` \| ([^|]+) \| `([^`]+)` \| ([^|]+) \| ([^|]+) \| ([0-9a-f]{64}) \|$", re.MULTILINE)


@dataclass(frozen=True)
class Origin:
    """Where one vector comes from, and the digest of its content."""

    file: str
    repository: str
    path: str
    commit: str
    licence: str
    sha256: str

    @property
    def name(self) -> str:
        """The name that tests use: the file without `.xz`."""
        return self.file.removesuffix(".xz")


@cache
def origins() -> dict[str, Origin]:
    """All rows of the table, by name."""
    rows = [Origin(*match) for match in _ROW.findall((VECTORS / "ORIGIN.md").read_text())]
    return {row.name: row for row in rows}


@cache
def read(name: str) -> bytes:
    """The content of a vector."""
    plain = VECTORS / name
    return plain.read_bytes() if plain.is_file() else lzma.decompress((VECTORS / f"{name}.xz").read_bytes())
