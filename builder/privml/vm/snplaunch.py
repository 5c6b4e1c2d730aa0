"""Say why the launch digest of an SNP report is not one that an image's prediction has."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from privml.events.registers import LAUNCH
from privml.measure.snp import predict
from privml.measure.snp.launch import Launcher
from privml.measure.snp.search import processors_of
from privml.measure.snp.vmsa import cpu_signature
from privml.output.artefacts import check_artefacts
from privml.output.manifest import Manifest
from privml.recipe.processors import EPYC
from privml.statement.predicate import Predicate
from privml.vm.predicted import hashes_of


@dataclass(frozen=True)
class LaunchCheck:
    """A launch digest against an image: the predicted launch that has it, or why none has."""

    digest: bytes
    label: str | None
    why: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The JSON object."""
        return {
            "equal": self.label is not None,
            "report": self.digest.hex(),
            "launch": self.label,
            "change": self.why,
        }


def check(digest: bytes, directory: Path, manifest: Manifest, predicate: Predicate) -> LaunchCheck:
    """Compare ``digest`` with the launches of ``predicate``, the prediction of the image in ``directory``."""
    for launch in predicate.launches:
        if launch.tee == predict.TEE and digest in launch.accepted(LAUNCH):
            return LaunchCheck(digest, launch.label)
    file = manifest.firmware_for(predict.TEE).file
    check_artefacts(directory, {file: manifest.artefacts[file]})
    firmware = (directory / file).read_bytes()
    signatures = {name: cpu_signature(*identity) for name, identity in EPYC.items()}
    for hashes, words in (
        (hashes_of(manifest), "vCPUs: the digest is that of this image with"),
        (None, "the kernel hashes: the digest is that of this firmware with no kernel at all, and"),
    ):
        if (found := processors_of(Launcher(firmware, hashes), digest, signatures)) is not None:
            return LaunchCheck(digest, None, f"{words} {found}")
    models = ", ".join(EPYC)
    why = f"the firmware, the kernel hashes or the VMM: no number of vCPUs of {models} gives it with this image"
    return LaunchCheck(digest, None, why)
