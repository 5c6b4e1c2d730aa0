"""Digests of code: the same by every Python, and only of what runs."""

from __future__ import annotations

from privml.image import code

# Each kind of node whose form `ast.dump` changed after Python 3.11, and some others.
SOURCE = b'''import os
class A(B, k=1):
    """Doc."""
    x: int = 3
    @p
    def f(self, a, /, *b, c=None, **d) -> "x":
        return f"{a!r:>{c}} and {b}" if a else [i async for i in d]
async def g(): pass
match x:
    case {"a": 1, **r} | [1, *_]: del r
try:
    pass
except* E as e:
    raise
with a as b: lambda: (yield)
'''


def test_the_digest_is_the_same_by_every_python() -> None:
    """As by Python 3.11, whose `ast.dump` it was first made of: records of drivers are named by it."""
    assert code.digest(SOURCE) == "3a8b30ab20f21317fd2244df45820adf70fcf30234bbe29d7ab5f65193438a57"


def test_only_what_runs_counts() -> None:
    assert code.digest(SOURCE.replace(b"Doc.", b"Other.") + b"# a comment\n") == code.digest(SOURCE)
    assert code.digest(SOURCE.replace(b"x: int = 3", b"x: int = 4")) != code.digest(SOURCE)
    assert code.digest(SOURCE.replace(b"except*", b"except")) != code.digest(SOURCE)
