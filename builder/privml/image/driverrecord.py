"""``measurements/drivers/DIGEST.json``: the modules that the inputs with this digest give, compiled twice.

`python -m privml.image.driverrecord RECIPE` compiles the locked driver of a recipe twice and writes its record.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
import time
from pathlib import Path

from privml.base import strictjson
from privml.base.errors import BuildError, Differs, UsageError
from privml.base.files import write_atomic
from privml.base.steps import say
from privml.image.driver import Modules, compiled_and_checked, inputs_of, keep, key
from privml.image.tools import ToolsTree
from privml.image.workplace import Workplace
from privml.lock.contents import debs
from privml.lock.lockfile import read_lock
from privml.lock.make import bring
from privml.lock.models import Driver
from privml.recipe.loader import find, load, shipped
from privml.store.objects import Store

FORMAT = "privml-driver/v1"
FOLDER = Path("measurements") / "drivers"
_MAX_FILE = 1 << 20


def compare(driver: Driver, modules: Modules) -> None:
    """Raise ``BuildError`` if there is a record of these inputs, and it has other modules."""
    wanted = recorded(driver)
    if wanted is None:
        say(f"driver: there is no {FOLDER}/{key(driver)}.json to compare with")
        return
    got = digests_of(modules)
    if got != wanted:
        lines = [
            f"  {name}: got {got.get(name, 'none')}, recorded {wanted.get(name, 'none')}"
            for name in sorted(got.keys() | wanted.keys())
            if got.get(name) != wanted.get(name)
        ]
        raise BuildError(
            f"driver-record: the inputs of {FOLDER}/{key(driver)}.json gave other modules:\n" + "\n".join(lines),
            hint="the compilation is not reproducible on this machine, or the record is wrong: build with --force",
        )


def recorded(driver: Driver) -> dict[str, str] | None:
    """The recorded SHA-256 of each module that these inputs give; None if there is no record."""
    for folder in (FOLDER, shipped().parent / FOLDER):
        path = folder / f"{key(driver)}.json"
        if path.is_file():
            return decode(path.read_bytes(), driver, str(path))
    return None


def decode(data: bytes, driver: Driver, what: str) -> dict[str, str]:
    """The SHA-256 of each module in a record; ``EvidenceError`` if it is malformed, or of other inputs."""
    top = strictjson.Fields(strictjson.loads(data, what=what, limit=_MAX_FILE), what)
    top.text("format", one_of=(FORMAT,))
    inputs = top.fields("inputs")
    for name, value in inputs_of(driver).items():
        inputs.text(name, one_of=(value,))
    inputs.end()
    outputs = top.fields("outputs")
    found = {}
    for name in sorted(outputs.names()):
        inner = outputs.fields(name)
        found[name] = inner.hexadecimal("sha256", 32).hex()
        inner.integer("size")
        inner.end()
    top.array("symbols")
    top.integer("seconds")
    top.end()
    return found


def encode(driver: Driver, modules: Modules, symbols: tuple[str, ...], seconds: int) -> bytes:
    """The content of the file."""
    return strictjson.pretty(
        {
            "format": FORMAT,
            "inputs": inputs_of(driver),
            "outputs": {
                name: {"sha256": digest, "size": len(modules[name])} for name, digest in digests_of(modules).items()
            },
            "symbols": list(symbols),
            "seconds": seconds,
        }
    )


def digests_of(modules: Modules) -> dict[str, str]:
    """The SHA-256 of each module."""
    return {name: hashlib.sha256(data).hexdigest() for name, data in sorted(modules.items())}


def record(driver: Driver, store: Store, tools: ToolsTree, work: Path) -> bytes:
    """Compile twice in ``work``, keep the modules in the store, and encode the record; ``Differs`` if they differ."""
    started = time.monotonic()
    one, symbols = compiled_and_checked(driver, store, tools, work / "one")
    seconds = round(time.monotonic() - started)
    two, _ = compiled_and_checked(driver, store, tools, work / "two")
    if one != two:
        names = ", ".join(sorted(name for name in one if one[name] != two.get(name)))
        raise Differs(f"driver: two compilations of the same inputs gave different {names}")
    keep(driver, one, store, work / "modules.tar")
    return encode(driver, one, symbols, seconds)


def main(target: str) -> None:
    """Write the record of the locked driver of a recipe."""
    recipe = load(find(target))
    lock = read_lock(recipe.lock_path)
    if lock.driver is None:
        raise UsageError(f"{recipe.name} has no GPU, so its lock has no driver")
    place = Workplace()
    bring(place.store, debs(lock))
    with tempfile.TemporaryDirectory(prefix="privml-driver.") as folder:
        data = record(lock.driver, place.store, place.tools(recipe.path), Path(folder))
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"{key(lock.driver)}.json"
    write_atomic(path, data)
    say(f"wrote {path}")


if __name__ == "__main__":
    main(*sys.argv[1:])
