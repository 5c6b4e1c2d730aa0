"""Check signatures that Sigstore certified for an account: certificate, log entry, time, and signature.

sigstore-python does the whole check, without a network, under the trusted root that the caller gives. Neither the
root inside that package nor the one that it keeps for the user is used: both change from machine to machine. The
package comes with the extra ``privml-build[sigstore]``.
"""

from __future__ import annotations

import importlib
import tempfile
from pathlib import Path
from typing import Any

from privml.base import extras
from privml.base.errors import EvidenceError

PAYLOAD_TYPE = "application/vnd.in-toto+json"
MAX_ROOT = 1 << 20


def signed_payload(data: bytes, root: bytes, subject: str, issuer: str, what: str = "signature") -> bytes:
    """The payload that ``subject``, vouched for by ``issuer``, signed in the Sigstore bundle ``data``.

    ``root`` is Sigstore's trusted root (JSON). ``EvidenceError`` if either is malformed, or the signature is invalid
    or by another identity; ``HostError`` without the package.
    """
    try:
        verify, models = (importlib.import_module(f"sigstore.{name}") for name in ("verify", "models"))
        policy, errors = (importlib.import_module(f"sigstore.{name}") for name in ("verify.policy", "errors"))
    except ModuleNotFoundError as error:
        raise extras.missing(error) or error from error
    verifier = _verifier(verify, models, root, what)
    # The issuer by its second extension: the first is not DER, and GitHub's documents call it deprecated.
    wanted = policy.AllOf([policy.OIDCIssuerV2(issuer), policy.Identity(identity=subject)])
    try:
        kind, payload = verifier.verify_dsse(models.Bundle.from_json(data), wanted)
    except (errors.Error, ValueError) as error:
        raise EvidenceError(f"{what}: not a valid signature of {subject} ({issuer}): {_line(error)}") from error
    if kind != PAYLOAD_TYPE:
        raise EvidenceError(f"{what}: the payload is `{kind[:80]}`, expected {PAYLOAD_TYPE}")
    return bytes(payload)


def _verifier(verify: Any, models: Any, root: bytes, what: str) -> Any:
    # The package reads trusted roots from files only.
    with tempfile.TemporaryDirectory(prefix="privml-sigstore.") as folder:
        place = Path(folder) / "trusted_root.json"
        place.write_bytes(root)
        try:
            return verify.Verifier(trusted_root=models.TrustedRoot.from_file(str(place)))
        except Exception as error:  # the package raises what its decoders raise
            raise EvidenceError(f"{what}: the trusted root is malformed: {_line(error)}") from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
