"""The keys of a boot: only one module handles private keys, and the section contains every public key."""

from __future__ import annotations

import hashlib
import os
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

import privml
from privml.agent import identity
from privml.agent.layout import Layout
from privml.base.errors import HostError
from privml.channel.kem import usable
from privml.evidence.sections import CHANNEL_KEY, RECEIPT_KEY, RELEASE_USE, TLS_KEY, Keys


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(run=tmp_path, server_id=os.getuid())


def test_the_section_holds_every_key_that_was_made(layout: Layout) -> None:
    assert not identity.is_there(layout)
    keys = identity.create(layout).keys
    assert identity.is_there(layout)
    assert [(key.use, key.alg) for key in keys.keys] == [CHANNEL_KEY, RECEIPT_KEY, TLS_KEY]
    assert Keys.decode(keys.encode()) == keys
    certificate = x509.load_pem_x509_certificate(layout.tls_certificate.read_bytes())
    spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert keys.find(*TLS_KEY) == hashlib.sha256(spki).digest()
    assert keys.find(*CHANNEL_KEY) == identity.load_channel(layout).public_key().public_bytes_raw()
    assert keys.find(*RECEIPT_KEY) == identity.load_receipt(layout).public_key().public_bytes_raw()
    assert keys.find(*CHANNEL_KEY) != keys.find(*RECEIPT_KEY)
    made = sorted(path.relative_to(layout.run).as_posix() for path in layout.run.rglob("*") if path.is_file())
    assert made == ["keys/certificate.pem", "keys/channel", "keys/receipt", "keys/section", "keys/tls.pem"]
    assert identity.section(layout) == keys.encode()
    for path in (layout.tls_key, layout.channel_key, layout.receipt_key):
        assert path.stat().st_mode & 0o777 == 0o400


def test_keys_of_key_release_are_in_the_section_and_in_no_file(layout: Layout) -> None:
    made = identity.create(layout, release=True)
    assert [key.kem for key in made.release] == list(usable())
    offered = [(key.use, key.alg, key.key) for key in made.keys.keys if key.use == RELEASE_USE]
    assert offered == sorted((RELEASE_USE, key.kem.name, key.public) for key in made.release)
    written = [path.name for path in layout.run.rglob("*") if path.is_file()]
    assert sorted(written) == ["certificate.pem", "channel", "receipt", "section", "tls.pem"]


def test_the_server_uses_the_key_in_the_section(layout: Layout) -> None:
    identity.create(layout)
    identity.load_tls(layout, ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    layout.tls_key.unlink()
    with pytest.raises(FileNotFoundError):
        identity.load_tls(layout, ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))


def test_a_signing_key_of_another_size_is_refused(layout: Layout) -> None:
    identity.create(layout)
    layout.receipt_key.chmod(0o600)
    layout.receipt_key.write_bytes(b"k" * 31)
    with pytest.raises(HostError, match="32 bytes"):
        identity.load_receipt(layout)


def test_no_other_module_of_the_guest_handles_a_private_key() -> None:
    root = Path(privml.__file__).parent
    words = (
        "tls_key",
        "load_cert_chain",
        "generate_private_key",
        "private_bytes",
        "load_pem_private_key",
        "channel_key",
        "receipt_key",
        ".generate()",
    )
    found = {
        (path.relative_to(root).as_posix(), word)
        for room in ("agent", "engines", "events", "evidence")
        for path in (root / room).rglob("*.py")
        for word in words
        if word in path.read_text()
    }
    assert {path for path, _ in found} == {"agent/identity.py", "agent/layout.py"}
    assert {word for path, word in found if path == "agent/layout.py"} == {"tls_key", "channel_key", "receipt_key"}
