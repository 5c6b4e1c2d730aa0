"""Keys and roles as TUF metadata writes them (specification 1.0, section 4.2), with ids computed from the keys."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping
from typing import Any

from privml.base.errors import EvidenceError, printable
from privml.base.strictjson import Fields, unhex
from privml.statement.keys import ED25519, MAX_KEYS, PublicKey, Role

_SCHEMES: Mapping[str, tuple[str, str]] = {
    ED25519: ("ed25519", "ed25519"),
    "ecdsa-p256": ("ecdsa", "ecdsa-sha2-nistp256"),
    "ecdsa-p384": ("ecdsa", "ecdsa-sha2-nistp384"),
}
"""The key type and scheme of each algorithm."""
_PEM = re.compile(r"-----BEGIN PUBLIC KEY-----\n((?:[A-Za-z0-9+/=]{1,64}\n)+)-----END PUBLIC KEY-----\n")
_ED25519_PREFIX = bytes.fromhex("302a300506032b6570032100")
"""DER of an Ed25519 SPKI up to its 32 bytes (RFC 8410)."""


def key_to_dict(key: PublicKey) -> dict[str, Any]:
    """The JSON object KEY."""
    keytype, scheme = _SCHEMES[key.algorithm]
    public = key.spki[-32:].hex() if key.algorithm == ED25519 else pem(key)
    return {"keytype": keytype, "scheme": scheme, "keyval": {"public": public}}


def key_from(value: object, path: str) -> PublicKey:
    """Read KEY; ``EvidenceError`` for a kind that is not accepted or a second encoding of one that is."""
    fields = Fields(value, path)
    keytype, scheme = fields.text("keytype", limit=32), fields.text("scheme", limit=32)
    keyval = fields.fields("keyval")
    public = keyval.text("public", limit=2048)
    keyval.end()
    fields.end()
    if keytype == "ed25519":
        raw = unhex(public, 32, what=f"{path}.keyval.public")
        key = PublicKey(_ED25519_PREFIX + raw)
    else:
        key = from_pem(public, f"{path}.keyval.public")
    if _SCHEMES[key.algorithm] != (keytype, scheme):
        raise EvidenceError(f"{path}: got {printable(keytype)} with {printable(scheme)}, which is not its key's kind")
    return key


def keys_from(fields: Fields, limit: int = MAX_KEYS) -> dict[str, PublicKey]:
    """Read ``keys``; ``EvidenceError`` if an id is not the SHA-256 of its key's SPKI."""
    rows = fields.rest()
    if len(rows) > limit:
        raise EvidenceError(f"{fields.path}: {len(rows)} keys, expected at most {limit}")
    found = {}
    for keyid, value in rows.items():
        key = key_from(value, f"{fields.path}.{printable(keyid)[:64]}")
        if key.keyid != keyid:
            raise EvidenceError(f"{fields.path}: id {printable(keyid)[:64]}, expected its key's SHA-256 {key.keyid}")
        found[keyid] = key
    return found


def keys_to_dict(roles: Iterable[Role]) -> dict[str, Any]:
    """The keys of ``roles``, each once."""
    return {key.keyid: key_to_dict(key) for role in roles for key in role.keys}


def role_to_dict(role: Role) -> dict[str, Any]:
    """``{"keyids": [hex...], "threshold": n}``."""
    return {"keyids": sorted(role.by_id), "threshold": role.threshold}


def role_from(fields: Fields, keys: Mapping[str, PublicKey]) -> Role:
    """Read the rest of a role; ``EvidenceError`` for a key that is not listed, or is named twice."""
    found = []
    for number, keyid in enumerate(fields.array("keyids", limit=MAX_KEYS)):
        if not isinstance(keyid, str) or keyid not in keys:
            raise EvidenceError(f"{fields.path}.keyids[{number}]: no such key in `keys`")
        found.append(keys[keyid])
    threshold = fields.integer("threshold", low=1, high=MAX_KEYS)
    fields.end()
    return Role(tuple(found), threshold)


def pem(key: PublicKey) -> str:
    """The SPKI in PEM (RFC 7468)."""
    text = base64.b64encode(key.spki).decode("ascii")
    lines = [text[at : at + 64] for at in range(0, len(text), 64)]
    return "\n".join(["-----BEGIN PUBLIC KEY-----", *lines, "-----END PUBLIC KEY-----", ""])


def from_pem(text: str, path: str) -> PublicKey:
    """The key in PEM; ``EvidenceError`` for any other text than `pem` writes."""
    found = _PEM.fullmatch(text)
    if found is None:
        raise EvidenceError(f"{path}: not a public key in PEM")
    try:
        key = PublicKey(base64.b64decode(found[1]))
    except ValueError as error:
        raise EvidenceError(f"{path}: not a public key in PEM") from error
    if pem(key) != text:
        raise EvidenceError(f"{path}: not the canonical PEM of its key")
    return key
