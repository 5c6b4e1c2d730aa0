"""The private keys of this boot: how they are made, where they are kept, and who may use them.

No other module reads or writes a private key of a document. `create` makes all of them and returns the public parts
as the keys section of attestation documents; the attestor receives nothing else. Keys are in a tmpfs and never leave
this machine's memory. Those to which volume keys are sealed are in no file: only the boot process has them. The
sealed channel's own keys, which are replaced by time, are in `channelkeys`.

Callers trust the digest of the TLS key in an attestation document, not the certificate: its name and dates mean
nothing. The validity period covers all dates because the host sets the guest's clock.
"""

from __future__ import annotations

import datetime
import hashlib
import os
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from privml.agent.layout import Layout
from privml.base.errors import HostError
from privml.evidence.sections import CHANNEL_KEY, RECEIPT_KEY, RELEASE_USE, TLS_KEY, Key, Keys

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from privml.channel.kem import PrivateKey

_FROM = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
_TO = datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC)


@dataclass(frozen=True)
class Identity:
    """The keys section of a boot, and the private keys to which brokers seal volume keys, one for each KEM."""

    keys: Keys
    release: tuple[PrivateKey, ...] = ()


def create(layout: Layout, *, release: bool = False) -> Identity:
    """Make this boot's keys, also those of key release if ``release``.

    The TLS certificate is written last: the server starts once it exists.
    """
    layout.tls_key.parent.mkdir(mode=0o755, exist_ok=True)
    channel = Key(*CHANNEL_KEY, _create_signing(layout.channel_key, layout.server_id))
    receipt = Key(*RECEIPT_KEY, _create_signing(layout.receipt_key, layout.server_id))
    tls, certificate = _create_tls(layout)
    private = _create_release() if release else ()
    sealed_to = [Key(RELEASE_USE, key.kem.name, key.public) for key in private]
    keys = Keys(tuple(sorted((channel, receipt, tls, *sealed_to), key=lambda key: (key.use, key.alg))))
    _write(layout.keys_section, keys.encode(), 0o444, layout.server_id)
    _write(layout.tls_certificate, certificate, 0o444, layout.server_id)
    return Identity(keys, private)


def is_there(layout: Layout) -> bool:
    """True once `create` has finished."""
    return layout.tls_certificate.exists()


def section(layout: Layout) -> bytes:
    """The encoded keys section, as the attestor was given it."""
    return layout.keys_section.read_bytes()


def load_tls(layout: Layout, context: ssl.SSLContext) -> None:
    """Load the TLS key and certificate into the server's ``context``."""
    context.load_cert_chain(layout.tls_certificate, layout.tls_key)


def load_channel(layout: Layout) -> Ed25519PrivateKey:
    """The key that signs the record of the sealed channel's keys."""
    return _load_signing(layout.channel_key)


def load_receipt(layout: Layout) -> Ed25519PrivateKey:
    """The key that signs receipts."""
    return _load_signing(layout.receipt_key)


def _create_release() -> tuple[PrivateKey, ...]:
    """A key of each KEM that this machine has."""
    from privml.channel.kem import usable

    return tuple(kem.generate() for kem in usable())


def _create_signing(path: Path, owner: int) -> bytes:
    """Make an Ed25519 key: its public part (32 bytes)."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    _write(path, key.private_bytes_raw(), 0o400, owner)
    return key.public_key().public_bytes_raw()


def _load_signing(path: Path) -> Ed25519PrivateKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    try:
        return Ed25519PrivateKey.from_private_bytes(path.read_bytes())
    except ValueError as error:
        raise HostError(f"{path}: not an Ed25519 key of 32 bytes") from error


def _create_tls(layout: Layout) -> tuple[Key, bytes]:
    """Make the TLS key: its entry in the section, and a PEM certificate."""
    # Only the boot process makes keys; the server only loads them and should not pay for this import.
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "privml guest")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_FROM)
        .not_valid_after(_TO)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("privml.invalid")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    spki = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    _write(layout.tls_key, pem, 0o400, layout.server_id)
    return Key(*TLS_KEY, hashlib.sha256(spki).digest()), certificate.public_bytes(serialization.Encoding.PEM)


def _write(path: Path, data: bytes, mode: int, owner: int) -> None:
    """Create ``path`` atomically; it is never readable by other users and must not exist yet."""
    temporary = path.with_name(path.name + ".new")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o400)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
        os.fchown(file.fileno(), owner, owner)
        os.fchmod(file.fileno(), mode)
    temporary.rename(path)
