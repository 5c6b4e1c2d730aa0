"""`python -m tests.fuzz.search NAME SECONDS`: look for an input that breaks a parser.

With atheris (among the locked requirements, for the Pythons that it has a wheel for) inputs are found by coverage;
without it they are random changes of the seed.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path


def main() -> None:
    name, seconds = sys.argv[1], float(sys.argv[2])
    try:
        import atheris
    except ImportError:
        from tests.fuzz import targets

        print(f"{name}: {targets.run(name, seconds)} inputs by chance (no atheris)")
        return
    with atheris.instrument_imports(
        include=[
            f"privml.{room}" for room in ("measure", "evidence", "events", "lock", "channel", "keybroker", "output")
        ]
    ):
        from tests.fuzz import targets
    targets.CRASHES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="privml-fuzz.") as folder:
        # Every seed: "any-file" meets each kind, and a parser meets what it must refuse.
        for other, (seed, _) in targets.TARGETS.items():
            (Path(folder) / other).write_bytes(seed)
        for past in targets.CRASHES.glob(f"{name}.*"):
            (Path(folder) / past.name).write_bytes(past.read_bytes())
        words = [
            f"-max_total_time={int(seconds)}",
            "-max_len=65536",
            "-rss_limit_mb=2048",
            "-timeout=10",
            "-verbosity=0",
        ]
        prefix = f"-artifact_prefix={targets.CRASHES}/{name}."
        atheris.Setup([sys.argv[0], *words, prefix, folder], lambda data: targets.one_input(name, data))
        atheris.Fuzz()


if __name__ == "__main__":
    main()
