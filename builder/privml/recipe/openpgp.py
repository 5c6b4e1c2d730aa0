"""Read which keys an OpenPGP keyring holds (RFC 9580, transferable public keys), refusing whatever is not one.

Only the packets' structure is read: what names a key is the hash of its public packet. Signatures in the keyring are
checked by the program that checks the archive's signature.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from privml.base.errors import EvidenceError
from privml.base.strictjson import unb64

MAX_BYTES = 1 << 20
MAX_KEYS = 64
_MAX_KEY = 1 << 14
_BEGIN, _END = "-----BEGIN PGP PUBLIC KEY BLOCK-----", "-----END PGP PUBLIC KEY BLOCK-----"
_HEADER = re.compile(r"[A-Za-z]+: [ -~]*")
SIGNATURE, KEY, USER_ID, SUBKEY, USER_ATTRIBUTE = 2, 6, 13, 14, 17
_REFUSED = {
    5: "a secret key, which must not be here",
    7: "a secret key, which must not be here",
    12: "a Trust packet of GnuPG's own keyring",
}
_SUBKEY_BINDING = 0x18
# Fields of the public key, by algorithm: `m` an MPI, `o` a curve's OID, `k` ECDH's parameters, a number its bytes.
_FIELDS: dict[int, tuple[str | int, ...]] = {
    1: ("m", "m"), 2: ("m", "m"), 3: ("m", "m"), 16: ("m", "m", "m"), 17: ("m", "m", "m", "m"),
    18: ("o", "m", "k"), 19: ("o", "m"), 22: ("o", "m"), 25: (32,), 26: (56,), 27: (32,), 28: (57,),
}  # fmt: skip
_ED_LEGACY = 22


class KeyringError(ValueError):
    """Bytes that are not a keyring; the text says what was found and expected."""


@dataclass
class Key:
    """A primary key with its subkeys, by their fingerprints in upper-case hex (40 digits, or 64 for version 6)."""

    fingerprint: str
    subkeys: list[str] = field(default_factory=list)


def keys(data: bytes) -> tuple[Key, ...]:
    """The keys in a binary keyring; ``KeyringError`` if anything else is in it."""
    if data[:5] == b"-----":
        raise KeyringError("got an armoured keyring, expected a binary one")
    if data[8:12] == b"KBXf":
        raise KeyringError("got a keybox of GnuPG's own, expected a keyring as `gpg --export` writes it")
    found: list[Key] = []
    unbound = ""
    above = 0
    for tag, body in _packets(data):
        if tag not in (KEY, SIGNATURE, USER_ID, SUBKEY, USER_ATTRIBUTE):
            raise KeyringError(f"got {_REFUSED.get(tag, f'a packet with the tag {tag}')}, expected public keys only")
        if not found and tag != KEY:
            raise KeyringError(f"got a packet with the tag {tag} first, expected a public key")
        kind = _signature_type(body) if tag == SIGNATURE else 0
        if unbound and not kind:
            break
        if kind == _SUBKEY_BINDING:
            unbound = ""
        if above == SUBKEY and tag in (USER_ID, USER_ATTRIBUTE):
            raise KeyringError("got a user after a subkey, expected users first")
        if tag == KEY:
            if len(found) == MAX_KEYS:
                raise KeyringError(f"got more than {MAX_KEYS} keys")
            found.append(Key(_fingerprint(body)))
        elif tag == SUBKEY:
            unbound = _fingerprint(body)
            found[-1].subkeys.append(unbound)
        above = above if tag == SIGNATURE else tag
    if unbound:
        raise KeyringError(f"the subkey {unbound} has no signature that binds it to {found[-1].fingerprint}")
    if not found:
        raise KeyringError("got no bytes, expected public keys")
    return tuple(found)


def unarmoured(data: bytes) -> bytes:
    """The bytes in one armoured block that is the whole file; ``KeyringError`` for anything else."""
    try:
        lines = [line.rstrip() for line in data.decode("ascii").strip().splitlines()]
    except UnicodeDecodeError:
        raise KeyringError("got a binary keyring, expected an armoured one") from None
    if not lines or lines[0] != _BEGIN:
        raise KeyringError(f"expected a file that begins with {_BEGIN}")
    if lines[-1] != _END or lines.count(_BEGIN) != 1 or lines.count(_END) != 1:
        raise KeyringError("expected exactly one armoured block and nothing after it")
    blank = lines.index("") if "" in lines else 0
    if any(not _HEADER.fullmatch(line) for line in lines[1:blank]) or not blank:
        raise KeyringError("expected an empty line between the block's headers and its text")
    text = lines[blank + 1 : -1]
    checksum = text.pop()[1:] if text and text[-1].startswith("=") else None
    try:
        body = unb64("".join(text), what="the block's text", limit=MAX_BYTES)
        if checksum is not None and int.from_bytes(unb64(checksum, what="its checksum")) != _crc24(body):
            raise KeyringError("its checksum is of other bytes")
    except EvidenceError as error:
        raise KeyringError(error.message) from error
    return body


def _packets(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0

    def take(count: int) -> bytes:
        nonlocal at
        if at + count > len(data):
            raise KeyringError(f"got {len(data)} bytes, expected {at + count} or more")
        at += count
        return data[at - count : at]

    while at < len(data):
        start, first = at, take(1)[0]
        if not first & 0x80:
            raise KeyringError(f"got the byte 0x{first:02x} at {start}, expected the header of a packet")
        if first & 0x40:
            tag, second = first & 0x3F, take(1)[0]
            if second < 192:
                length = second
            elif second < 224:
                length = (second - 192 << 8) + take(1)[0] + 192
            elif second == 255:
                length = int.from_bytes(take(4))
            else:
                raise KeyringError(f"the packet at {start} has no length of its own")
        else:
            tag, kind = first >> 2 & 0x0F, first & 3
            if kind == 3:
                raise KeyringError(f"the packet at {start} has no length of its own")
            length = int.from_bytes(take(1 << kind))
        yield tag, take(length)


def _fingerprint(body: bytes) -> str:
    """The fingerprint of a public key's packet (RFC 9580, 5.5.4); ``KeyringError`` if its fields do not fill it."""
    version = body[0] if body else 0
    if version not in (4, 6):
        raise KeyringError(f"got a key of version {version}, expected version 4 or 6")
    start = 6 if version == 4 else 10
    if not start <= len(body) <= _MAX_KEY:
        raise KeyringError(f"got a key of {len(body)} bytes, expected {start} to {_MAX_KEY}")
    algorithm = body[5]
    fields = _FIELDS.get(algorithm)
    if fields is None or (version == 6 and algorithm == _ED_LEGACY):
        raise KeyringError(f"got a key of the algorithm {algorithm}, which version {version} keys do not have")
    if version == 6 and int.from_bytes(body[6:10]) != len(body) - start:
        raise KeyringError("a key's fields have another length than it says")
    at = start
    for each in fields:
        at = _after(body, at, each)
    if at != len(body):
        raise KeyringError(f"a key's fields end at byte {at}, expected {len(body)}")
    if version == 4:
        return hashlib.sha1(b"\x99" + len(body).to_bytes(2) + body, usedforsecurity=False).hexdigest().upper()
    return hashlib.sha256(b"\x9b" + len(body).to_bytes(4) + body).hexdigest().upper()


def _after(body: bytes, at: int, kind: str | int) -> int:
    """Where the field of a key at ``at`` ends."""
    if isinstance(kind, int):
        return at + kind
    size = 2 if kind == "m" else 1
    length = int.from_bytes(body[at : at + size])
    if kind != "m":
        return at + size + length
    end = at + size + (length + 7) // 8
    if len(body) >= end and int.from_bytes(body[at + size : end]).bit_length() != length:
        raise KeyringError(f"a number in a key has other than the {length} bits it says")
    return end


def _signature_type(body: bytes) -> int:
    """The type of a signature (RFC 9580, 5.2); ``KeyringError`` for versions that have none."""
    if len(body) < 3 or body[0] not in (3, 4, 6):
        raise KeyringError(f"got a signature of version {body[0] if body else 0}, expected 3, 4 or 6")
    return body[2] if body[0] == 3 else body[1]


def _crc24(data: bytes) -> int:
    """The checksum of armour (RFC 9580, 6.1.1)."""
    crc = 0xB704CE
    for byte in data:
        crc ^= byte << 16
        for _ in range(8):
            crc = crc << 1 ^ (0x1864CFB if crc & 0x800000 else 0)
    return crc
