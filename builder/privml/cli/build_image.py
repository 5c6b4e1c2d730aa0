"""Build an image or render its mkosi configuration, for `image`; loaded only when there may be something to do."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from privml.base.errors import BuildError, HostError, UsageError
from privml.base.steps import say
from privml.cli.output import print_json, show
from privml.image import build as room
from privml.image.order import BuildResult, Order
from privml.image.target import Target, check_output, recipes_directory, resolve
from privml.image.volumekeys import VolumeKeys
from privml.image.workplace import Workplace
from privml.lock.locate import tools_lock_path
from privml.lock.refresh import refresh_hint
from privml.store.fetch import GoneError
from privml.store.pools import Pool
from privml.vm.predicted import ImagePredictor

_ROOM = "free some space, or choose another directory with --output; `privml-build doctor` says how much is needed"


@dataclass(frozen=True)
class Asked:
    """The words of the command line: the recipe, the output folder, a lock other than the recipe's, pools, the files
    of volumes' keys, and the image whose encrypted volumes are taken.
    """

    target: str
    output: Path | None
    lock_file: Path | None
    pools: tuple[str, ...]
    key_files: tuple[Path, ...] = ()
    volumes: Path | None = None


def build(asked: Asked, *, force: bool) -> BuildResult:
    """Build the image, or find it unchanged."""
    found = _resolved(asked)
    check_output(found.directory)
    order = _order(asked, found)
    with _explained(order, found):
        built = room.build(order, found.directory, force=force)
    if order.refreshed:
        say(f"built from {asked.lock_file}, not from the committed lock, so the manifest says `refreshed`")
    return built


def render(asked: Asked, directory: Path, *, as_json: bool) -> None:
    """Write the mkosi configuration into ``directory`` and say so."""
    found = _resolved(asked)
    order = _order(asked, found)
    with _explained(order, found):
        room.render_only(order, directory)
    files = sum(path.is_file() or path.is_symlink() for path in directory.rglob("*"))
    if as_json:
        print_json({"directory": str(directory), "files": files})
    else:
        show(f"wrote {directory}")


def _resolved(asked: Asked) -> Target:
    found = resolve(asked.target, asked.output)
    if found.recipe is None:
        raise UsageError(f"`{asked.target}` is a built image", hint="give a recipe's name or file")
    return found


def _order(asked: Asked, found: Target) -> Order:
    assert found.recipe is not None
    place = Workplace([Pool.parse(pool) for pool in asked.pools], asked.lock_file)
    recipe, lock = place.recipe_and_lock(found.recipe)
    return Order(
        recipe=recipe,
        lock=lock,
        tools_lock=tools_lock_path(found.recipe, asked.lock_file),
        store=place.store,
        tools=partial(place.tools, found.recipe),
        predictor=ImagePredictor(place.store.root, recipes_directory(found)),
        refreshed=place.is_refreshed(recipe, lock),
        pools=place.pools,
        volumes=VolumeKeys.read(asked.key_files, asked.volumes),
    )


@contextlib.contextmanager
def _explained(order: Order, found: Target) -> Iterator[None]:
    """Add what to do to the errors of a full disk and of inputs that are gone."""
    try:
        yield
    except (BuildError, HostError) as error:
        if os.strerror(errno.ENOSPC) in error.message:
            raise HostError(f"{error.message}\n{_no_room(found.directory)}", hint=_ROOM) from error
        raise
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise HostError(_no_room(found.directory), hint=_ROOM) from error
    except GoneError as gone:
        gone.hint = f"give a pool that has them with --pool, or {refresh_hint(order.recipe.name, 'image')}"
        raise


def _no_room(directory: Path) -> str:
    """The error for a build that filled the file system of its output; its files are removed by then."""
    place = directory.absolute().parent
    free = shutil.disk_usage(place).free / (1 << 20) if place.is_dir() else 0
    return f"no space left on the file system of {place} while building there; {free:.0f} MiB are free again"
