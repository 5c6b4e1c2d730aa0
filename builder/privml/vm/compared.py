"""Compare a boot with its prediction: the log from the guest's memory, and the TPM's registers with that log."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from privml.events.event import Event
from privml.events.registers import ZERO
from privml.events.replay import extend
from privml.events.tcg import LogEntry
from privml.events.types import EV_NO_ACTION
from privml.image.tools import ToolsTree
from privml.measure.compare import Comparison, compare
from privml.measure.tdtpm import DIRECT, DISK, NETWORK, ROM, Explanation, explain
from privml.vm import bootlog, swtpm
from privml.vm.machine import Launch, started

_MAPPED = range(1, 16)  # PCR 0 stands for MRTD; 16 and up for nothing


@dataclass(frozen=True)
class ComparedBoot:
    """``log`` as found in memory. ``disagreeing`` lists the PCRs whose value is not the replay of the log; empty if
    log and TPM agree. ``explanation`` explains the differences from the prediction for a TD."""

    log: tuple[LogEntry, ...]
    comparison: Comparison
    disagreeing: tuple[int, ...]
    explanation: Explanation

    @property
    def equal(self) -> bool:
        """True if log, prediction and TPM agree, and the prediction for a TD differs only as expected."""
        return self.comparison.equal and not self.disagreeing and self.explanation.settled

    def problems(self) -> list[str]:
        """Why the boot does not confirm the prediction, one line each; empty if it does."""
        found = []
        if self.disagreeing:
            numbers = ", ".join(map(str, self.disagreeing))
            found.append(
                f"the TPM's registers are not the replay of the log (PCR {numbers}): something extended a register "
                "without an event, or the log in memory is incomplete"
            )
        if not self.comparison.equal:
            found.append(f"the log differs from the prediction in {len(self.comparison.differences)} events")
        if self.explanation.unexplained:
            found.append(
                f"no rule explains {len(self.explanation.unexplained)} differences from the prediction for a TD"
            )
        if self.explanation.unused:
            found.append(f"expected differences from a TD that this boot lacks: {', '.join(self.explanation.unused)}")
        return found

    def to_dict(self) -> dict[str, Any]:
        """The JSON object; the command adds the machine."""
        return {
            "equal": self.equal,
            "tpm_disagrees": list(self.disagreeing),
            "td_rules": dict(self.explanation.used),
            "td_unexplained": [one.to_dict() for one in self.explanation.unexplained],
            "td_unused": list(self.explanation.unused),
            "matched": dict(self.comparison.matched.items()),
            "differences": [difference.to_dict() for difference in self.comparison.differences],
        }


def boot(tools: ToolsTree, launch: Launch, predicted: Sequence[Event], *, td: Sequence[Event]) -> ComparedBoot:
    """Boot ``launch`` with generic OVMF and a software TPM until its kernel has started, and compare.

    ``predicted`` is for that boot; ``td`` for the same machine as a TD.
    """
    launch = replace(launch, generic_firmware=True, share_memory=True)
    with started(tools, launch) as machine:
        log = tuple(bootlog.wait_for(machine))
        # A normal exit of QEMU also stops the TPM; if QEMU is killed, the TPM stays with its registers.
        machine.qemu.kill()
        values = swtpm.read_pcrs(machine.directory / swtpm.SOCKET)
    comparison = compare(predicted, log, tpm=True)
    return ComparedBoot(log, comparison, disagreeing(log, values), explain(td, log, situations(launch)))


def situations(launch: Launch) -> frozenset[str]:
    """The situation of a boot, which selects the applicable rules."""
    found = {DIRECT if launch.boot_disk is None else DISK}
    if launch.boot_disk is not None and any(device.kind == "virtio-net" for device in launch.platform.devices):
        found.add(NETWORK)
    if any(device.rom for device in launch.platform.devices):
        found.add(ROM)
    return frozenset(found)


def disagreeing(log: Iterable[LogEntry], values: dict[int, bytes]) -> tuple[int, ...]:
    """The PCRs that stand for RTMRs and whose ``values`` are not the replay of the log's SHA-384 digests."""
    replayed = dict.fromkeys(_MAPPED, ZERO)
    for entry in log:
        if entry.type != EV_NO_ACTION and entry.index in replayed:
            replayed[entry.index] = extend(replayed[entry.index], entry.sha384)
    return tuple(pcr for pcr, value in replayed.items() if values.get(pcr) != value)
