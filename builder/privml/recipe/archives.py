"""Fields of a recipe: archives that packages come from besides the base's own."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints, model_validator

from privml.engines.registry import engine_named
from privml.events.variants import PRODUCTION
from privml.recipe.added import relative
from privml.recipe.distributions import DISTRIBUTIONS, Suite
from privml.recipe.document import Path
from privml.recipe.finding import RuleBroken
from privml.recipe.section import ROOT, PackageName, Section, about, distinct, given

if TYPE_CHECKING:
    from privml.recipe.models import Content

MAX_ARCHIVES = 8
ARMOURED, BINARY = ".asc", (".gpg", ".pgp")
_OTHER_LABELS = ("hub", "local", "kept")
"""Labels of `mirrors.yaml` and of locks that are no archive's."""

ArchiveLabel = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=64)]
_Named = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.-]*(/[a-z0-9][a-z0-9.-]*)*$", max_length=64)]
_DIGITS = r"^([0-9A-Fa-f]{40}|[0-9A-Fa-f]{64})$"


def _fingerprint(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(_DIGITS, value):
        text = str(value)[:80]
        raise RuleBroken(
            "archive-keyring", f"got `{text}`, expected a whole fingerprint: 40 or 64 hex digits as text"
        )
    return value.upper()


def _keyring(value: str) -> str:
    if not value.endswith((ARMOURED, *BINARY)):
        raise RuleBroken(
            "archive-keyring",
            f"got `{value}`, expected a file that ends with {' or '.join(BINARY)} (binary), or {ARMOURED} (armoured)",
        )
    return relative(value, "archive-keyring")


class AddedArchive(Section):
    """An archive besides the base's own. Its addresses are in mirrors.yaml, by its label."""

    suite: Annotated[_Named, about("The suite, as in a line of sources.list.", "stable", ROOT)]
    components: Annotated[
        list[_Named],
        about("The suite's components; by default `main`.", "[main]", ROOT, min_length=1, max_length=16),
    ] = Field(default_factory=lambda: ["main"])
    keyring: Annotated[
        Annotated[str, StringConstraints(min_length=1, max_length=400), AfterValidator(_keyring)],
        about(
            "The file below the recipe's folder with the keys that sign the archive (apt's Signed-By): .gpg or .pgp "
            "as `gpg --export` writes it, .asc with --armor.",
            "keys/acme.gpg",
            ROOT,
        ),
    ]
    fingerprints: Annotated[
        list[Annotated[str, StringConstraints(pattern=_DIGITS), BeforeValidator(_fingerprint)]],
        about(
            "The fingerprint of each key in the keyring, without those of subkeys. No other key may be in it.",
            '["0123456789ABCDEF0123456789ABCDEF01234567"]',
            ROOT,
            min_length=1,
            max_length=16,
        ),
    ]
    pins: Annotated[
        dict[
            PackageName,
            Annotated[str, StringConstraints(pattern=r"^[0-9A-Za-z][0-9A-Za-z.+:~-]*$", max_length=100)],
        ],
        about(
            "Versions of packages, which `lock` takes instead of the newest.", '{acme: "1.2-1"}', ROOT, key="PACKAGE"
        ),
        Field(max_length=64),
    ] = Field(default_factory=dict)
    inrelease_sha256: Annotated[
        Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")] | None,
        given("64 hex digits; leave it out for an archive with Valid-Until"),
        about(
            "The SHA-256 of its InRelease file, for an archive that does not say Valid-Until, and only for one: "
            "nothing else would show that a mirror serves an old state.",
            "0" * 64,
            ROOT,
        ),
    ] = None

    @model_validator(mode="after")
    def _distinct(self) -> AddedArchive:
        distinct("component", self.components)
        distinct("fingerprint", self.fingerprints)
        return self

    def suite_of(self, label: str) -> Suite:
        """The record of its suite; the signed state may name any origin."""
        return Suite(label, self.suite, tuple(self.components), origin="")


def problems(content: Content) -> Iterator[tuple[Path, str, str]]:
    """Path, rule and text of each problem of archives, and of packages that name them."""
    distribution = content.base.record.distribution
    engine = () if content.inference is None else engine_named(content.inference.engine.name).packages
    own = {*distribution.packages.guest, *engine}
    suites = [suite for each in DISTRIBUTIONS.values() for suite in each.suites.values()]
    known = {label for suite in suites for label in (suite.archive, suite.name)}
    used = set()
    for index, text in enumerate(content.packages):
        name, _, label = text.partition("/")
        if text.startswith("file:") or not label:
            continue
        path: Path = ("packages", index)
        used.add(label)
        if label not in content.archives:
            among = ", ".join(content.archives) or "none"
            yield path, "", f"got `{text}`, but the recipe has no archive `{label}`; its archives: {among}"
        elif distribution.kernel.is_kernel(name):
            yield path, "", f"got `{text}`, expected no package of a kernel: the guest's is in `kernel.package`"
        elif name in own:
            yield path, "", f"got `{text}`, which would replace the guest's own package `{name}`"
        elif content.variant == PRODUCTION and name in distribution.packages.forbidden:
            yield path, "", f"got `{text}`, expected none of {', '.join(distribution.packages.forbidden)}"
    for label in content.archives:
        if label in known or label in _OTHER_LABELS:
            yield ("archives", label), "archive-label", f"`{label}` is the label of something else; choose another"
        elif label not in used:
            yield (
                ("archives", label),
                "archive-unused",
                f"no package comes from it; name one in `packages` as NAME/{label}, or leave the archive out",
            )
