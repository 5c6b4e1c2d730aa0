"""The firmware on which each rule was observed, named so that users can compare it with their own.

Third-party logs and quotes do not contain the firmware file. They identify it by MRTD, which is a digest of
the firmware's code, or else the digest of its variables' volume (CFV). Boots here name the file. A rule is found by
the origin of its events; ADR 0037.
"""

from __future__ import annotations

from dataclasses import dataclass

from privml.events.event import Evidence


@dataclass(frozen=True)
class Sighting:
    """``firmware`` is ``sha256:`` of its file, ``mrtd:`` or ``cfv:`` (SHA-384 of the volume), or words when no digest
    was published; ``vector`` is the test vector that shows it."""

    firmware: str
    vector: str


GCP = Sighting(
    "mrtd:dae67181d3d65e073ad8f95b7907d5e927bfe9761c9ff3e9b89734a45d8954dba41394c7717cb2735396c1d04231f94a",
    "gcp-cos113",
)
DSTACK = Sighting(
    "mrtd:b24d3b24e9e3c16012376b52362ca09856c4adecb709d5fac33addf1c47e193da075b125b6c364115771390a5461e217",
    "dstack-gpu-64g",
)
DIRECT = Sighting(
    "cfv:344bc51c980ba621aaa00da3ed7436f7d6e549197dfe699515dfa2c6583d95e6412af21c097d473155875ffd561d6790",
    "direct-boot-2g",
)
GKE = Sighting(
    "cfv:7ed4f33833d3699a1a8e633cfd3e93f8ac2c6a188244c3267f0195447d391dfc78aabf29175bed0e7eb2e19f19484a38",
    "gke-uki",
)
INTEL_202605 = Sighting("edk2-stable202605 OVMF.inteltdx.fd, whose digest was not published", "smbios")
DEBIAN_202608 = Sighting(
    "sha256:6a3e8f438ad7269f5dfd884647587b88391fb23965bb3aa7902b519438dba129",
    "boot-tpm-base",
)

# The longest matching beginning of an event's origin counts.
HARDWARE: tuple[tuple[str, Sighting], ...] = (
    ("TD HOB", DSTACK),
    ("firmware.fd CFV", DSTACK),
    ("firmware.fd variable", GCP),
    ("firmware.fd variable Boot", DSTACK),
    ("firmware: ", DSTACK),
    ("etc/", DSTACK),
    ("etc/smbios/smbios-tables", INTEL_202605),
    ("kernel", DSTACK),
    ("initrd", DSTACK),
    ("command line from the host", DIRECT),
    ("uki.efi .", GKE),
    ("uki.efi .cmdline as the kernel's LoadOptions", DIRECT),
    ("disk's partition table", GCP),
)


def seen_on(origin: str, level: Evidence) -> str:
    """The firmware on which the rule of ``origin`` was observed at this ``level``; empty for none."""
    if level is Evidence.TPM_BOOT:
        return DEBIAN_202608.firmware
    if level is not Evidence.HARDWARE:
        return ""
    matching = [(len(start), sighting) for start, sighting in HARDWARE if origin.startswith(start)]
    return max(matching, key=lambda pair: pair[0])[1].firmware if matching else ""
