"""What a store holds: resources with their owners, the generations of their keys, and the owners' policies."""

from __future__ import annotations

import os
import sqlite3
from dataclasses import dataclass

from privml.base import dsse
from privml.base.errors import EvidenceError, Refused, UsageError
from privml.base.resource import MAX_GENERATION, RESOURCE_LIKE, is_resource
from privml.base.strictjson import Fields, canonical, loads
from privml.events.crypt import KEY_SIZE, check_key, check_value
from privml.keybroker.entry import ADMIN, Entry
from privml.keybroker.policy import (
    MAX_POLICY,
    Accepted,
    ReleasePolicy,
    accept,
    owners_dict,
    owners_from,
    read_unsigned,
)
from privml.keybroker.store import VOLUME, Store
from privml.output.volumekey import VolumeKey
from privml.statement.keys import Role


@dataclass(frozen=True)
class Resource:
    """A resource: its owners, the highest serial that was accepted, and its policy (None before the first)."""

    name: str
    owners: Role
    serial: int
    policy: ReleasePolicy | None


@dataclass(frozen=True)
class KeyRow:
    """One generation of a resource's key: its check value, and whether it is still released."""

    resource: str
    generation: int
    check: bytes
    retired: bool


def add(store: Store, name: str, owners: Role) -> VolumeKey:
    """Add a resource with its first key. ``owners`` must sign its policies."""
    if not is_resource(name):
        raise UsageError(f"`{name[:80]}`: expected {RESOURCE_LIKE}")
    if find(store, name) is not None:
        raise Refused(
            f"resource-exists: there is a resource {name} already",
            hint=f"`privml-build keys rotate {name}` makes its next key",
        )
    made = VolumeKey(name, 1, _new_key())
    with store.changing(Entry(ADMIN, name, 1, ("add",))):
        store.db.execute("INSERT INTO resource VALUES (?, ?, 0, NULL)", (name, canonical(owners_dict(owners))))
        _keep(store, made)
    return made


def rotate(store: Store, name: str) -> VolumeKey:
    """The next key of a resource. The ones before stay, until they are retired."""
    last = _keys(store, _found(store, name).name)[-1].generation
    if last >= MAX_GENERATION:
        raise Refused(f"resource-generations: {name} has generation {last}, the last that there can be")
    made = VolumeKey(name, last + 1, _new_key())
    with store.changing(Entry(ADMIN, name, made.generation, ("rotate-key",))):
        _keep(store, made)
    return made


def retire(store: Store, name: str, generation: int, *, destroy: bool = False) -> None:
    """Release a key no more. ``destroy`` also deletes it, so that no volume of it can be opened again."""
    row = key(store, name, generation)
    if row is None:
        raise _unknown(f"{name} has no generation {generation}")
    with store.changing(Entry(ADMIN, name, generation, ("destroy" if destroy else "retire",))):
        store.db.execute("UPDATE key SET retired = 1 WHERE resource = ? AND generation = ?", (name, generation))
        if destroy:
            store.db.execute(
                "DELETE FROM secret WHERE use = ? AND resource = ? AND generation = ?", (VOLUME, name, generation)
            )
    if destroy:
        store.forget()


def export(store: Store, name: str, generation: int) -> VolumeKey:
    """A key once more, for building the same image again; it is logged first."""
    row = key(store, name, generation)
    if row is None:
        raise _unknown(f"{name} has no generation {generation}")
    found = VolumeKey(name, generation, volume_key(store, row))
    with store.changing(Entry(ADMIN, name, generation, ("export",))):
        pass
    return found


def set_policy(store: Store, envelope: dsse.Envelope) -> Accepted:
    """Accept a policy, or the next owners, of the resource that ``envelope`` names; ``Refused`` by name if not."""
    name = read_unsigned(envelope).resource
    resource = _found(store, name)
    accepted = accept(envelope, name, resource.owners, resource.serial)
    document = accepted.document
    with store.changing(_logged(accepted)):
        store.db.execute("UPDATE resource SET serial = ? WHERE name = ?", (document.serial, name))
        if isinstance(document, ReleasePolicy):
            store.db.execute("UPDATE resource SET policy = ? WHERE name = ?", (document.encode(), name))
        else:
            owners = canonical(owners_dict(document.role))
            store.db.execute("UPDATE resource SET owners = ? WHERE name = ?", (owners, name))
    return accepted


def _logged(accepted: Accepted) -> Entry:
    document = accepted.document
    code = "policy" if isinstance(document, ReleasePolicy) else "owners"
    return Entry(ADMIN, document.resource, codes=(code,), policy_sha256=document.sha256.hex())


def find(store: Store, name: str) -> Resource | None:
    """The resource of that name; None if there is none."""
    with store.mutex:
        row = store.db.execute("SELECT owners, serial, policy FROM resource WHERE name = ?", (name,)).fetchone()
    return None if row is None else _resource(name, *row)


def listed(store: Store) -> list[tuple[Resource, tuple[KeyRow, ...]]]:
    """All resources with the generations of their keys, by name."""
    with store.mutex:
        rows = store.db.execute("SELECT name, owners, serial, policy FROM resource ORDER BY name").fetchall()
    return [(_resource(*row), _keys(store, row[0])) for row in rows]


def key(store: Store, name: str, generation: int) -> KeyRow | None:
    """One generation of a resource's key; None if there is none."""
    return next((row for row in _keys(store, name) if row.generation == generation), None)


def volume_key(store: Store, row: KeyRow) -> bytes:
    """The key itself (64 bytes); ``Refused`` if it was destroyed."""
    found = store.secret(VOLUME, row.resource, row.generation)
    if check_value(row.resource, row.generation, found) != row.check:
        raise Refused(f"key-check: {row.resource} {row.generation} is not the key that its check value was made of")
    return found


def released(store: Store, name: str, policy: ReleasePolicy) -> int:
    """How often a key of the resource was released under this policy."""
    with store.mutex:
        row = store.db.execute(
            "SELECT count FROM released WHERE resource = ? AND policy = ?", (name, policy.sha256)
        ).fetchone()
    return 0 if row is None else int(row[0])


def count_release(store: Store, name: str, policy: ReleasePolicy) -> None:
    """Count one more release under this policy; only while the store is changing."""
    store.db.execute(
        "INSERT INTO released VALUES (?, ?, 1) ON CONFLICT DO UPDATE SET count = count + 1", (name, policy.sha256)
    )


def _keep(store: Store, made: VolumeKey) -> None:
    store.db.execute("INSERT INTO key VALUES (?, ?, ?, 0)", (made.resource, made.generation, made.check))
    store.keep(VOLUME, made.resource, made.generation, made.key)


def _new_key() -> bytes:
    made = os.urandom(KEY_SIZE)
    check_key(made)  # fails once in 2**256 times
    return made


def _keys(store: Store, name: str) -> tuple[KeyRow, ...]:
    with store.mutex:
        rows = store.db.execute(
            "SELECT generation, value, retired FROM key WHERE resource = ? ORDER BY generation", (name,)
        ).fetchall()
    return tuple(KeyRow(name, generation, value, bool(retired)) for generation, value, retired in rows)


def _found(store: Store, name: str) -> Resource:
    found = find(store, name)
    if found is None:
        raise _unknown(f"there is no resource {name}")
    return found


def _unknown(message: str) -> Refused:
    return Refused(f"resource-unknown: {message}", hint="`privml-build keys show` lists what the store has")


def _resource(name: str, owners: bytes, serial: int, policy: bytes | None) -> Resource:
    try:
        role = owners_from(Fields(loads(owners, what="owners", limit=MAX_POLICY), "owners"))
        return Resource(name, role, serial, None if policy is None else ReleasePolicy.decode(policy))
    except (EvidenceError, sqlite3.Error) as error:
        raise Refused(f"store-damaged: resource {name}: {error}", hint="restore the store from its backup") from error
