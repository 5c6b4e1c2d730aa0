"""Read the GPUs of this machine as the guest does, and apply the checks of its stage `gpu`. Nothing is changed.

Prints one JSON line for each step: {"step", "result": "ok"|"failed"|"skipped", "detail"}. Needs the agent's modules
in its path and Python's standard library; `cryptography` only where confidential computing is on.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import secrets
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from privml.agent import gpuready
from privml.agent.gpucheck import GpuReader, GpuRefused
from privml.agent.nvml import Nvml
from privml.base.errors import PrivmlError
from privml.events.gpus import Gpu

LIBRARY = "libnvidia-ml.so.1"
READER = (
    "import sys\nfrom functools import partial\nfrom pathlib import Path\n"
    "from privml.agent import gpureader\nfrom privml.agent.nvml import Nvml\n"
    "sys.exit(gpureader.main(partial(gpureader.read, open_library=lambda: Nvml(Path(sys.argv[1])))))"
)


def say(step: str, result: str, detail: object) -> bool:
    """Print one step; whether it has not failed."""
    print(json.dumps({"step": step, "result": result, "detail": detail}), flush=True)
    return result != "failed"


@contextlib.contextmanager
def reader(library: Path) -> Iterator[Path]:
    """The reader's socket, with a process for each question, as systemd starts them in the guest."""
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listener:
        place = Path(folder) / "reader.sock"
        listener.bind(str(place))
        listener.listen()

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    with listener.accept()[0] as connection:
                        argv = [sys.executable, "-B", "-c", READER, str(library)]
                        subprocess.run(argv, stdin=connection.fileno(), stdout=subprocess.DEVNULL, check=False)

        threading.Thread(target=serve, daemon=True).start()
        yield place
        listener.shutdown(socket.SHUT_RDWR)


def check(place: Path, library: Path, driver: str) -> bool:
    """Read, judge as the guest does, and compare the outcome with the state that the driver reports."""
    anything = Gpu("nvidia", "hopper", 1, driver)
    found = GpuReader(place, anything).read()
    good = say("nvml", "ok", {**vars(found.state), "ready": found.ready, "persistent": found.persistent})
    gpu = Gpu("nvidia", "hopper", max(1, len(found.persistent)), driver)
    if found.state.is_confidential and importlib.util.find_spec("cryptography") is None:
        return good and say("stage", "skipped", "confidential, and this Python has no `cryptography` to check chains")
    reader = GpuReader(place, gpu)
    asked = reader.question(lambda: secrets.token_bytes(32))
    try:
        passed = [each.firmware for each in reader.check(reader.read(asked), asked)]
        outcome, detail = "passed", f"{gpu.count} x {gpu.architecture}, {', '.join(passed)}"
    except GpuRefused as refused:
        outcome, detail = refused.code, refused.message
    if found.state.is_confidential:
        # Persistence is up to whoever runs this machine; everything else must pass.
        wanted = {"passed"} if all(found.persistent) else {"gpu-persistence"}
    else:
        wanted = {"gpu-devtools"} if found.state.devtools and found.state.feature == 1 else {"gpu-cc-off"}
    good &= say("stage", "ok" if outcome in wanted else "failed", detail)
    if not found.state.is_confidential:
        with contextlib.redirect_stderr(io.StringIO()) as said:
            status = gpuready.main(lambda: Nvml(library))
        refused_it = status == 1 and "not confidential" in said.getvalue()
        good &= say("ready", "ok" if refused_it else "failed", said.getvalue().strip())
    return good


def main() -> int:
    """Find the driver's version, and check with its library: the one given, else the one in the loader's path."""
    name = sys.argv[1] if len(sys.argv) > 1 else LIBRARY
    version = Path("/sys/module/nvidia/version")
    driver = version.read_text().strip() if version.is_file() else "0.0"
    say("machine", "ok", {"library": name, "driver": driver, "python": sys.version.split()[0]})
    try:
        with reader(Path(name)) as place:
            return 0 if check(place, Path(name), driver) else 1
    except PrivmlError as error:
        say("nvml", "failed", error.message)
        return 1


if __name__ == "__main__":
    sys.exit(main())
