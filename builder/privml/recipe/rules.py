"""The rules of `lint`, as data: what each demands, and the incident in somebody's system that taught it.

Rules of the stage ``read`` are applied while a recipe is read (``models``, ``loader``) and end in exit 3 everywhere;
those of the stage ``judge`` are applied by ``lint`` to a recipe that can be read. Those of the stage ``guest``
(``guestfiles``) look at the guest's own files below ``images``, also before every build.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from privml.recipe.finding import Severity


@dataclass(frozen=True)
class Rule:
    """One rule. ``reference`` names a public thread, or a manual, that shows what happens without it."""

    id: str
    severity: Severity
    stage: Literal["read", "judge", "guest"]
    what: str
    why: str
    reference: str

    def lines(self) -> list[str]:
        """The whole of it, for `lint --explain`."""
        return [
            f"{self.id} ({self.severity}): {self.what}",
            f"  why       {self.why}",
            f"  see       {self.reference}",
        ]


_ALL = (
    Rule(
        "unpinned-source",
        "error",
        "read",
        "A source names exactly one version: `pypi:NAME==VERSION`, never a range, a name alone or `latest`.",
        "A service built its verifier from `FROM ...:latest`: what was attested depended on the day of the build.",
        "near/mpc#3442",
    ),
    Rule(
        "development-firmware",
        "error",
        "read",
        "A production recipe uses the firmware that is made for a TD.",
        "An image came with a generic OVMF: TDs hung on it, and its MRTD was one that no guest could have.",
        "confidential-dot-ai/confidential-os-builder#60",
    ),
    Rule(
        "given-twice",
        "error",
        "read",
        "Each device kind, platform and shape is listed once.",
        "Registers are published by platform, CPUs and memory, because memory alone moves them; a second entry for "
        "the same machine leaves open which one a verifier takes.",
        "Dstack-TEE/meta-dstack#63",
    ),
    Rule(
        "extends-chain",
        "error",
        "read",
        "A recipe extends one that extends nothing.",
        "A setting of mkosi was inherited by some parts and silently not by others, so what looked pinned was not; "
        "with one level, two files say everything.",
        "systemd/mkosi#4420",
    ),
    Rule(
        "privileged-port",
        "error",
        "read",
        "The agent listens on a port from 1024 up.",
        "Ports below need CAP_NET_BIND_SERVICE; the server that faces the network has no capability to lose.",
        "capabilities(7)",
    ),
    Rule(
        "platform-unmeasured",
        "error",
        "read",
        "A platform runs its guests in a TEE, or has a TPM.",
        "A switch of a VMM started guests outside TDX, where nothing measures them, and nothing else was different.",
        "Dstack-TEE/dstack#614",
    ),
    Rule(
        "platform-emulated",
        "error",
        "judge",
        "A production recipe's platforms run their guests in a TEE.",
        "Registers that only a special QEMU can give were published: what was measured was not what ran.",
        "Datura-ai/lium-io#1106",
    ),
    Rule(
        "platform-tpm",
        "error",
        "judge",
        "A production recipe's platforms have no TPM.",
        "A software TPM's registers are the host's word; a verifier that believed a value of the host's choice "
        "reported it as verified.",
        "Dstack-TEE/dstack#1266",
    ),
    Rule(
        "platform-devices",
        "error",
        "judge",
        "A recipe declares exactly the devices that each of its platforms has: a disk for the root, one for a model.",
        "One image had another RTMR0 on another machine: devices are in the ACPI tables. The guest expects those "
        "that are declared.",
        "near/mpc#1105",
    ),
    Rule(
        "platform-defaults",
        "warning",
        "judge",
        "A platform sets smm, pic, hpet and kernel_irqchip itself.",
        "What is left to QEMU's defaults moves with its version and its configuration, and RTMR0 moves with it.",
        "canonical/tdx#270",
    ),
    Rule(
        "memory-for-model",
        "warning",
        "judge",
        "A shape's memory holds the model's file and 512 MiB more.",
        "A machine that is found too small is given more memory, and RTMR0 is no longer the published one.",
        "canonical/tdx#289",
    ),
    Rule(
        "wide-pattern",
        "warning",
        "judge",
        "The pattern of the model's file says more than a star.",
        "Whatever lies there is taken: inputs chosen by place instead of by name made a project's mismatches carry "
        "no information.",
        "celo-org/optimism#532",
    ),
    Rule(
        "no-lock",
        "warning",
        "judge",
        "A recipe has its lock beside it.",
        "Inputs that nobody wrote down move with the archive every day; a mismatch then carries no information.",
        "celo-org/optimism#532",
    ),
    Rule(
        "stale-lock",
        "warning",
        "judge",
        "The lock is the lock of this recipe, these guest files and these tools.",
        "A pin that was believed to hold did not reach the tools: 74 of 478 packages came live from the archive.",
        "confidential-dot-ai/confidential-os-builder#96",
    ),
    Rule(
        "missing-seed",
        "error",
        "guest",
        "mkosi's configuration sets Seed= and SourceDateEpoch= to values that follow from recipe and lock.",
        "Without a seed, ids of disks and file systems are drawn at random: no two images of one input were alike.",
        "pengutronix/genimage#311",
    ),
    Rule(
        "generated-keys",
        "error",
        "guest",
        "Nothing is drawn while an image is made: no keys, ids or seeds, and no program that makes them.",
        "A package's script made host keys inside the build: anybody could take the private keys out of the release, "
        "and every rebuild had others.",
        "p2pool-starter-stack/pithead#894",
    ),
    Rule(
        "latest",
        "error",
        "guest",
        "No name in scripts or mkosi's configuration that moves, such as `latest` or `stable`.",
        "A service built its verifier from `FROM ...:latest`: what was attested depended on the day of the build.",
        "near/mpc#3442",
    ),
    Rule(
        "script-network",
        "error",
        "guest",
        "No script fetches anything, and mkosi runs without a network: inputs come through the lock.",
        "Programs were fetched by curl without a digest while images were built; a rebuild proved nothing.",
        "celo-org/optimism#532",
    ),
    Rule(
        "baked-cache",
        "error",
        "guest",
        "No cache is part of the guest's files: of Python, of compilers, of GPUs, of model hubs, of the linker.",
        "A compile cache has a key of the machine that filled it: another process of one service found another key.",
        "ai-dynamo/dynamo#10695",
    ),
    Rule(
        "overlay-modes",
        "error",
        "guest",
        "An overlay's file has no set-id bit, and only programs are executable; other bits are not taken over.",
        "Files came into an initramfs with the modes of whoever checked them out: one image locally, another in CI.",
        "siderolabs/talos#4096",
    ),
    Rule(
        "unknown-setting",
        "error",
        "guest",
        "mkosi's configuration holds only settings that we know, each once.",
        "mkosi warns of a setting that it does not know, or that does not reach where it is meant to, and goes on.",
        "systemd/mkosi#4420",
    ),
)

RULES = {rule.id: rule for rule in _ALL}
