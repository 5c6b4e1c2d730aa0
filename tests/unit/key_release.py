"""Releases as a broker makes them, for the keys that a guest offers."""

from __future__ import annotations

from agent_guest import SIGNER, VOLUME_KEY
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privml.channel.release import LogHead, Release, Released, Statement, seal
from privml.events.crypt import Crypt
from privml.evidence.sections import RELEASE_USE, Keys


def said(crypts: tuple[Crypt, ...], report_data: bytes, *, kem: str, signer: Ed25519PrivateKey = SIGNER) -> Statement:
    """The statement of a release of the keys of ``crypts``."""
    resources = tuple(Released(crypt.resource, crypt.generation, crypt.check, b"p" * 32) for crypt in crypts)
    broker = signer.public_key().public_bytes_raw()
    return Statement(broker, kem, report_data, resources, LogHead(1, bytes(32)))


def a_release(
    crypts: tuple[Crypt, ...],
    report_data: bytes,
    section: Keys,
    *,
    kem: str = "x25519",
    signer: Ed25519PrivateKey = SIGNER,
    keys: tuple[bytes, ...] = (),
) -> Release:
    """A release of the keys of ``crypts`` to the guest with this keys section; by default all are `VOLUME_KEY`."""
    public = section.find(RELEASE_USE, kem)
    assert public is not None
    statement = said(crypts, report_data, kem=kem, signer=signer)
    return seal(statement, keys or (VOLUME_KEY,) * len(crypts), public, signer.sign)
