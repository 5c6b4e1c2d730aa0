"""`image`: build an image."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click

from privml.base.errors import UsageError
from privml.base.steps import heard, say
from privml.cli.completion import TARGET
from privml.cli.demonstration import demonstration_option
from privml.cli.output import print_json, show
from privml.cli.trusted import TrustWords, trust_options
from privml.cli.volumekeys import key_options
from privml.image.unchanged import Question, Unchanged, watched
from privml.output import manifest
from privml.output.manifest import Manifest
from privml.statement.names import is_published
from privml.store.objects import Store


@click.command()
@click.argument("target", type=TARGET)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="The directory to build into (default: out/NAME).",
)
@click.option("--force", is_flag=True, help="Rebuild even when nothing has changed.")
@click.option(
    "--lock", "lock_file", type=click.Path(path_type=Path), help="Build from this lock, made by `lock --refresh-to`."
)
@click.option(
    "--pool",
    "pools",
    multiple=True,
    metavar="DIR|URL",
    help="Look here first for missing inputs, or for a published version's artefacts; repeatable.",
)
@click.option(
    "--render-only",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Build nothing; write the mkosi configuration to DIR, which must be new or empty.",
)
@click.option(
    "--trust",
    "root",
    metavar="ROOT",
    type=click.Path(path_type=Path),
    help="Fetch the published version NAME@VERSION instead of building, relying on this root (root.json).",
)
@key_options
@trust_options
@demonstration_option
@click.option("--json", "as_json", is_flag=True, help="Print what was built as JSON.")
def image(
    target: str,
    *,
    output: Path | None,
    force: bool,
    lock_file: Path | None,
    pools: tuple[str, ...],
    render_only: Path | None,
    key_files: tuple[Path, ...],
    volumes: Path | None,
    root: Path | None,
    trusted: TrustWords,
    allow_demonstration: bool,
    as_json: bool,
) -> None:
    """Build TARGET into out/NAME: UKI, root and model volumes, firmware, manifest, prediction, SBOM and provenance.

    TARGET is a recipe's name or file. Only what its lock names is used: from the store, then from pools (folders or
    web addresses with files named sha256/ab/cdef...), then from the mirrors of this machine.

    A model with `encrypt` gets its volume encrypted by the key in --key FILE. The key goes nowhere else: whoever has
    none takes the encrypted volume of an image with --volumes DIR, and builds all else. Exit status then: 2 a key is
    missing or of no volume, 4 the file is not a key's or others can read it, or the volume is not the image's.

    With --trust, TARGET is NAME@VERSION, and nothing is built: the version is followed from the root as `verify
    --trust` does, and its artefacts come by their SHA-256 from pools. A pool may also be an OCI image layout or
    oci://HOST/REPOSITORY. The result is an image as any other; `inspect` says that it was fetched, not built.
    Exit status then: 4 no pool has an artefact, 8 the version is refused, 9 malformed.

    \b
    Examples:
      privml-build image demo-cpu
      privml-build image recipes/demo-cpu-dev.yaml -o /tmp/dev
      privml-build image demo-cpu --render-only /tmp/tree
      privml-build image my-image --key model.key
      privml-build image my-image --volumes out/theirs -o out/mine
      privml-build image demo-cpu@2026.11.1 --trust root.json \\
        --index https://SERVER/measurements --pool https://SERVER/pool
      privml-build image demo-cpu@2026.11.1 --trust root.json \\
        --log-policy policy.txt --rebuilders people.json:2 --pool pool
    """
    of_builds = {
        "--force": force,
        "--lock": lock_file,
        "--render-only": render_only,
        "--key": key_files,
        "--volumes": volumes,
    }
    if root is not None:
        if wrong := [option for option, given in of_builds.items() if given]:
            raise UsageError(f"{wrong[0]} is for a build, and with --trust nothing is built")
        from privml.cli.fetch_image import Wanted, fetch, show_fetched

        wanted = Wanted(target, root, trusted, output, pools, allow_demonstration)
        show_fetched(fetch(wanted), as_json=as_json)
        return
    if wrong := [*trusted.given, *(["--allow-demonstration"] if allow_demonstration else [])]:
        raise UsageError(f"{wrong[0]} is for published measurements: it needs --trust")
    if is_published(target):
        raise UsageError(
            f"`{target}` is a published version: it needs --trust",
            hint="--trust ROOT names the root that you trust; without @VERSION, the recipe is built",
        )
    # A key is read and compared each time.
    plain = not force and not pools and render_only is None and not key_files and volumes is None
    question = Question(Store(), target, output, lock_file)
    if plain and (known := question.recall()) is not None:
        for line in known.said:
            say(line)
        _show(known.directory, manifest.read(known.directory), dict.fromkeys(known.steps, ()), as_json=as_json)
        return
    with watched() as watch, heard() as said:
        # Not for an image that is known to be unchanged: loading this takes most of the time of a full check.
        from privml.cli.build_image import Asked, build, render

        asked = Asked(target, output, lock_file, pools, key_files, volumes)
        if render_only is not None:
            render(asked, render_only, as_json=as_json)
            return
        built = build(asked, force=force)
    if plain and built.cached:
        question.note(watch, Unchanged(built.directory, tuple(built.because), tuple(said)))
    _show(built.directory, built.manifest, built.because, as_json=as_json)


def _show(directory: Path, made: Manifest, because: Mapping[str, tuple[str, ...]], *, as_json: bool) -> None:
    """Print what an image consists of; ``because`` says why each step was rebuilt."""
    artefacts = {name: vars(artefact) for name, artefact in made.artefacts.items()}
    if as_json:
        print_json(
            {
                "directory": str(directory),
                "cached": not any(because.values()),
                "steps": {name: {"cached": not why, "because": list(why)} for name, why in because.items()},
                "root_hash": made.root.root_hash.hex(),
                "artefacts": artefacts,
            }
        )
        return
    for name, artefact in sorted(artefacts.items()):
        show(f"{artefact['sha256']}  {directory / name}  {artefact['size'] / 1e6:.1f} MB")
    show(f"root hash {made.root.root_hash.hex()}")
