"""The figures of a key broker: a release beyond its verdict, releases one after the other, and a long log.

`python -m benchmarks.keys` prints these lines alone; they need no image. The store is on this folder's disk, because
what a release waits for is the disk.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.measured import cpu_here, figure

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "unit"))

import broker_samples as samples

from privml.channel.kem import usable
from privml.channel.release import Request
from privml.keybroker import entry
from privml.keybroker.broker import Broker
from privml.verify.judgement import Judgement

ENTRIES = 100_000
_RELEASES = 100


def run() -> None:
    """Print the lines."""
    with tempfile.TemporaryDirectory(dir=Path(__file__).parent) as folder, samples.desk(Path(folder)) as desk:
        _releases(desk)
    _log()


def _releases(desk: samples.Desk) -> None:
    """Each for a guest of its own, with the best key that this machine has."""
    broker: Broker = desk.broker
    judging = []

    def judge(document: bytes, nonce: bytes) -> Judgement:
        start = time.perf_counter()
        found = samples.judge(document, nonce)
        judging.append(time.perf_counter() - start)
        return found

    broker.judge = judge
    requests = []
    for _ in range(_RELEASES):
        nonce = bytes.fromhex(json.loads(broker.challenge().body)["nonce"])
        document = samples.guest(*usable()).document(nonce).encode()
        requests.append(Request(nonce, document, ((samples.RESOURCE, 1),)).encode())
    whole, beyond = [], []
    for body in requests:
        start = time.perf_counter()
        answer = broker.release(body)
        whole.append(1000 * (time.perf_counter() - start))
        beyond.append(whole[-1] - 1000 * judging[-1])
        assert answer.status == 200
    figure("release-beyond-verdict", beyond, 50, "ms")
    figure("release", [sum(whole) / len(whole)], 50, "ms, one after the other: 20 a second are 50")


def _log() -> None:
    made = entry.Entry(entry.RELEASE, samples.RESOURCE, 1, (), "11" * 32, "22" * 32, "33" * 16, "44" * 32, "55" * 32)
    lines, prev = [], entry.START
    for seq in range(ENTRIES):
        lines.append(made.line(seq, prev))
        prev = entry.digest(lines[-1])
    figure("log-verify", [cpu_here(lambda: entry.check(lines)) for _ in range(3)], 5, f"s for {ENTRIES} entries")


if __name__ == "__main__":
    run()
