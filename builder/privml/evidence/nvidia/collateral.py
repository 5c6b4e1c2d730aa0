"""What a caller needs besides a device's evidence: revocation answers and reference values. Untrusted, like all
collateral: both are signed.

In a document: ``{"ocsp": [b64...], "rims": [b64...]}``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from privml.base.strictjson import Fields, b64, unb64

MAX_ANSWER = 16 * 1024
MAX_ANSWERS = 128
MAX_RIM = 4 * 1024 * 1024
MAX_RIMS = 16


@dataclass(frozen=True)
class NvidiaCollateral:
    """OCSP answers (DER), and reference integrity manifests (XML).

    ``nonces`` are those that the caller itself put into requests, so that an answer with one of them is fresh. They
    are never part of a document.
    """

    ocsp: tuple[bytes, ...] = ()
    rims: tuple[bytes, ...] = ()
    nonces: frozenset[bytes] = frozenset()

    def encode(self) -> dict[str, list[str]]:
        """The JSON object of a document."""
        return {"ocsp": [b64(answer) for answer in self.ocsp], "rims": [b64(rim) for rim in self.rims]}


def decode(value: object, path: str = "nvidia collateral") -> dict[str, list[str]]:
    """The object with its two lists of base64; ``EvidenceError`` when it is anything else."""
    fields = Fields(value, path)
    found = {}
    for name, count, size in (("ocsp", MAX_ANSWERS, MAX_ANSWER), ("rims", MAX_RIMS, MAX_RIM)):
        found[name] = fields.array(name, limit=count)
        for index, item in enumerate(found[name]):
            unb64(item, what=f"{path}.{name}[{index}]", limit=size)
    fields.end()
    return found


def of(kinds: Mapping[str, Mapping[str, list[str]]] | None) -> NvidiaCollateral:
    """The NVIDIA part of a document's collateral; empty if it has none."""
    given = (kinds or {}).get("nvidia", {})
    ocsp, rims = (tuple(unb64(item) for item in given.get(name, ())) for name in ("ocsp", "rims"))
    return NvidiaCollateral(ocsp, rims)
