"""What couriers, owners and disks bring to key brokers and to guests that wait for keys, for `tests.fuzz.targets`."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.property.test_keybroker_parsers import HEAD, LINE, POLICY
from tests.unit.test_channel_release import GUEST, KEYS, PUBLIC, RELEASE, REQUEST, SAID

from privml.agent.volumekeys import signed_release
from privml.agent.wire import RefusedRequest
from privml.base import dsse
from privml.base.errors import Refused
from privml.base.strictjson import b64, canonical
from privml.channel.release import Release, Request, Statement
from privml.channel.suites import CannotOpen
from privml.client.courier import read_error
from privml.events.crypt import Broker
from privml.keybroker import backup, entry, kek
from privml.keybroker.head import Head
from privml.keybroker.policy import POLICY_TYPE, Owners, accept, read_unsigned, sign
from privml.output import volumekey
from privml.output.volumekey import VolumeKey
from privml.publish.signer import KeySigner
from privml.statement.keys import Role

OWNER = KeySigner.of(Ed25519PrivateKey.from_private_bytes(b"o" * 32))
ROLE = Role((OWNER.public,), 1)
OWNERS = Owners("model/a", bytes(32), 2, ROLE)
VOLUME_KEY = VolumeKey("model/a", 1, KEYS[0])
SALT = hashlib.sha256(b"salt").hexdigest()
PARAMETERS = {"kek": {"kind": "passphrase", "n": kek.SCRYPT_N, "salt": SALT}, "key": b64(bytes(60))}
BACKUP = backup.FORMAT + b"\n" + canonical(PARAMETERS) + b"\nsealed"
ERROR = {"error": {"code": "refused", "message": "no"}, "refusals": [dict.fromkeys(("code", "got", "where"), "x")]}
ERROR["refusals"][0]["expected"] = "y"  # type: ignore[index]


def _signed(document: Owners) -> bytes:
    bare = sign(document)
    return sign(document, (dsse.Signature(OWNER.sign(bare.signed), OWNER.public.keyid),)).encode()


def _round(data: bytes, decode: Callable[[bytes], Release | Request | Head]) -> None:
    """What was read is the same after its encoding."""
    found = decode(data)
    assert decode(found.encode()) == found


def _release(data: bytes) -> None:
    """A release as a guest takes it: only what the broker signed and sealed is ever opened."""
    brokers = {PUBLIC: Broker("weights", PUBLIC)}
    with contextlib.suppress(RefusedRequest, CannotOpen):
        release, said = signed_release(data, brokers)
        assert (release, said, release.open(said, GUEST)) == (RELEASE, SAID, KEYS)


def _statement(data: bytes) -> None:
    assert Statement.decode(data).encode() == data, "one encoding only"


def _policy(data: bytes) -> None:
    """A policy as an administrator brings it: only what the owner signed is accepted."""
    envelope = dsse.decode(data)
    assert read_unsigned(envelope).encode() == envelope.payload, "one encoding only"
    with contextlib.suppress(Refused):
        assert accept(envelope, "model/a", ROLE, 0, broker=bytes(32)).document == OWNERS


def _payload(data: bytes) -> None:
    """The payload of a policy, in an envelope that nobody signed."""
    assert read_unsigned(dsse.Envelope(POLICY_TYPE, data, ())).encode() == data, "one encoding only"


def _line(data: bytes) -> None:
    assert entry.parse(data, 0, entry.START).line(0, entry.START) == data, "one encoding only"


def _backup(data: bytes) -> None:
    """A backup, up to its key: nothing of it is trusted before that opens it."""
    found = backup.Backup.decode(data, "backup")
    assert data == found.bound + b"\n" + found.sealed


def _volume_keys(data: bytes) -> None:
    """The file of a key, or several in a pipe."""
    if data.startswith(b"["):
        several = volumekey.decode_all(data)
        assert volumekey.decode_all(volumekey.encode_all(several)) == several
    else:
        one = VolumeKey.decode(data)
        assert VolumeKey.decode(one.encode()) == one


def _error(data: bytes) -> None:
    code, message, refusals = read_error(data)
    assert all(text.isprintable() for text in (code, message, *(value for row in refusals for value in row.values())))


TARGETS: dict[str, tuple[bytes, Callable[[bytes], object]]] = {
    "key-release": (RELEASE.encode(), _release),
    "key-release-json": (RELEASE.encode(), lambda data: _round(data, Release.decode)),
    "key-release-statement": (SAID.encode(), _statement),
    "key-request": (REQUEST.encode(), lambda data: _round(data, lambda body: Request.decode(body, limit=1 << 20))),
    "key-policy": (POLICY.encode(), _payload),
    "key-owners": (_signed(OWNERS), _policy),
    "key-log-entry": (LINE, _line),
    "key-log-head": (HEAD.encode(), lambda data: _round(data, lambda body: Head.decode(body, "head"))),
    "key-backup": (BACKUP, _backup),
    "volume-key": (VOLUME_KEY.encode(), _volume_keys),
    "volume-keys": (volumekey.encode_all([VOLUME_KEY]), _volume_keys),
    "broker-error": (canonical(ERROR), _error),
}
