"""`inspect`: show what a built image contains."""

from __future__ import annotations

import click

from privml.cli.completion import TARGET
from privml.cli.output import print_json, show
from privml.image import sbom
from privml.image.inspection import facts_of
from privml.image.target import resolve
from privml.output.artefacts import check_artefacts


@click.command()
@click.argument("target", type=TARGET)
@click.option("--packages", is_flag=True, help="List every package.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def inspect(target: str, *, packages: bool, as_json: bool) -> None:
    """Show what an image contains: artefacts, root hash, kernel options, UKI sections, partitions, packages.

    TARGET is a recipe's name or the directory of a built image. The artefacts are compared with the manifest first; a
    damaged image is an error.

    \b
    Examples:
      privml-build inspect demo-cpu
      privml-build inspect out/demo-cpu --packages
    """
    found = resolve(target)
    manifest = found.manifest()
    check_artefacts(found.directory, manifest.artefacts)
    facts = facts_of(found.directory, manifest)
    if as_json:
        print_json(facts)
        return
    show(f"{manifest.name} ({manifest.variant}), recipe {manifest.recipe_sha256}")
    for name, row in facts["artefacts"].items():
        show(f"{row['sha256']}  {name}  {row['size'] / 1e6:.1f} MB")
    show(f"root hash {manifest.root.root_hash.hex()}")
    for model in manifest.models:
        show(f"model {model.name}, root hash {model.verity.root_hash.hex()}")
        show(f"  from {model.source}, licence {model.licence or 'not declared'}")
    if not manifest.models:
        show("no model")
    show(f"kernel {manifest.kernel}; its options:")
    for word in manifest.cmdline.split():
        show(f"  {word}")
    for name, rows in facts["partitions"].items():
        show(f"{name}: " + ", ".join(f"{row['name']} {row['size'] / 1e6:.1f} MB" for row in rows))
    show("uki.efi: " + ", ".join(f"{row['name']} {row['size']}" for row in facts["uki"]))
    show(f"{len(manifest.packages)} packages{'' if packages else ' (--packages lists them)'}")
    if packages:
        for package in manifest.packages:
            show(f"  {package.name} {package.version} {package.architecture}")
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(facts["sbom"].items()))
    show(f"{sbom.FILE}: {kinds or 'not there'}")
