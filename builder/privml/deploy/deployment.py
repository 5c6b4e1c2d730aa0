"""What is deployed, and what was written for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from privml.base.errors import UsageError, printable
from privml.events.registers import RTMR0, TDX_REGISTERS
from privml.machine.differences import Difference
from privml.vm.machine import Launch
from privml.vm.td import QUOTE_SERVICE, HostParts, td_arguments

PREDICTED, DIFFERS, DEPENDS, UNKNOWN = "predicted", "differs", "depends-on-host", "unknown"
"""What is known of a register on the other host."""
STOPPING = 180
"""Seconds that a guest may take to end its answers and power off once its host has pressed the power button."""


@dataclass(frozen=True)
class Deployment:
    """An image on another host. ``launch.image`` is its folder there; ``qemu`` and ``state`` are paths there too.

    ``name`` is unique among the guests of that host or namespace. ``port`` is the host's on 127.0.0.1. ``state`` is
    the folder of the guest's console and of QEMU's monitor. ``container`` names the image of a registry that holds
    the files, where there is one.
    """

    name: str
    launch: Launch
    parts: HostParts
    qemu: str
    port: int
    state: Path
    container: str | None = None

    @property
    def title(self) -> str:
        """The guest, its size and its platform, for a comment."""
        return f"{self.name}: {self.launch.size}, platform {self.launch.platform.name}"

    @property
    def disks(self) -> tuple[str, ...]:
        """The paths of the machine's disks there, the one that it boots from first."""
        first = () if self.launch.boot_disk is None else (str(self.launch.boot_disk),)
        return (*first, *(f"{self.launch.image}/{name}" for name in self.launch.disks))

    def arguments(self) -> list[str]:
        """QEMU's arguments, those of `run --tdx`."""
        return td_arguments(self.launch, self.parts, self.state, self.port)


@dataclass(frozen=True)
class Written:
    """A file's text, how its machine differs from the platform, and what must be known to use it.

    ``unknown`` are registers that nothing here predicts. ``learn`` is the command that makes a platform of it.
    """

    text: str
    differences: tuple[Difference, ...] = ()
    unknown: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    learn: str | None = None

    @property
    def registers(self) -> dict[str, str]:
        """What is known of each register; what differs is in the tables, which are in RTMR0."""
        found = dict.fromkeys(TDX_REGISTERS, PREDICTED)
        if self.differences:
            found[RTMR0] = DIFFERS if any(one.certain for one in self.differences) else DEPENDS
        return found | dict.fromkeys(self.unknown, UNKNOWN)


@dataclass(frozen=True)
class Kind:
    """A kind of deployment. ``takes`` are the options that only some kinds have; ``mode`` is the file's.

    ``quote_socket`` is where quotes come from unless the user says otherwise.
    """

    name: str
    write: Callable[[Deployment], Written]
    takes: frozenset[str] = field(default_factory=frozenset)
    mode: int = 0o644
    quote_socket: str = QUOTE_SERVICE


def plain(what: str, path: str) -> str:
    """``path`` if it is absolute and printable; no format here can quote a line end or a control character."""
    if not path.startswith("/") or not path.isprintable():
        raise UsageError(f"{what} `{printable(path[:80])}`: expected an absolute path without control characters")
    return path
