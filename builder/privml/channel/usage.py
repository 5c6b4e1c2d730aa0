"""Signed usage lines, `privml-usage/v1`: what each subject of callers' tokens used, a line a minute.

A guest signs them by its attested receipt key, so an operator can bill traffic that nobody else could read. A line
has counts only: nothing of prompts, answers or addresses. Numbers of lines only grow within a boot, so a missing one
shows. After a gap they go on when the guest's server is started again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from privml.base.errors import EvidenceError, Refused
from privml.base.strictjson import Fields, canonical, loads
from privml.channel.signed import payload_of, seal
from privml.channel.token import SUBJECT

FORMAT = "privml-usage/v1"
PAYLOAD_TYPE = "application/vnd.privml.usage+json"
PATH = "/v1/usage"
MAX_LINES = 1000
"""Lines in one record."""
MAX_RECORD = 512 * 1024
_DIGEST_SIZE = 32
_LARGE = 1 << 53
_COUNTS = ("requests", "unreported", "prompt_tokens", "completion_tokens")


@dataclass(frozen=True)
class Line:
    """What one subject used in one minute since the guest's boot.

    ``requests`` were begun in it. Of answers that ended in it, ``unreported`` had no usage from the engine, as those
    that were cut off and streams without `stream_options.include_usage`; the tokens are those of the others.
    """

    seq: int
    minute: int
    subject: str
    requests: int = 0
    unreported: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def to_dict(self) -> dict[str, int | str]:
        """The line as JSON."""
        return dict(vars(self))


@dataclass(frozen=True)
class Usage:
    """The lines from some number on. ``first`` is the oldest that the guest still has, ``next`` comes after these."""

    keys_sha256: bytes
    boot_seconds: int
    first: int
    next: int
    lines: tuple[Line, ...]

    def encode(self) -> bytes:
        """The bytes that are signed."""
        return canonical(
            {
                "format": FORMAT,
                "keys_sha256": self.keys_sha256.hex(),
                "boot_seconds": self.boot_seconds,
                "first": self.first,
                "next": self.next,
                "lines": [line.to_dict() for line in self.lines],
            }
        )

    def sign(self, sign: Callable[[bytes], bytes]) -> bytes:
        """The record in a DSSE envelope."""
        return seal(PAYLOAD_TYPE, self.encode(), sign)


def read_usage(data: bytes, *, receipt_key: bytes, keys_sha256: bytes) -> Usage:
    """The usage lines of the guest with these keys; ``Refused`` for another's."""
    payload = payload_of(data, PAYLOAD_TYPE, key=receipt_key, limit=MAX_RECORD, what="usage", by="receipt key")
    fields = Fields(loads(payload, what="usage", limit=MAX_RECORD), "usage")
    fields.text("format", one_of=(FORMAT,))
    found = Usage(
        fields.hexadecimal("keys_sha256", _DIGEST_SIZE),
        fields.integer("boot_seconds", low=0, high=_LARGE),
        fields.integer("first", low=0, high=_LARGE),
        fields.integer("next", low=0, high=_LARGE),
        tuple(_line(item, n) for n, item in enumerate(fields.array("lines", limit=MAX_LINES))),
    )
    fields.end()
    numbers = [line.seq for line in found.lines]
    if numbers != list(range(found.next - len(numbers), found.next)):
        raise EvidenceError(f"usage.lines: expected lines in order, the last one before {found.next}")
    if found.keys_sha256 != keys_sha256:
        raise Refused(f"usage: of keys section {found.keys_sha256.hex()[:16]}, expected {keys_sha256.hex()[:16]}")
    return found


def _line(value: object, number: int) -> Line:
    fields = Fields(value, f"usage.lines[{number}]")
    seq, minute = (fields.integer(name, low=0, high=_LARGE) for name in ("seq", "minute"))
    subject = fields.text("subject", limit=64)
    if not SUBJECT.match(subject):
        raise EvidenceError(f"{fields.path}.subject: got `{subject[:64]}`, expected letters, digits, `.`, `_` or `-`")
    counts = [fields.integer(name, low=0, high=_LARGE) for name in _COUNTS]
    fields.end()
    return Line(seq, minute, subject, *counts)
