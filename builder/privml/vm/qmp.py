"""A minimal QMP client (QEMU docs/interop/qmp-spec): one command at a time, events skipped."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import Any

from privml.vm.unixsocket import connected


class Qmp:
    """A connection to QEMU's monitor socket; ``ValueError`` if QEMU answers a command with an error."""

    def __init__(self, path: Path, timeout: float = 30) -> None:
        self._socket = connected(path, timeout)
        self._file = self._socket.makefile("rwb")
        self._read()
        self.command("qmp_capabilities")

    def command(self, name: str, **arguments: Any) -> Any:
        """Run a command and return its result."""
        self._file.write(json.dumps({"execute": name, "arguments": arguments}).encode() + b"\n")
        self._file.flush()
        while True:
            answer = self._read()
            if "error" in answer:
                raise ValueError(f"QMP {name}: {answer['error'].get('desc')}")
            if "return" in answer:
                return answer["return"]

    def _read(self) -> dict[str, Any]:
        line = self._file.readline()
        if not line:
            raise OSError("QEMU closed its monitor")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """Close the connection; QEMU keeps running."""
        self._file.close()
        self._socket.close()

    def __enter__(self) -> Qmp:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
