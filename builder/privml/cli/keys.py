"""`keys`: keep keys of encrypted models, and release them to guests that prove themselves."""

from __future__ import annotations

from pathlib import Path

import click

from privml.cli.keys_deliver import deliver
from privml.cli.keys_log import log
from privml.cli.keys_policy import owner_options, owners_of, policy
from privml.cli.keys_serve import serve
from privml.cli.keystore import KEK_HELP, StoreWords, ask_of, no_core_dump, store_options
from privml.cli.output import print_json, show
from privml.cli.usage import Verb
from privml.output.volumekey import VolumeKey

_out = click.option(
    "--out",
    metavar="FILE",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the key to this file (mode 0600), for `image --key`.",
)
_json = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")


@click.group(cls=Verb)
def keys() -> None:
    """Release keys of encrypted models to guests that prove to run an image that the models' owners accept.

    A broker keeps the keys in one file, and its owners sign which images get them. A guest that waits for keys never
    connects to anything: `keys deliver`, which is trusted with nothing, carries its proof to the broker and the
    sealed key back. docs/KEYS.md says what each key protects, and what to do when one is lost.

    \b
    Examples:
      privml-build keys init
      privml-build keys add model/qwen --owner owner.pub --out qwen.key
      privml-build keys policy new --resource model/qwen --serial 1 \\
        --broker HEX --image out/me \\
        --not-after 2027-06-01T00:00:00Z -o policy.json
      privml-build keys policy sign policy.json --key owner.pem
      privml-build keys policy add policy.dsse
      privml-build keys serve --expect out/me
      privml-build keys deliver https://GUEST:8443 --broker http://127.0.0.1:8200
      privml-build keys log verify
    """


for _command in (policy, serve, deliver, log):
    keys.add_command(_command)


@keys.command()
@store_options
@click.option(
    "--development",
    is_flag=True,
    help="Make a store that may release to simulated guests, if the owners' policy says so too.",
)
@_json
def init(*, words: StoreWords, development: bool, as_json: bool) -> None:
    """Make a new store with a signing key of its own, and print the public key, which recipes name.

    An existing store is never overwritten. A file of --kek that does not exist is made, too: keep it somewhere else
    than the store and its backups, since both together are the keys.

    \b
    Examples:
      privml-build keys init
      privml-build keys init --store /var/lib/broker/store \\
        --kek file:/etc/broker.kek --head /mnt/other-disk/broker.head
      privml-build keys init --kek passphrase
    """
    from privml.keybroker import kek, store

    no_core_dump()
    store.refuse_existing(words.store)
    wrapping = kek.make(words.kek_uri, ask_of("store"))
    with store.create(words.store, wrapping, development=development, head=words.head) as made:
        public = made.public.hex()
    if as_json:
        print_json({"store": str(words.store), "ed25519": public, "development": development})
        return
    show(f"{words.store}: a new store{', for development only' if development else ''}")
    show(f"broker key (recipes: keys.brokers.NAME.ed25519): {public}")


@keys.command()
@click.argument("resource")
@store_options
@owner_options
@_out
@_json
def add(
    resource: str, *, words: StoreWords, owners: tuple[Path, ...], threshold: int | None, out: Path, as_json: bool
) -> None:
    """Add RESOURCE with a new random key. Its owners, K of them, must sign who gets it.

    RESOURCE is a name like model/qwen2.5, which recipes give in `encrypt`. The key in --out is what `image --key`
    encrypts the volume with; whoever has it can read the volume, so delete it after the build.

    \b
    Examples:
      privml-build keys add model/qwen2.5 --owner owner.pub --out qwen.key
      privml-build keys add data/claims --owner a.pub --owner b.pub \\
        --threshold 2 --out claims.key
    """
    from privml.keybroker import resources

    role = owners_of(owners, threshold)
    with words.opened() as store:
        _refuse_existing(out)
        _write(resources.add(store, resource, role), out, as_json=as_json)


@keys.command()
@click.argument("resource", required=False)
@store_options
@click.option("--new-kek", metavar="URI", help=f"Wrap the new root with another key: {KEK_HELP}.")
@click.option(
    "--out",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="With RESOURCE: write its new key to this file (mode 0600), for `image --key`.",
)
@_json
def rotate(resource: str | None, *, words: StoreWords, new_kek: str | None, out: Path | None, as_json: bool) -> None:
    """Replace the store's root, or make the next key of RESOURCE.

    Without RESOURCE, all keys are wrapped again under a new root, and the old one is destroyed: older copies of the
    store are then refused here. Guests and images notice nothing. With RESOURCE, a new key is made for the next
    image; the ones before are released until `keys retire`.

    \b
    Examples:
      privml-build keys rotate
      privml-build keys rotate --new-kek file:/etc/broker-2.kek
      privml-build keys rotate model/qwen2.5 --out qwen-2.key
    """
    from privml.keybroker import kek, resources

    if (resource is None) is not (out is None):
        raise click.UsageError("RESOURCE and --out belong together, expected both or neither")
    if resource is not None and new_kek is not None:
        raise click.UsageError("--new-kek is for the store's root, expected no RESOURCE")
    with words.opened() as store:
        if resource is not None and out is not None:
            _refuse_existing(out)
            _write(resources.rotate(store, resource), out, as_json=as_json)
            return
        store.rotate(None if new_kek is None else kek.make(new_kek, ask_of("new root")))
        if as_json:
            print_json({"root_generation": store.root_generation})
        else:
            show(f"{words.store}: root generation {store.root_generation}; the one before is destroyed")
            show("hint: make a new backup, and delete older ones with their keys", err=True)


@keys.command()
@click.argument("resource")
@click.argument("generation", type=click.IntRange(min=1))
@store_options
@click.option("--destroy", is_flag=True, help="Also delete the key: volumes of it can never be opened again.")
def retire(resource: str, generation: int, *, words: StoreWords, destroy: bool) -> None:
    """Release this GENERATION of RESOURCE no more. Guests that have the key keep it until they stop.

    \b
    Examples:
      privml-build keys retire model/qwen2.5 1
      privml-build keys retire model/qwen2.5 1 --destroy
    """
    from privml.keybroker import resources

    with words.opened() as store:
        resources.retire(store, resource, generation, destroy=destroy)
    show(f"{resource} generation {generation} is not released any more{', and destroyed' if destroy else ''}")


@keys.command(name="show")
@store_options
@_json
def show_store(*, words: StoreWords, as_json: bool) -> None:
    """Show the broker's public key, its resources with their owners and policies, and the head of its log.

    \b
    Examples:
      privml-build keys show
      privml-build keys show --store /var/lib/broker/store --json
    """
    from privml.base.times import time_text
    from privml.keybroker import resources

    with words.opened() as store:
        head = store.tree.head
        rows = [
            {
                "resource": found.name,
                "owners": sorted(found.owners.by_id),
                "threshold": found.owners.threshold,
                "serial": found.serial,
                "policy_sha256": None if found.policy is None else found.policy.sha256.hex(),
                "not_after": None if found.policy is None else found.policy.not_after,
                "released": 0 if found.policy is None else resources.released(store, found.name, found.policy),
                "keys": [{"generation": row.generation, "retired": row.retired} for row in generations],
            }
            for found, generations in resources.listed(store)
        ]
        shown = {
            "ed25519": store.public.hex(),
            "development": store.development,
            "root_generation": store.root_generation,
            "log": {"size": head.size, "root": head.root.hex()},
            "resources": rows,
        }
        listed = resources.listed(store)
    if as_json:
        print_json(shown)
        return
    show(f"broker key: {shown['ed25519']}{', for development only' if store.development else ''}")
    show(f"root generation {store.root_generation}, log of {head.size} entries with root {head.root.hex()}")
    for found, generations in listed:
        states = ", ".join(f"{row.generation}{' (retired)' if row.retired else ''}" for row in generations)
        show(f"{found.name}: generations {states}; {found.owners.threshold} of {len(found.owners.keys)} owners sign")
        if found.policy is None:
            show("  no policy: nothing is released")
        else:
            end = time_text(found.policy.not_after)
            show(f"  policy {found.policy.sha256.hex()}, serial {found.policy.serial}, until {end}")


@keys.command()
@click.argument("resource")
@click.argument("generation", type=click.IntRange(min=1))
@store_options
@_out
@_json
def export(resource: str, generation: int, *, words: StoreWords, out: Path, as_json: bool) -> None:
    """Write a key of RESOURCE once more, to build the same image again. It is logged.

    \b
    Examples:
      privml-build keys export model/qwen2.5 1 --out qwen.key
    """
    from privml.keybroker import resources

    with words.opened() as store:
        _refuse_existing(out)
        _write(resources.export(store, resource, generation), out, as_json=as_json)


@keys.command()
@click.argument("target", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path))
@store_options
@click.option("--backup-kek", metavar="URI", required=True, help=f"The key that encrypts the backup: {KEK_HELP}.")
def backup(target: Path, *, words: StoreWords, backup_kek: str) -> None:
    """Write an encrypted backup of the store to FILE.

    To use it, both the backup's key and the store's own are needed. A file of --backup-kek that does not exist is
    made: keep it apart from the backup.

    \b
    Examples:
      privml-build keys backup broker-2026-11.backup --backup-kek passphrase
      privml-build keys backup broker.backup \\
        --backup-kek file:/media/usb/backup.kek
    """
    from privml.keybroker import backup as backups
    from privml.keybroker import kek

    with words.opened() as store:
        _refuse_existing(target)
        backups.write(store, target, kek.make(backup_kek, ask_of("backup")))
    show(f"{target}: a backup of {words.store}")


@keys.command()
@click.argument("source", metavar="FILE", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@store_options
@click.option(
    "--backup-kek", metavar="URI", required=True, help=f"The key that the backup is encrypted with: {KEK_HELP}."
)
@click.option(
    "--accept-older",
    is_flag=True,
    help="Restore although the backup lacks what happened since: releases since are not counted.",
)
def restore(source: Path, *, words: StoreWords, backup_kek: str, accept_older: bool) -> None:
    """Make the store again from the backup in FILE. There must be none at --store.

    Where the newest state is still pinned (--head), an older backup is refused: after it, policies with a lower
    serial would count again, and releases be counted twice as few.

    \b
    Examples:
      privml-build keys restore broker.backup --backup-kek passphrase
      privml-build keys restore broker.backup --accept-older \\
        --backup-kek file:/media/usb/backup.kek
    """
    from privml.keybroker import backup as backups

    no_core_dump()
    backups.restore(
        source,
        words.store,
        backup_kek=backup_kek,
        kek=words.kek_uri,
        ask=ask_of("store"),
        ask_backup=ask_of("backup"),
        head=words.head,
        accept_older=accept_older,
    )
    show(f"{words.store}: restored from {source}")


def _refuse_existing(path: Path) -> None:
    if path.exists():
        raise click.UsageError(f"{path} is there already, expected a new file: a key is never overwritten")


def _write(made: VolumeKey, out: Path, *, as_json: bool) -> None:
    made.write(out)
    if as_json:
        check = made.check.hex()
        print_json({"resource": made.resource, "generation": made.generation, "check": check, "file": str(out)})
        return
    show(f"{out}: the key of {made.resource}, generation {made.generation}")
    show("hint: whoever has this file can read the volume: delete it after `image --key`", err=True)
