"""The options about published measurements: where they are, and what a version must show besides its signatures.

`verify`, `proxy`, `image`, `export` and `lookup` take them from here, so that a word means the same everywhere.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from privml.base.errors import UsageError

if TYPE_CHECKING:
    from privml.client.trust import Trust


def repository_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--index` and `--trust-state`: where a repository under a trusted root is, and what was seen of it."""
    command = click.option(
        "--trust-state",
        metavar="DIR",
        type=click.Path(path_type=Path),
        help="With --trust: keep what was seen of published measurements here [$XDG_STATE_HOME/privml-build/trust].",
    )(command)
    return click.option(
        "--index",
        metavar="DIR|URL",
        help="With --trust: where the measurements are, if not in the directory of the root.",
    )(command)


def trust_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options about a published version; the command gets them as one argument, ``trusted``."""

    @functools.wraps(command)
    def collected(*positional: Any, **given: Any) -> Any:
        words = TrustWords(**{each.name: given.pop(each.name) for each in fields(TrustWords)})
        return command(*positional, trusted=words, **given)

    collected = click.option(
        "--ci-root",
        metavar="FILE",
        type=click.Path(path_type=Path),
        help="Sigstore's trusted root, for --ci. None is built in.",
    )(collected)
    collected = click.option(
        "--ci",
        metavar="OWNER/NAME[@REF]",
        help="With --trust: a workflow of this repository of GitHub's, run for exactly REF (default: the tag "
        "NAME/VERSION), must have attested the version. Needs privml-build[sigstore].",
    )(collected)
    collected = click.option(
        "--log-policy",
        metavar="FILE",
        type=click.Path(path_type=Path),
        help="With --trust: the version must be proven to be in a log of this policy (https://c2sp.org/tlog-policy).",
    )(collected)
    collected = click.option(
        "--rebuilders",
        metavar="FILE:K",
        help="With --trust: at least K of the rebuilders in this file must have got the same image.",
    )(collected)
    return repository_options(collected)


@dataclass(frozen=True)
class TrustWords:
    """The options about a published version, as they were given."""

    index: str | None
    trust_state: Path | None
    rebuilders: str | None
    log_policy: Path | None
    ci: str | None
    ci_root: Path | None

    def __post_init__(self) -> None:
        if (self.ci is None) is not (self.ci_root is None):
            raise UsageError(
                "--ci and --ci-root belong together, expected both or neither",
                hint="--ci-root is Sigstore's trusted root, for instance by `cosign trusted-root create`",
            )

    @property
    def given(self) -> list[str]:
        """The options that were given, as they are written."""
        return [f"--{each.name.replace('_', '-')}" for each in fields(self) if getattr(self, each.name) is not None]

    def trust(self, root: Path, wanted: str) -> Trust:
        """What the caller trusts: the root in a file, and NAME[@VERSION]; ``UsageError`` for what cannot be."""
        # Loaded here, because a caller who built the image needs none of it.
        from privml.client import ci, trust

        return trust.trust_of(
            root,
            wanted,
            self.index,
            state=self.trust_state,
            rebuilt=self.rebuilders,
            log_policy=self.log_policy,
            workflow=None if self.ci is None or self.ci_root is None else ci.workflow_of(self.ci, self.ci_root),
        )
