"""An image directory for both TEEs, with a small SNP firmware, and its prediction."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import attestation_samples as samples
from amdsev import PARTS
from test_image_manifest import sample

from privml.machine.platform import Size
from privml.measure.snp.bound import bound
from privml.output.artefacts import artefact
from privml.output.contents import Firmware
from privml.output.manifest import Manifest
from privml.output.prediction import write_prediction
from privml.recipe.loader import shipped
from privml.statement.launch import MeasuredLaunch
from privml.vm.platforms import platform
from privml.vm.predicted import SnpPredictor

PLATFORM = platform("qemu-11-q35-snp", shipped())
SIZES = (Size(2, 2 << 30), Size(4, 4 << 30))
FILE = "firmware-snp.fd"
STOCK = PARTS.build()
FIRMWARE = bound(STOCK)


def image(folder: Path, uki: bytes = b"a UKI", firmware: bytes = FIRMWARE) -> Manifest:
    """Write the image into ``folder``, with this SNP firmware."""
    folder.parent.mkdir(exist_ok=True)
    made = sample(folder)
    (folder / FILE).write_bytes(firmware)
    (folder / "uki.efi").write_bytes(uki)
    source = hashlib.sha256(STOCK).hexdigest()
    files = (*made.artefacts, FILE)
    made = dataclasses.replace(
        made,
        firmware={**made.firmware, "snp": Firmware(FILE, source)},
        artefacts={name: artefact(folder / name) for name in files},
        platforms=("qemu-11-q35", "qemu-11-q35-snp"),
        shapes=SIZES,
    )
    (folder / "manifest.json").write_bytes(made.encode())
    launches = (*samples.PREDICATE.launches, *launches_of(folder, made))
    write_prediction(
        folder, made, dataclasses.replace(samples.PREDICATE, manifest_sha256=made.sha256, launches=launches)
    )
    return made


def launches_of(folder: Path, made: Manifest) -> list[MeasuredLaunch]:
    return SnpPredictor(folder, made).launches(PLATFORM, SIZES)
