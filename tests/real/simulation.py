"""The TEEs that a development guest can simulate, as callers and owners of keys name them."""

from __future__ import annotations

from dataclasses import dataclass

from tests.real.conftest import ROOT

SIMULATED_ROOT = ROOT / "builder/privml/sim/pki/root.pem"


@dataclass(frozen=True)
class Simulation:
    """One simulated TEE.

    ``platform`` is that of its machine, and ``firmware`` its section in a recipe. ``accept`` are the words by which a
    caller accepts it, ``release`` those by which an owner lets it have a key. A guest that was started in another way
    is refused by ``code``; ``cause``: the refusal names what differs.
    """

    platform: str
    firmware: dict[str, dict[str, str]]
    accept: tuple[str, ...]
    release: tuple[str, ...]
    code: str
    cause: bool


TDX = Simulation(
    platform="qemu-11-q35-tpm",
    firmware={"tdx": {"package": "ovmf-generic"}},
    accept=("--allow-simulated", str(SIMULATED_ROOT)),
    release=(),
    code="rtmr2",
    cause=True,
)
SNP = Simulation(
    platform="qemu-11-q35-snp",
    firmware={"snp": {"package": "ovmf-amdsev"}},
    accept=(
        "--allow-simulated", str(ROOT / "builder/privml/sim/snppki/ark.der"),
        "--policy", str(ROOT / "examples/policies/snp-genoa.toml"),
    ),
    release=("--snp-min-tcb", "Genoa:bl=10,tee=0,snp=23,ucode=84", "--allow-unmeasured-acpi"),
    code="launch",
    cause=False,  # no log is behind a launch digest
)  # fmt: skip
SIMULATIONS = {"tdx": TDX, "snp": SNP}
