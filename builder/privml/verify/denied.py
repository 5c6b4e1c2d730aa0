"""Published evidence and nonces, which are refused by name in place of a machine's own.

Nothing here could pass the other checks: a published quote is over no caller's nonce. The list says what it is. Keys
of the simulation need no row: its certificates say SIMULATED, and they never end in a vendor's root.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping

from privml.events.registers import REGISTERS
from privml.evidence.claims import Claims
from privml.evidence.facts import Facts
from privml.verify.rules import refuses
from privml.verify.verdict import Refusal

EVIDENCE: Mapping[str, str] = {
    "14033ebaf138835502aa8c260ac8d241cc28a66c8aa2b7a721cab2de392e5706": (
        "Dstack-TEE/dstack dstack/verifier/fixtures/quote-report.json"
    ),
    "8f2dbf9bf976664640a2d476317bf87bd7d49fe605305c953958226c76805f8b": "Phala-Network/dcap-qvl sample/tdx_quote",
    "fe8d8f39fd73ca1be958a43d1dc633e2e0f1592a401cc15f0147dda24b78122d": "Phala-Network/dcap-qvl sample/tdx-quote.hex",
    "5998399188e0833881bc11112f1696e6946889fc15542ac3deffd27de8d97622": (
        "confidential-containers/trustee deps/verifier/test_data/tdx_quote_5.dat"
    ),
    "de412dfb73a8605e784c48d0baa58d7099cdbd2bfd9581cbab1c839171547f5b": (
        "confidential-containers/trustee deps/verifier/test_data/tdx_quote_6.dat"
    ),
    "c4a9fde35e197fd498bbce7927a68ab26b49b72445d065740931396b3dd60de1": (
        "google/go-tdx-guest testing/testdata/ccel/cos-113-tdx-quote.dat"
    ),
    "dd0ace24d1b9ae085daddab9268e3566a6f2bdfc560d10a1a8a89734da596ef9": (
        "google/go-tdx-guest testing/testdata/tdx_prod_quote_SPR_E4.dat"
    ),
    "15214a8104869e4a8c60326874e82507ac43e875b7f2e5c0aae6eb1b7722faa7": (
        "virtee/sev tests/certs_data/report_milan.hex"
    ),
    "1311d63bb0ba91d414608c364f68695e2ca8a855f9fc7477809d2b225ec2bd7c": (
        "confidential-containers/trustee deps/verifier/test_data/snp/test-vlek-report.bin"
    ),
    "ece353f7d6713c7d5e5a5ff3e050c80302afffb0815fda364bfede8299d1d437": (
        "confidential-containers/trustee deps/verifier/test_data/az-snp-vtpm/hcl-report.bin"
    ),
}
"""Public quotes and reports by their `fingerprint`: the repository and path where each is published."""

NONCES: Mapping[bytes, str] = {
    bytes(32): "all zero",
    bytes.fromhex("4cff7f5380ead8fad8ec2c531c110aca4302a88f603792801a8ca29ee151af2e"): (
        "compiled into the tests of NVIDIA/nvtrust"
    ),
    bytes.fromhex("931d8dd0add203ac3d8b4fbde75e115278eefcdceac5b87671a748f32364dfcb"): (
        "of the canned report in NVIDIA/nvtrust"
    ),
}
"""Nonces that are no secret of a caller, and why."""


def fingerprint(claims: Claims) -> str:
    """Hex SHA-256 of registers and report data: the same whatever signature and certificates follow them."""
    values = (claims.registers[name] for name in REGISTERS[claims.tee])
    return hashlib.sha256(b"".join(values) + claims.report_data).hexdigest()


@refuses({"sample-evidence": "the evidence or the nonce is a published sample"})
def samples(facts: Facts) -> Iterator[Refusal]:
    """Check that neither the evidence nor the nonce is one that everybody has."""
    published = EVIDENCE.get(fingerprint(facts.claims))
    if published is not None:
        yield Refusal("sample-evidence", f"the evidence published as {published}", "evidence of the guest itself")
    if facts.nonce in NONCES:
        wanted = "32 random bytes of the caller's own"
        yield Refusal("sample-evidence", f"a nonce that is {NONCES[facts.nonce]}", wanted)
