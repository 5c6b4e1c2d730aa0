"""Throw-away OpenPGP keys (RFC 9580, version 4 with Ed25519) that sign the archives of tests, without gpg."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

# Good on machines whose clock is behind, too.
MADE, SIGNED = 1_704_067_200, 1_735_689_600
_CURVE = bytes.fromhex("092b06010401da470f01")
_EDDSA, _SHA512 = b"\x16", b"\x0a"
TEXT, CERTIFICATION, SUBKEY_BINDING, PRIMARY_BINDING = 0x01, 0x13, 0x18, 0x19


def packet(tag: int, body: bytes) -> bytes:
    """A packet with a new header."""
    return bytes([0xC0 | tag, 0xFF]) + len(body).to_bytes(4) + body


def armoured(data: bytes, kind: str = "PUBLIC KEY BLOCK") -> bytes:
    """The bytes in ASCII armour, with the checksum that old versions of gpgv want."""
    crc = 0xB704CE
    for byte in data:
        crc ^= byte << 16
        for _ in range(8):
            crc = crc << 1 ^ (0x1864CFB if crc & 0x800000 else 0)
    text = base64.b64encode(data).decode()
    lines = [
        *(text[at : at + 64] for at in range(0, len(text), 64)),
        f"={base64.b64encode(crc.to_bytes(3)).decode()}",
    ]
    return f"-----BEGIN PGP {kind}-----\n\n{chr(10).join(lines)}\n-----END PGP {kind}-----\n".encode()


@dataclass
class Key:
    """A key pair. ``subkeys`` may sign for it."""

    user: str = "test"
    private: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    subkeys: list[Key] = field(default_factory=list)

    @property
    def body(self) -> bytes:
        """The public packet's body."""
        point = self.private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        return b"\x04" + MADE.to_bytes(4) + _EDDSA + _CURVE + _mpi(b"\x40" + point)

    @property
    def fingerprint(self) -> str:
        return hashlib.sha1(self._hashed, usedforsecurity=False).hexdigest().upper()

    @property
    def _hashed(self) -> bytes:
        return b"\x99" + len(self.body).to_bytes(2) + self.body

    @property
    def public(self) -> bytes:
        """The key with its user and subkeys, as `gpg --export` writes it."""
        user = self.user.encode()
        hashed = self._hashed + b"\xb4" + len(user).to_bytes(4) + user
        made = packet(6, self.body) + packet(13, user) + self.signature(CERTIFICATION, hashed, _sub(27, b"\x03"))
        return made + b"".join(packet(14, each.body) + self.binding(each) for each in self.subkeys)

    def binding(self, subkey: Key) -> bytes:
        """The signatures with which key and subkey say that they belong together."""
        hashed = self._hashed + subkey._hashed
        back = subkey._signature_body(PRIMARY_BINDING, hashed)
        return self.signature(SUBKEY_BINDING, hashed, _sub(27, b"\x02"), _sub(32, back))

    def signature(self, kind: int, hashed: bytes, more: bytes = b"", unhashed: bytes = b"") -> bytes:
        """A signature packet over ``hashed``."""
        return packet(2, self._signature_body(kind, hashed, more, unhashed))

    def _signature_body(self, kind: int, data: bytes, more: bytes = b"", unhashed: bytes = b"") -> bytes:
        subpackets = _sub(2, SIGNED.to_bytes(4)) + _sub(33, b"\x04" + bytes.fromhex(self.fingerprint)) + more
        head = b"\x04" + bytes([kind]) + _EDDSA + _SHA512 + len(subpackets).to_bytes(2) + subpackets
        digest = hashlib.sha512(data + head + b"\x04\xff" + len(head).to_bytes(4)).digest()
        made = self.private.sign(digest)
        issuer = _sub(16, bytes.fromhex(self.fingerprint)[-8:]) + unhashed
        return head + len(issuer).to_bytes(2) + issuer + digest[:2] + _mpi(made[:32]) + _mpi(made[32:])

    def clearsigned(self, text: str) -> bytes:
        """The text with a signature around it, such as an InRelease file."""
        lines = text.removesuffix("\n").split("\n")
        signed = self.signature(TEXT, "\r\n".join(line.rstrip() for line in lines).encode())
        shown = "\n".join(f"- {line}" if line.startswith("-") else line for line in lines)
        head = f"-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA512\n\n{shown}\n"
        return head.encode() + armoured(signed, "SIGNATURE")


def _mpi(number: bytes) -> bytes:
    stripped = number.lstrip(b"\0")
    return int.from_bytes(stripped).bit_length().to_bytes(2) + stripped


def _sub(kind: int, body: bytes) -> bytes:
    return bytes([0xFF]) + (len(body) + 1).to_bytes(4) + bytes([kind]) + body
