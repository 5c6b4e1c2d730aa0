"""`python -m tests.field.receive ARCHIVE NAME`: check a field test that was sent, and make a golden test of it.

Nothing that the archive says is believed: the signature is checked again against Intel's root, and the comparison is
made again by the code of this tree. A simulation is refused.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.field import archive, golden
from tests.field.archive import Received
from tests.field.record import BUNDLE, CAPTURE, FACTS
from tests.field.signed import origin_of

from privml.base.errors import PrivmlError, Refused, UsageError, printable
from privml.base.files import write_atomic
from privml.base.times import time_text
from privml.events.event import Evidence
from privml.events.registers import RTMRS
from privml.evidence import bundle, capture, document
from privml.evidence.bundle import Bundle
from privml.readers.replay import Replayed
from privml.verify.bare import Origin

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")


@dataclass(frozen=True)
class Accepted:
    """An archive that is evidence: the files of its golden test, its row for README, and rules to raise."""

    files: dict[str, bytes]
    row: str
    raised: tuple[str, ...]


def accept(received: Received, name: str, *, judge: Callable[[Bundle], Origin] = origin_of) -> Accepted:
    """Make a golden test of an archive; ``Refused`` if it is no evidence of a TD."""
    if not _NAME.fullmatch(name):
        raise UsageError(f"NAME `{name[:60]}`: expected lower-case letters, digits and `-`, such as spr-qemu-11")
    if received.report.simulation:
        raise Refused("a simulation: it is no evidence of hardware")
    absent = [part for part in (BUNDLE, CAPTURE, FACTS) if part not in received.files]
    if absent:
        raise Refused(f"without {', '.join(absent)} there is nothing that a TD signed")
    made = bundle.decode(received.files[BUNDLE])
    origin = judge(made)
    if origin is not Origin.GENUINE:
        raise Refused(f"the quote is {origin.value}, expected one that ends in Intel's root")
    found, parts = document.parse(made.document), capture.decode(received.files[CAPTURE]).files
    if (parts.get(capture.QUOTE), parts.get(capture.LOG)) != (found.evidence, found.bootlog):
        raise Refused(f"{CAPTURE} has another quote or log than {BUNDLE}")
    replayed = golden.replayed(received.files[CAPTURE], received.files[FACTS])
    about = {
        "received": received.sha256,
        "tool": printable(received.report.tool),
        "platform": "" if received.report.machine is None else printable(received.report.machine.platform),
        "judged_at": time_text(made.judged_at),
    }
    files = golden.files(received.files[CAPTURE], received.files[FACTS], about)
    return Accepted(files, _row(received, name, replayed), tuple(_raised(replayed)))


def _row(received: Received, name: str, replayed: Replayed) -> str:
    said = {rung.name: rung.detail for rung in received.report.rungs}
    host = "; ".join(said[rung] for rung in ("cpu", "tdx-module", "qemu") if rung in said)
    machine = received.report.machine
    what = f"{machine.platform}, {machine.vcpus} vCPUs" if machine is not None else "unknown platform"
    wrong = len(replayed.comparison.differences) + len(replayed.problems)
    state = "every event and register as predicted" if replayed.equal else f"{wrong} differences, listed in the test"
    cells = [f"{what} ({host})", f"{state}: {golden.link(name)}"]
    return f"| {' | '.join(printable(cell).replace('|', '/') for cell in cells)} |"


def _raised(replayed: Replayed) -> list[str]:
    """The rules that a real TD's log now shows, and that are not marked so yet."""
    vouched = {problem.partition(":")[0].lower() for problem in replayed.problems}
    differing = {(one.register, one.predicted) for one in replayed.comparison.differences}
    return [
        f"{event.register} {event.origin}: {event.evidence.value} -> {Evidence.HARDWARE.value}"
        for event in replayed.predicted
        if event.register in RTMRS
        and event.register not in vouched
        and event.evidence is not Evidence.HARDWARE
        and (event.register, event) not in differing
    ]


def main(words: list[str]) -> int:
    """Read the archive, write the golden test, and print what is left to do."""
    if len(words) != 2:
        raise UsageError("expected ARCHIVE NAME")
    name, folder = words[1], golden.FOLDER / words[1]
    try:
        received = archive.read(Path(words[0]))
    except OSError as error:
        raise UsageError(f"{words[0]} cannot be read: {error.strerror}") from error
    accepted = accept(received, name)
    if folder.exists():
        raise UsageError(f"{folder} is there already: choose another name")
    for file, data in accepted.files.items():
        write_atomic(folder / file, data)
    print(f"wrote {folder}; tests/golden/test_received.py runs it")
    print(f"README.md, under Intel TDX:\n{accepted.row}")
    print("rules that a real TD's log now shows (set their evidence where they are made):")
    print("\n".join(f"  {line}" for line in accepted.raised) or "  none")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except PrivmlError as error:
        print(f"receive: {error.message}", file=sys.stderr)
        sys.exit(error.exit_code)
