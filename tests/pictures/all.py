"""Every picture of the documents, by file name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from tests.pictures import boot, flow, rooms, stages, terminal

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "pictures"
RECORDING = FOLDER / "demo.txt"
PICTURES: Mapping[str, Callable[[], str]] = {
    "rooms.svg": lambda: rooms.draw().render(),
    "boot.svg": lambda: boot.draw().render(),
    "stages.svg": lambda: stages.draw().render(),
    "prompt.svg": lambda: flow.prompt().render(),
    "signers.svg": lambda: flow.signers().render(),
    # Drawn once `make recording` has kept a run of the demo; nothing of it is written by hand.
    **({"demo.svg": lambda: terminal.draw(RECORDING.read_text())} if RECORDING.is_file() else {}),
}
