"""The source of the expected measurements, named in the first line of a verdict. `client.anchors` creates them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from privml.statement.index import State
from privml.statement.names import DEMONSTRATED
from privml.statement.predicate import Predicate


@dataclass(frozen=True)
class Built:
    """An image that the caller built, in this output directory."""

    directory: str

    def __str__(self) -> str:
        return f"the build in {self.directory}"


@dataclass(frozen=True)
class Fetched:
    """An image in this directory that was fetched as a published version, and not built by the caller."""

    directory: str
    version: str
    serial: int
    demonstration: bool = False

    def __str__(self) -> str:
        said = (
            f"the image in {self.directory}, fetched as version {self.version} (serial {self.serial}) and not built"
        )
        return f"{said}{f', {DEMONSTRATED}' if self.demonstration else ''}"


@dataclass(frozen=True)
class Logged:
    """What the proof next to a release shows under the caller's policy for logs.

    ``objection`` says why it shows nothing; it is empty if the release is number ``index`` of ``size`` entries of the
    log ``origin``, whose checkpoint ``witnesses`` of the policy cosigned. ``enough`` says whether they are the quorum
    ``asked``.
    """

    objection: str = ""
    origin: str = ""
    index: int = 0
    size: int = 0
    witnesses: tuple[str, ...] = ()
    enough: bool = False
    asked: str = ""

    def __str__(self) -> str:
        if self.objection:
            return "in no log of your policy"
        number = {0: "no witness", 1: "1 witness"}.get(len(self.witnesses), f"{len(self.witnesses)} witnesses")
        return f"logged by {self.origin} with {number}"

    def to_dict(self) -> dict[str, Any] | None:
        """A JSON object; None if nothing is shown."""
        if self.objection:
            return None
        return {
            "origin": self.origin,
            "index": self.index,
            "size": self.size,
            "witnesses": list(self.witnesses),
            "quorum": self.enough,
        }


@dataclass(frozen=True)
class Attested:
    """What the attestation of CI next to a version shows: that ``workflow`` made the same.

    It is of ``repository``, and ran for ``ref``. ``objection`` says why that is not shown; it is empty if it is.
    """

    repository: str
    ref: str
    workflow: str = ""
    objection: str = ""

    def __str__(self) -> str:
        return "not attested" if self.objection else f"attested by CI of {self.repository}"

    def to_dict(self) -> dict[str, Any] | None:
        """A JSON object; None if nothing is shown."""
        if self.objection:
            return None
        return {"repository": self.repository, "ref": self.ref, "workflow": self.workflow}


@dataclass(frozen=True)
class Published:
    """A published version of an image, as a trusted root vouches for it at ``as_of`` (Unix seconds).

    ``signers`` are the ids of the keys that signed its statement, of ``publishers`` keys of which ``threshold`` must.
    ``demonstration``: one person made all keys, as the root says.
    ``expiries`` has the end of each role's metadata. ``rebuilders`` names those of the caller's list who got the
    same, ``rebuilders_asked`` how many must; it is None if the caller asks for none. ``log`` is what a log's proof
    shows, None if the caller has no policy for logs; ``ci`` the same of an attestation by CI. ``notes`` are lines for
    people.
    """

    name: str
    version: str
    serial: int
    state: State
    reason: str
    replaced_by: str | None
    minimum_serial: int
    signers: tuple[str, ...]
    threshold: int
    publishers: int
    as_of: int
    expiries: Mapping[str, int] = field(default_factory=dict)
    rebuilders: tuple[str, ...] = ()
    rebuilders_asked: int | None = None
    log: Logged | None = None
    ci: Attested | None = None
    notes: tuple[str, ...] = ()
    demonstration: bool = False

    def __str__(self) -> str:
        ids = ", ".join(keyid[:16] for keyid in self.signers)
        signed = f"signed by {len(self.signers)} of {self.publishers} publishers ({ids})"
        rebuilt = f"rebuilt by {', '.join(self.rebuilders) or 'nobody'}"
        asked = "no rebuilder asked" if self.rebuilders_asked is None else rebuilt
        more = "".join(f", {each}" for each in (self.log, self.ci) if each is not None)
        said = f"version {self.version} (serial {self.serial}), {signed}, {asked}{more}"
        return f"{said}{f', {DEMONSTRATED}' if self.demonstration else ''}"

    def to_dict(self) -> dict[str, Any]:
        """A JSON object."""
        return {
            "version": self.version,
            "serial": self.serial,
            "state": self.state.value,
            "replaced_by": self.replaced_by,
            "signers": list(self.signers),
            "threshold": self.threshold,
            "publishers": self.publishers,
            "rebuilders": list(self.rebuilders),
            "rebuilders_asked": self.rebuilders_asked,
            "log_asked": self.log is not None,
            "log": None if self.log is None else self.log.to_dict(),
            "ci_asked": self.ci is not None,
            "ci": None if self.ci is None else self.ci.to_dict(),
            "valid_until": min(self.expiries.values(), default=None),
            "demonstration": self.demonstration,
        }


@dataclass(frozen=True)
class Unproven:
    """What was asked for under a root that does not vouch for it."""

    wanted: str

    def __str__(self) -> str:
        return f"{self.wanted}, which the trusted root does not vouch for"


Anchor = Built | Fetched | Published | Unproven


def is_demonstration(anchor: Anchor) -> bool:
    """True if the anchor rests on a root that is marked as a demonstration."""
    return isinstance(anchor, Fetched | Published) and anchor.demonstration


@dataclass(frozen=True)
class ExpectedModel:
    """A model of an image: its revision in its source, and who signed it, as whoever locked it checked.

    ``key`` says which key opens its volume, in words; None for a volume that is not encrypted.
    """

    name: str
    revision: str | None = None
    signer: str | None = None
    key: str | None = None

    def __str__(self) -> str:
        signed = "not signed" if self.signer is None else f"signed by {self.signer}"
        revision = f"revision {self.revision}" if self.revision else "no revision"
        return f"{self.name}, {revision}, {signed}{'' if self.key is None else f', encrypted with {self.key}'}"


@dataclass(frozen=True)
class ExpectedData:
    """Data of an image's services. ``key`` says which key opens its volume, in words; None if it is not encrypted."""

    name: str
    key: str | None = None

    def __str__(self) -> str:
        return f"{self.name}, {'not encrypted' if self.key is None else f'encrypted with {self.key}'}"


@dataclass(frozen=True)
class Expected:
    """The expected measurements of an image, their source, and the models and data, where the source names them."""

    predicate: Predicate
    anchor: Anchor
    models: tuple[ExpectedModel, ...] = ()
    data: tuple[ExpectedData, ...] = ()


@dataclass(frozen=True)
class Candidates:
    """Images of which a guest may be any, the preferred first: the published versions that a caller may meet."""

    versions: tuple[Expected, ...]


Anchored = Expected | Candidates
