"""Check that a change which endorses a published version does only that.

Reads `git diff --name-status --no-renames -z BASE HEAD` from standard input. A change that touches an endorsement may
add files of one rebuilder, and nothing else, so that a maintainer can merge it after `publish check` without a review
of code. Standard library only, because it runs on what a stranger sent.
"""

from __future__ import annotations

import re
import sys

_ENDORSEMENT = re.compile(r"measurements/(?:[^/]+/)+endorsements/(?P<who>[a-z0-9][a-z0-9-]*)\.dsse\.json")
_TOUCHES = re.compile(r"measurements/(?:.*/)?endorsements/")


def findings(changes: list[tuple[str, str]]) -> list[str]:
    """What is wrong with a change, given as status letter and path of each file; empty if nothing is."""
    if not any(_TOUCHES.match(path) for _, path in changes):
        return []
    wrong, who = [], set()
    for status, path in changes:
        match = _ENDORSEMENT.fullmatch(path)
        if match is None:
            wrong.append(f"{path}: not an endorsement, expected a change of its own for it")
        elif status != "A":
            wrong.append(f"{path}: changed or removed, expected only new endorsements")
        else:
            who.add(match["who"])
    if len(who) > 1:
        wrong.append(f"endorsements by {', '.join(sorted(who))}: expected those of one rebuilder")
    return wrong


def changes_in(data: bytes) -> list[tuple[str, str]]:
    """The status letter and path of each file in the output of `git diff --name-status -z`."""
    words = data.decode("utf-8", "surrogateescape").split("\0")[:-1]
    return list(zip(words[::2], words[1::2], strict=True))


if __name__ == "__main__":
    found = findings(changes_in(sys.stdin.buffer.read()))
    sys.stdout.write("".join(f"{line.encode('unicode_escape').decode()}\n" for line in found))
    sys.exit(1 if found else 0)
