"""`model`: make the volume of a model by itself."""

from __future__ import annotations

import os
import re
from pathlib import Path

import click

from privml.base.errors import UsageError
from privml.cli import paths
from privml.cli.output import print_json, show
from privml.cli.usage import Verb
from privml.events import volumes
from privml.image import modelpack
from privml.image.workplace import Workplace
from privml.lock.modelfile import SAFETENSORS
from privml.store.pools import Pool

_NAME = re.compile(r"[a-z0-9]+(?:[.-][a-z0-9]+)*")
_MAX_NAME = 64
_EPOCH = "SOURCE_DATE_EPOCH"
_LATEST = 1 << 33


@click.group(cls=Verb, subcommand_metavar="VERB ...")
def model() -> None:
    """Make the volume of a model by itself.

    \b
    Examples:
      privml-build model pack models/tiny -o tiny.raw
      privml-build model pack models/tiny -o tiny.raw --json
    """


@model.command(short_help="Make the volume of a folder of safetensors.")
@click.argument("folder", type=paths.Existing("a folder with a model of safetensors", directory=True))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    required=True,
    help="The volume to write; there must be no file yet.",
)
@click.option(
    "--name", metavar="NAME", help="The model's name in a recipe, which seeds the volume [the folder's name]."
)
@click.option(
    "--number",
    type=click.IntRange(1, volumes.MODEL.most),
    default=1,
    show_default=True,
    help="The model's place in the recipe's list, which names the partitions.",
)
@click.option(
    "--epoch",
    type=click.IntRange(0, _LATEST),
    metavar="SECONDS",
    help=f"The time of all files, such as a lock's `source_date_epoch` [${_EPOCH}, else 0].",
)
@click.option(
    "--pool", "pools", multiple=True, metavar="DIR|URL", help="Look here first for the tools' packages; repeatable."
)
@click.option("--json", "as_json", is_flag=True, help="Print the volume and its files as JSON.")
def pack(
    folder: Path,
    *,
    output: Path,
    name: str | None,
    number: int,
    epoch: int | None,
    pools: tuple[str, ...],
    as_json: bool,
) -> None:
    """Make the volume of the model in FOLDER: an erofs filesystem under dm-verity, the same bytes each time.

    FOLDER has config.json, the tokenizer's files and *.safetensors, all of one model, and nothing else. They are
    checked as `lock` checks them: what is not a whole model is refused, as are links, folders, and files that can
    hold programs.

    `image` makes the same bytes from a recipe with these files, if name, number and epoch are those of its lock.

    \b
    Examples:
      privml-build model pack models/tiny -o tiny.raw
      privml-build model pack models/tiny -o tiny.raw --name tiny-1b --epoch 1790000000 --json
    """
    chosen = name or folder.resolve().name
    if not _NAME.fullmatch(chosen) or len(chosen) > _MAX_NAME:
        raise UsageError(
            f"got `{chosen}`, expected a model's name: lower-case letters, digits, `-` and `.`",
            hint="give it with --name",
        )
    when = _epoch() if epoch is None else epoch
    place = Workplace([Pool.parse(pool) for pool in pools])
    made = modelpack.pack(folder, output, chosen, number - 1, when, place.tools)
    if as_json:
        print_json(
            {
                "file": str(output),
                "sha256": made.sha256,
                "size": made.size,
                "name": chosen,
                "format": SAFETENSORS,
                "partition": volumes.MODEL.partition(number - 1),
                "verity": made.verity.to_dict(),
                "source_date_epoch": when,
                "licence": made.licence,
                "files": [file.model_dump(mode="json") for file in made.files],
            }
        )
        return
    for file in made.files:
        show(f"{file.sha256}  {file.path}  {file.size / 1e6:.1f} MB")
    show(f"{made.sha256}  {output}  {made.size / 1e6:.1f} MB")
    show(f"root hash {made.verity.root_hash.hex()}")


def _epoch() -> int:
    given = os.environ.get(_EPOCH, "0")
    if not re.fullmatch(r"[0-9]{1,10}", given) or int(given) > _LATEST:
        raise UsageError(f"{_EPOCH} is `{given[:40]}`, expected seconds since 1970")
    return int(given)
