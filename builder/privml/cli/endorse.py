"""`endorse`: rebuild a published version, and sign whether it is the same."""

from __future__ import annotations

import time
from pathlib import Path

import click

from privml.base.errors import Differs, UsageError
from privml.base.files import write_atomic
from privml.cli.output import ask_secret, print_json, show, show_text
from privml.cli.published import folder_option
from privml.cli.volumekeys import volume_key_option
from privml.image.target import resolve
from privml.image.volumekeys import VolumeKeys
from privml.image.workplace import Workplace
from privml.output.memory import Memories
from privml.publish import endorse as work
from privml.publish import legs, signer
from privml.publish.changes import Place, wanted_version
from privml.publish.signing import Signing
from privml.repro.inputs import inputs_of
from privml.statement import rebuild
from privml.statement.rebuilders import Rebuilder, encode, is_who


@click.command()
@click.argument("wanted", metavar="NAME@VERSION")
@click.option("--as", "who", metavar="WHO", required=True, help="Your name: a-z, 0-9 and dashes.")
@click.option(
    "--key",
    "uri",
    metavar="URI",
    required=True,
    help="Your own private key: a file in PEM or OpenSSH's format, or pkcs11:... It must not be a publisher's.",
)
@volume_key_option
@folder_option
@click.option("--record-difference", is_flag=True, help="Sign and write also that your build differs.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def endorse(
    wanted: str,
    *,
    who: str,
    uri: str,
    key_files: tuple[Path, ...],
    folder: Path,
    record_difference: bool,
    as_json: bool,
) -> None:
    """Build NAME@VERSION twice from this checkout, compare it with what was published, and sign the result.

    The publisher's artefacts are not needed: digests are compared, and the bytes of the signed statement. The
    endorsement is written below the published version, for a pull request; callers count it if they list you
    (`verify --rebuilders`). Exit status: 0 identical, 1 your build differs, 4 inputs are gone or this checkout is of
    other sources, 8 the publication is not valid or the checkout has changes.

    \b
    Examples:
      privml-build endorse demo-cpu@2026.11.1 --as alice --key alice.pem
    """
    name, number = wanted_version(wanted)
    if not is_who(who):
        raise UsageError(f"--as: got `{who[:80]}`, expected a-z, 0-9 and dashes")
    key = signer.load(uri, ask_secret)
    place = Place(folder, Signing([]), int(time.time()), Memories())
    role = place.read().publishers(name)
    work.check_key(role, key)
    version = place.version(name, number)
    found = resolve(name)
    workplace = Workplace()
    recipe, lock, _ = inputs_of(workplace, found)
    work.check_sources(version.release, recipe.digest, lock.digest)
    volumes = VolumeKeys.read(key_files, None)
    made = work.compared(version, legs.build_twice(workplace, found, [folder], volumes=volumes), int(time.time()))
    same = made.result == rebuild.IDENTICAL
    ready = work.Endorsement.of(made, who, key)
    written = folder / ready.path if same or record_difference else None
    if written is not None:
        write_atomic(written, ready.data)
    row = encode([Rebuilder(who, key.public)])
    if as_json:
        print_json(
            {
                "result": made.result,
                "differences": list(made.differences),
                "written": None if written is None else str(written),
                "keyid": key.public.keyid,
            }
        )
    else:
        show(f"{name} {number}: {made.result}", *(f"  {path}" for path in made.differences))
        if written is not None:
            show(f"{written}", "", "callers who rely on you list this, or add it to their list:", row.decode())
            show_text(
                f"\ngit switch -c endorse-{who} && git add {written} && git commit -m '{wanted}: rebuilt by {who}'"
            )
    if not same:
        raise Differs(
            f"{name} {number}: this build differs in {len(made.differences)} files, first {made.differences[0]}",
            hint=None if record_difference else "`--record-difference` signs and writes that too",
        )
