"""`inspect` of an image: what it contains."""

from __future__ import annotations

from privml.cli.output import print_json, show
from privml.image import sbom
from privml.image.inspection import facts_of
from privml.image.target import resolve
from privml.output import fetched
from privml.output.artefacts import check_artefacts


def inspect_image(target: str, *, packages: bool, as_json: bool) -> None:
    """Show what the image of ``target`` contains, after comparing its artefacts with its manifest."""
    found = resolve(target)
    manifest = found.manifest()
    check_artefacts(found.directory, manifest.artefacts)
    record = fetched.read(found.directory, manifest)
    facts = {**facts_of(found.directory, manifest), "fetched": None if record is None else record.to_dict()}
    if as_json:
        print_json(facts)
        return
    show(f"{manifest.name} ({manifest.variant}), recipe {manifest.recipe_sha256}")
    if record is not None:
        show(str(record))
    for name, row in facts["artefacts"].items():
        show(f"{row['sha256']}  {name}  {row['size'] / 1e6:.1f} MB")
    show(f"root hash {manifest.root.root_hash.hex()}")
    for model in manifest.models:
        show(f"model {model.name}, root hash {model.verity.root_hash.hex()}")
        show(f"  from {model.source}, licence {model.licence or 'not declared'}")
        show(f"  signed by {model.signature}" if model.signature else "  not signed")
        if model.key:
            show(f"  encrypted, with the key {model.key}")
    if not manifest.models:
        show("no model")
    for data in manifest.data:
        show(f"data {data.name}, root hash {data.verity.root_hash.hex()}")
        show(f"  from {data.source}")
        if data.key:
            show(f"  encrypted, with the key {data.key}")
    if manifest.boot_disk is not None:
        what = "the root, the models and the data" if manifest.data else "the root and the models"
        show(f"boots from {manifest.boot_disk}, which has the UKI, {what}")
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
