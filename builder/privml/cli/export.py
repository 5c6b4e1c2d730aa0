"""`export`: write a published version for other programs, after it was verified under a trusted root."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from privml.base.errors import Refused, UsageError
from privml.base.files import read_start, write_atomic
from privml.cli.output import show, show_text
from privml.cli.policy import policy_of
from privml.cli.trusted import TrustWords, trust_options
from privml.client import exports, exports_snp
from privml.client.exporting import Export, Target, publishable, refuse
from privml.statement.metadata import MAX_METADATA
from privml.statement.names import is_name, is_version
from privml.verify.anchor import Expected
from privml.verify.policy import Policy


@dataclass(frozen=True)
class Given:
    """What a format is written from: the verified version, and where to (None: standard output).

    ``root_sha256`` is the trusted root's, ``image`` the directory of the image itself, if it was named.
    """

    expected: Expected
    root_sha256: str
    policy: Policy
    shape: str | None
    output: Path | None
    image: Path | None


@dataclass(frozen=True)
class Format:
    """A format: a line of help, and what writes it."""

    title: str
    write: Callable[[Given], None]


def _text(target: Target[Any]) -> Format:
    """The format of a verifier that reads one file of text."""

    def write(given: Given) -> None:
        if given.image is not None:
            raise UsageError("--image is for --format oci: the other formats hold no artefacts")
        export: Export[Any] = target.accepted(given.expected, given.root_sha256, given.policy)
        if given.shape is not None:
            export = export.only(given.shape)
        if target.one_size and len(export.values) != 1:
            raise UsageError(
                f"--shape is missing: a file holds one machine size, and this version has {len(export.values)}",
                hint="one of: " + "; ".join(each.shape for each in export.values[:8]),
            )
        text = target.text(export)
        if given.output is None:
            show_text(text)
        elif given.output.is_dir():
            raise UsageError(f"--output: {given.output} is a directory, expected a file")
        else:
            write_atomic(given.output, text.encode())
            show(str(given.output))

    return Format(target.title, write)


def _oci(given: Given) -> None:
    """Write the image's files as an OCI image layout: the very ones that the publishers signed."""
    # Loaded here: both need the extra for building.
    from privml.output import manifest as manifests
    from privml.publish.oci import write_layout

    if given.image is None or given.output is None or given.shape is not None:
        raise UsageError("--format oci takes --image, the image built or fetched, and --output, a new directory")
    anchor, wrong = publishable(given.expected, given.policy)
    refuse(given.expected, [*wrong, *exports.runtime_unused(given.expected, given.policy)])
    predicate = given.expected.predicate
    manifest = manifests.read(given.image)
    if manifest.sha256 != predicate.manifest_sha256:
        raise Refused(
            f"{given.image} is not {predicate.name} {anchor.version}: its manifest has the SHA-256 "
            f"{manifest.sha256.hex()}, expected {predicate.manifest_sha256.hex()}",
            hint=f"fetch it with `privml-build image {predicate.name}@{anchor.version} --trust ROOT`",
        )
    documents = {manifests.FILE: (given.image / manifests.FILE).read_bytes()}
    digest = write_layout(given.output, given.image, manifest.artefacts, documents, anchor.version)
    show(f"{given.output}  {digest}")


_TARGETS: Mapping[str, Target[Any]] = {**exports.TARGETS, **exports_snp.TARGETS}
FORMATS: Mapping[str, Format] = {
    **{name: _text(target) for name, target in _TARGETS.items()},
    "oci": Format("the image's files, as a layout for registries", _oci),
}
"""Every format, by its name."""


@click.command()
@click.argument("wanted", metavar="NAME@VERSION")
@click.option(
    "--format",
    "form",
    required=True,
    type=click.Choice(list(FORMATS)),
    help="; ".join(f"{name}: {each.title}" for name, each in FORMATS.items()) + ".",
)
@click.option(
    "--trust",
    "root",
    metavar="ROOT",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="The root (root.json) that you trust.",
)
@trust_options
@click.option(
    "--policy",
    "policy_file",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Your policy in TOML or JSON: which versions are accepted, and what guests must be. The default is strict.",
)
@click.option("--shape", metavar="SIZE", help="Only this machine size, like `2 vcpus, 2048 MiB`.")
@click.option(
    "--image",
    metavar="DIRECTORY",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="For oci: the image, built or fetched.",
)
@click.option("-o", "--output", metavar="PATH", type=click.Path(path_type=Path), help="Write it here.")
def export(
    wanted: str,
    *,
    form: str,
    root: Path,
    trusted: TrustWords,
    policy_file: Path | None,
    shape: str | None,
    image: Path | None,
    output: Path | None,
) -> None:
    """Write the measurements of NAME@VERSION in the form of another verifier.

    The version is verified as `verify --trust` does, and refused if it does not count. The head of the file says what
    the other verifier does not check, and how such files were tried. Nothing tells that verifier of a later
    revocation: export again when the index changes. Exit status: 7 a register has no value, 8 refused.

    \b
    Examples:
      privml-build export demo-cpu@2026.11.1 --format trustee-policy \\
        --trust root.json --index https://SERVER/measurements
      privml-build export demo-cpu@2026.11.1 --format go-tdx-guest \\
        --trust root.json --shape "2 vcpus, 2048 MiB" -o check.textproto
      privml-build export demo-cpu@2026.11.1 --format go-sev-guest \\
        --trust root.json --policy policy.toml -o check.textproto
      privml-build export demo-cpu@2026.11.1 --format oci \\
        --trust root.json --image out/demo-cpu -o layout
    """
    name, _, number = wanted.partition("@")
    if not is_name(name) or not is_version(number):
        raise UsageError(f"got `{wanted[:80]}`, expected NAME@VERSION")
    expected = trusted.trust(root, wanted).expected(int(time.time()))
    assert isinstance(expected, Expected)  # one version was named
    digest = hashlib.sha256(read_start(root, MAX_METADATA)).hexdigest()
    FORMATS[form].write(Given(expected, digest, policy_of(None, policy_file), shape, output, image))
