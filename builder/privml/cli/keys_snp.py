"""The options of `keys policy new` that say which SEV-SNP guests get a key."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from privml.base.errors import EvidenceError, UsageError
from privml.base.strictjson import unhex

if TYPE_CHECKING:
    from privml.keybroker.snprelease import SnpRelease
    from privml.verify.snptcb import TcbFloor

_FLOOR = "PRODUCT:PART=N,..."
_PART = re.compile(r"([a-z]+)=(0|[1-9][0-9]{0,2})")


def snp_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options about SEV-SNP; the command gets them as one argument, ``snp``."""

    @functools.wraps(command)
    def collected(*positional: Any, **given: Any) -> Any:
        names = ("snp_min_tcb", "snp_chips", "snp_denied", "allow_unmeasured_acpi")
        return command(*positional, snp=SnpWords(*(given.pop(name) for name in names)), **given)

    made = click.option(
        "--allow-unmeasured-acpi",
        is_flag=True,
        help="Accept that the ACPI tables of SEV-SNP guests are their host's and not measured. No such guest gets "
        "the key without it.",
    )(collected)
    made = click.option(
        "--snp-deny", "snp_denied", metavar="CHIP_ID", multiple=True, help="These chips never get it."
    )(made)
    made = click.option(
        "--snp-chip",
        "snp_chips",
        metavar="CHIP_ID",
        multiple=True,
        help="Of SEV-SNP guests only those on these chips get it (128 hex digits each).",
    )(made)
    return click.option(
        "--snp-min-tcb",
        "snp_min_tcb",
        metavar=_FLOOR,
        multiple=True,
        help="Also SEV-SNP guests on this product, from this TCB version on, every part of it, like "
        "`Genoa:bl=10,tee=0,snp=23,ucode=84`. Repeat it for several products.",
    )(made)


@dataclass(frozen=True)
class SnpWords:
    """The options about SEV-SNP, as they were given."""

    min_tcb: tuple[str, ...]
    chips: tuple[str, ...]
    denied: tuple[str, ...]
    allow_unmeasured_acpi: bool

    def release(self) -> SnpRelease | None:
        """What a policy says of SNP guests; None if no option was given. ``UsageError`` for a malformed option."""
        from privml.keybroker.snprelease import SnpRelease

        if not self.min_tcb:
            if self.chips or self.denied or self.allow_unmeasured_acpi:
                raise UsageError(
                    f"--snp-min-tcb {_FLOOR} is missing: AMD signs no list of TCB versions that are up to date",
                    hint="AMD's security bulletins name the lowest versions without a known vulnerability",
                )
            return None
        floors = sorted(map(_floor, self.min_tcb), key=lambda floor: floor.product)
        products = [floor.product for floor in floors]
        if len(set(products)) != len(products):
            raise UsageError(f"--snp-min-tcb: {', '.join(products)}, expected each product once")
        chips = tuple(sorted({_chip("--snp-chip", each) for each in self.chips}))
        denied = tuple(sorted({_chip("--snp-deny", each) for each in self.denied}))
        return SnpRelease(tuple(floors), self.allow_unmeasured_acpi, chips or None, denied)


def described(snp: SnpRelease) -> Iterator[str]:
    """What a policy says of SNP guests, a line each, for whoever signs it."""
    from privml.evidence.snp.tcb import words

    for floor in snp.min_tcb:
        yield f"to SEV-SNP guests on {floor.product}, with at least {words(floor.parts)}"
    yield "to SEV-SNP guests on any chip" if snp.chips is None else f"on the chips {_hex(snp.chips)}"
    if snp.denied:
        yield f"never to the chips {_hex(snp.denied)}"
    if snp.allow_unmeasured_acpi:
        yield "although the ACPI tables of SEV-SNP guests are their host's and not measured"
    else:
        yield "not to guests whose ACPI tables are unmeasured, which all SEV-SNP guests are"


def _hex(chips: tuple[bytes, ...]) -> str:
    return ", ".join(chip.hex() for chip in chips)


def _floor(text: str) -> TcbFloor:
    from privml.evidence.snp.tcb import PRODUCTS
    from privml.verify.snptcb import TcbFloor

    name, _, rest = text.partition(":")
    product = PRODUCTS.get(name)
    found = [_PART.fullmatch(part) for part in rest.split(",")]
    parts = {match[1]: int(match[2]) for match in found if match is not None}
    if product is None or None in found or len(parts) != len(found) or parts.keys() != product.parts.keys():
        expected = _FLOOR if product is None else f"{name}:{','.join(f'{part}=N' for part in product.parts)}"
        raise UsageError(
            f"--snp-min-tcb: got `{text[:80]}`, expected {expected}", hint=f"products: {', '.join(PRODUCTS)}"
        )
    try:
        return TcbFloor(product.name, **parts)
    except ValueError as error:
        raise UsageError(f"--snp-min-tcb: {error}") from error


def _chip(option: str, text: str) -> bytes:
    from privml.keybroker.snprelease import CHIP_SIZE

    try:
        return unhex(text, CHIP_SIZE, what=option)
    except EvidenceError as error:
        expected = f"{2 * CHIP_SIZE} lower-case hex digits"
        raise UsageError(f"{option}: got `{text[:80]}`, expected {expected}") from error
