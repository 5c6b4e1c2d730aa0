"""Whether firmware gets a ``-kernel`` file unchanged or with QEMU's values in its setup header.

QEMU writes addresses, the loader's type and the initrd's place and size into the header for old loaders. Then the
Authenticode digest is of other bytes than the file's: it depends on the initrd's size, and on memory below 2816 MiB.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Rule:
    """The kernel is left alone for ``tee`` (empty: no TEE) from ``qemu`` on, with firmware from ``edk2`` on.

    ``edk2`` is a stable tag (202502); None: with any firmware.
    """

    tee: str
    qemu: tuple[int, int]
    edk2: int | None
    source: str

    def text(self) -> str:
        """``QEMU from 10.0 with edk2 from 202502``."""
        with_ = "any firmware" if self.edk2 is None else f"edk2 from {self.edk2}"
        return f"QEMU from {self.qemu[0]}.{self.qemu[1]} with {with_}"


_NAMED = "QEMU 10.0 hw/i386/x86-common.c (fw_cfg etc/boot/kernel), which edk2 459f5ffa24 prefers"
RULES: tuple[Rule, ...] = (
    Rule("tdx", (10, 2), None, "QEMU 10.2 hw/i386/x86-common.c; Dstack-TEE/dstack pull requests 1183 and 1185"),
    Rule("tdx", (10, 0), 202502, _NAMED),
    Rule("snp", (6, 0), None, "QEMU hw/i386/x86-common.c: the header is hashed, so it is not changed"),
    Rule("", (10, 0), 202502, _NAMED),
)
"""Every combination that leaves the kernel alone; with any other, QEMU changes the header."""


def left_alone(tee: str, qemu: tuple[int, int], edk2: int) -> bool:
    """True when firmware of stable tag ``edk2`` gets the kernel file's own bytes from this QEMU."""
    return any(rule.tee == tee and qemu >= rule.qemu and (rule.edk2 is None or edk2 >= rule.edk2) for rule in RULES)


def note(tee: str) -> str:
    """A note for people: on which machines the file's own digest is measured."""
    combinations = ", or ".join(rule.text() for rule in RULES if rule.tee == tee)
    return (
        f"measured so by {combinations}; older ones change the setup header first, and the digest depends on "
        "the initrd's size, and on memory below 2816 MiB"
    )
