"""Options of every verb that judges a guest: the trust anchor, the policy, and where collateral comes from."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import click

from privml.base.errors import Refused, UsageError
from privml.base.files import read_start
from privml.base.strictjson import MAX_BYTES, loads
from privml.cli import paths
from privml.cli.demonstration import demonstration_option
from privml.cli.policy import policy_of, policy_options
from privml.cli.trusted import TrustWords, trust_options
from privml.client import anchors
from privml.client.attested import Collateral
from privml.client.supply import SERVICE, supply
from privml.evidence.tees import read_collateral
from privml.verify import publication
from privml.verify.anchor import Anchored, Candidates, is_demonstration
from privml.verify.policy import Policy
from privml.verify.publication import DemonstrationCase

_IMAGE = paths.Existing("the directory of a built image", directory=True)
_EXPECT = "The directory of an image that you built, with its prediction.json."


def refuse_demonstration(found: Anchored, policy: Policy) -> None:
    """``Refused`` if the images are published as a demonstration and ``policy`` allows none."""
    for each in found.versions if isinstance(found, Candidates) else (found,):
        case = DemonstrationCase(is_demonstration(each.anchor), policy.allow_demonstration)
        for reason in publication.demonstration(case):
            raise Refused(
                f"{reason.code}: {publication.demonstration.codes[reason.code]}: got {reason.got}, expected "
                f"{reason.expected}",
                hint="`--allow-demonstration` accepts it, as a simulation",
            )


def anchor_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--expect`, the policy's options and those for collateral; the command gets them as ``criteria``."""
    return _with_options(
        command,
        click.option(
            "--expect",
            metavar="DIRECTORY",
            type=_IMAGE,
            callback=lambda _, __, found: () if found is None else (found,),
            help=_EXPECT,
        ),
    )


def anchors_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """As `anchor_options`, and `--expect` can be repeated: a guest may be any of these images."""
    several = f"{_EXPECT} Repeat it where guests of several images are served."
    return _with_options(
        command, click.option("--expect", metavar="DIRECTORY", type=_IMAGE, multiple=True, help=several)
    )


def _with_options(command: Callable[..., Any], expect: Callable[..., Any]) -> Callable[..., Any]:

    @functools.wraps(command)
    def collected(*positional: Any, **given: Any) -> Any:
        words = CriteriaWords(**{each.name: given.pop(each.name) for each in fields(CriteriaWords)})
        return command(*positional, criteria=words, **given)

    made = policy_options(collected)
    made = click.option(
        "--offline", is_flag=True, help="Fetch no collateral: use the cache's, or else the document's."
    )(made)
    made = click.option(
        "--collateral-service",
        "service",
        metavar="URL",
        envvar=SERVICE,
        help=f"Fetch collateral from this PCCS instead of Intel's service [${SERVICE}].",
    )(made)
    made = click.option(
        "--collateral",
        "collateral_file",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="Use the collateral in this file (the nine fields of Intel's QVL, or AMD's two), and fetch none.",
    )(made)
    made = trust_options(made)
    for option in (
        demonstration_option,
        click.option(
            "--trust",
            nargs=2,
            metavar="ROOT NAME[@VERSION]",
            help="Rely on measurements that others published, under their root (root.json), instead of --expect.",
        ),
        expect,
    ):
        made = option(made)
    return made


@dataclass(frozen=True)
class AnchorWords:
    """The options that name an anchor, as they were given. ``expect`` is empty if others published the image."""

    expect: tuple[Path, ...]
    trust: tuple[str, str] | None
    trusted: TrustWords

    def __post_init__(self) -> None:
        if (not self.expect) is (self.trust is None):
            raise UsageError(
                "the option `--expect` or `--trust` is missing"
                if not self.expect
                else "--expect and --trust are both given, expected one",
                hint="--expect DIRECTORY for an image that you built, --trust ROOT NAME for one that is published",
            )
        if self.expect and (wrong := self.trusted.given):
            raise UsageError(f"{wrong[0]} is for published measurements: it needs --trust")

    def source(self) -> Callable[[int], Anchored]:
        """What gives the expected measurements at a time (Unix seconds)."""
        if self.expect:
            built = tuple(map(anchors.built, self.expect))
            found = built[0] if len(built) == 1 else anchors.told_apart(built)
            return lambda _: found
        assert self.trust is not None
        root, wanted = self.trust
        return self.trusted.trust(Path(root), wanted).expected

    @property
    def wanted(self) -> tuple[str, str | None]:
        """The name and version that `--trust` asks for."""
        name, _, version = ("" if self.trust is None else self.trust[1]).partition("@")
        return name, version or None


@dataclass(frozen=True)
class CriteriaWords:
    """The options by which a guest is judged, as they were given (`anchor_options`)."""

    expect: tuple[Path, ...]
    trust: tuple[str, str] | None
    trusted: TrustWords
    allow_demonstration: bool
    policy_file: Path | None
    no_relaxations: bool
    simulated_root: Path | None
    collateral_file: Path | None
    service: str | None
    offline: bool

    def anchor(self) -> AnchorWords:
        """The anchor's options; ``UsageError`` unless exactly one anchor is named."""
        return AnchorWords(self.expect, self.trust, self.trusted)

    def policy(self) -> Policy:
        """The caller's policy."""
        return policy_of(
            self.simulated_root,
            self.policy_file,
            no_relaxations=self.no_relaxations,
            allow_demonstration=self.allow_demonstration,
        )

    def collateral(self, policy: Policy, *, file: bool = False, past: bool = False) -> Collateral | None:
        """Where collateral comes from (`collateral_of`); for a ``file``, from no network but a named service."""
        offline = self.offline or (file and not self.service)
        return collateral_of(self.collateral_file, self.service, offline=offline, policy=policy, past=past)


def collateral_of(
    path: Path | None, service: str | None, *, offline: bool, policy: Policy, past: bool = False
) -> Collateral | None:
    """Where collateral comes from: a file; the cache; and the service, by default Intel's, unless ``offline``.

    With ``past``, the evidence is judged as of another time than now, so neither cache nor service is used. Whatever
    it is, it is checked against Intel's root.
    """
    given = collateral_in(path)
    return given if past else supply(service, offline=offline, policy=policy, given=given)


def collateral_in(path: Path | None) -> dict[str, str] | None:
    """The collateral in a file: the nine fields for a quote, or those for an SNP report; None without one."""
    if path is None:
        return None
    what = f"--collateral {path.name}"
    return read_collateral(loads(read_start(path, MAX_BYTES), what=what), what)
