"""Whether GPUs and switches form one protected group: one mode for all, and each linked with exactly the others.

NVLink is in clear in protected PCIe mode, so a switch that is not in the group could read and change what the GPUs
send to each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from privml.evidence.nvidia.opaque import PPCIE, GpuOpaque, SwitchOpaque


@dataclass(frozen=True)
class Member:
    """A genuine device: its name in messages, its PDI, and what its report says."""

    name: str
    pdi: bytes
    said: GpuOpaque | SwitchOpaque


def faults(members: Sequence[Member], switches: int) -> Iterator[tuple[str, str]]:
    """What was found and what was expected, for each way in which the devices are not one group.

    ``switches`` is the declared number of switches.
    """
    gpus = [(member, member.said) for member in members if isinstance(member.said, GpuOpaque)]
    modes = {said.mode or "none" for _, said in gpus}
    if len(modes) > 1:
        yield f"modes {_listed(modes)}", "one mode for all GPUs"
    protected = modes == {PPCIE}
    if gpus and protected is not (switches > 0):
        yield f"mode {_listed(modes)} with {switches} switches", f"mode {PPCIE} exactly with switches"
    for member, said in gpus:
        if said.contradicts_itself:
            yield f"{member.name}: mode {said.flag}", "the mode of its protected PCIe status"
    if not protected:
        return
    of_gpus = {member.pdi for member, _ in gpus}
    of_switches = {member.pdi for member in members if isinstance(member.said, SwitchOpaque)}
    for member in members:
        linked, wanted = (
            (set(member.said.switches), of_switches)
            if isinstance(member.said, GpuOpaque)
            else (set(member.said.gpus), of_gpus)
        )
        if linked != wanted:
            yield f"{member.name}: linked with {_pdis(linked)}", _pdis(wanted)


def _listed(values: Iterable[str]) -> str:
    return " or ".join(sorted(values))


def _pdis(pdis: set[bytes]) -> str:
    return ", ".join(sorted(pdi.hex() for pdi in pdis)) or "none"
