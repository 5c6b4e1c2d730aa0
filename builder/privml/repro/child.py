"""One leg in its own process (``python -m privml.repro.child LEG.json``): build, predict, record the environment."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from privml.base import strictjson
from privml.base.errors import PrivmlError
from privml.base.files import write_atomic
from privml.base.steps import complain, step
from privml.image.build import build
from privml.image.order import Order
from privml.image.root import Probe
from privml.image.tools import ensure
from privml.image.volumekeys import VolumeKeys, without_given
from privml.lock.contents import digests
from privml.lock.lockfile import read_lock, read_tools_lock
from privml.lock.models import Lock, ToolsLock
from privml.output import volumekey
from privml.output.volumekey import VolumeKey
from privml.recipe.loader import load
from privml.repro import surroundings
from privml.repro.namespaces import enter
from privml.repro.surroundings import SCRIPT_CLOCK, TOOL_CLOCK, Leg
from privml.store.objects import Store
from privml.vm.predicted import ImagePredictor

OBSERVED = "observed.json"


def work(leg: Leg, keys: Sequence[VolumeKey] = ()) -> None:
    """Build the leg's image and write the observations into its workspace."""
    os.umask(leg.umask)
    if leg.processors:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: leg.processors])
    workspace = Path(leg.workspace)
    recipe = load(Path(leg.recipe))
    lock, tools_lock = read_lock(Path(leg.lock)), read_tools_lock(Path(leg.tools_lock))
    store = Store(Path(leg.store))
    volumes = VolumeKeys.of(keys, Path(leg.volumes) if leg.volumes else None)
    if leg.import_from:
        with step("Importing the inputs into an empty store"):
            needed = without_given(lock, volumes.of_volumes(recipe))
            bring_from(Store(Path(leg.import_from)), store, needed, tools_lock)
    tools = surroundings.with_clock(ensure(store, tools_lock), leg.clock)
    seen = surroundings.look_around(leg, tools)
    clocks = {TOOL_CLOCK: workspace / TOOL_CLOCK, SCRIPT_CLOCK: workspace / SCRIPT_CLOCK}
    output = Path(leg.output)
    probe = Probe(surroundings.probe_files(tools), clocks)
    order = Order(
        recipe=recipe,
        lock=lock,
        tools_lock=Path(leg.tools_lock),
        store=store,
        tools=lambda: tools,
        predictor=ImagePredictor(store.root, Path(leg.recipe).parent),
        refreshed=leg.refreshed,
        volumes=volumes,
    )
    # The file system below the output is one of the things that vary.
    build(order, output, force=True, probe=probe, in_memory=False)
    for key, place in (("tool_clock", clocks[TOOL_CLOCK]), ("script_clock", clocks[SCRIPT_CLOCK])):
        seen[key] = place.read_text(errors="replace").strip() if place.is_file() else ""
    write_atomic(workspace / OBSERVED, strictjson.pretty(seen))


def bring_from(source: Store, target: Store, lock: Lock, tools: ToolsLock) -> None:
    """Copy the locked inputs from one store to another, checking every digest."""
    for digest in sorted(digests([lock, tools])):
        if not target.has(digest):
            target.add_file(source.path(digest), expect=digest)


def main(path: str) -> int:
    """Enter the leg's namespaces and build; the exit status is that of the error, as on the command line."""
    leg = Leg.decode(Path(path).read_bytes())
    try:
        keys = volumekey.decode_all(sys.stdin.buffer.read())
        status = enter(leg.host_name or None, leg.user)
        if status is not None:
            return status if status >= 0 else 1
        work(leg, keys)
    except PrivmlError as error:
        complain(f"leg {leg.name}: {error.message}")
        if error.hint:
            complain(f"hint: {error.hint}")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
