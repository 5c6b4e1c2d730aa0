"""`tests/field/run.sh`: test this host, and write one archive and one page. Nothing is sent.

Exit status: 0 if every register is the predicted one and the quote was accepted, 1 if not, 5 where no TD can run, 10
for a simulation that went as 0 would.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from pathlib import Path

from tests.field import archive, page, scrub
from tests.field.flow import LIMIT, NO_HOST, Field, Options
from tests.field.record import FAILED, NOT_RUN, Report

from privml.base.errors import EXIT_ACCEPTED_SIMULATED, PrivmlError
from privml.base.files import write_atomic

ARCHIVE = {False: "field.tar", True: "field-simulation.tar"}
PAGE = "field.html"


def main(words: list[str]) -> int:
    """Run the test that the command line asks for."""
    # A shell starts background jobs with SIGINT ignored, which the guest's process would inherit and not stop on.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    options, folder, limit = _read(words)
    folder.mkdir(parents=True, exist_ok=True)
    names = scrub.of_machine()
    with tempfile.TemporaryDirectory(prefix="privml-field.") as work:
        state = Field(options, Path(work), names, limit=limit).run()
    report = archive.listed(state.report, state.files)
    made = page.page(report)
    names.check({"field.json": report.encode(), "page.html": made.encode(), **state.files})
    name = ARCHIVE[options.simulation]
    write_atomic(folder / name, archive.encode(report, made, state.files), mode=0o600)
    write_atomic(folder / PAGE, made.encode(), mode=0o600)
    print(page.headline(report))
    print(f"wrote {folder / name} and {folder / PAGE}; docs/FIELD.md says how to send the archive")
    return status_of(report)


def status_of(report: Report) -> int:
    """The exit status."""
    predicted = report.step("predict")
    if predicted.result == FAILED:
        return predicted.status or 1
    if report.step("run").result == NOT_RUN:
        return NO_HOST
    failed = [step.name for step in report.steps if step.result == FAILED]
    # A rung that fails does not matter where a TD runs, and no simulation needs them.
    if not report.equal or set(failed) - {"doctor"}:
        return 1
    return EXIT_ACCEPTED_SIMULATED if report.simulation else 0


def _read(words: list[str]) -> tuple[Options, Path, float]:
    parser = argparse.ArgumentParser(prog="tests/field/run.sh", description=__doc__, allow_abbrev=False)
    parser.add_argument("--image", metavar="TARGET", help="a recipe's name or a built image (demo-cpu)")
    parser.add_argument("--platform", metavar="NAME", help="one of the image's platforms (the first)")
    parser.add_argument("--qemu", metavar="PATH", type=Path, help="the QEMU that the platform was learnt from")
    parser.add_argument("--quote-socket", metavar="SOCKET", help="as for `run`")
    parser.add_argument("--gpu", metavar="PCI-ADDRESS", action="append", default=[], help="as for `run`; repeatable")
    parser.add_argument("--collateral-service", metavar="URL", help="as for `verify`")
    parser.add_argument("--output", metavar="FOLDER", type=Path, default=Path("out/field"), help="(out/field)")
    parser.add_argument("--minutes", metavar="N", type=int, default=int(LIMIT / 60), help="at most so many (30)")
    parser.add_argument("--simulation", action="store_true", help="a development image outside a TD; no evidence")
    given = parser.parse_args(words)
    if not 1 <= given.minutes <= LIMIT / 60:
        parser.error(f"--minutes {given.minutes}: expected 1 to {LIMIT / 60:.0f}")
    options = Options(
        target=given.image or ("demo-cpu-dev" if given.simulation else "demo-cpu"),
        simulation=given.simulation,
        platform=given.platform,
        qemu=given.qemu,
        quote_socket=given.quote_socket,
        gpus=tuple(given.gpu),
        service=given.collateral_service,
    )
    return options, given.output, 60.0 * given.minutes


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except PrivmlError as error:
        print(f"field: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        sys.exit(error.exit_code)
