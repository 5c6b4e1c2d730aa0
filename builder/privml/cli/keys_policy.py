"""`keys policy`: say which guests get a key, sign it as its owner, and hand it to the broker."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from privml.base import dsse
from privml.base.errors import EvidenceError, UsageError
from privml.base.files import read_start, write_atomic
from privml.base.strictjson import unhex
from privml.base.times import seconds_of, time_text
from privml.cli.keys_snp import SnpWords, described, snp_options
from privml.cli.keystore import StoreWords, store_options
from privml.cli.output import ask_secret, show
from privml.cli.paths import Existing
from privml.cli.usage import Verb
from privml.publish import signer
from privml.statement import predicate
from privml.statement.keys import Role

if TYPE_CHECKING:
    from privml.keybroker.policy import Document

_MAX_FILE = 2 * 1024 * 1024
_ENVELOPE = ".dsse"
_resource = click.option("--resource", metavar="NAME", required=True, help="The resource whose key it is about.")
_broker = click.option(
    "--broker",
    "broker",
    metavar="HEX",
    required=True,
    help="The public key of the broker at which it counts (64 hex digits); `keys show` has it.",
)
_serial = click.option(
    "--serial",
    metavar="N",
    type=click.IntRange(min=1),
    required=True,
    help="A number above that of the policy before; `keys show` has it.",
)
_output = click.option(
    "-o",
    "--output",
    metavar="FILE",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write it to this file, to be signed.",
)


def owner_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--owner` and `--threshold`: whose signatures policies need."""
    command = click.option(
        "--threshold",
        metavar="K",
        type=click.IntRange(min=1),
        help="How many owners must sign [all].",
    )(command)
    return click.option(
        "--owner",
        "owners",
        metavar="FILE",
        multiple=True,
        required=True,
        type=Existing("a file with an owner's public key"),
        help="The public key of an owner, in PEM or OpenSSH's format. Repeat it for several.",
    )(command)


def owners_of(owners: tuple[Path, ...], threshold: int | None) -> Role:
    """The owners that the options name; ``UsageError`` if they are not a role."""
    try:
        return Role(tuple(signer.load_public(path) for path in owners), threshold or len(owners))
    except EvidenceError as error:
        raise UsageError(f"--owner: {error.message}") from error


@click.group(cls=Verb)
def policy() -> None:
    """Say which guests get the key of a resource. Its owners sign that, not the broker.

    \b
    Examples:
      privml-build keys policy new --resource model/qwen --serial 1 \\
        --broker HEX --image out/me \\
        --not-after 2027-06-01T00:00:00Z -o policy.json
      privml-build keys policy sign policy.json --key owner.pem
      privml-build keys policy add policy.dsse
    """


@policy.command()
@_resource
@_broker
@_serial
@click.option(
    "--image",
    "images",
    metavar="DIRECTORY",
    multiple=True,
    type=Existing("the directory of a built or fetched image", directory=True),
    help="An image whose guests get the key. Repeat it for several.",
)
@click.option(
    "--image-sha256",
    "digests",
    metavar="HEX",
    multiple=True,
    help="The same by the SHA-256 of the image's predicate (64 hex digits).",
)
@click.option("--not-after", metavar="TIME", required=True, help="When it ends, like 2027-06-01T00:00:00Z.")
@click.option("--max-releases", metavar="N", type=click.IntRange(min=0), help="How many times to release [no limit].")
@click.option(
    "--platform",
    "platforms",
    metavar="PPID",
    multiple=True,
    help="Only these TDX machines get it (32 hex digits each).",
)
@click.option("--deny", "denied", metavar="PPID", multiple=True, help="These TDX machines never get it.")
@click.option(
    "--min-tcb-evaluation",
    metavar="N",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="The lowest tcbEvaluationDataNumber that a TDX platform may be judged with.",
)
@click.option(
    "--deny-advisory",
    "advisories",
    metavar="ID",
    multiple=True,
    help="No TDX machine to which this advisory (like INTEL-SA-00837) applies.",
)
@snp_options
@click.option("--simulated", is_flag=True, help="Also simulated guests, at a store made with --development.")
@_output
def new(
    *,
    resource: str,
    broker: str,
    serial: int,
    images: tuple[Path, ...],
    digests: tuple[str, ...],
    not_after: str,
    max_releases: int | None,
    platforms: tuple[str, ...],
    denied: tuple[str, ...],
    min_tcb_evaluation: int,
    advisories: tuple[str, ...],
    snp: SnpWords,
    simulated: bool,
    output: Path,
) -> None:
    """Write a policy: which images, on which machines, until when, and how many times.

    SEV-SNP guests get nothing unless --snp-min-tcb and --allow-unmeasured-acpi are given.

    \b
    Examples:
      privml-build keys policy new --resource model/qwen --serial 1 \\
        --broker HEX --image out/me \\
        --not-after 2027-06-01T00:00:00Z -o policy.json
      privml-build keys policy new --resource model/qwen --serial 2 \\
        --broker HEX --image out/me --image out/me-2 --max-releases 100 \\
        --min-tcb-evaluation 18 --not-after 2027-06-01T00:00:00Z -o policy.json
      privml-build keys policy new --resource model/qwen --serial 3 \\
        --broker HEX --image out/me --not-after 2027-06-01T00:00:00Z \\
        --snp-min-tcb Genoa:bl=10,tee=0,snp=23,ucode=84 \\
        --allow-unmeasured-acpi -o policy.json
    """
    from privml.keybroker.policy import PPID_SIZE, ReleasePolicy

    found = [_of_image(path) for path in images] + [_digits("--image-sha256", each, 32) for each in digests]
    if not found:
        raise UsageError("no image is given, expected --image DIRECTORY or --image-sha256 HEX")
    try:
        end = seconds_of(not_after)
    except ValueError as error:
        raise UsageError(f"--not-after: {error}") from error
    only = tuple(sorted({_digits("--platform", each, PPID_SIZE) for each in platforms}))
    made = ReleasePolicy(
        resource,
        _digits("--broker", broker, 32),
        serial,
        tuple(sorted(set(found))),
        end,
        denied=tuple(sorted({_digits("--deny", each, PPID_SIZE) for each in denied})),
        platforms=only or None,
        min_tcb_evaluation=min_tcb_evaluation,
        advisories_denied=tuple(sorted(set(advisories))),
        max_releases=max_releases,
        simulated=simulated,
        snp=snp.release(),
    )
    _check(made)
    write_atomic(output, made.encode())
    _describe(made)
    show(f"hint: each owner signs it: `privml-build keys policy sign {output} --key FILE`", err=True)


@policy.command()
@_resource
@_broker
@_serial
@owner_options
@_output
def owners(
    *, resource: str, broker: str, serial: int, owners: tuple[Path, ...], threshold: int | None, output: Path
) -> None:
    """Write who the next owners are, for the present ones to sign, and for the next ones, too.

    \b
    Examples:
      privml-build keys policy owners --resource model/qwen --serial 3 \\
        --broker HEX --owner new-a.pub --owner new-b.pub --threshold 2 -o owners.json
    """
    from privml.keybroker.policy import Owners

    made = Owners(resource, _digits("--broker", broker, 32), serial, owners_of(owners, threshold))
    _check(made)
    write_atomic(output, made.encode())
    _describe(made)


@policy.command()
@click.argument("file", type=Existing("a policy that `keys policy new` wrote, or others signed"))
@click.option(
    "--key",
    "uri",
    metavar="URI",
    required=True,
    help="Your private key: a file in PEM or OpenSSH's format, or pkcs11:...",
)
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the signed policy to this file [FILE with the ending .dsse].",
)
def sign(file: Path, *, uri: str, output: Path | None) -> None:
    """Sign FILE as an owner of its resource. Signatures of other owners, in it or in the output, stay.

    Read what is printed: that is what you sign.

    \b
    Examples:
      privml-build keys policy sign policy.json --key owner.pem
      privml-build keys policy sign policy.dsse --key pkcs11:token=me;object=owner
    """
    from privml.keybroker import policy as policies

    document, signatures = _read(file)
    _describe(document)
    target = output or file.with_suffix(_ENVELOPE)
    if target.exists() and target != file:
        before, others = _read(target)
        if before == document:
            signatures = (*signatures, *others)
    key = signer.load(uri, ask_secret)
    kept = tuple(each for each in signatures if each.keyid != key.public.keyid)
    envelope = policies.sign(document)
    mine = dsse.Signature(key.sign(envelope.signed), key.public.keyid)
    signed = {each.keyid: each for each in (*kept, mine)}
    made = policies.sign(document, tuple(each for _, each in sorted(signed.items())))
    write_atomic(target, made.encode())
    show(f"{target}: signed by {', '.join(each.keyid[:16] for each in made.signatures)}")


@policy.command()
@click.argument("file", type=Existing("a policy that its owners signed"))
@store_options
def add(file: Path, *, words: StoreWords) -> None:
    """Give the broker a policy, or the next owners, that enough owners signed. The serial only grows.

    \b
    Examples:
      privml-build keys policy add policy.dsse
      privml-build keys policy add owners.dsse --store /var/lib/broker/store
    """
    from privml.keybroker import resources

    envelope = dsse.decode(_bytes(file), what=str(file))
    with words.opened() as store:
        accepted = resources.set_policy(store, envelope)
    _describe(accepted.document)
    show(f"accepted, signed by {', '.join(keyid[:16] for keyid in accepted.signers)}")


def _of_image(directory: Path) -> bytes:
    from privml.client import anchors

    return hashlib.sha256(predicate.encode(anchors.built(directory).predicate)).digest()


def _digits(option: str, text: str, size: int) -> bytes:
    try:
        return unhex(text, size, what=option)
    except EvidenceError as error:
        raise UsageError(f"{option}: got `{text[:80]}`, expected {2 * size} lower-case hex digits") from error


def _bytes(file: Path) -> bytes:
    try:
        return read_start(file, _MAX_FILE)
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror or error}") from error


def _read(file: Path) -> tuple[Document, tuple[dsse.Signature, ...]]:
    """A policy as it was written, or with the signatures of others."""
    from privml.keybroker import policy as policies

    data = _bytes(file)
    if b'"payloadType"' in data[-_MAX_FILE:] and b'"format"' not in data:
        envelope = dsse.decode(data, what=str(file))
        return policies.read_unsigned(envelope), envelope.signatures
    decode = policies.Owners.decode if policies.OWNERS.encode() in data else policies.ReleasePolicy.decode
    return decode(data), ()


def _check(made: Document) -> None:
    """``UsageError`` if the reader would not take what was made."""
    try:
        type(made).decode(made.encode())
    except EvidenceError as error:
        raise UsageError(error.message) from error


def _describe(document: Document) -> None:
    """Print what a document says, for whoever signs it."""
    from privml.keybroker.policy import Owners

    show(f"resource {document.resource}, serial {document.serial}")
    show(f"  at the broker with key {document.broker.hex()}")
    if isinstance(document, Owners):
        ids = ", ".join(key.keyid[:16] for key in document.role.keys)
        show(f"  next owners: {document.role.threshold} of {ids}")
        return
    for image in document.images:
        show(f"  image {image.hex()}")
    show(f"  until {time_text(document.not_after)}")
    limit = "any number of" if document.max_releases is None else f"at most {document.max_releases}"
    if document.platforms is None:
        machines = "any TDX machine"
    else:
        machines = ", ".join(each.hex() for each in document.platforms) or "no TDX machine"
    show(f"  {limit} releases, to {machines}")
    for line in () if document.snp is None else described(document.snp):
        show(f"  {line}")
    if document.denied:
        show(f"  never to {', '.join(each.hex() for each in document.denied)}")
    if document.min_tcb_evaluation:
        show(f"  TCB evaluation number at least {document.min_tcb_evaluation}")
    if document.advisories_denied:
        show(f"  to no machine with {', '.join(document.advisories_denied)}")
    if document.simulated:
        show("  also to simulated guests, which prove nothing")
