"""`python -m tests.negative.matrix [COUNT]`: try the cases, and evidence altered byte by byte, on this verifier.

COUNT positions are altered in each part; 0, the default, means every position. The last line counts all: how many
were tried, how many refused, how many for another reason than theirs, and how many wrongly accepted or refused.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable, Container, Iterable
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from tests.negative import altered, device_matrix, forge, pki, vectors
from tests.negative.altered import Evidence
from tests.negative.case import REFUSED
from tests.negative.cases import all_cases
from tests.negative.tally import Codes, Tally

from privml.base.errors import EvidenceError
from privml.client import attested, conformance
from privml.evidence.claims import SignatureFailure
from privml.evidence.tdx import collateral as collaterals
from privml.evidence.tdx import signature
from privml.statement.predicate import Predicate
from privml.verify.anchor import Built, Expected
from privml.verify.policy import Policy

ATTESTATION = Path(__file__).resolve().parents[1] / "vectors/attestation"
ROOT = x509.load_pem_x509_certificate(pki.ROOT_PEM).public_bytes(Encoding.DER)
PLATFORM = forge.Platform()
CARRIED = forge.Guest().document(collateral={"tdx": PLATFORM.collateral()})
EXPECTED = Expected(Predicate.from_dict(forge.statement()), Built("the matrix"))
SIGNED: dict[str, tuple[Evidence, int, bytes | None]] = {
    "simulated": (Evidence(forge.Guest().quote(), PLATFORM.collateral()), forge.NOW, ROOT),
    "genuine": (
        Evidence(
            (ATTESTATION / "tdx_quote.bin").read_bytes(),
            json.loads((ATTESTATION / "tdx_quote_collateral.json").read_text()),
        ),
        1_750_420_000,
        None,
    ),
}
ACCEPTED_TWINS = {
    *("quote", "QE report", "PCK in the quote"),
    *("tcb_info_signature", "qe_identity_signature", "root_ca_crl", "pck_crl"),
    *("first of tcb_info_issuer_chain", "first of qe_identity_issuer_chain"),
}
"""A twin is another valid signature by the same key over the same bytes, so nothing else can be proven with it. The
root is compared byte for byte with the anchor, and the PCK CA of the revocation list with the quote's."""


def judged_signature(given: Evidence, now: int, root: bytes | None) -> Codes:
    """The code for a quote with its collateral, from the signature check alone."""
    try:
        decoded = collaterals.decode(given.collateral)
        checked = signature.check(given.quote, decoded, now=now, simulated_root=root)
    except EvidenceError:
        return frozenset()
    return frozenset({checked.code}) if isinstance(checked, SignatureFailure) else None


def judged_document(data: bytes) -> Codes:
    """The codes for a document that brings its collateral."""
    try:
        verdict = attested.judge(
            data,
            EXPECTED,
            Policy(allow_simulated=ROOT),
            now=forge.NOW,
            nonce=forge.NONCE,
            tls_spki_sha256=forge.SPKI,
        ).verdict
    except EvidenceError:
        return frozenset()
    return frozenset(refusal.code for refusal in verdict.refusals) or None


def of_evidence(name: str, change: Callable[..., Iterable[Evidence]], count: int) -> Tally:
    """Alter quotes or collateral of ``name``."""
    given, now, root = SIGNED[name]
    tally = Tally()
    if judged_signature(given, now, root) is not None:
        tally.wrong.append(f"{name}: the control is refused")
    for number, changed in enumerate(change(given, count, random.Random(name))):
        if changed != given:
            found = judged_signature(changed, now, root)
            kind = altered.kind_of_evidence(given, changed) if found is None else None
            needed = altered.codes_of_evidence(given, changed)
            tally.add(f"{name} {change.__name__} {number}", found, needed, kind)
    return tally


def of_documents(count: int) -> Tally:
    """Alter the honest document."""
    tally = Tally()
    if judged_document(CARRIED) is not None:
        tally.wrong.append("document: the control is refused")
    for number, changed in enumerate(altered.documents(CARRIED, count, random.Random("document"))):
        if changed != CARRIED:
            found = judged_document(changed)
            kind = altered.kind_of_document(CARRIED, changed) if found is None else None
            tally.add(f"document {number}", found, altered.codes_of_document(CARRIED, changed), kind)
    return tally


def of_twins(name: str) -> Tally:
    """The signatures' twins; each is neutral or refused, as `ACCEPTED_TWINS` says."""
    given, now, root = SIGNED[name]
    tally = Tally()
    chain = altered.CHAIN_CODES | {"collateral-role"}
    for said, changed in altered.twins(given).items():
        found = judged_signature(changed, now, root)
        tally.add(f"{name} twin: {said}", found, chain, f"twin: {said}" if said in ACCEPTED_TWINS else None)
        if found is not None and said in ACCEPTED_TWINS:
            tally.wrong.append(f"{name} twin: {said} is refused")
    return tally


def of_cases(only: Container[str] | None = None) -> Tally:
    """The cases of `cases`, or some of them, asked as another verifier would be."""
    tally = Tally()
    made = all_cases()
    asked = [
        case for case in conformance.from_inputs(*vectors.content()) if only is None or case.name in only
    ]  # fmt: skip
    answers = [json.dumps(conformance.answer(json.dumps(case.question).encode())).encode() for case in asked]
    for result in conformance.compare(asked, answers):
        name, answer = result.case.name, result.answer
        assert answer is not None
        if made[name].outcome in (REFUSED, conformance.MALFORMED):
            tally.tried += 1
            tally.refused += answer.outcome in (REFUSED, conformance.MALFORMED)
            tally.codes.update(answer.codes or {"malformed"})
        if result.mark is conformance.Mark.WRONG_CODE:
            tally.wrong_code.append(f"{name}: {answer}")
        if result.mark is conformance.Mark.WRONG:
            tally.wrong.append(f"{name}: {answer}")
    return tally


def sweeps(count: int) -> dict[str, Callable[[], Tally]]:
    """All parts of the matrix by name; ``count`` positions in each part of the evidence, or all if it is 0."""
    small = -(-count // 15)
    return {
        "cases": of_cases,
        **{
            f"{name} {change.__name__}": lambda name=name, change=change, many=many: of_evidence(name, change, many)
            for name in SIGNED
            for change, many in ((altered.quotes, count), (altered.collaterals, small))
        },
        **{f"{name} twins": lambda name=name: of_twins(name) for name in SIGNED},
        "documents": lambda: of_documents(-(-count // 5)),
        **device_matrix.sweeps(count),
    }


def main() -> int:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 0
    total = Tally()
    for name, work in sweeps(count).items():
        tally = work()
        print(f"{name}: {tally}", flush=True)
        for text in (*tally.wrong_code[:10], *tally.wrong[:10]):
            print(f"  {text}")
        total += tally
    for kind, number in sorted(total.neutral.items()):
        print(f"neutral: {number} {kind}")
    print(total)
    return 1 if total.wrong or total.wrong_code else 0


if __name__ == "__main__":
    sys.exit(main())
