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

    ``models`` are (family, first model, last model) of the processors.
    """

    name: str
    parts: Mapping[str, int]
    chip_id: int
    models: tuple[tuple[int, int, int], ...]

    def tcb(self, data: bytes, what: str = "TCB version") -> dict[str, int]:
        """The parts of a TCB version (8 bytes); ``EvidenceError`` when a byte that is no part is not zero."""
        if len(data) != SIZE:
            raise EvidenceError(f"{what}: {len(data)} bytes, expected {SIZE}")
        for place, value in enumerate(data):
            if value and place not in self.parts.values():
                raise EvidenceError(f"{what}: byte {place} is {value}, expected 0 on {self.name}")
        return {part: data[place] for part, place in self.parts.items()}


_FIRST = {"bl": 0, "tee": 1, "snp": 6, "ucode": 7}
MILAN = Product("Milan", _FIRST, 64, ((0x19, 0x00, 0x0F),))
GENOA = Product("Genoa", _FIRST, 64, ((0x19, 0x10, 0x1F), (0x19, 0xA0, 0xAF)))
TURIN = Product("Turin", {"fmc": 0, "bl": 1, "tee": 2, "snp": 3, "ucode": 7}, 8, ((0x1A, 0x00, 0x11),))
PRODUCTS = {product.name: product for product in (MILAN, GENOA, TURIN)}
"""Every product whose reports can be read, by its name in certificates."""


def product_of(family: int, model: int) -> Product:
    """The product of a processor; ``EvidenceError`` for one that is not known."""
    for product in PRODUCTS.values():
        if any(of == family and first <= model <= last for of, first, last in product.models):
            return product
    raise EvidenceError(f"report: processor family 0x{family:x}, model 0x{model:x} is not known")
