"""Who signs a change: the keys that are given, what others signed of it before, and what is still missing.

A change is signed at once, or as a proposal: a folder that goes from one person to the next. Each makes the same
change again with the same command, in a checkout and by builds of their own, and adds signatures only where the bytes
to sign are the same. The one whose signatures complete it writes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from privml.base.errors import EvidenceError, Refused, UsageError
from privml.base.files import read_start, remove_tree, write_atomic
from privml.base.strictjson import Fields, canonical, loads
from privml.base.times import MAX_TIME, time_text
from privml.publish.signer import Signer
from privml.statement.follow import MAX_ENVELOPE
from privml.statement.keys import Role

FORMAT = "privml-proposal/v1"
PROPOSAL_FILE = "proposal.json"
FILES = "files"
DAYS = 14
"""How long a proposal can be signed: its dates are those of its first signature."""
_DAY = 86400


@dataclass
class Signing:
    """The keys of one person; ``collected`` are files that others signed, by path, of a change that may be partial.

    ``missing`` says what is not signed by enough keys; only a ``partial`` change may have any.
    """

    signers: Sequence[Signer]
    collected: Mapping[str, bytes] = field(default_factory=dict)
    partial: bool = False
    missing: list[str] = field(default_factory=list)

    def enough(self, role: Role, keyids: Sequence[str], what: str) -> None:
        """``Refused`` if fewer keys of ``role`` than its threshold are given; a partial change notes it instead."""
        given = {keyid for keyid in keyids if keyid in role.by_id}
        if len(given) >= role.threshold:
            return
        others = ", ".join(keyid[:16] for keyid in sorted(role.by_id) if keyid not in given)
        if self.partial:
            self.missing.append(f"{what}: {len(given)} of {role.threshold} signatures; keys: {others}")
            return
        raise Refused(
            f"{what} needs {role.threshold} signatures: got {len(given)} of its keys, expected {role.threshold}",
            hint=f"give --key for {others}, or collect signatures one after the other with --propose DIR",
        )

    def same(self, path: str, *, equal: bool) -> None:
        """``Refused`` if what others signed at ``path`` is not what this person would sign."""
        if not equal:
            raise Refused(
                f"{path} of the proposal is another one than this command makes",
                hint="compare commit, lock and options with those who signed before; nothing was signed",
            )


@dataclass
class Proposal:
    """A change that waits for signatures, in ``folder``, with the time (Unix seconds) that all of it has."""

    folder: Path
    at: int
    files: dict[str, bytes]

    @classmethod
    def open(cls, folder: Path, now: int) -> Proposal:
        """The proposal in ``folder``, or a new one. ``Refused`` if it is too old, ``UsageError`` if it is none."""
        path = folder / PROPOSAL_FILE
        if not path.is_file():
            if folder.exists() and any(folder.iterdir()):
                raise UsageError(f"--propose {folder}: there are files in it, but no proposal", hint="name a new one")
            return cls(folder, now, {})
        try:
            fields = Fields(loads(read_start(path, 4096), what=str(path), limit=4096), str(path))
            fields.text("format", one_of=(FORMAT,))
            at = fields.integer("at", high=MAX_TIME)
            fields.end()
        except EvidenceError as error:
            raise UsageError(f"--propose: {error.message}") from error
        if not at <= now <= at + DAYS * _DAY:
            raise Refused(f"the proposal in {folder} is of {time_text(at)}, expected one of the last {DAYS} days")
        found = {
            each.relative_to(folder / FILES).as_posix(): read_start(each, MAX_ENVELOPE)
            for each in sorted((folder / FILES).rglob("*"))
            if each.is_file()
        }
        return cls(folder, at, found)

    def keep(self, files: Mapping[str, bytes]) -> None:
        """Write what is signed so far."""
        for path, data in files.items():
            write_atomic(self.folder / FILES / path, data)
        write_atomic(self.folder / PROPOSAL_FILE, canonical({"format": FORMAT, "at": self.at}))

    def remove(self) -> None:
        """Remove it, because it was written into the repository."""
        if self.folder.exists():
            remove_tree(self.folder)
