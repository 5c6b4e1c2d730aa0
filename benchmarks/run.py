"""`make bench`: one JSON line a figure; bounds are reported, never enforced.

{"name", "value", "bound", "unit", "ok", "runs"}; ratios are taken in pairs, alternating, and the median is given.
BENCH_FULL=1 adds the lines that need whole builds, one with all downloads, and the demo (about ten minutes on two
cores).
"""

from __future__ import annotations

import hashlib
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import gpus, hosts, keys, repro, sealed, site, snp, trees, verifying, volumes
from benchmarks.checkout import Checkout
from benchmarks.measured import cpu, figure, seconds

from privml.events.event import Event, Evidence
from privml.events.replay import replay
from privml.events.tcg import LogEntry, encode_log, parse_log
from privml.image.root import SOURCE, run_mkosi
from privml.image.target import recipes_directory, resolve
from privml.image.unchanged import FOLDER
from privml.image.workplace import Workplace
from privml.machine.matrix import shapes
from privml.machine.platform import Platform
from privml.measure.compare import compare
from privml.store.digests import MARGIN
from privml.vm.platforms import platform as load_platform
from privml.vm.predicted import MachinePredictor

PRIVML = str(Path(sys.executable).with_name("privml-build"))
DEMO = [sys.executable, "-m", "tests.real.demo"]


def command(*words: str) -> Callable[[], object]:
    return lambda: subprocess.run([PRIVML, *words], check=True, capture_output=True)


def image_over_mkosi(mkosi_first: bool) -> float:
    """Seconds of `image` when the root must be made from the packages, over those of mkosi alone on the same tree.

    mkosi runs with the very same files and scripts, those that `image --render-only` writes. `image` also looks at
    the tools, checks every package, keeps their tree, makes UKI, manifest, SBOM and prediction. Model and firmware
    are taken over from the output, as after any change that makes a new root.
    """
    place = Workplace()
    tools = place.tools(resolve("demo-cpu").recipe)
    with tempfile.TemporaryDirectory(prefix="privml-bench.") as name:
        mkosi, out = Path(name) / "mkosi", Path(name) / "out"
        command("image", "demo-cpu", "--render-only", str(mkosi / SOURCE))()
        image = command("image", "demo-cpu", "--output", str(out))
        image()
        (out / "root.raw").unlink()
        shutil.rmtree(place.store.root / "derived")
        before = seconds(lambda: run_mkosi(tools, place.store, mkosi)) if mkosi_first else 0.0
        whole = seconds(image)
        return whole / (before or seconds(lambda: run_mkosi(tools, place.store, mkosi)))


def first_and_next() -> tuple[float, float]:
    """Seconds of a clone's first `image`, with all downloads, and of the next one after a change in the agent."""
    with tempfile.TemporaryDirectory(prefix="privml-bench.") as name:
        checkout = Checkout.of(Path(name))
        checkout.privml("lock", "--no-fetch", "demo-cpu")
        first = seconds(lambda: checkout.privml("image", "demo-cpu"))
        checkout.change_agent("# one more line\n")
        checkout.privml("lock", "--no-fetch", "demo-cpu")
        return first, seconds(lambda: checkout.privml("image", "demo-cpu"))


def after_agent_changes(times: int) -> list[float]:
    """Seconds of each `image` after one more line in the agent; packages, tools and their tree are in the store."""
    with tempfile.TemporaryDirectory(prefix="privml-bench.") as name:
        checkout = Checkout.of(Path(name), Workplace().store.root)
        checkout.privml("lock", "--no-fetch", "demo-cpu")
        checkout.privml("image", "demo-cpu")
        taken = []
        for number in range(times):
            checkout.change_agent(f"# line {number}\n")
            checkout.privml("lock", "--no-fetch", "demo-cpu")
            taken.append(seconds(lambda: checkout.privml("image", "demo-cpu")))
        return taken


def unchanged() -> None:
    """`image` when nothing changed: the whole check, then the runs that recall it."""
    command("image", "demo-cpu")()
    notes = Workplace().store.root / FOLDER
    time.sleep(MARGIN)  # younger files are not noted

    def whole() -> float:
        shutil.rmtree(notes, ignore_errors=True)
        return seconds(command("image", "demo-cpu"))

    figure("image-checked-whole", [whole() for _ in range(5)], 0.5, "s")
    figure("image-unchanged", [seconds(command("image", "demo-cpu")) for _ in range(9)], 0.25, "s")


def thousand(predictor: MachinePredictor, platform: Platform) -> None:
    """1,000 shapes of one image whose blobs are cached. A first round over fewer shapes fills the cache."""
    distinct = shapes("1..20", "2GiB,4GiB,8GiB,16GiB,32GiB")
    for shape in distinct:
        predictor.predict(platform, shape)

    def all_of_them() -> None:
        for _ in range(10):
            for shape in distinct:
                predictor.predict(platform, shape).registers()

    figure("predict-1000-shapes", [seconds(all_of_them)], 20, "s")
    figure("predict-memory", [resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024], 250, "MB")


def log_of_500() -> Callable[[], object]:
    """Reading, replaying and comparing a log of 500 events."""
    digests = [hashlib.sha384(bytes([number % 256, number // 256])).digest() for number in range(500)]
    log = encode_log(
        [LogEntry(1 + number % 3, 4, {0x0C: digest}, b"x" * 64) for number, digest in enumerate(digests)]
    )
    predicted = [Event(str(1 + number % 3), 4, digest, "x", Evidence.SOURCE) for number, digest in enumerate(digests)]

    def work() -> None:
        entries = parse_log(log)
        replay(entries)
        compare(predicted, entries, tpm=False)

    return work


def main() -> None:
    # A program that is installed has its modules compiled.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    verifying.run()
    keys.run()
    site.run(figure)
    figure("help", [1000 * seconds(command("--help")) for _ in range(9)], 150, "ms")
    unchanged()
    target = resolve("demo-cpu")
    manifest = target.manifest()
    firmware = str(target.directory / "firmware.fd")
    starts = [(cpu(PRIVML, "measure", firmware), cpu(sys.executable, "-c", "pass")) for _ in range(9)]
    figure("measure-firmware", [whole for whole, _ in starts], 0.15, "s of CPU")
    figure("measure-firmware-over-python", [whole / bare for whole, bare in starts], 6, "ratio")
    sizes = sum((target.directory / name).stat().st_size for name in ("root.raw", "uki.efi"))
    figure("root-and-uki", [sizes / 1e6], 250, "MB")
    place = Workplace()
    platform = load_platform(manifest.platforms[0], recipes_directory(target))
    tools = place.tools(target.recipe)

    def predict() -> None:
        MachinePredictor(tools, place.store.root, target.directory, manifest).predict(platform, manifest.shapes[0])

    def digest() -> None:
        for name in ("uki.efi", "firmware.fd"):
            hashlib.sha384((target.directory / name).read_bytes()).digest()

    predict()
    # Paired: the bound is twice the digest of the same bytes plus 250 ms, so the excess over that is what is told.
    pairs = [(seconds(predict), seconds(digest)) for _ in range(9)]
    figure("predict-over-bound", [(p - 2 * d) * 1000 for p, d in pairs], 250, "ms")
    thousand(MachinePredictor(tools, place.store.root, target.directory, manifest), platform)
    hosts.run(figure, target, platform)
    snp.run(figure, target)
    figure("log-of-500-events", [1000 * seconds(log_of_500()) for _ in range(9)], 10, "ms")
    gpus.run(figure)
    sealed.run(figure)
    start_to_token = seconds(command("run", "demo-cpu", "--prompt", "The capital of France is", "--max-tokens", "1"))
    figure("start-to-first-token", [start_to_token], 30, "s")
    figure("image-agent-changed", after_agent_changes(3), 8, "s")
    trees.run(figure)
    volumes.run(figure)
    if os.environ.get("BENCH_FULL") == "1":
        repro.run(figure)
        # The order alternates, so that what warms up favours neither.
        figure("image-over-mkosi", [image_over_mkosi(first) for first in (False, True, False)], 1.05, "ratio")
        first, after_change = first_and_next()
        figure("image-cold", [first], 600, "s")
        figure("agent-change-over-cold", [after_change / first], 0.4, "ratio")
        figure("demo", [seconds(lambda: subprocess.run(DEMO, check=True, capture_output=True))], 180, "s")


if __name__ == "__main__":
    main()
