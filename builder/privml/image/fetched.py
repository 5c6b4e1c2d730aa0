"""Make the directory of an image from a published version, without building: artefacts by digest, files by release.

The artefacts come from wherever their SHA-256 is found: an image that is there already, the store, pools. They are
checked against the signed manifest, so it does not matter who serves them. As with a build, all files are made in a
temporary directory next to the output.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from privml.base.errors import BuildError, EvidenceError, InputsError
from privml.base.files import directory_atomic, link_or_copy, locked, read_start, write_atomic
from privml.base.steps import say, step
from privml.image import madeby, provenance, sbom
from privml.image.leftovers import remove_leftovers
from privml.image.published import LOCK_FILE, TOOLS_LOCK_FILE, Documents
from privml.lock.lockfile import own_tools_lock
from privml.output import fetched as records
from privml.output import manifest as manifests
from privml.output.artefacts import Artefact, check_artefact
from privml.output.fetched import FetchRecord
from privml.output.manifest import Manifest
from privml.output.prediction import PREDICTION_FILE
from privml.statement.release import PROVENANCE_FILE, RELEASE_FILE, STATEMENT_FILE
from privml.store.fetch import Item, fetch
from privml.store.objects import Store
from privml.store.pools import Pool

_RECORD = f"{records.FOLDER}/{records.FILE}"
_NO_POOL = "no pool was named, and artefacts have no other address"
_POOLS_ONLY = "artefacts have no other address"


@dataclass(frozen=True)
class FetchResult:
    """An output directory with its manifest. ``cached``: it was there already, whole."""

    directory: Path
    manifest: Manifest
    cached: bool


def make(
    found: Documents, record: FetchRecord, output: Path, store: Store, pools: Sequence[Pool] = ()
) -> FetchResult:
    """Write the image of a published version into ``output``; what is there already is not fetched again.

    ``InputsError`` if no pool has an artefact: it names the artefact, and what each pool answered. An equal image
    that was built here is left as it is.
    """
    output = output.absolute()
    manifest = found.manifest
    with locked(output.parent / f".{output.name}.lock"):
        here = dict(_intact(output, manifest.artefacts))
        wanted = dict(_files(found, record))
        built = _is_built(output, manifest)
        if built:
            say(f"{output} is the same image, built here: it is left as it is")
        if len(here) == len(manifest.artefacts) and (built or _same(output, wanted)):
            if not built:
                write_atomic(output / _RECORD, wanted[_RECORD])  # of the time at which the index counted last
            return FetchResult(output, manifest, cached=True)
        missing = {name: each for name, each in manifest.artefacts.items() if name not in here}
        kept = {each.sha256 for each in missing.values() if store.has(each.sha256)}
        _fetch(missing, f"{manifest.name} {record.version}", store, pools)
        remove_leftovers(output)
        with directory_atomic(output) as fresh:
            for name, each in manifest.artefacts.items():
                # What was in the store before was not checked now.
                source = here.get(name) or store.path(each.sha256, verify=each.sha256 in kept)
                link_or_copy(source, fresh / name)
            for path, data in wanted.items():
                write_atomic(fresh / path, data)
    return FetchResult(output, manifest, cached=False)


def _files(found: Documents, record: FetchRecord) -> Iterator[tuple[str, bytes]]:
    """The files next to the artefacts, by path. The manifest is last: a directory with one is complete."""
    lock = madeby.lock_file(Path(), found.manifest)
    of_images = {LOCK_FILE: str(lock), TOOLS_LOCK_FILE: str(own_tools_lock(lock)), sbom.FILE: sbom.FILE}
    for name, data in found.files.items():
        if name != manifests.FILE:
            yield of_images.get(name, f"{records.FOLDER}/{name}"), data
    yield f"{records.FOLDER}/{RELEASE_FILE}", found.version.release.encode()
    for name, envelope, payload in (
        (STATEMENT_FILE, found.version.envelope, PREDICTION_FILE),
        (PROVENANCE_FILE, found.provenance, provenance.FILE),
    ):
        yield f"{records.FOLDER}/{name}", envelope.encode()
        yield payload, envelope.payload
    yield _RECORD, record.encode()
    yield manifests.FILE, found.manifest.encode()


def _intact(output: Path, artefacts: Mapping[str, Artefact]) -> Iterator[tuple[str, Path]]:
    """The artefacts that an image in ``output`` has already."""
    for name, expected in artefacts.items():
        try:
            check_artefact(output / name, expected)
        except BuildError:
            continue
        yield name, output / name


def _is_built(output: Path, manifest: Manifest) -> bool:
    """True if this very image was built in ``output``."""
    try:
        found = manifests.read(output)
    except (BuildError, EvidenceError):
        return False
    return found == manifest and not (output / records.FOLDER).exists()


def _same(output: Path, wanted: Mapping[str, bytes]) -> bool:
    """True if every file of ``wanted`` is there; the record may be of an earlier time."""
    return all(
        (output / path).is_file() and (path == _RECORD or read_start(output / path, len(data)) == data)
        for path, data in wanted.items()
    )


def _fetch(artefacts: Mapping[str, Artefact], what: str, store: Store, pools: Sequence[Pool]) -> None:
    nowhere = _POOLS_ONLY if pools else _NO_POOL
    items = [Item(each.sha256, each.size, name, (), nowhere) for name, each in artefacts.items()]
    with step(f"Fetching {what}"):
        try:
            fetch(store, items, pools=pools)
        except InputsError as error:
            error.hint = "name a pool that has them (--pool): a directory, an address, or oci://HOST/REPOSITORY"
            raise
