"""The signed list of a guest's key configurations, `privml-channel/v1`.

An attestation document has the channel key (Ed25519) in its keys section; that key signs which HPKE keys are offered
now. So HPKE keys rotate without a new quote. The record names the keys section, so that the record of another boot is
refused. An old record of the same boot names a dropped key: whoever presents it only denies service.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from privml.base import dsse
from privml.base.errors import EvidenceError, Refused
from privml.base.strictjson import Fields, b64, canonical, loads, unb64
from privml.channel.keyconfig import MAX_CONFIGS, KeyConfig, distinct

PATH = "/.well-known/privml-channel"
"""Where a guest gives its record."""
FORMAT = "privml-channel/v1"
PAYLOAD_TYPE = "application/vnd.privml.channel+json"
MAX_RECORD = 64 * 1024
_MAX_CONFIG = 2048
_DIGEST_SIZE = 32


@dataclass(frozen=True)
class Record:
    """What is signed: the generation, its keys section, and key configurations, the preferred one first."""

    seq: int
    keys_sha256: bytes
    configs: tuple[KeyConfig, ...]

    def encode(self) -> bytes:
        """The record's bytes."""
        return canonical(
            {
                "format": FORMAT,
                "seq": self.seq,
                "keys_sha256": self.keys_sha256.hex(),
                "key_configs": [b64(one.encode()) for one in self.configs],
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> Record:
        """Read a record; ``EvidenceError`` unless it is exactly v1."""
        fields = Fields(loads(data, what="channel record", limit=MAX_RECORD), "channel record")
        fields.text("format", one_of=(FORMAT,))
        seq, keys_sha256 = fields.integer("seq", low=1), fields.hexadecimal("keys_sha256", _DIGEST_SIZE)
        items = fields.array("key_configs", limit=MAX_CONFIGS)
        fields.end()
        record = cls(
            seq,
            keys_sha256,
            distinct(KeyConfig.decode(unb64(one, what="key config", limit=_MAX_CONFIG)) for one in items),
        )
        if record.encode() != data:
            raise EvidenceError("channel record: not canonical JSON")
        return record

    def sign(self, sign: Callable[[bytes], bytes]) -> bytes:
        """The record in a DSSE envelope, signed by the channel key."""
        payload = self.encode()
        signature = dsse.Signature(sign(dsse.pae(PAYLOAD_TYPE, payload)))
        return dsse.Envelope(PAYLOAD_TYPE, payload, (signature,)).encode()


def verify(data: bytes, *, channel_key: bytes, keys_sha256: bytes) -> Record:
    """The record in an envelope; ``Refused`` unless the attested ``channel_key`` signed it for this keys section.

    The signature is checked before the record is parsed.
    """
    if len(data) > 2 * MAX_RECORD:
        raise EvidenceError(f"channel record: {len(data)} bytes, expected at most {2 * MAX_RECORD}")
    envelope = dsse.decode(data, what="channel record")
    if envelope.payload_type != PAYLOAD_TYPE or len(envelope.signatures) != 1 or envelope.signatures[0].keyid:
        raise EvidenceError(f"channel record: expected type {PAYLOAD_TYPE} and one signature without keyid")
    if envelope.encode() != data:
        raise EvidenceError("channel record: not canonical JSON")
    try:
        Ed25519PublicKey.from_public_bytes(channel_key).verify(envelope.signatures[0].sig, envelope.signed)
    except (InvalidSignature, ValueError):
        raise Refused("channel record: not signed by the attested channel key") from None
    record = Record.decode(envelope.payload)
    if record.keys_sha256 != keys_sha256:
        raise Refused(
            f"channel record: of keys section {record.keys_sha256.hex()[:16]}, expected {keys_sha256.hex()[:16]}",
            hint="attest the guest again: it may have been restarted",
        )
    return record
