"""A log of a fake repository with witnesses, all keys from fixed seeds, and the policies of callers."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from tests.unit.published_fake import NAME, NOW, Fake, signer

from privml.statement import logpolicy, tlog
from privml.statement.keys import ED25519_PREFIX
from privml.statement.logentry import Entry
from privml.statement.logpolicy import LogPolicy
from privml.statement.tlog import LOG_KIND, WITNESS_KIND, Checkpoint, NoteKey, Proof

ORIGIN = "example.org/measurements"
WITNESSES = ("w1", "w2", "w3")


def key(name: str, kind: int = WITNESS_KIND) -> NoteKey:
    raw = signer(name).public.spki.removeprefix(ED25519_PREFIX)
    return NoteKey(ORIGIN if kind == LOG_KIND else f"{name}.example/w", raw, kind)


LOG = key("log", LOG_KIND)


def cosignature(name: str, text: str, at: int = NOW) -> str:
    """The line by which witness ``name`` cosigns a checkpoint."""
    return key(name).line(at.to_bytes(8) + signer(name).sign(tlog.cosigned_text(at, text)))


def entry(fake: Fake, version: str) -> bytes:
    path = f"{NAME}/{version}/release.json"
    return Entry(path, hashlib.sha256(fake.files[path]).digest()).encode()


def prove(data: bytes, witnesses: Sequence[str] = (), before: int = 5, after: int = 7, by: str = "log") -> bytes:
    """A proof of an entry between others."""
    entries = [*(f"{at}".encode() for at in range(before)), data, *(f"-{at}".encode() for at in range(after))]
    leaves = [tlog.leaf_hash(each) for each in entries]
    text = Checkpoint(ORIGIN, len(entries), tlog.root_of(leaves)).text
    signed = key(by, LOG_KIND).line(signer(by).sign(text.encode()))
    note = f"{text}\n{signed}{''.join(cosignature(name, text) for name in witnesses)}"
    return Proof(before, tlog.inclusion(leaves, before), note.encode()).encode()


def staple(fake: Fake, version: str, witnesses: Sequence[str] = ()) -> None:
    fake.files[f"{NAME}/{version}/statement.tlog-proof"] = prove(entry(fake, version), witnesses)


def policy_text(quorum: str = "group all 2 w1 w2 w3", name: str = "all") -> str:
    rows = [f"log {LOG.text}", *(f"witness {each} {key(each).text}" for each in WITNESSES), quorum, f"quorum {name}"]
    return "".join(f"{row}\n" for row in rows if row)


def policy(quorum: str = "group all 2 w1 w2 w3", name: str = "all") -> LogPolicy:
    return logpolicy.decode(policy_text(quorum, name).encode(), "policy")


UNWITNESSED = policy("", "none")
WITNESSED = policy()
