"""The error hierarchy, by who must act. Each class has its exit code.

A message says what was found and what was expected; ``hint`` says what to do next.
"""

from __future__ import annotations


class PrivmlError(Exception):
    """Base of all errors shown to users.

    ``exit_code`` is final: 1 differs, 2 usage, 3 recipe, 4 lock or inputs, 5 host or tool, 6 build,
    7 measurement, 8 refused, 9 malformed evidence, 10 accepted-simulated.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class Differs(PrivmlError):
    """Two things that must be equal are not (a rebuild, a boot against its prediction)."""

    exit_code = 1


class UsageError(PrivmlError):
    """The command line is wrong: the caller must change it."""

    exit_code = 2


class RecipeError(PrivmlError):
    """The recipe is wrong: its author must change it."""

    exit_code = 3


class InputsError(PrivmlError):
    """A lock is stale, or an input is unavailable or does not match it: lock again, or provide the bytes."""

    exit_code = 4


class HostError(PrivmlError):
    """This machine lacks something, or a tool on it failed."""

    exit_code = 5


class BuildError(PrivmlError):
    """The image could not be built from good inputs."""

    exit_code = 6


class _QuotesStrangers(PrivmlError):
    """An error whose message quotes an untrusted file: only printable text passes, and no line of the file's own."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(printable(message), hint=hint)


class MeasurementError(_QuotesStrangers):
    """A measurement cannot be computed: the artefact is malformed or not supported."""

    exit_code = 7


class Refused(PrivmlError):
    """Evidence is well-formed but not acceptable."""

    exit_code = 8


class EvidenceError(_QuotesStrangers):
    """Evidence (quote, log, attestation document) is malformed and cannot be judged."""

    exit_code = 9


def printable(text: str) -> str:
    """``text`` on one line and without control characters, safe to show on a terminal or in a log.

    Other characters are shown as Python escapes (``\\x1b``, ``\\n``, ``\\u200b``), so nothing is lost and the text
    can be written to any output.
    """
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )


EXIT_ACCEPTED_SIMULATED = 10
