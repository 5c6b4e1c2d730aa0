"""`log`: keep an append-only log of what was published, prove that it holds something, and audit it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click

from privml.base.errors import HostError, Refused, UsageError
from privml.base.files import read_start, write_atomic
from privml.cli.output import ask_secret, print_json, show, show_text
from privml.cli.published import folder_option
from privml.cli.usage import Verb
from privml.output.repository import MEASUREMENTS
from privml.publish import log as logs
from privml.publish import signer
from privml.publish.changes import wanted_version
from privml.statement.release import RELEASE_FILE
from privml.statement.tlog import MAX_NOTE, Checkpoint, NoteKey, Proof

_folder = click.argument(
    "folder", metavar="[DIR]", default=MEASUREMENTS, type=click.Path(file_okay=False, path_type=Path)
)
_key = click.option(
    "--key", "line", metavar="KEY", help="The log's key that you know (NAME+ID+KEY), instead of DIR's copy."
)
_json = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")


@click.group(cls=Verb)
def log() -> None:
    """Keep a log of everything that is published: roots, releases, endorsements, and each state of an index.

    The log is static files in the format of https://c2sp.org/tlog-tiles, next to what it lists, and signed by a key
    of its own. It lets anybody who kept a checkpoint show later that something was published and taken away. `verify`
    reads only the proofs next to releases, with --log-policy.

    \b
    Examples:
      privml-build log append --key log.pem --origin example.org/measurements
      privml-build log witness --policy witnesses.txt
      privml-build log prove demo-cpu@2026.11.1 --output proof
      privml-build log audit --since checkpoint-of-last-week
    """


@log.command()
@_folder
@click.option(
    "--key",
    "uri",
    metavar="URI",
    required=True,
    help="The log's private key (Ed25519): a file in PEM or OpenSSH's format, or pkcs11:...",
)
@click.option("--origin", metavar="NAME", help="The log's name, like example.org/measurements. Needed once.")
@_json
def append(folder: Path, *, uri: str, origin: str | None, as_json: bool) -> None:
    """Add what DIR holds and its log does not, and sign the new checkpoint. The first time, the log is begun.

    The log is read whole before: what was logged must still be there with the same bytes. Nothing is ever removed.
    Next to each release its proof is written, NAME/VERSION/statement.tlog-proof, where there is no valid one or the
    checkpoint has more signatures since. Exit status: 8 a published file was changed or is gone, or the key is not
    the log's; 9 the log is damaged.

    \b
    Examples:
      privml-build log append --key log.pem --origin example.org/measurements
      privml-build log append --key log.pem
    """
    files = logs.append(folder, signer.load(uri, ask_secret), origin)
    _put(folder, files)
    found = logs.read(folder)
    size = 0 if found is None else len(found.raw)
    if as_json:
        print_json({"entries": size, "changed": bool(files), "key": None if found is None else found.key.text})
    elif found is None:
        show(f"{folder}: nothing to log")
    else:
        show(f"{folder}: {size} entries" + ("" if files else ", nothing new"), found.key.text)


@log.command()
@_folder
@click.option(
    "--policy",
    "file",
    metavar="FILE",
    required=True,
    type=click.Path(path_type=Path),
    help="A policy (https://c2sp.org/tlog-policy) with this log, and witnesses with their keys and addresses.",
)
@_json
def witness(folder: Path, *, file: Path, as_json: bool) -> None:
    """Ask the witnesses of a policy to cosign the newest checkpoint of DIR's log.

    Witnesses sign what continues what they signed before (https://c2sp.org/tlog-witness). FILE is what callers give
    to `verify --log-policy`, with an address at the end of each witness's line. Signatures that are good by FILE's
    keys are added to the checkpoint, and proofs next to releases are written again under it. No key is needed. Exit
    status: 5 too few witnesses for the policy's quorum, 8 the log does not continue what one of them signed, 9 the
    log is damaged.

    \b
    Examples:
      privml-build log witness --policy witnesses.txt
    """
    # Loaded here: the other verbs send nothing.
    from privml.client.trust import read_log_policy
    from privml.publish import witness as witnesses

    found, policy = _log(folder, None), read_log_policy(file, "--policy")
    if found.key not in policy.logs:
        raise UsageError(f"--policy: {file} does not have this log", hint=f"add the line `log {found.key.text}`")
    if not policy.addresses:
        raise UsageError(
            f"--policy: no witness in {file} has an address",
            hint="add it at the end of the line: witness NAME KEY URL",
        )
    asked = witnesses.ask(found, policy)
    lines = [each.line for each in asked if each.line and not each.known]
    if lines:
        _put(folder, logs.cosigned(folder, found, lines))
    signed = sorted(each.name for each in asked if each.line)
    met = bool(signed) and policy.met(signed)
    if as_json:
        rows = [{"name": each.name, "at": each.at or None, "objection": each.objection or None} for each in asked]
        print_json({"entries": len(found.raw), "cosigned": signed, "quorum": met, "witnesses": rows})
    else:
        show(f"{folder}: {len(found.raw)} entries, cosigned by {', '.join(signed) or 'nobody'}")
        for each in asked:
            show(f"  {each}", err=bool(each.objection))
    if wrong := [str(each) for each in asked if each.split]:
        raise Refused(
            "\n".join(wrong),
            hint="take the newest measurements and ask again; if that is no help, ask who else has the log's key",
        )
    if not met:
        raise HostError(f"cosigned by {', '.join(signed) or 'nobody'}, expected {policy.asked}")


@log.command()
@click.argument("wanted", metavar="NAME@VERSION")
@folder_option
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the proof to this file instead of printing it.",
)
@click.option(
    "--check",
    "given",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Check this proof instead of making one. Of DIR, only the release is needed then.",
)
@_key
def prove(wanted: str, *, folder: Path, output: Path | None, given: Path | None, line: str | None) -> None:
    """Prove that the release of NAME@VERSION is in the log: a file in the format of https://c2sp.org/tlog-proof.

    The proof ends in the checkpoint that it is under. Its entry is the JSON line that docs/ARCHITECTURE.md describes.
    Exit status: 8 the release is not in the log, 9 the log is damaged, or the proof does not prove it.

    \b
    Examples:
      privml-build log prove demo-cpu@2026.11.1
      privml-build log prove demo-cpu@2026.11.1 --output proof
      privml-build log prove demo-cpu@2026.11.1 --check proof \\
        --key example.org/measurements+1a2b3c4d+AQIDBA...
    """
    name, number = wanted_version(wanted)
    path = f"{name}/{number}/{RELEASE_FILE}"
    known = None if line is None else NoteKey.decode(line)
    if given is not None:
        if output is not None:
            raise UsageError("--output and --check are both given, expected one")
        index, state = logs.check(folder, path, Proof.decode(read_start(given, MAX_NOTE)), known)
        show(f"{wanted} is number {index} of the {state.size} entries of {state.origin}")
        return
    proof = logs.prove(_log(folder, known), path).encode()
    if output is None:
        show_text(proof.decode())
    else:
        write_atomic(output, proof)


@log.command()
@_folder
@_key
@click.option(
    "--since",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A checkpoint that you kept: the log must continue it.",
)
@_json
def audit(folder: Path, *, line: str | None, since: Path | None, as_json: bool) -> None:
    """Read the log whole, and compare it with what DIR holds, and with a checkpoint that you kept.

    Checked are the signature, every tile, that each published file is logged and each logged file still there as it
    was, the proofs next to releases, and with --since that nothing was taken out of the log. A log that was only ever
    seen by you can still differ from that of others: compare checkpoints. Exit status: 8 something is wrong or not
    logged, 9 the log is damaged.

    \b
    Examples:
      privml-build log audit
      privml-build log audit measurements --since checkpoint-of-last-week \\
        --key example.org/measurements+1a2b3c4d+AQIDBA...
    """
    found = _log(folder, None if line is None else NoteKey.decode(line))
    kept = None if since is None else Checkpoint.read(read_start(since, MAX_NOTE), found.key)
    audited = logs.audit(folder, found, kept)
    wrong = [*audited.wrong, *audited.unlogged]
    if as_json:
        print_json(
            {"entries": len(found.raw), "key": found.key.text, "wrong": audited.wrong, "unlogged": audited.unlogged}
        )
    else:
        show(*wrong)
        if not wrong:
            show(f"{folder}: {len(found.raw)} entries, all there", found.key.text)
            if kept is None:
                show(
                    f"hint: keep {folder / logs.CHECKPOINT}; --since says next time whether the log continues it",
                    err=True,
                )
            else:
                show(f"it continues the checkpoint of {kept.size} entries")
    if wrong:
        raise Refused(f"{folder}: {len(wrong)} findings, expected none")


def _put(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write what is not there yet, in this order."""
    for path, data in files.items():
        if not (folder / path).is_file() or (folder / path).read_bytes() != data:
            write_atomic(folder / path, data)


def _log(folder: Path, key: NoteKey | None) -> logs.Log:
    found = logs.read(folder, key)
    if found is None:
        raise UsageError(
            f"{folder} has no {logs.CHECKPOINT}, expected a log",
            hint="begin one with `privml-build log append --key FILE --origin NAME`",
        )
    return found
