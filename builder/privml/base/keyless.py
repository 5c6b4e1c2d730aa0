"""Check signatures that Sigstore certified for an account or a workflow: certificate, log entry, time, and signature.

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
from privml.base.dsse import IN_TOTO
from privml.base.errors import EvidenceError

MAX_ROOT = 1 << 20
GITHUB = "https://github.com"
GITHUB_ISSUER = "https://token.actions.githubusercontent.com"
_ALTERNATIVE_NAME = "2.5.29.17"


def signed_payload(data: bytes, root: bytes, subject: str, issuer: str, what: str = "signature") -> bytes:
    """The payload that ``subject``, vouched for by ``issuer``, signed in the Sigstore bundle ``data``.

    ``root`` is Sigstore's trusted root (JSON). ``EvidenceError`` if either is malformed, or the signature is invalid
    or by another identity; ``HostError`` without the package.
    """
    sigstore = _Sigstore(root, what)
    wanted = [sigstore.policy.OIDCIssuerV2(issuer), sigstore.policy.Identity(identity=subject)]
    return sigstore.payload(data, wanted, f"{subject} ({issuer})", what)[0]


class Workflows:
    """The check of what GitHub's workflows signed, under one trusted root of Sigstore (JSON).

    ``EvidenceError`` if the root is malformed, ``HostError`` without the package.
    """

    def __init__(self, root: bytes, what: str) -> None:
        self._sigstore = _Sigstore(root, what)

    def payload(self, data: bytes, repository: str, ref: str, what: str) -> tuple[bytes, str]:
        """What a workflow of ``repository`` (OWNER/NAME) signed when it ran for ``ref``, and the workflow's address.

        ``EvidenceError`` if the bundle is malformed, or not by such a workflow. All names are compared exactly.
        """
        policy = self._sigstore.policy
        wanted = [
            policy.OIDCIssuerV2(GITHUB_ISSUER),
            policy.OIDCSourceRepositoryURI(f"{GITHUB}/{repository}"),
            policy.OIDCSourceRepositoryRef(ref),
        ]
        payload, certificate = self._sigstore.payload(data, wanted, f"a workflow of {repository} at {ref}", what)
        names = [
            str(name.value)
            for extension in certificate.extensions
            if extension.oid.dotted_string == _ALTERNATIVE_NAME
            for name in extension.value
        ]
        return payload, ", ".join(names)


class _Sigstore:
    def __init__(self, root: bytes, what: str) -> None:
        try:
            verify, self._models = (importlib.import_module(f"sigstore.{name}") for name in ("verify", "models"))
            self.policy, self._errors = (
                importlib.import_module(f"sigstore.{name}") for name in ("verify.policy", "errors")
            )
        except ModuleNotFoundError as error:
            raise extras.missing(error) or error from error
        self._verifier = _verifier(verify, self._models, root, what)

    def payload(self, data: bytes, wanted: list[Any], who: str, what: str) -> tuple[bytes, Any]:
        """The payload of a bundle, and the certificate of its signer, who is as ``wanted``.

        The issuer is wanted by its second extension: the first is not DER, and GitHub's documents call it deprecated.
        """
        try:
            bundle = self._models.Bundle.from_json(data)
            kind, payload = self._verifier.verify_dsse(bundle, self.policy.AllOf(wanted))
        except (self._errors.Error, ValueError) as error:
            raise EvidenceError(f"{what}: not a valid signature of {who}: {_line(error)}") from error
        if kind != IN_TOTO:
            raise EvidenceError(f"{what}: the payload is `{kind[:80]}`, expected {IN_TOTO}")
        return bytes(payload), bundle.signing_certificate


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
