"""The apt that is used for one distribution: the tools tree's, or the host's with the host's archive keyring."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from privml.base.errors import HostError
from privml.base.run import Completed, run
from privml.recipe.distributions import Distribution

# Runs a program of a tree with argv and the host directories to bind (host path -> path inside).
# Raises HostError with the program's output if it fails.
AptRun = Callable[[list[str], Mapping[str, str]], Completed]

SECONDS = 600.0
"""Longest run of apt, such as for the lists of one combination of mirrors, unless the caller says another bound."""
OPTION = "--timeout"
"""The option of `lock` that moves this bound."""


@dataclass(frozen=True)
class AptTools:
    """An apt for one distribution: how to run it, and the path of the archive keyring inside its root."""

    run: AptRun
    keyring: str
    described: str


def host_tools(distribution: Distribution, root: Path = Path("/"), *, seconds: float = SECONDS) -> AptTools:
    """The host's apt and keyring; ``HostError`` if the host lacks one of them."""
    keyring = keyring_in(root, distribution)
    missing = [name for name in ("apt-get", "gpgv") if shutil.which(name, path="/usr/bin:/bin") is None]
    if keyring is None:
        missing.append(distribution.keyring_package)
    if missing or keyring is None:
        raise HostError(
            f"no verified tools tree, and the host lacks {', '.join(missing)}",
            hint="archive signatures are always checked: install what is missing, or use a built tools tree",
        )

    def on_the_host(argv: list[str], _: Mapping[str, str]) -> Completed:
        return bounded(lambda: run(argv, timeout=seconds, what=described(argv)), described(argv), seconds)

    return AptTools(
        on_the_host,
        str(root / keyring),
        "the host's apt and archive keyring",
    )


def keyring_in(root: Path, distribution: Distribution) -> str | None:
    """The path below ``root`` of the distribution's archive keyring, if it exists."""
    return next((name for name in distribution.keyrings if (root / name).is_file()), None)


def described(argv: Sequence[str]) -> str:
    """argv of ``apt-get update``."""
    return " ".join(argv[2:4])


def bounded(call: Callable[[], Completed], what: str, seconds: float) -> Completed:
    """Call what runs a program for at most ``seconds``; at the bound, a ``HostError`` names the option for it."""
    try:
        return call()
    except HostError as error:
        if not isinstance(error.__cause__, subprocess.TimeoutExpired):
            raise
        raise HostError(
            f"{what}: not done after {seconds:g} s, expected at most that (`{OPTION}`)",
            hint=f"give it more time with `{OPTION} SECONDS`, or name another mirror in mirrors.yaml "
            "(`privml-build doctor` tests each of them)",
        ) from error
