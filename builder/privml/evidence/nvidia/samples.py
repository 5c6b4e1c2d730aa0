"""Nonces and reports of software that pretends to have a GPU, which are never evidence of a machine.

The first nonce is compiled into NVIDIA's verifier for tests without a GPU (NVIDIA/nvtrust), the second is that of the
canned report which it then serves, also used by NVIDIA/attestation-sdk.
"""

from __future__ import annotations

NONCES = frozenset(
    bytes.fromhex(text)
    for text in (
        "4cff7f5380ead8fad8ec2c531c110aca4302a88f603792801a8ca29ee151af2e",
        "931d8dd0add203ac3d8b4fbde75e115278eefcdceac5b87671a748f32364dfcb",
        "00" * 32,
    )
)
"""Nonces (32 bytes) of canned evidence, and the one that is no nonce."""

REPORTS = frozenset({"c438e7e714c05a9b6734ac33d7024f4732ba23ca08894424e9e755853c0f8618"})
"""Hex SHA-256 of canned reports: the one that is served where there is no GPU."""
