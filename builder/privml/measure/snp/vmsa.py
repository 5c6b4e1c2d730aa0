"""The save area (VMSA) in which each processor starts, and how VMMs differ in it.

Source: AMD64 Architecture Programmer's Manual, volume 2, table B-4 (offsets); Linux arch/x86/kvm/svm (initial
values); for the other VMMs, virtee/sev-snp-measure 0.0.13 and google/gce-tcb-verifier.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from privml.measure.digest import sha384
from privml.measure.snp.pages import PAGE

BOOT_RIP = 0xFFFFFFF0
"""Where the boot processor starts: the reset vector."""
SNP_ACTIVE = 1
"""SEV_FEATURES bit 0, the only one that mainline KVM sets."""
_MAX_FEATURES = (1 << 64) - 1


@dataclass(frozen=True)
class Vmm:
    """What a VMM puts into the save areas, and which pages it adds how.

    ``cs`` are the attributes of CS of the boot processor and of the others; ``rdx`` is None where it holds the
    processor's CPUID signature. ``measures_memory``: the firmware's memory is added as zero pages; else unmeasured.
    ``cpuid_last``: the CPUID page is added after all other pages of the firmware's table.
    """

    name: str
    cs: tuple[int, int] = (0x9B, 0x9B)
    ss: int = 0x93
    tr: int = 0x8B
    rdx: int | None = None
    mxcsr: int = 0
    fcw: int = 0
    pat: int = 0x0007040600070406
    measures_memory: bool = True
    cpuid_last: bool = False


QEMU = Vmm("qemu", mxcsr=0x1F80, fcw=0x37F)
EC2 = Vmm("ec2", cs=(0x9A, 0x9B), ss=0x92, tr=0x83, rdx=0x600, cpuid_last=True)
GCE = Vmm("gce", rdx=0x600, pat=0x00070106, measures_memory=False)
VMMS = {vmm.name: vmm for vmm in (QEMU, EC2, GCE)}
"""Every VMM whose launches can be computed, by name."""

_SEGMENTS = ("es", "cs", "ss", "ds", "fs", "gs", "gdtr", "ldtr", "idtr", "tr")  # from offset 0, 16 bytes each


def page(vmm: Vmm, rip: int, *, signature: int, features: int = SNP_ACTIVE) -> bytes:
    """The save area (4096 bytes) of a processor that starts at ``rip`` (32 bits).

    ``signature`` is the CPUID signature (leaf 1, EAX) and ``features`` the SEV_FEATURES of the guest.
    """
    if not 0 <= rip < 1 << 32 or not 0 <= signature < 1 << 32 or not 0 <= features <= _MAX_FEATURES:
        raise ValueError("rip and signature have 32 bits, features 64")
    attributes = {
        **dict.fromkeys(("es", "ds", "fs", "gs"), 0x93),
        "cs": vmm.cs[rip != BOOT_RIP],
        "ss": vmm.ss,
        "ldtr": 0x82,
        "tr": vmm.tr,
    }
    area = bytearray(PAGE)
    for number, name in enumerate(_SEGMENTS):
        selector, base = (0xF000, rip & 0xFFFF0000) if name == "cs" else (0, 0)
        struct.pack_into("<HHIQ", area, 16 * number, selector, attributes.get(name, 0), 0xFFFF, base)
    for offset, value in (
        (0xD0, 0x1000),  # EFER: SVME
        (0x148, 0x40),  # CR4: MCE
        (0x158, 0x10),  # CR0: ET
        (0x160, 0x400),  # DR7
        (0x168, 0xFFFF0FF0),  # DR6
        (0x170, 0x2),  # RFLAGS
        (0x178, rip & 0xFFFF),  # RIP
        (0x268, vmm.pat),  # G_PAT
        (0x310, signature if vmm.rdx is None else vmm.rdx),  # RDX
        (0x3B0, features),  # SEV_FEATURES
        (0x3E8, 0x1),  # XCR0: x87
    ):
        struct.pack_into("<Q", area, offset, value)
    struct.pack_into("<I", area, 0x408, vmm.mxcsr)
    struct.pack_into("<H", area, 0x410, vmm.fcw)
    return bytes(area)


def digest(vmm: Vmm, rip: int, *, signature: int, features: int = SNP_ACTIVE) -> bytes:
    """SHA-384 of `page`."""
    return sha384(page(vmm, rip, signature=signature, features=features))


def cpu_signature(family: int, model: int, stepping: int) -> int:
    """CPUID leaf 1, EAX, of a processor. Source: AMD CPUID Specification (25481), Fn0000_0001_EAX."""
    if not 0 <= family < 0x10F or not 0 <= model < 0x100 or not 0 <= stepping < 0x10:
        raise ValueError("family is at most 0x10e, model 0xff and stepping 0xf")
    base = min(family, 0xF)
    return (family - base) << 20 | (model >> 4) << 16 | base << 8 | (model & 0xF) << 4 | stepping
