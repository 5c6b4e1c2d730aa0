"""Nonces and reports that were published as samples, which are never evidence of a machine.

The first nonce is compiled into NVIDIA's verifier for tests without a GPU, the second is that of its canned report.
The others are those of samples in NVIDIA/attestation-sdk, NVIDIA/nvtrust and confidential-containers/trustee.
"""

from __future__ import annotations

NONCES = frozenset(
    bytes.fromhex(text)
    for text in (
        "4cff7f5380ead8fad8ec2c531c110aca4302a88f603792801a8ca29ee151af2e",
        "931d8dd0add203ac3d8b4fbde75e115278eefcdceac5b87671a748f32364dfcb",
        "e97b23a1718095a0e9e35edca810768c70a6a5a389b705e753b197912bc11576",
        "4760e30534a0621357d458b1a7936551b5dc4cd1e69718adf7ed9fb0252a537e",
        "27a328247bf7935c993341cf587be6f05986ccce4fe7ba2c54100bd616a58f66",
        "5bb22e377702d4e1e8215a903ba094826b9ac7f731dee1fe8102958bf2840aca",
        "87d8e24ab336adafe228d49e83d745f6dba4ae505372b6a5704820856b343fec",
        "00" * 32,
    )
)
"""Nonces (32 bytes) of published samples."""

REPORTS = frozenset({"c438e7e714c05a9b6734ac33d7024f4732ba23ca08894424e9e755853c0f8618"})
"""Hex SHA-256 of canned reports: the one that is served where there is no GPU."""
