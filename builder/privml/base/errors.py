"""One error hierarchy, by who must act. Each class has the exit code of the command line.

A message says what was found and what was expected; ``hint`` says what to do next.
"""

from __future__ import annotations


class PrivmlError(Exception):
    """Anything that privml-build refuses or fails to do, told to a person.

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
    """The command line does not make sense: the caller must change it."""

    exit_code = 2


class RecipeError(PrivmlError):
    """The recipe is wrong: its author must change it."""

    exit_code = 3


class InputsError(PrivmlError):
    """A lock is stale, or an input is gone or is not what the lock says: relock, or bring the bytes."""

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
    """A measurement cannot be computed: the artefact is not what the calculator models."""

    exit_code = 7


class Refused(PrivmlError):
    """Evidence was readable and is not acceptable."""

    exit_code = 8


class EvidenceError(_QuotesStrangers):
    """Evidence (quote, log, attestation document) is malformed: it cannot even be judged."""

    exit_code = 9


def printable(text: str) -> str:
    """``text`` on one line and without control characters, safe to show on a terminal or in a log.

    What is not printable is shown as Python would escape it (``\\x1b``, ``\\n``, ``\\u200b``): nothing is lost, every
    output can hold it, and whoever wrote it can see what to change.
    """
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )


EXIT_ACCEPTED_SIMULATED = 10
