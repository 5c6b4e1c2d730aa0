"""The certificate chain of an NVIDIA device, up to the pinned root, and the signature of its report.

Exactly five certificates: the firmware's key (leaf), the chip's boot ROM, the provisioner, the identity authority and
the root. The leaf names the firmware that it was made for (FWID) and repeats the boot ROM's key; the boot ROM's
serial number ends with the device's PDI. Compared with the chains of real GPUs and switches.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from privml.evidence import certificates
from privml.evidence.certificates import UnfitError, name_text
from privml.evidence.nvidia import roles, spdm
from privml.evidence.nvidia.families import FAMILIES, Family
from privml.evidence.nvidia.opaque import PDI_SIZE
from privml.evidence.nvidia.roles import COMMON_NAME, COUNTRY, ORGANIZATION, SERIAL, Naming, Role, Verified

NVIDIA_ROOT_DER = base64.b64decode(
    "MIICCzCCAZCgAwIBAgIQLTZwscoQBBHB/sDoKgZbVDAKBggqhkjOPQQDAzA1MSIwIAYDVQQDDBlOVklESUEgRGV2aWNlIElkZW50aXR5"
    "IENBMQ8wDQYDVQQKDAZOVklESUEwIBcNMjExMTA1MDAwMDAwWhgPOTk5OTEyMzEyMzU5NTlaMDUxIjAgBgNVBAMMGU5WSURJQSBEZXZp"
    "Y2UgSWRlbnRpdHkgQ0ExDzANBgNVBAoMBk5WSURJQTB2MBAGByqGSM49AgEGBSuBBAAiA2IABA5MFKM7+KViZljbQSlgfky/RRnEQScW"
    "9NDZF8SXgAW96r6u/Ve8ZggtcYpPi2BS4VFu6KfEIrhN6FcHG7WP05W+oM+hxj7nyA1r1jkB2Ry70YfThX3Ba1zOryOP+MJ9vaNjMGEw"
    "DwYDVR0TAQH/BAUwAwEB/zAOBgNVHQ8BAf8EBAMCAQYwHQYDVR0OBBYEFFeF/4PyY8xlfWi3Olv0jUrL+0lfMB8GA1UdIwQYMBaAFFeF"
    "/4PyY8xlfWi3Olv0jUrL+0lfMAoGCCqGSM49BAMDA2kAMGYCMQCPeFM3TASsKQVaT+8S0sO9u97PVGCpE9d/I42IT7k3UUOLSR/qvJyn"
    "VOD1vQKVXf0CMQC+EY55WYoDBvs2wPAH1Gw4LbcwUN8QCff8bFmV4ZxjCRr4WXTLFHBKjbfneGSBWwA="
)
"""NVIDIA Device Identity CA (valid to 9999-12-31), the only anchor of genuine devices."""

FWID_EXTENSION = x509.ObjectIdentifier("2.23.133.5.4.1")
"""TCG DICE composite device id: version, the issuer's key, and the FWID with its hash."""

MAX_CHAIN = 16 * 1024
"""Bytes of PEM. Real chains have less than 5 KiB."""

_FWID = bytes.fromhex("303d06096086480165030402020430")
_VERSION = bytes.fromhex("020101")
_FWID_SIZE = 48


@dataclass(frozen=True)
class DeviceChain:
    """A chain of a device: the leaf first. ``pdi`` (8 bytes) is the device's own, ``fwid`` (48 bytes) the leaf's."""

    family: Family
    certificates: tuple[x509.Certificate, ...]
    encoded: tuple[bytes, ...]
    pdi: bytes
    fwid: bytes

    @property
    def key(self) -> ec.EllipticCurvePublicKey:
        """The key that signs reports."""
        key = self.certificates[0].public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)  # `roles.read` refuses other keys
        return key

    def has_signed(self, report: spdm.Report) -> bool:
        """True if the report's signature is by `key`."""
        half = spdm.SIGNATURE_SIZE // 2
        r, s = int.from_bytes(report.signature[:half]), int.from_bytes(report.signature[half:])
        try:
            self.key.verify(encode_dss_signature(r, s), report.signed, ec.ECDSA(hashes.SHA384()))
        except InvalidSignature:
            return False
        return True


def _roles(family: Family) -> tuple[Role, ...]:
    chip, engine = family.chip, family.engine
    step = "[A-Z][0-9]{2}"
    device = ((COUNTRY, "US"), (ORGANIZATION, "organization"))
    return (
        Role(
            "firmware",
            ((SERIAL, "[0-9A-F]{40}"), *device, (COMMON_NAME, f"{chip} {step} {engine} FMC LF")),
            roles.SIGNS_DATA,
            ca=None,
        ),
        Role(
            "boot ROM",
            ((SERIAL, f"[0-9A-F]{{{2 + 2 * PDI_SIZE}}}"), *device, (COMMON_NAME, f"{chip} {step} {engine} BROM")),
            roles.SIGNS_CERTIFICATES,
            ca=True,
        ),
        Role(
            "provisioner",
            (
                (COMMON_NAME, f"NVIDIA {chip} Provisioner ICA [1-9][0-9]?"),
                (ORGANIZATION, "organization"),
                (COUNTRY, "US"),
            ),
            roles.SIGNS_CERTIFICATES_AND_LISTS,
            ca=True,
        ),
        Role(
            "identity authority",
            ((COMMON_NAME, f"NVIDIA {family.identity} Identity"), (ORGANIZATION, "organization")),
            roles.SIGNS_CERTIFICATES_AND_LISTS,
            ca=True,
        ),
        Role(
            "root CA",
            ((COMMON_NAME, "NVIDIA Device Identity CA"), (ORGANIZATION, "root_organization")),
            roles.SIGNS_CERTIFICATES_AND_LISTS,
            ca=True,
        ),
    )


ROLES: Mapping[str, tuple[Role, ...]] = {family.name: _roles(family) for family in FAMILIES}
"""The roles of a chain, the leaf first, by the family's name."""


def read(kind: str, pem: bytes, *, root: bytes, naming: Naming, now: int | None, verified: Verified) -> DeviceChain:
    """The chain of a device of this kind; ``UnfitError`` if anything differs from its family's.

    ``root`` is the anchor's DER, ``naming`` its names. ``now`` is Unix seconds; with None no date is checked, since a
    guest has no clock that it could trust.
    """
    encoded = certificates.decode_pem(pem, limit=MAX_CHAIN)
    family = _family(kind, encoded, naming)
    chain = roles.read(encoded, ROLES[family.name], root=root, naming=naming, now=now, verified=verified)
    serial = chain[1].subject.get_attributes_for_oid(SERIAL)[0].value
    assert isinstance(serial, str)  # its role has a pattern for it
    pdi = bytes.fromhex(serial)[-PDI_SIZE:]
    return DeviceChain(family, chain, encoded, pdi, _fwid(chain[0], chain[1]))


def _family(kind: str, encoded: tuple[bytes, ...], naming: Naming) -> Family:
    """The family whose leaf this is. Only a choice of roles: the names are checked again below the signatures."""
    families = [family for family in FAMILIES if family.kind == kind]
    wanted = " or ".join(f"a {family.chip} device" for family in families)
    if not encoded:
        raise UnfitError("no certificates", wanted)
    try:
        subject = x509.load_der_x509_certificate(encoded[0]).subject
    except certificates.UNREADABLE as error:
        raise UnfitError(f"an unreadable certificate ({error})", wanted) from error
    for family in families:
        if ROLES[family.name][0].fits(subject, naming):
            return family
    raise UnfitError(f"certificate 1 is {name_text(subject)}", wanted)


def _fwid(leaf: x509.Certificate, issuer: x509.Certificate) -> bytes:
    """The FWID in the leaf, if its extension is exactly the one that ``issuer`` makes."""
    wanted = f"the extension {FWID_EXTENSION.dotted_string} with the issuer's key and a SHA-384 FWID"
    for extension in leaf.extensions:
        if extension.oid == FWID_EXTENSION and isinstance(extension.value, x509.UnrecognizedExtension):
            found = extension.value.value
            key = issuer.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            content = _VERSION + key + _FWID + found[-_FWID_SIZE:]
            if found == bytes([0x30, 0x81, len(content)]) + content:
                return found[-_FWID_SIZE:]
            raise UnfitError(f"certificate 1 is one with FWID extension {found[:8].hex()}...", wanted)
    raise UnfitError("certificate 1 is one without FWID", wanted)
