"""The lowest TCB versions that a caller accepts of SEV-SNP machines, part by part.

AMD signs no list of versions that are up to date, so they are in policies: the caller's, and owners' of keys.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from privml.evidence.snp.claims import REPORTED, ReportFacts
from privml.evidence.snp.tcb import PRODUCTS, words
from privml.verify.policyfield import number, setting, text


@dataclass(frozen=True)
class TcbFloor:
    """The lowest accepted value of each part of a product's TCB versions; ``fmc`` is a part of Turin's only."""

    product: str = setting(text(*PRODUCTS), "Genoa", "The product.")
    fmc: int = setting(number(0, 255), 0, "The FMC; 0 on other products than Turin.")
    bl: int = setting(number(0, 255), 0, "The boot loader of the secure processor.")
    tee: int = setting(number(0, 255), 0, "The operating system of the secure processor.")
    snp: int = setting(number(0, 255), 0, "The SNP firmware.")
    ucode: int = setting(number(0, 255), 0, "The microcode.")

    @property
    def parts(self) -> dict[str, int]:
        """The floor by part, of the product's parts and those that it demands beyond them."""
        every = {"fmc": self.fmc, "bl": self.bl, "tee": self.tee, "snp": self.snp, "ucode": self.ucode}
        return {name: floor for name, floor in every.items() if floor or name in PRODUCTS[self.product].parts}

    def met_by(self, tcb: dict[str, int]) -> bool:
        """True if no part is lower."""
        return all(tcb.get(name, -1) >= floor for name, floor in self.parts.items())


def below(checked: ReportFacts, floors: Collection[TcbFloor]) -> Iterator[tuple[str, TcbFloor | None]]:
    """Each TCB version of a report that is lower than a floor, as text, and that floor.

    If there is no floor for the product, the reported version, once, and None.
    """
    of_product = [floor for floor in floors if floor.product == checked.product]
    if not of_product:
        yield words(checked.tcbs[REPORTED]), None
    for floor in sorted(of_product, key=str):
        for name, tcb in checked.tcbs.items():
            if not floor.met_by(dict(tcb)):
                yield f"{words(tcb)}, the {name} TCB", floor
