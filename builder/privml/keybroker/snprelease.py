"""What the owners' policy says of SEV-SNP guests: lowest TCB versions, chips, and that ACPI tables are unmeasured.

The owners sign these themselves, whatever the broker's own policy file accepts. The lowest TCB versions are compared
as `verify.snp` does it.
"""

from __future__ import annotations

from dataclasses import dataclass

from privml.base.errors import EvidenceError
from privml.base.strictjson import Fields
from privml.evidence.snp.tcb import PRODUCTS
from privml.keybroker.machineids import ids, ids_or_null
from privml.verify.snptcb import TcbFloor

CHIP_SIZE = 64
PARTS = ("fmc", "bl", "tee", "snp", "ucode")
"""The parts of a lowest TCB version, on every product; one that a product does not have is 0."""


@dataclass(frozen=True)
class SnpRelease:
    """The SNP guests that get a key.

    ``min_tcb`` has the lowest TCB version of each product that gets it, sorted by product; any other product gets
    none. ``chips`` (CHIP_ID, 64 bytes) are the only chips that do (None: any), ``denied`` those that never do.
    ``allow_unmeasured_acpi`` says that the owners accept ACPI tables of the host, which nothing measures.
    """

    min_tcb: tuple[TcbFloor, ...]
    allow_unmeasured_acpi: bool
    chips: tuple[bytes, ...] | None = None
    denied: tuple[bytes, ...] = ()

    def to_dict(self) -> dict[str, object]:
        """``{"allow_unmeasured_acpi": bool, "chips": [hex64...] | null, "denied": [hex64...], "min_tcb": [...]}``.

        An item of ``min_tcb`` is ``{"product": s, "fmc": n, "bl": n, "tee": n, "snp": n, "ucode": n}``.
        """
        floors = [
            {"product": floor.product, **{part: getattr(floor, part) for part in PARTS}} for floor in self.min_tcb
        ]
        return {
            "allow_unmeasured_acpi": self.allow_unmeasured_acpi,
            "chips": None if self.chips is None else [chip.hex() for chip in self.chips],
            "denied": [chip.hex() for chip in self.denied],
            "min_tcb": floors,
        }

    @classmethod
    def from_fields(cls, fields: Fields) -> SnpRelease:
        """The inverse of ``to_dict``; ``EvidenceError`` for lists that are not sorted, or without a TCB version."""
        floors = []
        for number, item in enumerate(fields.array("min_tcb", limit=len(PRODUCTS))):
            row = Fields(item, f"{fields.path}.min_tcb[{number}]")
            product = row.text("product", one_of=tuple(PRODUCTS))
            floors.append(TcbFloor(product, **{part: row.integer(part, high=255) for part in PARTS}))
            row.end()
        names = [floor.product for floor in floors]
        if not names or names != sorted(set(names)):
            raise EvidenceError(f"{fields.path}.min_tcb: expected at least one product, sorted, each once")
        release = cls(
            min_tcb=tuple(floors),
            allow_unmeasured_acpi=fields.boolean("allow_unmeasured_acpi"),
            chips=ids_or_null(fields, "chips", CHIP_SIZE),
            denied=ids(fields, "denied", CHIP_SIZE),
        )
        fields.end()
        return release
