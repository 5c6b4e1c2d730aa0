"""Make .debs: with any files, and with maintainer scripts."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field

TIME = 1_700_000_000


@dataclass(frozen=True)
class Deb:
    """A package. ``files`` are path -> (mode, content); ``scripts`` are maintainer scripts by name."""

    name: str
    version: str = "1.0"
    depends: str = ""
    files: Mapping[str, tuple[int, bytes]] = field(default_factory=dict)
    scripts: Mapping[str, str] = field(default_factory=dict)
    # Further lines of the control file.
    more: str = ""

    @property
    def control(self) -> str:
        """The control file."""
        depends = f"Depends: {self.depends}\n" if self.depends else ""
        return (
            f"Package: {self.name}\nVersion: {self.version}\nArchitecture: amd64\nMaintainer: nobody\n{depends}"
            f"{self.more}Description: made by a test\n"
        )

    @property
    def pool(self) -> str:
        """The file's path in an archive."""
        return f"pool/main/{self.name}_{self.version}_amd64.deb"

    @property
    def stanza(self) -> str:
        """The entry in an archive's list."""
        digest = hashlib.sha256(self.data).hexdigest()
        return f"{self.control}Filename: {self.pool}\nSize: {len(self.data)}\nSHA256: {digest}\n\n"

    @property
    def data(self) -> bytes:
        """The file."""
        scripts = {name: (0o755, text.encode()) for name, text in self.scripts.items()}
        out = b"!<arch>\n"
        for name, body in {
            "debian-binary": b"2.0\n",
            "control.tar": _tar({"control": (0o644, self.control.encode()), **scripts}),
            "data.tar": _tar(self.files),
        }.items():
            out += b"%-16s%-12d%-6d%-6d%-8o%-10d`\n" % (name.encode(), 0, 0, 0, 0o100644, len(body))
            out += body + b"\n" * (len(body) & 1)
        return out


def _tar(files: Mapping[str, tuple[int, bytes]]) -> bytes:
    body = io.BytesIO()
    with tarfile.open(fileobj=body, mode="w", format=tarfile.GNU_FORMAT) as archive:
        folders = sorted({"/".join(path.split("/")[:n]) for path in files for n in range(1, path.count("/") + 1)})
        for folder in folders:
            entry = tarfile.TarInfo(f"./{folder}/")
            entry.type, entry.mode, entry.mtime = tarfile.DIRTYPE, 0o755, TIME
            archive.addfile(entry)
        for path, (mode, content) in files.items():
            entry = tarfile.TarInfo(f"./{path}")
            entry.mode, entry.size, entry.mtime = mode, len(content), TIME
            archive.addfile(entry, io.BytesIO(content))
    return body.getvalue()
