"""A guest stays up, small and silent under callers of every kind (half an hour in `make check-full`)."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest
from tests.real.soak import ATTESTATION, CANARY, CRASHES, soaked

pytestmark = pytest.mark.real
SEED = 20261129


def _holding(place: Path) -> list[Path]:
    """The files below ``place`` with the canary."""
    return [path for path in place.rglob("*") if path.is_file() and CANARY.encode() in path.read_bytes()]


def test_a_guest_outlives_its_callers(full: bool) -> None:
    with soaked(1800 if full else 25, SEED) as soak:
        made = soak.guest
        print(dict(sorted(soak.seen.items())))
        assert soak.faults == []
        assert made.server.poll() is None and made.attestor.poll() is None
        assert max(soak.health) < 1.0, f"/healthz took {max(soak.health):.2f} s"
        # The canary reached the engine, so the search for it would find it.
        assert any(CANARY.encode() in body for _, _, body in made.engine.requests)
        assert _holding(made.root) == []
        for process in (made.server, made.attestor):
            for name in ("cmdline", "environ", "status", "maps"):
                assert CANARY.encode() not in Path(f"/proc/{process.pid}/{name}").read_bytes()
        # Of each kind some were answered as they must be.
        for wanted in (
            "asks: 200", "streams: 200 whole", "leaves: left", "reads_slowly: left", "is_half_open: left",
            "sends_too_much: 413", "is_malformed: 400", "attests: 200", "attests: 503", "sends_other_fields: 400",
            "asks_sealed: 200 200", "leaves_sealed: left", "seals_wrong: 400",
        ):  # fmt: skip
            assert soak.seen[wanted], wanted
        assert not [key for key in soak.seen if ": 500" in key]
        assert not soak.seen["attests: TimeoutError"], "a document or a refusal, in time"
        assert made.engine.starts == 1 + CRASHES
        assert soak.seen["asks: 503"] + soak.seen["asks: 502"], "nobody noticed that the engine exited"
        for process, sizes in soak.resident.items():
            third = len(sizes) // 3
            early, late = (statistics.median(part) for part in (sizes[third : 2 * third], sizes[-third:]))
            assert late - early < 16 << 20, f"process {process} grew by {(late - early) / (1 << 20):.1f} MiB"
        # What went to the console, and through it to whoever reads that.
        assert any("it is started again" in line for line in made.said)
        assert not [line for line in made.said if CANARY in line]
        made.wait_for(lambda: made.request("GET", "/readyz")[0] == 200, "readiness")
        made.wait_for(lambda: made.request("GET", f"{ATTESTATION}{'0a' * 32}")[0] == 200, "a document")
        for process in (made.server, made.attestor):
            process.kill()
            assert process.stderr is not None
            assert CANARY.encode() not in process.stderr.read()
