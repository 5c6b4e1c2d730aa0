"""A caller's policy for logs: which logs are accepted, and which witnesses must have cosigned.

The format is C2SP's (https://c2sp.org/tlog-policy). Keys are Ed25519: a log's signs the text of a checkpoint, a
witness's is of a cosignature v1. Keys of other kinds are refused, because they could not be checked.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from privml.base.errors import EvidenceError, printable
from privml.base.strictjson import first_repeated
from privml.statement.tlog import LOG_KIND, WITNESS_KIND, Checkpoint, Note, NoteKey, Proof

MAX_POLICY = 1 << 16
NONE = "none"
"""The quorum that asks for no witness."""
_FORBIDDEN = re.compile(rb"[^\t\n\x20-\x7e\x80-\xff]")
_BLANK = re.compile(r"[ \t]+")
_NUMBER = re.compile(r"[1-9][0-9]{0,3}")


@dataclass(frozen=True)
class Group:
    """Witnesses or groups of which ``threshold`` must have cosigned."""

    threshold: int
    members: tuple[str, ...]


@dataclass(frozen=True)
class LogPolicy:
    """The keys of logs, of witnesses by the policy's names, groups by name in their order, and the quorum's name.

    ``addresses`` has those of witnesses that the policy names, unread: a caller who checks a proof needs none.
    """

    logs: tuple[NoteKey, ...]
    witnesses: Mapping[str, NoteKey]
    groups: Mapping[str, Group]
    quorum: str
    addresses: Mapping[str, str]

    def check(self, proof: Proof, entry: bytes) -> tuple[Checkpoint, tuple[str, ...]]:
        """The checkpoint of a log of this policy with ``entry`` in it, and the witnesses who cosigned it.

        ``EvidenceError`` if the entry is in none of the logs, or a signature by a key of this policy is not that
        key's. `met` says whether the witnesses suffice.
        """
        note = Note.decode(proof.checkpoint)
        signing = [key for key in self.logs if note.of(key)]
        if not signing:
            raise EvidenceError(
                f"checkpoint: signed by no log of the policy; it is of {printable(note.first_line)[:80]}"
            )
        # A signature in the name of a known key must be good, also where another log's would do.
        found = [proof.check(entry, key) for key in signing]
        return found[0], tuple(name for name, key in self.witnesses.items() if note.signed_by(key))

    def met(self, cosigned: Collection[str]) -> bool:
        """True if the witnesses with these names are a quorum."""
        seen = set(cosigned)
        for name, group in self.groups.items():  # members come before their group
            if sum(member in seen for member in group.members) >= group.threshold:
                seen.add(name)
        return self.quorum == NONE or self.quorum in seen

    @property
    def asked(self) -> str:
        """The quorum in words."""
        group = self.groups.get(self.quorum)
        if group is None:
            return self.quorum if self.quorum == NONE else f"witness {self.quorum}"
        return f"{self.quorum}: {group.threshold} of {', '.join(group.members)}"


def decode(data: bytes, what: str) -> LogPolicy:
    """Read a policy; ``EvidenceError`` if it is malformed, or a name, key or member is in it twice."""
    if len(data) > MAX_POLICY:
        raise EvidenceError(f"{what}: more than {MAX_POLICY} bytes")
    if bad := _FORBIDDEN.search(data):
        raise EvidenceError(
            f"{what}: byte {bad.start()} is 0x{bad[0].hex()}, expected text without control characters"
        )
    if not data.endswith(b"\n"):
        raise EvidenceError(f"{what}: its last line has no end")
    reader = _Reader()
    # Names are octets; all but the words of the format may have others than ASCII.
    for number, line in enumerate(data.decode("utf-8", "backslashreplace").split("\n"), 1):
        words = [word for word in _BLANK.split(line) if word]
        if words and not words[0].startswith("#"):
            try:
                reader.line(*words)
            except EvidenceError as error:
                raise EvidenceError(f"{what}:{number}: {error.message}") from error
    return reader.end(what)


class _Reader:
    def __init__(self) -> None:
        self.logs: list[NoteKey] = []
        self.witnesses: dict[str, NoteKey] = {}
        self.groups: dict[str, Group] = {}
        self.quorum: str | None = None
        self.addresses: dict[str, str] = {}

    def line(self, word: str, *rest: str) -> None:
        if word == "log" and len(rest) in (1, 2):
            self.logs.append(self._key(rest[0], LOG_KIND))
        elif word == "witness" and len(rest) in (2, 3):
            self._new(rest[0])
            self.witnesses[rest[0]] = self._key(rest[1], WITNESS_KIND)
            self.addresses |= dict.fromkeys(rest[:1] if len(rest) > 2 else (), rest[-1])
        elif word == "group" and len(rest) > 2:
            self._new(rest[0])
            self.groups[rest[0]] = self._group(rest[1], rest[2:])
        elif word == "quorum" and len(rest) == 1:
            if self.quorum is not None:
                raise EvidenceError("a second quorum, expected one")
            self.quorum = rest[0] if rest[0] == NONE else self._known(rest[0])
        else:
            raise EvidenceError(
                f"got `{printable(word)[:40]}` and {len(rest)} more words, expected `log KEY [URL]`, "
                "`witness NAME KEY [URL]`, `group NAME all|any|K NAME...` or `quorum NAME`"
            )

    def end(self, what: str) -> LogPolicy:
        if self.quorum is None:
            raise EvidenceError(f"{what}: no quorum; `quorum {NONE}` asks for no witness")
        if not self.logs:
            raise EvidenceError(f"{what}: no log, expected at least one")
        return LogPolicy(tuple(self.logs), self.witnesses, self.groups, self.quorum, self.addresses)

    def _key(self, text: str, kind: int) -> NoteKey:
        found = NoteKey.decode(text, kind)
        if found.key in {key.key for key in (*self.logs, *self.witnesses.values())}:
            raise EvidenceError(f"the key of {found.name} is there twice, expected each key once")
        return found

    def _group(self, number: str, members: tuple[str, ...]) -> Group:
        for member in members:
            self._known(member)
        used = [member for group in self.groups.values() for member in group.members]
        if twice := first_repeated([*used, *members]):
            raise EvidenceError(f"`{printable(twice)[:40]}` is a member twice, expected once in one group")
        threshold = {"any": 1, "all": len(members)}.get(number)
        if threshold is None:
            threshold = int(number) if _NUMBER.fullmatch(number) else 0
        if not 1 <= threshold <= len(members):
            raise EvidenceError(f"got `{printable(number)[:40]}`, expected all, any, or 1 to {len(members)}")
        return Group(threshold, members)

    def _new(self, name: str) -> None:
        if name == NONE or name in self.witnesses or name in self.groups:
            raise EvidenceError(f"the name `{printable(name)[:40]}` is taken, expected each name once")

    def _known(self, name: str) -> str:
        if name not in self.witnesses and name not in self.groups:
            raise EvidenceError(f"`{printable(name)[:40]}` is no witness or group of a line above")
        return name
