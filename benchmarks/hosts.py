"""Learning a platform from a QEMU, and predicting many sizes of it from its tables."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.measured import seconds

from privml.image.target import Target
from privml.image.workplace import Workplace
from privml.machine import commandline
from privml.machine.matrix import memory_sizes, shapes, vcpu_counts
from privml.machine.platform import Platform, Size
from privml.machine.qemu import HostSide, arguments
from privml.store.objects import Store
from privml.vm import foreign
from privml.vm.learn import Learnt, learn
from privml.vm.platforms import record
from privml.vm.predicted import MachinePredictor

_PROGRAM = "usr/bin/qemu-system-x86_64"


def run(figure: Callable[[str, list[float], float, str], None], target: Target, platform: Platform) -> None:
    """Learn ``platform`` again from the tools' QEMU for the default sizes, then predict 1,000 sizes without it."""
    tools = Workplace().tools(target.recipe)
    argv = arguments(platform, Size(4, 4 << 30), HostSide("firmware.fd", kernel="uki.efi"), "tdx")

    def learnt(counts: Sequence[int], memory: Sequence[int]) -> Learnt:
        found = foreign.find(tools, tools.root / _PROGRAM)
        return learn("learnt", tools, found, commandline.read(argv, {}), (counts, memory))

    default = vcpu_counts("1..32"), memory_sizes("2GiB..512GiB")
    figure("platform-learnt", [seconds(lambda: learnt(*default)) for _ in range(3)], 10, "s")
    many = learnt(vcpu_counts("1..100"), memory_sizes("1GiB..512GiB"))
    with tempfile.TemporaryDirectory(prefix="privml-bench.") as name:
        store = Store(Path(name))
        store.add_bytes(many.tables)
        predictor = MachinePredictor(tools, store.root, target.directory, target.manifest())

        def all_of_them() -> None:
            for size in shapes("1..100", "1GiB..512GiB"):
                predictor.predict(record(many.file), size).registers()

        figure("predict-1000-learnt-sizes", [seconds(all_of_them)], 20, "s")
