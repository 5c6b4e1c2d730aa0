"""What an image is made of, as its manifest says it: firmware, models, data, engine and packages.

Contract: docs/ARCHITECTURE.md, "Manifest v2".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from privml.base.strictjson import Fields
from privml.events import volumes
from privml.events.crypt import Crypt
from privml.events.verity import Verity
from privml.events.volumes import Kind
from privml.output.signature import Signature, signature_from


@dataclass(frozen=True)
class Firmware:
    """``file`` is an artefact, ``derived_from`` the hex SHA-256 of the original binary."""

    file: str
    derived_from: str

    @classmethod
    def from_fields(cls, fields: Fields) -> Firmware:
        """Read the firmware of one TEE; ``EvidenceError`` if it is malformed."""
        firmware = cls(fields.text("file", limit=128), fields.hexadecimal("derived_from", 32).hex())
        fields.end()
        return firmware


class _InVolume:
    """What models and data have in common."""

    crypt: Crypt | None

    @property
    def key(self) -> str:
        """In words, the key of an encrypted volume; empty for one that is not encrypted."""
        crypt = self.crypt
        return "" if crypt is None else f"`{crypt.resource}`, generation {crypt.generation}, of broker {crypt.broker}"


@dataclass(frozen=True)
class Model(_InVolume):
    """A model's name, its volume's file, its format (``gguf``), and the volume's dm-verity parameters.

    ``source`` is spelled as in the recipe; ``revision`` is a wheel's version or a hub's commit. The file has no
    ``signature`` for a model without one. ``crypt`` is None for a volume that is not encrypted.
    """

    name: str
    volume: str
    format: str
    verity: Verity
    source: str
    revision: str | None
    licence: str | None
    signature: Signature | None = None
    crypt: Crypt | None = None
    kind: ClassVar[Kind] = volumes.MODEL

    def to_dict(self) -> dict[str, object]:
        """An item of the manifest's ``models``."""
        return {
            "name": self.name,
            "volume": self.volume,
            "format": self.format,
            "source": self.source,
            "revision": self.revision,
            "licence": self.licence,
            "verity": self.verity.to_dict(),
            "crypt": None if self.crypt is None else self.crypt.to_dict(),
            **({} if self.signature is None else {"signature": self.signature.to_dict()}),
        }

    @classmethod
    def from_fields(cls, fields: Fields) -> Model:
        """Read an item of ``models``; ``EvidenceError`` if it is malformed."""
        model = cls(
            fields.text("name"),
            fields.text("volume", limit=128),
            fields.text("format", limit=64),
            Verity.from_fields(fields.fields("verity")),
            fields.text("source"),
            fields.text_or_null("revision"),
            fields.text_or_null("licence"),
            signature_from(fields.fields("signature")) if fields.has("signature") else None,
            _crypt(fields.fields_or_null("crypt")),
        )
        fields.end()
        return model


@dataclass(frozen=True)
class Data(_InVolume):
    """Data of the services: its name, its volume's file, the volume's parameters, and its source in the recipe.

    ``crypt`` is None for a volume that is not encrypted.
    """

    name: str
    volume: str
    verity: Verity
    source: str
    crypt: Crypt | None = None
    kind: ClassVar[Kind] = volumes.DATA

    def to_dict(self) -> dict[str, object]:
        """An item of the manifest's ``data``."""
        return {
            "name": self.name,
            "volume": self.volume,
            "source": self.source,
            "verity": self.verity.to_dict(),
            "crypt": None if self.crypt is None else self.crypt.to_dict(),
        }

    @classmethod
    def from_fields(cls, fields: Fields) -> Data:
        """Read an item of ``data``; ``EvidenceError`` if it is malformed."""
        data = cls(
            fields.text("name"),
            fields.text("volume", limit=128),
            Verity.from_fields(fields.fields("verity")),
            fields.text("source"),
            _crypt(fields.fields_or_null("crypt")),
        )
        fields.end()
        return data


@dataclass(frozen=True)
class Engine:
    """The engine that runs the models, and its package version."""

    name: str
    version: str

    @classmethod
    def from_fields(cls, fields: Fields) -> Engine:
        """Read the manifest's ``engine``; ``EvidenceError`` if it is malformed."""
        engine = cls(fields.text("name", limit=64), fields.text("version", limit=128))
        fields.end()
        return engine


@dataclass(frozen=True)
class Package:
    """One package of the root; ``sha256`` (hex) is of its file."""

    name: str
    version: str
    architecture: str
    sha256: str

    @classmethod
    def from_fields(cls, fields: Fields) -> Package:
        """Read an item of ``packages``; ``EvidenceError`` if it is malformed."""
        package = cls(
            fields.text("name"),
            fields.text("version"),
            fields.text("architecture"),
            fields.hexadecimal("sha256", 32).hex(),
        )
        fields.end()
        return package


def _crypt(fields: Fields | None) -> Crypt | None:
    return None if fields is None else Crypt.from_fields(fields)
