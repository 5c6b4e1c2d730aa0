"""What exports of every TEE have in common: which versions are exported, sizes by name, and the head of a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Generic, Protocol, Self, TypeVar

from privml.base.errors import Refused, UsageError, printable
from privml.base.times import time_text
from privml.events.variants import PRODUCTION
from privml.verify.anchor import Expected, Published
from privml.verify.policy import Policy
from privml.verify.publication import DemonstrationCase, PublicationCase, demonstration, publication

AGENT = "The document of the guest's agent: its log, its keys, and the nonce that its report data covers."
"""What no other verifier checks."""


class Shaped(Protocol):
    """The values of one machine size, whose name is ``shape``."""

    @property
    def shape(self) -> str:
        """The size."""
        ...


Values = TypeVar("Values", bound=Shaped)


@dataclass(frozen=True)
class Export(Generic[Values]):
    """What is exported: the values of each size of a version that the policy accepts, under a root (hex SHA-256)."""

    anchor: Published
    root_sha256: str
    values: tuple[Values, ...]

    def only(self, shape: str) -> Self:
        """The size whose name is or ends with ``shape``; ``UsageError`` if it is not exactly one."""
        found = [each for each in self.values if each.shape == shape or each.shape.endswith(f", {shape}")]
        if len(found) != 1:
            raise UsageError(
                f"--shape: got `{shape[:80]}`, expected one of the {len(self.values)} sizes of this version",
                hint="; ".join(each.shape for each in self.values[:8]),
            )
        return replace(self, values=tuple(found))


def publishable(expected: Expected, policy: Policy) -> tuple[Published, list[str]]:
    """What vouches for ``expected``, and why ``policy`` does not accept its version or image, whatever the TEE."""
    predicate, anchor = expected.predicate, expected.anchor
    assert isinstance(anchor, Published)
    wrong = [
        f"{each.code}: got {each.got}, expected {each.expected}"
        for each in (
            *publication(PublicationCase(anchor, policy.published)),
            # No form of another verifier could say that it is one.
            *demonstration(DemonstrationCase(anchor.demonstration, allowed=False)),
        )
    ]
    if predicate.variant != PRODUCTION:
        wrong.append(f"variant: got {predicate.variant}, expected {PRODUCTION}")
    wrong += [
        f"exceptions: got {each.name}, expected one that the policy names"
        for each in predicate.exceptions
        if each.name not in policy.exceptions
    ]
    return anchor, wrong


def refuse(expected: Expected, wrong: Sequence[str]) -> None:
    """``Refused`` with these reasons, if there are any."""
    if wrong:
        assert isinstance(expected.anchor, Published)
        name = f"{expected.predicate.name} {expected.anchor.version}"
        raise Refused(
            f"{name} is not exported: {printable('; '.join(wrong))}", hint="`verify --explain CODE` says more"
        )


Exported = TypeVar("Exported", bound=Export)  # type: ignore[type-arg]


@dataclass(frozen=True)
class Target(Generic[Exported]):
    """A verifier of others: what makes the values of a version for it, its file's title, and its writer.

    ``unchecked`` is what it does not check, ``tried`` how such files were tried. ``one_size`` is True if a file holds
    one machine size.
    """

    accepted: Callable[[Expected, str, Policy], Exported]
    title: str
    unchecked: tuple[str, ...]
    tried: str
    write: Callable[[Exported, Sequence[str]], str]
    one_size: bool = False

    def text(self, export: Exported) -> str:
        """The file."""
        return self.write(export, tuple(self._head(export)))

    def _head(self, export: Exported) -> Iterator[str]:
        anchor = export.anchor
        yield f"{self.title}: {anchor.name} {anchor}"
        yield f"Verified under the root with SHA-256 {export.root_sha256} on {time_text(anchor.as_of)}."
        yield f"The index is valid until {time_text(min(anchor.expiries.values()))}. Export again before that date:"
        yield "a revocation after this export is not seen."
        yield f"Machine sizes: {'; '.join(each.shape for each in export.values)}."
        yield "What is not checked with this file:"
        yield from (f"- {line}" for line in self.unchecked)
        yield f"How such a file was tried: {self.tried}"


def comments(head: Sequence[str]) -> list[str]:
    """The head of a file as comments, and an empty line."""
    return [*(f"# {printable(line)}" for line in head), ""]


def proto_bytes(value: bytes) -> str:
    """A value of a field of type bytes in protobuf's text format."""
    return '"' + "".join(f"\\x{byte:02x}" for byte in value) + '"'
