"""A failed command's output is read for causes that lie in the machine, whatever error class the caller expects."""

from __future__ import annotations

import sys

import pytest

from privml.base.causes import CAUSES, HostCause, found_in
from privml.base.errors import BuildError
from privml.base.run import run

PRINTED = {
    "full": [
        b"cp: error writing '/x': No space left on device",
        b"E: Write error - write (28: No space left on device)",
        b"OSError: [Errno 28] No space left on device: '/tmp/a'",
    ],
    "quota": [b"tar: x: Cannot write: Disk quota exceeded"],
    "read-only": [b"mkdir: cannot create directory 'x': Read-only file system"],
    "namespaces": [
        b"unshare: unshare failed: Operation not permitted",
        b"mkosi was forbidden to unshare namespaces: [Errno 1] Operation not permitted",
        b"a mount namespace cannot be made: Operation not permitted",
    ],
}


@pytest.mark.parametrize(("cause", "line"), [(cause, line) for cause, lines in PRINTED.items() for line in lines])
def test_a_cause_is_recognised_in_any_program_s_output(cause: str, line: bytes) -> None:
    code = f"import sys; sys.stderr.buffer.write({b'first' + bytes([10]) + line!r}); sys.exit(100)"
    with pytest.raises(HostCause) as caught:
        run([sys.executable, "-c", code], what="the tool", error=BuildError, hint="read the recipe")
    assert caught.value.exit_code == 5
    assert caught.value.cause == cause
    assert caught.value.message.startswith("the tool: ")
    assert line.decode() in caught.value.message
    assert caught.value.hint != "read the recipe"


def test_each_cause_has_samples() -> None:
    assert list(PRINTED) == [cause.id for cause in CAUSES]


@pytest.mark.parametrize("output", [b"", b"E: Unable to locate package x", b"chown: Operation not permitted"])
def test_other_failures_keep_their_error(output: bytes) -> None:
    assert found_in(output) is None
    code = f"import sys; sys.stdout.buffer.write({output!r}); sys.exit(1)"
    with pytest.raises(BuildError, match="failed with status 1"):
        run([sys.executable, "-c", code], what="the tool", error=BuildError)


def test_a_command_that_succeeds_may_print_anything() -> None:
    assert run([sys.executable, "-c", "print('No space left on device')"]).returncode == 0
