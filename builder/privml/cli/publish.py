"""`publish`: sign an image's measurements, and say which versions count."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from privml.base.errors import UsageError
from privml.base.steps import say
from privml.base.times import seconds_of
from privml.cli import paths
from privml.cli.completion import TARGET
from privml.cli.output import ask_secret, print_json, show
from privml.cli.published import check, folder_option, site
from privml.cli.usage import Verb
from privml.cli.volumekeys import volume_key_option
from privml.image.target import OUT, resolve
from privml.image.volumekeys import VolumeKeys
from privml.image.workplace import Workplace
from privml.output import manifest as manifests
from privml.output.manifest import Manifest
from privml.output.memory import Memories
from privml.output.repository import fetch_from
from privml.publish import changes, legs, roles, signer
from privml.publish import demonstration as whole
from privml.publish.artefacts import Filling, check_image
from privml.publish.changes import Files, Place
from privml.publish.signing import Proposal, Signing
from privml.statement import follow
from privml.statement.index import State

_VERSION = "version"


class _NamesFirst(Verb):
    """A group whose first word may be an image's name instead of a verb: then its version is published."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The verb, or the publication of a version."""
        if args and not args[0].startswith("-") and args[0] not in self.list_commands(ctx):
            args = [_VERSION, *args]
        return super().resolve_command(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The verbs, without the one that has no word."""
        return [name for name in super().list_commands(ctx) if name != _VERSION]


@click.group(cls=_NamesFirst, subcommand_metavar="NAME | VERB ...")
def publish() -> None:
    """Publish an image's measurements: build it twice, sign what both agree on, and say which versions count.

    NAME is a recipe. A project's measurements are a folder with TUF metadata, which any static server or git
    repository serves; `verify --trust` relies on them. `publish root` begins one. What is published never changes;
    only its state does.

    \b
    Examples:
      privml-build publish root roles.toml --key ann.pem --key ben.pem \\
        --key online.pem
      privml-build publish demo-cpu --version 2026.11.1 --key ann.pem \\
        --key ben.pem --key online.pem
      privml-build publish state demo-cpu@2026.11.1 revoked \\
        --reason "CVE-2026-1" --key ann.pem --key ben.pem --key online.pem
      privml-build publish artefacts demo-cpu@2026.11.1 pool
      privml-build publish refresh --key online.pem
      privml-build publish check
      privml-build publish site public
    """


def _options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--in`, `--key`, `--propose` and `--json` to a verb that changes a repository."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print the written paths as JSON."),
        click.option(
            "--propose",
            "proposed",
            metavar="DIR",
            type=click.Path(file_okay=False, path_type=Path),
            help="Collect signatures in this folder, from one person after the other; the last one's completes it.",
        ),
        click.option(
            "--key",
            "keys",
            metavar="URI",
            multiple=True,
            help="A private key to sign with: a file in PEM or OpenSSH's format, or pkcs11:... (docs/PUBLISHING.md). "
            "Give each that is needed.",
        ),
        folder_option,
    ):
        command = option(command)
    return command


def _place(folder: Path, keys: tuple[str, ...], proposed: Path | None = None) -> tuple[Place, Proposal | None]:
    signers, now = [signer.load(key, ask_secret) for key in keys], int(time.time())
    if proposed is None:
        return Place(folder, Signing(signers), now, Memories()), None
    proposal = Proposal.open(proposed, now)
    return Place(folder, Signing(signers, proposal.files, partial=True), proposal.at, Memories()), proposal


def _write(at: tuple[Place, Proposal | None], files: Files, unchanged: str, *, as_json: bool) -> None:
    """Write a change and list its files, or keep what was signed of a proposal and say what is missing."""
    place, proposal = at
    missing = place.signing.missing
    if proposal is not None and files and missing:
        proposal.keep(files)
    elif files:
        place.write(files)
        if proposal is not None:
            proposal.remove()
    _say(at, files, unchanged, as_json=as_json)


def _say(at: tuple[Place, Proposal | None], files: Files, unchanged: str, *, as_json: bool) -> None:
    """List the files of a change, or say what is missing."""
    place, proposal = at
    missing = place.signing.missing
    if as_json:
        print_json({"written": [] if missing else sorted(files), "missing": missing, "notes": place.notes})
    else:
        if missing and proposal is not None:
            show(f"{proposal.folder}: signed, and not complete yet", *(f"  {line}" for line in missing))
        elif files:
            show(*(f"{place.folder / path}" for path in files))
        else:
            show(unchanged)
        for note in place.notes:
            show(f"warning: {note}", err=True)


@publish.command(_VERSION, hidden=True)
@click.argument("target", metavar="NAME", type=TARGET)
@click.option("--version", "number", metavar="V", required=True, help="The version, like 2026.11.1.")
@click.option("--serial", type=click.IntRange(min=1), help="Its serial, instead of the next one.")
@click.option(
    "--artefacts",
    "pool",
    metavar="DIR|URL",
    help="Also put the image's artefacts into this pool, from which others fetch them (`image --trust`).",
)
@volume_key_option
@_options
def version(
    target: str,
    *,
    number: str,
    serial: int | None,
    pool: str | None,
    key_files: tuple[Path, ...],
    folder: Path,
    keys: tuple[str, ...],
    proposed: Path | None,
    as_json: bool,
) -> None:
    """Build NAME twice from committed sources, and publish what both builds agree on as version V.

    Needed are the keys of enough publishers of the image and the online key. Exit status: 1 the builds differ, 4 the
    lock is stale or inputs are gone, 7 there is no prediction, 8 the sources are not committed, the image is for
    development or has a register without a value, or the version is there with other bytes.

    \b
    Examples:
      privml-build publish demo-cpu --version 2026.11.1 --key ann.pem \\
        --key ben.pem --key online.pem --artefacts pool
    """
    filled = None if pool is None else Filling.parse(pool)
    at = _place(folder, keys, proposed)
    place = at[0]
    found = resolve(target)
    name = target if found.recipe is None else found.recipe.name.removesuffix(".yaml")
    changes.wanted_version(f"{name}@{number}")
    changes.can_publish(place, name)  # before the builds, which take minutes
    apart = [each for each in (folder, proposed, None if filled is None else filled.folder) if each is not None]

    def put(image: Path, manifest: Manifest) -> None:
        if filled is not None:
            copied, size = filled.fill(image, manifest, number)
            say(f"{filled.shown}: {len(manifest.artefacts)} artefacts, {copied} of them new ({size / 1e6:.1f} MB)")

    build = legs.build_twice(Workplace(), found, apart, put, VolumeKeys.read(key_files, None))
    files = changes.new_version(place, name, number, build, serial)
    _write(at, files, f"{name} {number} is published already, with the same bytes", as_json=as_json)


@publish.command()
@click.argument("wanted", metavar="NAME@VERSION")
@click.argument("pool", metavar="POOL")
@click.option(
    "--from",
    "image",
    metavar="IMAGE",
    type=paths.Existing("the directory of an image", directory=True),
    help="The directory of the image (default: out/NAME).",
)
@folder_option
@click.option("--json", "as_json", is_flag=True, help="Print what was copied as JSON.")
def artefacts(wanted: str, pool: str, *, image: Path | None, folder: Path, as_json: bool) -> None:
    """Put the artefacts of a published version into POOL, from which others fetch them.

    POOL is a directory with files named sha256/ab/cdef..., which any static server serves; an https address of a
    server that takes such files by PUT; or a repository of a registry. Several versions and images can share one, and
    what is there is not sent again. The image must be exactly the published one. No key is needed: callers trust
    digests, not pools. Logins are this host's: of `podman login` for registries, of apt's auth.conf for servers. Exit
    status: 1 IMAGE is another image, 5 the server refuses or is away, 6 an artefact is missing or damaged, 8 the
    version does not count.

    \b
    Examples:
      privml-build publish artefacts demo-cpu@2026.11.1 pool
      privml-build publish artefacts demo-cpu@2026.11.1 oci://HOST/REPOSITORY
      privml-build publish artefacts demo-cpu@2026.11.1 /srv/www/pool \\
        --from /tmp/demo-cpu
    """
    filled = Filling.parse(pool)
    name, number = changes.wanted_version(wanted)
    found = Place(folder, Signing([]), int(time.time()), Memories()).version(name, number)
    manifest = manifests.decode(follow.manifest_of(fetch_from(folder), found))
    place = image or OUT / name
    check_image(place, manifest)
    copied, size = filled.fill(place, manifest, number)
    if as_json:
        print_json({"pool": pool, "artefacts": len(manifest.artefacts), "copied": copied, "bytes": size})
    else:
        show(f"{pool}: {len(manifest.artefacts)} artefacts, {copied} of them new ({size / 1e6:.1f} MB)")


@publish.command()
@click.argument("file", metavar="ROLES", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--demonstration", is_flag=True, help="Mark the root as a demonstration, whose keys one person made.")
@click.option("--until", metavar="DATE", help="With --demonstration: how long all of it is valid, like 2036-11-30.")
@click.option(
    "--replace", is_flag=True, help="With --demonstration: remove the one that is there, with its versions."
)
@_options
def root(
    file: Path,
    *,
    demonstration: bool,
    until: str | None,
    replace: bool,
    folder: Path,
    keys: tuple[str, ...],
    proposed: Path | None,
    as_json: bool,
) -> None:
    """Begin a repository, or replace its keys: make its root and its publishers those of the file ROLES.

    ROLES is a TOML file (docs/PUBLISHING.md): who holds the root, the online key, and who publishes each image. A new
    root needs signatures by the keys of the old and of the new one. Publish the SHA-256 of `root.json` where your
    users find it without this repository.

    A demonstration says in its root that one person made all keys. Callers refuse it unless they allow it, and then
    accept a guest at most as a simulation. It is never changed to a project's own, but replaced.

    \b
    Examples:
      privml-build publish root roles.toml --key ann.pem --key ben.pem \\
        --key online.pem
      privml-build publish root roles.toml --demonstration --until 2036-11-30 \\
        --replace --in measurements/demonstration --key key.pem
    """
    if wrong := [word for word, given in (("--until", until), ("--replace", replace)) if given and not demonstration]:
        raise UsageError(f"{wrong[0]} is for a demonstration: it needs --demonstration")
    if demonstration and until is None:
        raise UsageError("--until is missing: nobody renews a demonstration", hint="for example --until 2036-11-30")
    if replace and proposed is not None:
        raise UsageError("--replace and --propose are both given: one person makes a demonstration")
    at = _place(folder, keys, proposed)
    place = at[0]
    wanted = roles.read(file)
    end = None if until is None else _day(until, place.now)
    if replace and end is not None:
        _say(at, whole.replace_whole(place, wanted, end), "", as_json=as_json)
        return
    files = changes.new_roles(place, wanted, end)
    _write(at, files, f"{folder} has these keys already", as_json=as_json)


def _day(text: str, now: int) -> int:
    """Unix seconds of the start of a day (UTC) that is still to come."""
    try:
        found = seconds_of(f"{text}T00:00:00Z")
    except ValueError as error:
        raise UsageError(f"--until: got `{text[:40]}`, expected a day like 2036-11-30") from error
    if found <= now:
        raise UsageError(f"--until: got {text}, expected a day that is still to come")
    return found


@publish.command()
@click.argument("wanted", metavar="NAME@VERSION")
@click.argument("new", metavar="STATE", type=click.Choice([state.value for state in State]))
@click.option("--reason", metavar="TEXT", default="", help="Why, for people; revoked and withdrawn need one.")
@click.option("--replaced-by", metavar="V", help="The version to use instead.")
@_options
def state(
    wanted: str,
    new: str,
    *,
    reason: str,
    replaced_by: str | None,
    folder: Path,
    keys: tuple[str, ...],
    proposed: Path | None,
    as_json: bool,
) -> None:
    """Say what a version counts for: current, superseded (still accepted, with a note), revoked or withdrawn.

    A guest of a revoked or withdrawn version is refused, and no later change takes that back.

    \b
    Examples:
      privml-build publish state demo-cpu@2026.11.1 superseded \\
        --replaced-by 2026.12.1 --key ann.pem --key ben.pem --key online.pem
      privml-build publish state demo-cpu@2026.11.1 revoked \\
        --reason "CVE-2026-1" --key ann.pem --key ben.pem --key online.pem
    """
    at = _place(folder, keys, proposed)
    place = at[0]
    name, number = changes.wanted_version(wanted)
    _write(at, changes.new_state(place, name, number, State(new), reason, replaced_by), "", as_json=as_json)


@publish.command()
@click.argument("name")
@click.argument("serial", type=click.IntRange(min=1))
@_options
def minimum(
    name: str, serial: int, *, folder: Path, keys: tuple[str, ...], proposed: Path | None, as_json: bool
) -> None:
    """Raise the lowest serial of image NAME that still counts to SERIAL. It never sinks again.

    \b
    Examples:
      privml-build publish minimum demo-cpu 7 --key ann.pem --key ben.pem \\
        --key online.pem
    """
    at = _place(folder, keys, proposed)
    place = at[0]
    _write(at, changes.new_minimum(place, name, serial), "", as_json=as_json)


@publish.command()
@_options
def refresh(*, folder: Path, keys: tuple[str, ...], proposed: Path | None, as_json: bool) -> None:
    """Sign the same content for longer. Without it, callers refuse the index when its time ends.

    Snapshot and timestamp are renewed with the online key, for 30 days: run it each week. What publishers and the
    root sign is renewed with it when their keys are given and half of its time is over.

    \b
    Examples:
      privml-build publish refresh --key online.pem
    """
    at = _place(folder, keys, proposed)
    place = at[0]
    _write(at, changes.renew(place), "", as_json=as_json)


publish.add_command(check)
publish.add_command(site)
