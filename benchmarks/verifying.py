"""The figures of a verifier: one document warm, a file from a cold start, and the negative matrix.

`python -m benchmarks.verifying` prints these lines alone; they need no image.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import dcap_qvl
from benchmarks.measured import cpu, figure, seconds
from tests.negative import examples, forge, matrix, pki
from tests.unit import published_fake

from privml.base.files import write_atomic
from privml.client import attested
from privml.client.trust import Trust
from privml.verify.policy import Policy

POSITIONS = 250
"""Positions that are altered in each part of the evidence; `make check-full` alters all."""
_ROUNDS = 50


def run() -> None:
    """Print the lines."""
    data, quote = matrix.CARRIED, forge.Guest().quote()
    policy = Policy(allow_simulated=matrix.ROOT)
    collateral = json.dumps(pki.Platform().collateral())
    claims = dcap_qvl.QuotePolicy.claims_only(forge.NOW)

    def document() -> None:
        judgement = attested.judge(
            data, matrix.EXPECTED, policy, now=forge.NOW, nonce=forge.NONCE, tls_spki_sha256=forge.SPKI
        )
        assert judgement.keys is not None

    def library() -> None:
        given = dcap_qvl.QuoteCollateralV3.from_json(collateral)
        dcap_qvl.QuoteVerifier(matrix.ROOT).verify_with_policy(quote, given, forge.NOW, claims).to_json()

    document()
    pairs = [(_each(document), _each(library)) for _ in range(9)]
    figure("verify-document", [1000 * whole for whole, _ in pairs], 15, "ms")
    figure("verify-over-qvl", [whole / alone for whole, alone in pairs], 2, "ratio")
    folder, root = examples.FOLDER, Path(pki.__file__).parents[2] / "builder/privml/sim/pki/root.pem"
    words = (str(folder / "accepted.json"), "--expect", str(folder / "image"), "--allow-simulated", str(root))
    program = str(Path(sys.executable).with_name("privml-build"))
    figure("verify-file-cold", [cpu(program, "verify", *words, status=10) for _ in range(9)], 0.35, "s of CPU")
    _published()
    _matrix()


def _published() -> None:
    """What `--trust` adds: following the repository of one image with two versions, with its memory on a disk."""
    fake = published_fake.published()
    with tempfile.TemporaryDirectory() as folder:
        for path, data in fake.files.items():
            write_atomic(Path(folder) / path, data)
        trusted = Trust(fake.trusted, published_fake.NAME, None, folder, Path(folder))
        trusted.expected(published_fake.NOW)
        work = [_each(lambda: trusted.expected(published_fake.NOW)) for _ in range(9)]
    figure("verify-trust", [1000 * each for each in work], 25, "ms")


def _each(work: Callable[[], object]) -> float:
    return seconds(lambda: [work() for _ in range(_ROUNDS)]) / _ROUNDS


def _matrix() -> None:
    """What was tried is in the unit; the values are what went wrong."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.negative.matrix", str(POSITIONS)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    counts = dict(part.rsplit(" ", 1) for part in done.stdout.splitlines()[-1].split(", "))
    tried = f"of {counts['tried']} tried, {counts['refused']} refused"
    figure("matrix-wrong-code", [float(counts["wrong code"])], 0, tried)
    figure("matrix-wrong", [float(counts["wrong"])], 0, tried)


if __name__ == "__main__":
    run()
