"""Repositories that `publish check` accepts: real locks, manifests that belong to them, and versions that differ."""

from __future__ import annotations

import dataclasses
import hashlib
import tempfile
from functools import cache
from pathlib import Path

from tests.unit import attestation_samples as samples
from tests.unit.published_fake import COMMIT, NAME, NOW, PUBLISHERS, Fake, role, signer
from tests.unit.test_image_manifest import sample

from privml.base import dsse
from privml.base.dsse import IN_TOTO, Envelope, Signature
from privml.events.event import Evidence
from privml.events.registers import RTMR0
from privml.lock.lockfile import read_lock, serialise
from privml.lock.models import Lock
from privml.output.manifest import Manifest
from privml.output.prediction import statement_of
from privml.publish.version import Build
from privml.recipe.loader import shipped
from privml.statement import intoto, rebuild, release
from privml.statement.launch import Accepted, MeasuredLaunch, TdMachine
from privml.statement.predicate import Predicate
from privml.statement.rebuild import Rebuild

PROVENANCE = b'{"provenance":1}'


@cache
def _base() -> tuple[Lock, bytes, Manifest]:
    with tempfile.TemporaryDirectory() as folder:
        manifest = sample(Path(folder) / "image")
    return read_lock(shipped() / "demo-cpu.lock.json"), (shipped() / "tools.lock.json").read_bytes(), manifest


def lock_of(number: int) -> Lock:
    """The shipped lock; for each ``number`` but 0, of another recipe and with other versions of three packages."""
    lock = _base()[0]
    if not number:
        return lock
    packages = tuple(
        package.model_copy(
            update={
                "version": f"{package.version}+{number}",
                "sha256": hashlib.sha256(f"{package.name} {number}".encode()).hexdigest(),
            }
        )
        if package.name in ("bash", "libc6", "kmod")
        else package
        for package in lock.packages
    )
    recipe = hashlib.sha256(f"recipe {number}".encode()).hexdigest()
    return lock.model_copy(update={"packages": packages, "recipe_sha256": recipe})


def build(name: str = NAME, number: int = 0, predicate: Predicate = samples.PREDICATE) -> Build:
    """What two legs would have given for version ``number`` of an image."""
    _, tools, manifest = _base()
    lock = lock_of(number)
    manifest = dataclasses.replace(
        manifest, name=name, recipe_sha256=lock.recipe_sha256, lock_sha256=lock.digest, listen=8443 + (number % 2)
    )
    made = dataclasses.replace(predicate, name=name, manifest_sha256=manifest.sha256)
    files = {
        "recipe.yaml": b"schema: 1\n",
        "lock.json": serialise(lock),
        "tools.lock.json": tools,
        "manifest.json": manifest.encode(),
        "sbom.cdx.json": b"{}",
    }
    return Build(files, intoto.encode(statement_of(manifest, made)), PROVENANCE, COMMIT)


def on_sizes(number: int, seed: str, predicate: Predicate = samples.PREDICATE) -> Predicate:
    """A prediction for so many sizes, each with an RTMR0 of its own."""
    first = predicate.launches[0]

    def launch(size: int) -> MeasuredLaunch:
        value = hashlib.sha384(f"{seed} {size}".encode()).digest()
        return dataclasses.replace(
            first,
            machine=TdMachine(size, size << 30),
            registers={**first.registers, RTMR0: Accepted((value,), Evidence.SOURCE)},
            events=tuple(event for event in first.events if event.register != RTMR0),
        )

    return dataclasses.replace(predicate, launches=tuple(launch(size) for size in range(1, number + 1)))


def whole(*names: str) -> Fake:
    """A repository with these images, and no version yet."""
    return Fake(images={name: role(2, *PUBLISHERS) for name in names or (NAME,)})


def many(images: int, versions: int, sizes: int) -> Fake:
    """Images with many versions on many machine sizes."""
    names = [f"image-{number}" for number in range(images)]
    fake = whole(*names)
    for name in names:
        for number in range(versions):
            fake.publish(f"1.{number}", build(name, number, on_sizes(sizes, f"{name} {number}")))
    return fake


def endorse(
    fake: Fake,
    who: str,
    number: str,
    *,
    differs: tuple[str, ...] = (),
    key: str = "",
    name: str = NAME,
    finished: int = NOW,
) -> None:
    """Sign a rebuild of a version in the name of ``who``, by a key of the same name or another."""
    folder = f"{name}/{number}"
    made = release.decode(fake.files[f"{folder}/release.json"])
    statement = intoto.decode(dsse.decode(fake.files[f"{folder}/statement.dsse.json"]).payload)
    said = Rebuild(
        subjects=statement.subjects,
        name=made.name,
        version=made.version,
        result=rebuild.DIFFERS if differs else rebuild.IDENTICAL,
        statement_sha256=made.statement_sha256,
        recipe_sha256=made.recipe_sha256,
        lock_sha256=made.lock_sha256,
        tool=made.tool,
        surroundings={"machine": "x86_64", "system": "Linux"},
        finished=finished,
        differences=differs,
    )
    unsigned = Envelope(IN_TOTO, said.encode(), ())
    by = signer(key or who)
    signature = Signature(by.sign(unsigned.signed), by.public.keyid)
    fake.files[f"{folder}/endorsements/{who}.dsse.json"] = dataclasses.replace(
        unsigned, signatures=(signature,)
    ).encode()
