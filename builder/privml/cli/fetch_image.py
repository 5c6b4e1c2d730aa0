"""`image NAME@VERSION --trust ROOT`: make an image from a published version, without building."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from privml.base.errors import Refused, UsageError
from privml.base.steps import say
from privml.cli.output import print_json, show
from privml.cli.trusted import TrustWords
from privml.client.trust import Vouched
from privml.image import fetched
from privml.image.fetched import FetchResult
from privml.image.published import documents
from privml.image.target import OUT, check_output
from privml.output import fetched as records
from privml.output.fetched import FetchRecord
from privml.statement.names import is_published
from privml.store.objects import Store
from privml.store.pools import Pool
from privml.verify import publication
from privml.verify.publication import DemonstrationCase, PublicationCase, PublicationPolicy


@dataclass(frozen=True)
class Wanted:
    """The words of the command line: NAME@VERSION, the trusted root's file, and where things are."""

    target: str
    root: Path
    trusted: TrustWords
    output: Path | None
    pools: tuple[str, ...]
    allow_demonstration: bool


def fetch(wanted: Wanted) -> FetchResult:
    """Fetch the image; ``Refused`` if the root does not vouch for the version, or the version does not count."""
    if not is_published(wanted.target):
        raise UsageError(
            f"--trust: got `{wanted.target[:80]}`, expected NAME@VERSION", hint="without --trust, the recipe is built"
        )
    trust = wanted.trusted.trust(wanted.root, wanted.target)
    output = wanted.output or OUT / trust.name
    check_output(output)
    pools = [Pool.parse(pool) for pool in wanted.pools]
    with trust.release(int(time.time())) as vouched:
        _refuse(vouched, allow_demonstration=wanted.allow_demonstration)
        found = documents(vouched.fetch, vouched.version, vouched.role)
    if vouched.anchor.demonstration:
        say("warning: a demonstration: one person made all keys, so nobody else vouches for this image")
    for note in publication.notes(vouched.anchor):
        say(f"note: {note}")
    release, anchor = vouched.version.release, vouched.anchor
    if anchor.rebuilders_asked is not None:
        say(f"note: rebuilt by {', '.join(anchor.rebuilders)}")
    record = FetchRecord(
        name=release.name,
        version=release.version,
        serial=release.serial,
        release_sha256=release.sha256,
        manifest_sha256=found.manifest.sha256,
        root_sha256=trust.root_sha256,
        signers=anchor.signers,
        as_of=anchor.as_of,
        demonstration=anchor.demonstration,
    )
    return fetched.make(found, record, output, Store(), pools)


def _refuse(vouched: Vouched, *, allow_demonstration: bool) -> None:
    """``Refused`` with every reason for which `verify --trust` would refuse each guest of the version."""
    anchor = vouched.anchor
    reasons = [
        *publication.demonstration(DemonstrationCase(anchor.demonstration, allow_demonstration)),
        *publication.publication(PublicationCase(anchor, PublicationPolicy())),
    ]
    if reasons:
        meanings = {**publication.publication.codes, **publication.demonstration.codes}
        lines = [f"{each.code}: {meanings[each.code]}: got {each.got}, expected {each.expected}" for each in reasons]
        raise Refused("\n".join((f"{anchor.name} {anchor.version} is refused", *lines)))


def show_fetched(made: FetchResult, *, as_json: bool) -> None:
    """Print what the image consists of, and which version it is."""
    record = records.read(made.directory, made.manifest)
    artefacts = {name: vars(artefact) for name, artefact in made.manifest.artefacts.items()}
    if as_json:
        print_json(
            {
                "directory": str(made.directory),
                "cached": made.cached,
                "fetched": None if record is None else record.to_dict(),
                "root_hash": made.manifest.root.root_hash.hex(),
                "artefacts": artefacts,
            }
        )
        return
    for name, artefact in sorted(artefacts.items()):
        show(f"{artefact['sha256']}  {made.directory / name}  {artefact['size'] / 1e6:.1f} MB")
    show(f"root hash {made.manifest.root.root_hash.hex()}")
    if record is not None:
        show(str(record))
