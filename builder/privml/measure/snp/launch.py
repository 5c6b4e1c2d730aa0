"""The launch digest of an SNP guest, step by step.

Firmware and kernel are read once: `Launcher` keeps the digest before the processors, and each number of processors
adds its save areas. Order of the pages: QEMU target/i386/sev.c; for EC2 and GCE, virtee/sev-snp-measure 0.0.13.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from privml.base.errors import MeasurementError
from privml.events.event import Event, Evidence
from privml.events.registers import LAUNCH, ZERO
from privml.measure.snp import table, vmsa
from privml.measure.snp.hashes import SIZE, KernelHashes
from privml.measure.snp.pages import PAGE, PageType, extend, extend_data, extend_empty
from privml.measure.snp.table import Section, SectionType
from privml.measure.snp.vmsa import QEMU, Vmm

VMSA_GPA = 0xFFFFFFFFF000
"""The address under which QEMU, EC2 and GCE add save areas."""
_END = 1 << 32  # the firmware ends where 32-bit addresses do
_EMPTY = {
    SectionType.MEMORY: PageType.ZERO,
    SectionType.SECRETS: PageType.SECRETS,
    SectionType.CPUID: PageType.CPUID,
    SectionType.SVSM_CAA: PageType.ZERO,
    SectionType.KERNEL_HASHES: PageType.ZERO,
}
"""The type of the pages of a section that has no contents."""
FIRMWARE_STEP, HASHES_STEP, VCPU_STEP = "the firmware", "the kernel hashes", "vCPU "
"""How the origins of steps begin."""


@dataclass(frozen=True)
class Launcher:
    """Launch digests of one firmware file under one VMM.

    ``kernel`` are the hashes that the firmware checks; None for a launch with no kernel, which binds nothing that the
    guest then starts. ``MeasurementError`` for a firmware that cannot start an SNP guest, or checks no kernel.
    """

    firmware: bytes
    kernel: KernelHashes | None
    vmm: Vmm = QEMU
    _table: table.Table = field(init=False, repr=False)
    _prefix: tuple[Event, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        found = table.read(self.firmware)
        if self.kernel is not None and found.hashes is None:
            raise MeasurementError(
                "firmware: it has no place for the hashes of a kernel, so it would start any",
                hint="use OVMF.amdsev.fd",
            )
        if found.hashes is not None and found.hashes % PAGE + SIZE > PAGE:
            raise MeasurementError(f"firmware: the hash table at 0x{found.hashes:x} crosses the end of its page")
        object.__setattr__(self, "_table", found)
        object.__setattr__(self, "_prefix", tuple(self._pages()))

    def digest(self, vcpus: int, *, signature: int, features: int = vmsa.SNP_ACTIVE) -> bytes:
        """The launch digest (48 bytes) with ``vcpus`` processors of the CPUID ``signature``."""
        *_, found = self.growing(vcpus, signature=signature, features=features)
        return found

    def growing(self, most: int, *, signature: int, features: int = vmsa.SNP_ACTIVE) -> Iterator[bytes]:
        """The launch digest with 1, 2, .. ``most`` processors; each is one step after the other."""
        found = self._prefix[-1].digest
        for area in self._areas(most, signature, features):
            found = extend(found, PageType.VMSA, VMSA_GPA, area)
            yield found

    def steps(self, vcpus: int, *, signature: int, features: int = vmsa.SNP_ACTIVE) -> tuple[Event, ...]:
        """Every step of `digest`: an event's digest is that of the launch after its pages.

        Since that depends on all steps before, the note says what the step itself adds: two steps are the same if
        pages and notes are.
        """
        found = list(self._prefix)
        note = f"CPUID 0x{signature:x}, SEV_FEATURES 0x{features:x}"
        for number, area in enumerate(self._areas(vcpus, signature, features)):
            after = extend(found[-1].digest, PageType.VMSA, VMSA_GPA, area)
            found.append(_step(PageType.VMSA, VMSA_GPA, PAGE, after, f"{VCPU_STEP}{number}", note))
        return tuple(found)

    def _areas(self, vcpus: int, signature: int, features: int) -> Iterator[bytes]:
        """SHA-384 of each processor's save area; all but the first are equal."""
        if vcpus < 1:
            raise ValueError("a machine has at least one processor")
        places = (vmsa.BOOT_RIP, self._table.reset_eip)
        boot, other = (vmsa.digest(self.vmm, place, signature=signature, features=features) for place in places)
        yield boot
        for _ in range(1, vcpus):
            yield other

    def _pages(self) -> Iterator[Event]:
        """The steps before the processors."""
        found = after_firmware(self.firmware)
        note = f"sha256 {hashlib.sha256(self.firmware).hexdigest()}"
        yield _step(PageType.NORMAL, _END - len(self.firmware), len(self.firmware), found, FIRMWARE_STEP, note)
        late = [one for one in self._table.sections if self.vmm.cpuid_last and one.kind == SectionType.CPUID]
        for section in (*(one for one in self._table.sections if one not in late), *late):
            kind, found = self._after(section, found)
            hashes = section.kind == SectionType.KERNEL_HASHES and kind == PageType.NORMAL
            note = str(self.kernel) if hashes else ""
            yield _step(kind, section.gpa, section.size, found, _origin(section, kind), note)

    def _after(self, section: Section, before: bytes) -> tuple[PageType, bytes]:
        """The type of a section's pages, and the digest after them."""
        place = self._table.hashes
        if section.kind == SectionType.KERNEL_HASHES and self.kernel is not None and place is not None:
            return PageType.NORMAL, extend_data(before, section.gpa, self.kernel.page(place))
        kind = _EMPTY[section.kind]
        if section.kind == SectionType.MEMORY and not self.vmm.measures_memory:
            kind = PageType.UNMEASURED
        return kind, extend_empty(before, kind, section.gpa, section.size)


def after_firmware(firmware: bytes) -> bytes:
    """The launch digest (48 bytes) after the pages of a firmware file; it starts from zero and ends at 4 GiB."""
    return extend_data(ZERO, _END - len(firmware), firmware)


def _origin(section: Section, kind: PageType) -> str:
    if section.kind == SectionType.KERNEL_HASHES:
        return HASHES_STEP if kind == PageType.NORMAL else f"no {HASHES_STEP.removeprefix('the ')}"
    return f"section {section.kind.name} of the firmware"


def _step(kind: PageType, gpa: int, size: int, digest: bytes, origin: str, note: str) -> Event:
    return Event(LAUNCH, kind, digest, origin, Evidence.SOURCE, note, gpa=gpa, count=size // PAGE)
