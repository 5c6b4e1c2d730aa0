"""The refusal of something published: well-formed, but not what the trusted root vouches for."""

from __future__ import annotations

from privml.base.errors import Refused, printable


class UntrustedError(Refused):
    """One reason by ``code`` (a key of `verify.check.CODES`), with what was found and what was expected."""

    def __init__(self, code: str, got: str, expected: str, *, hint: str | None = None) -> None:
        self.code = code
        self.got = printable(got)
        self.expected = printable(expected)
        super().__init__(f"{code}: got {self.got}, expected {self.expected}", hint=hint)
