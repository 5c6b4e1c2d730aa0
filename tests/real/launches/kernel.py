"""Compile a real kernel for an H100 with the installed Triton, launch it, and print what happened as JSON.

{"seen": what the driver saw, "programs": what was executed, "mapped": modules loaded from Triton's cache}
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import calls
import triton
import triton.language as tl


@triton.jit
def scaled(source, target, factor, count, pair, size: tl.constexpr):
    at = tl.program_id(0) * size + tl.arange(0, size)
    inside = at < count
    value = tl.load(source + at, mask=inside)
    tl.store(target + at, value * factor + pair[0] + pair[1], mask=inside)


class Tensor(calls.Tensor):
    """A tensor that the front end takes."""

    dtype = "float32"


programs: list[str] = []
sys.addaudithook(lambda event, args: programs.append(str(args[0])) if event == "subprocess.Popen" else None)
calls.prepare()
calls.cuda.record_take()
calls.cuda.record_sizes((calls.ctypes.c_int * 8)(8, 8, 4, 4, 4, 8, 8, 8), 8)
for _ in range(2):
    scaled[(5, 2, 1)](Tensor(0x1000), Tensor(0x2008), 0.75, 1000, (7, 2**40), size=128, num_warps=8)
seen = calls.cuda.record_take().decode().splitlines()
cache = os.environ["TRITON_CACHE_DIR"]
mapped = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if cache in line}
print(
    json.dumps(
        {
            "seen": seen,
            "programs": sorted({Path(program).name for program in programs}),
            "mapped": sorted(Path(path).name.partition(".")[0] for path in mapped),
        }
    )
)
