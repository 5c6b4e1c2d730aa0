"""`inspect`: what is inside a built image."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import click

from privml.base import strictjson
from privml.base.strictjson import pretty
from privml.cli.context import resolve
from privml.image import sbom
from privml.image.volume import partitions
from privml.measure.pe import headers
from privml.output.artefacts import check_artefacts
from privml.output.manifest import Manifest


@click.command()
@click.argument("target")
@click.option("--packages", is_flag=True, help="List every package.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def inspect(target: str, *, packages: bool, as_json: bool) -> None:
    """Tell what TARGET's image is made of: artefacts, root hash, kernel and its options, UKI, partitions, packages.

    The artefacts are held against the manifest first; a damaged image is not described.

    \b
    privml-build inspect demo-cpu
    privml-build inspect out/demo-cpu --packages
    """
    found = resolve(target)
    manifest = found.manifest()
    check_artefacts(found.directory, manifest.artefacts)
    facts = _facts(found.directory, manifest)
    if as_json:
        click.echo(pretty(facts).decode(), nl=False)
        return
    click.echo(f"{manifest.name} ({manifest.variant}), recipe {manifest.recipe_sha256}")
    for name, row in facts["artefacts"].items():
        click.echo(f"{row['sha256']}  {name}  {row['size'] / 1e6:.1f} MB")
    click.echo(f"root hash {manifest.root.root_hash.hex()}")
    for model in manifest.models:
        click.echo(f"model {model.name}, root hash {model.verity.root_hash.hex()}")
    if not manifest.models:
        click.echo("no model")
    click.echo(f"kernel {manifest.kernel}; its options:")
    for word in manifest.cmdline.split():
        click.echo(f"  {word}")
    for name, rows in facts["partitions"].items():
        click.echo(f"{name}: " + ", ".join(f"{row['name']} {row['size'] / 1e6:.1f} MB" for row in rows))
    click.echo("uki.efi: " + ", ".join(f"{row['name']} {row['size']}" for row in facts["uki"]))
    click.echo(f"{len(manifest.packages)} packages{'' if packages else ' (--packages lists them)'}")
    if packages:
        for package in manifest.packages:
            click.echo(f"  {package.name} {package.version} {package.architecture}")
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(facts["sbom"].items()))
    click.echo(f"{sbom.FILE}: {kinds or 'not there'}")


def _facts(directory: Path, manifest: Manifest) -> dict[str, Any]:
    return {
        "name": manifest.name,
        "variant": manifest.variant,
        "recipe_sha256": manifest.recipe_sha256,
        "lock_sha256": manifest.lock_sha256,
        "source_date_epoch": manifest.source_date_epoch,
        "artefacts": {name: {"sha256": a.sha256, "size": a.size} for name, a in sorted(manifest.artefacts.items())},
        "root": manifest.root.to_dict(),
        "models": [{"name": model.name, **model.verity.to_dict()} for model in manifest.models],
        "kernel": manifest.kernel,
        "options": manifest.cmdline.split(),
        "uki": [
            {"name": section.name, "size": section.virtual_size}
            for section in headers((directory / "uki.efi").read_bytes()).sections
        ],
        "partitions": {
            name: [{"name": part.name, "size": part.size} for part in partitions(directory / name)]
            for name in manifest.volumes
        },
        "packages": [list(vars(package).values()) for package in manifest.packages],
        "sbom": _sbom_kinds(directory),
    }


def _sbom_kinds(directory: Path) -> dict[str, int]:
    path = directory / sbom.FILE
    if not path.is_file():
        return {}
    parts = strictjson.loads(path.read_bytes(), what=sbom.FILE)["components"]
    return dict(Counter(part["type"] for part in parts))
