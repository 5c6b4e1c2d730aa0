"""An attestation token of an Arm CCA realm: a platform token and a realm token, each a COSE_Sign1.

Sources: draft-ffm-rats-cca-token (claims and their keys), RFC 9052 (COSE_Sign1), and veraison/ccatoken for the
collections: tag 399 with two byte strings, or tag 907 with two records of a CoAP content format (263)
and a byte string. Claims of later profiles are kept by number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from privml.base import strictcbor
from privml.base.errors import EvidenceError
from privml.base.strictcbor import Tag

MAX_SIZE = 64 * 1024
COLLECTION, CMW_COLLECTION = 399, 907
HEADS = (b"\xd9\x01\x8f", b"\xd9\x03\x8b")
"""The first bytes of a token of either tag."""
RIM = "rim"
REMS = ("rem0", "rem1", "rem2", "rem3")
REGISTERS = (RIM, *REMS)
"""The measurements of a realm: the initial one, and those that it extends."""
DIGESTS = {"sha-256": 32, "sha-384": 48, "sha-512": 64}
"""The names of hash algorithms, and their sizes in bytes."""
ALGORITHMS = {-7: "ES256", -35: "ES384", -36: "ES512"}
"""Signature algorithms of COSE that are read, by number."""
SECURED = range(0x3000, 0x3100)
"""Values of a platform's lifecycle in which it is secured."""

_PLATFORM, _REALM = 44234, 44241
_EAT_CWT = 263  # the CoAP content format of application/eat+cwt
_SIGN1 = 18
_ALGORITHM, _KEY_ID = 1, 4
_CHALLENGE, _PROFILE = 10, 265
_POINT = 97  # an uncompressed point of P-384


@dataclass(frozen=True)
class Signed:
    """A COSE_Sign1: its algorithm (COSE's number), what the ``signature`` covers, the payload, and the key's id."""

    algorithm: int
    covered: bytes
    payload: bytes
    signature: bytes
    key_id: bytes


@dataclass(frozen=True)
class Component:
    """Firmware of the platform: its type, version, hash algorithm (each empty if not given), measurement, signer."""

    type: str
    version: str
    hash: str
    measurement: bytes
    signer: bytes


@dataclass(frozen=True)
class Platform:
    """The claims of the platform token. ``challenge`` is a digest of the realm's attestation key.

    ``others`` are claims that have no name here, by number.
    """

    signed: Signed
    profile: str
    challenge: bytes
    implementation: bytes
    instance: bytes
    configuration: bytes
    lifecycle: int
    hash: str
    components: tuple[Component, ...]
    service: str
    others: Mapping[int | str, Any]


@dataclass(frozen=True)
class Realm:
    """The claims of the realm token. ``challenge`` (64 bytes) is whoever's that asked for it.

    ``rim`` and the four ``rems`` are digests by ``hash``. ``key`` is the attestation key as it is in the claim: a
    point of P-384, or a COSE_Key where ``profile`` is not empty; ``point`` is the uncompressed point. ``key_hash``
    names the algorithm of the platform's challenge.
    """

    signed: Signed
    profile: str
    challenge: bytes
    personalization: bytes
    hash: str
    rim: bytes
    rems: tuple[bytes, ...]
    key: bytes
    point: bytes
    key_hash: str
    others: Mapping[int | str, Any]

    @property
    def registers(self) -> dict[str, bytes]:
        """The measurements by name."""
        return {RIM: self.rim, **dict(zip(REMS, self.rems, strict=True))}


@dataclass(frozen=True)
class Token:
    """A whole token."""

    platform: Platform
    realm: Realm


@dataclass(frozen=True)
class TokenChecks:
    """What was found to hold of a token's signatures: the realm's, the binding of both parts, and the platform's.

    ``platform`` is None if no key of the platform was given.
    """

    realm: bool
    bound: bool
    platform: bool | None


def is_token(head: bytes) -> bool:
    """True if a token may begin with ``head``."""
    return head[:3] in HEADS


def parse(data: bytes) -> Token:
    """Read a token; ``EvidenceError`` when it is malformed. No signature is checked."""
    outer = strictcbor.decode(data, what="CCA token", limit=MAX_SIZE)
    if not isinstance(outer, Tag) or outer.number not in (COLLECTION, CMW_COLLECTION):
        _fail("CCA token", f"no collection, expected tag {COLLECTION} or {CMW_COLLECTION}")
    both = _Claims(outer.value, "CCA token")
    of_platform, of_realm = (_message(both, key, outer.number) for key in (_PLATFORM, _REALM))
    both.end()
    return Token(_platform(_signed(of_platform, "platform token")), _realm(_signed(of_realm, "realm token")))


def _message(both: _Claims, key: int, collection: int) -> bytes:
    if collection == COLLECTION:
        return both.bytes(key)
    record = both.take(key)
    if not (
        isinstance(record, tuple) and len(record) == 2 and record[0] == _EAT_CWT and isinstance(record[1], bytes)
    ):
        _fail(f"CCA token.{key}", f"expected a record of content format {_EAT_CWT} and a byte string")
    inner: bytes = record[1]
    return inner


def _signed(data: bytes, what: str) -> Signed:
    found = strictcbor.decode(data, what=what)
    if not isinstance(found, Tag) or found.number != _SIGN1:
        _fail(what, "no COSE_Sign1")
    parts = found.value
    if not isinstance(parts, tuple) or len(parts) != 4:
        _fail(what, "no COSE_Sign1: expected four parts")
    protected, unprotected, payload, signature = parts
    if not (isinstance(protected, bytes) and isinstance(payload, bytes) and isinstance(signature, bytes)):
        _fail(what, "a part of its COSE_Sign1 is no byte string")
    header = _Claims(strictcbor.decode(protected, what=f"{what}.protected"), f"{what}.protected")
    algorithm = header.integer(_ALGORITHM)
    if algorithm not in ALGORITHMS:
        _fail(what, f"signature algorithm {algorithm}, expected one of {', '.join(map(str, ALGORITHMS))}")
    header.end()
    open_header = _Claims(unprotected, f"{what}.unprotected")
    key_id = open_header.bytes(_KEY_ID) if open_header.has(_KEY_ID) else b""
    open_header.end()
    covered = strictcbor.encode(("Signature1", protected, b"", payload))
    return Signed(algorithm, covered, payload, signature, key_id)


def _platform(signed: Signed) -> Platform:
    claims = _Claims(strictcbor.decode(signed.payload, what="platform claims"), "platform claims")
    return Platform(
        signed,
        profile=claims.text(_PROFILE),
        challenge=claims.bytes(_CHALLENGE, 32, 48, 64),
        implementation=claims.bytes(2396, 32),
        instance=claims.bytes(256, 33),
        configuration=claims.bytes(2401),
        lifecycle=claims.integer(2395, high=0xFFFF),
        hash=claims.digest(2402),
        components=_components(claims.take(2399)),
        service=claims.text(2400) if claims.has(2400) else "",
        others=claims.rest(),
    )


def _components(value: Any) -> tuple[Component, ...]:
    what = "platform claims.2399"
    if not isinstance(value, tuple) or not value:
        _fail(what, "expected a list of at least one component")
    found = []
    for number, row in enumerate(value):
        item = _Claims(row, f"{what}[{number}]")
        made = Component(
            type=item.text(1) if item.has(1) else "",
            version=item.text(4) if item.has(4) else "",
            hash=item.text(6) if item.has(6) else "",
            measurement=item.bytes(2, 32, 48, 64),
            signer=item.bytes(5, 32, 48, 64),
        )
        item.end()
        found.append(made)
    return tuple(found)


def _realm(signed: Signed) -> Realm:
    claims = _Claims(strictcbor.decode(signed.payload, what="realm claims"), "realm claims")
    profile = claims.text(_PROFILE) if claims.has(_PROFILE) else ""
    algorithm = claims.digest(44236)
    size = DIGESTS[algorithm]
    rems = claims.take(44239)
    if not isinstance(rems, tuple) or len(rems) != len(REMS):
        _fail("realm claims.44239", f"expected a list of {len(REMS)} measurements")
    for number, rem in enumerate(rems):
        if not isinstance(rem, bytes) or len(rem) != size:
            _fail(f"realm claims.44239[{number}]", f"expected {size} bytes, a digest by {algorithm}")
    key = claims.bytes(44237)
    return Realm(
        signed,
        profile=profile,
        challenge=claims.bytes(_CHALLENGE, 64),
        personalization=claims.bytes(44235, 64),
        hash=algorithm,
        rim=claims.bytes(44238, size),
        rems=rems,
        key=key,
        point=_cose_point(key) if profile else _raw_point(key),
        key_hash=claims.digest(44240),
        others=claims.rest(),
    )


def _raw_point(key: bytes) -> bytes:
    if len(key) != _POINT or key[0] != 4:
        _fail("realm claims.44237", "expected an uncompressed point of P-384")
    return key


def _cose_point(key: bytes) -> bytes:
    """The point in a COSE_Key of type EC2 (2) on P-384 (curve 2); RFC 9053, 7.1."""
    what = "realm claims.44237"
    found = _Claims(strictcbor.decode(key, what=what), what)
    if (found.integer(1), found.integer(-1)) != (2, 2):
        _fail(what, "expected a key on P-384")
    point = b"\x04" + found.bytes(-2, 48) + found.bytes(-3, 48)
    if found.has(3) and found.integer(3) != -35:
        _fail(what, "expected a key for ES384")
    found.end()
    return point


class _Claims:
    """Strict access to a map. Each key is read once; ``rest`` or ``end`` at last."""

    def __init__(self, value: Any, path: str) -> None:
        if not isinstance(value, dict):
            _fail(path, "expected a map")
        self._left: dict[int | str, Any] = dict(value)
        self._path = path

    def has(self, key: int) -> bool:
        return key in self._left

    def take(self, key: int) -> Any:
        if key not in self._left:
            _fail(f"{self._path}.{key}", "missing")
        return self._left.pop(key)

    def bytes(self, key: int, *sizes: int) -> bytes:
        """A byte string, of one of ``sizes`` if any are given."""
        found = self.take(key)
        if not isinstance(found, bytes):
            _fail(f"{self._path}.{key}", "expected a byte string")
        if sizes and len(found) not in sizes:
            _fail(f"{self._path}.{key}", f"{len(found)} bytes, expected {' or '.join(map(str, sizes))}")
        return found

    def text(self, key: int) -> str:
        found = self.take(key)
        if not isinstance(found, str) or len(found) > 256:
            _fail(f"{self._path}.{key}", "expected a text of at most 256 characters")
        return found

    def integer(self, key: int, high: int = (1 << 63) - 1) -> int:
        found = self.take(key)
        if not isinstance(found, int) or isinstance(found, bool) or not -high <= found <= high:
            _fail(f"{self._path}.{key}", f"expected a number of at most {high}")
        return found

    def digest(self, key: int) -> str:
        """The name of a hash algorithm."""
        found = self.text(key)
        if found not in DIGESTS:
            _fail(f"{self._path}.{key}", f"`{found[:40]}`, expected one of {', '.join(DIGESTS)}")
        return found

    def rest(self) -> dict[int | str, Any]:
        return self._left

    def end(self) -> None:
        for key in self._left:
            _fail(f"{self._path}.{str(key)[:40]}", "unknown")


def _fail(path: str, problem: str) -> NoReturn:
    raise EvidenceError(f"{path}: {problem}")
