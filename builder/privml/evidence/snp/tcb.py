"""The processors of the family, and the parts of a TCB version, which lie differently in each generation.

Source: AMD SEV-SNP Firmware ABI Specification (56860), TCB_VERSION; AMD VCEK Certificate and KDS Interface
Specification (57230) for the parts in certificates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from privml.base.errors import EvidenceError

SIZE = 8


@dataclass(frozen=True)
class Product:
    """A generation: its name in certificates, where each part of a TCB version is, and the size of a chip's id.

    ``models`` are (family, first model, last model) of the processors. ``root_sha256`` (hex) is the digest of the DER
    of AMD's root certificate (ARK) for it.
    """

    name: str
    parts: Mapping[str, int]
    chip_id: int
    models: tuple[tuple[int, int, int], ...]
    root_sha256: str

    def tcb(self, data: bytes, what: str = "TCB version") -> dict[str, int]:
        """The parts of a TCB version (8 bytes); ``EvidenceError`` when a byte that is no part is not zero."""
        if len(data) != SIZE:
            raise EvidenceError(f"{what}: {len(data)} bytes, expected {SIZE}")
        for place, value in enumerate(data):
            if value and place not in self.parts.values():
                raise EvidenceError(f"{what}: byte {place} is {value}, expected 0 on {self.name}")
        return {part: data[place] for part, place in self.parts.items()}


_FIRST = {"bl": 0, "tee": 1, "snp": 6, "ucode": 7}
MILAN = Product(
    name="Milan",
    parts=_FIRST,
    chip_id=64,
    models=((0x19, 0x00, 0x0F),),
    root_sha256="69d063b45344d26a2e94e1f4210de49ef555308287d4c174445c95639a540bcd",
)
GENOA = Product(
    name="Genoa",
    parts=_FIRST,
    chip_id=64,
    models=((0x19, 0x10, 0x1F), (0x19, 0xA0, 0xAF)),
    root_sha256="4c6598d19c18719c5dfd4a7d335f674e5bfe1d8f800cea2cf270c10d103db2f1",
)
TURIN = Product(
    name="Turin",
    parts={"fmc": 0, "bl": 1, "tee": 2, "snp": 3, "ucode": 7},
    chip_id=8,
    models=((0x1A, 0x00, 0x11),),
    root_sha256="1f084161a44bb6d93778a904877d4819cafa5d05ef4193b2ded9dd9c73dd3f6a",
)
PRODUCTS = {product.name: product for product in (MILAN, GENOA, TURIN)}
"""Every product whose reports can be read, by its name in certificates."""


def product_of(family: int, model: int) -> Product:
    """The product of a processor; ``EvidenceError`` for one that is not known."""
    for product in PRODUCTS.values():
        if any(of == family and first <= model <= last for of, first, last in product.models):
            return product
    raise EvidenceError(f"report: processor family 0x{family:x}, model 0x{model:x} is not known")


def words(parts: Mapping[str, int]) -> str:
    """The parts of a TCB version as text: ``bl 4, tee 0, snp 24, ucode 217``."""
    return ", ".join(f"{name} {value}" for name, value in parts.items())
