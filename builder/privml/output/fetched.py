"""The record of an image that was fetched, not built: ``published/fetched.json`` next to its artefacts.

The manifest of such an image is the published one, byte for byte, because its digest is signed; so it cannot say
itself how the image came here. The folder ``published`` also has the version's own files that a built image does not
have: its release, its recipe, and the signed envelopes. A build replaces the directory, and the record goes with it.

Nothing rests on the record: whoever can write the directory can change it. It says what a caller relies on.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from privml.base.errors import BuildError, EvidenceError
from privml.base.files import read_start
from privml.base.strictjson import Fields, canonical, loads
from privml.base.times import time_text
from privml.output.manifest import Manifest
from privml.statement.names import DEMONSTRATED, name_of, version_of

FOLDER = "published"
FILE = "fetched.json"
FORMAT = "privml-fetched/v1"
MAX_RECORD = 64 * 1024
MAX_SIGNERS = 64


@dataclass(frozen=True)
class FetchRecord:
    """Which published version an image is, and under which root it was fetched. Digests are 32 bytes.

    ``signers`` are the ids of the publishers' keys, ``as_of`` the time (Unix seconds) at which the index counted;
    ``demonstration``: one person made all keys, as the root says.
    """

    name: str
    version: str
    serial: int
    release_sha256: bytes
    manifest_sha256: bytes
    root_sha256: bytes
    signers: tuple[str, ...]
    as_of: int
    demonstration: bool = False

    def __str__(self) -> str:
        ids = ", ".join(keyid[:16] for keyid in self.signers)
        return (
            f"fetched, not built: version {self.version} (serial {self.serial}), signed by {ids}, under root "
            f"{self.root_sha256.hex()[:16]}, as of {time_text(self.as_of)}"
            f"{f', {DEMONSTRATED}' if self.demonstration else ''}"
        )

    def to_dict(self) -> dict[str, object]:
        """The JSON object without its format."""
        return {
            "name": self.name,
            "version": self.version,
            "serial": self.serial,
            "release_sha256": self.release_sha256.hex(),
            "manifest_sha256": self.manifest_sha256.hex(),
            "root_sha256": self.root_sha256.hex(),
            "signers": list(self.signers),
            "as_of": self.as_of,
            "demonstration": self.demonstration,
        }

    def encode(self) -> bytes:
        """Encode as canonical JSON."""
        return canonical({"format": FORMAT, **self.to_dict()})


def decode(data: bytes, what: str) -> FetchRecord:
    """Read a record; ``EvidenceError`` if it is malformed or not canonical."""
    fields = Fields(loads(data, what=what, limit=MAX_RECORD), what)
    fields.text("format", one_of=(FORMAT,))
    signers = fields.array("signers", limit=MAX_SIGNERS)
    names = Fields({str(number): item for number, item in enumerate(signers)}, f"{what}.signers")
    record = FetchRecord(
        name=name_of(fields),
        version=version_of(fields),
        serial=fields.integer("serial", low=1),
        release_sha256=fields.hexadecimal("release_sha256", 32),
        manifest_sha256=fields.hexadecimal("manifest_sha256", 32),
        root_sha256=fields.hexadecimal("root_sha256", 32),
        signers=tuple(names.hexadecimal(str(number), 32).hex() for number in range(len(signers))),
        as_of=fields.integer("as_of"),
        demonstration=fields.boolean("demonstration"),
    )
    fields.end()
    if record.encode() != data:
        raise EvidenceError(f"{what}: not canonical JSON (RFC 8785)")
    return record


def read(directory: Path, manifest: Manifest) -> FetchRecord | None:
    """The record of the image in ``directory``; None if it was built.

    ``BuildError`` if the record is malformed or of another image.
    """
    path = directory / FOLDER / FILE
    if not path.is_file():
        return None
    hint = f"fetch the image again, or build it with `privml-build image {manifest.name}`"
    try:
        record = decode(read_start(path, MAX_RECORD), str(path))
    except (EvidenceError, OSError) as error:
        raise BuildError(f"{path} cannot be read: {error}", hint=hint) from error
    if record.manifest_sha256 != manifest.sha256:
        raise BuildError(
            f"{path} is of another image: got manifest {record.manifest_sha256.hex()}, expected "
            f"{manifest.sha256.hex()}",
            hint=hint,
        )
    return record
