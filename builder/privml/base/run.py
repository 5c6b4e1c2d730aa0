"""Run a command and wait for it; all commands are run by this function.

argv is a list, never a shell line. The environment is built from scratch, so the caller's does not leak into an
artefact. Output is captured and shown only if the command fails (or streamed with ``verbose``).
"""

from __future__ import annotations

import logging
import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from privml.base.errors import HostError, PrivmlError

log = logging.getLogger("privml")

BASE_ENVIRONMENT = {
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
    "LC_ALL": "C.UTF-8",
    "TZ": "UTC",
    "PYTHONHASHSEED": "0",
    "PYTHONDONTWRITEBYTECODE": "1",
}
_TAIL = 200


@dataclass(frozen=True)
class Completed:
    """Result of a command: its status and complete outputs."""

    returncode: int
    stdout: bytes
    stderr: bytes


def run(
    argv: Sequence[str | os.PathLike[str]],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: bytes | None = None,
    timeout: float | None = None,
    check: bool = True,
    what: str | None = None,
    error: type[PrivmlError] = HostError,
    hint: str | None = None,
) -> Completed:
    """Run ``argv`` with ``BASE_ENVIRONMENT`` plus ``env``, umask 022 and no terminal, and wait for it.

    ``what`` names the work in the error. Raises ``error`` when the program is missing, times out, or (with
    ``check``) exits with anything but 0; the message carries the last 200 lines of its output. If the output names a
    cause that lies in this machine (`base.causes`), ``HostCause`` is raised instead.
    """
    words = [os.fspath(word) for word in argv]
    name = what or Path(words[0]).name
    log.debug("run: %s", shlex.join(words))
    try:
        done = subprocess.run(
            words,
            env={**BASE_ENVIRONMENT, **(env or {})},
            cwd=cwd,
            input=stdin if stdin is not None else b"",
            capture_output=True,
            timeout=timeout,
            check=False,
            umask=0o022,
        )
    except FileNotFoundError as missing:
        raise error(f"{name}: `{missing.filename or words[0]}` not found", hint=hint) from missing
    except PermissionError as denied:
        raise error(f"{name}: `{words[0]}` may not be run: {denied.strerror}", hint=hint) from denied
    except OSError as refused:
        raise error(f"{name}: `{words[0]}` cannot be run: {refused.strerror}", hint=hint) from refused
    except subprocess.TimeoutExpired as late:
        raise error(f"{name}: timed out after {timeout:g} s\n{_tail(late.stdout, late.stderr)}", hint=hint) from late
    if done.stderr:
        log.debug("%s", done.stderr.decode("utf-8", "replace").rstrip("\n"))
    if check and done.returncode != 0:
        from privml.base import causes  # only a failure needs it, and the guest starts without

        if cause := causes.found_in(done.stdout + done.stderr):
            text = f"{name}: {cause.meaning()}\n{_tail(done.stdout, done.stderr)}".rstrip()
            raise causes.HostCause(cause.id, text, hint=cause.remedy)
        status = f"signal {-done.returncode}" if done.returncode < 0 else f"status {done.returncode}"
        raise error(f"{name} failed with {status}\n{_tail(done.stdout, done.stderr)}".rstrip(), hint=hint)
    return Completed(done.returncode, done.stdout, done.stderr)


def _tail(*outputs: bytes | None) -> str:
    text = "\n".join((out or b"").decode("utf-8", "replace").rstrip() for out in outputs if out)
    lines = text.splitlines()
    if len(lines) > _TAIL:
        lines = [f"[{len(lines) - _TAIL} lines left out]", *lines[-_TAIL:]]
    return "\n".join("  | " + line for line in lines)
