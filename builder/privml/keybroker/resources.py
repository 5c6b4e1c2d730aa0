"""What a store holds: resources with their owners, the generations of their keys, and the owners' policies."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

from privml.base import dsse
from privml.base.errors import EvidenceError, HostError, Refused, UsageError
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
    serial: int = 0
    policy: ReleasePolicy | None = None

    @property
    def policy_serial(self) -> int:
        """The serial of the policy; 0 before the first."""
        return 0 if self.policy is None else self.policy.serial


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
    made = VolumeKey(name, 1, _new_key())
    with store.changing(Entry(ADMIN, name, 1, ("add",))):
        if find(store, name) is not None:
            raise Refused(
                f"resource-exists: there is a resource {name} already",
                hint=f"`privml-build keys rotate {name}` makes its next key",
            )
        store.db.execute("INSERT INTO resource VALUES (?, ?)", (name, canonical(owners_dict(owners))))
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
    with store.changing(Entry(ADMIN, name, generation, ("export",))):
        row = key(store, name, generation)
        if row is None:
            raise _unknown(f"{name} has no generation {generation}")
        return VolumeKey(name, generation, volume_key(store, row))


def set_policy(store: Store, envelope: dsse.Envelope) -> Accepted:
    """Accept a policy, or the next owners, of the resource that ``envelope`` names; ``Refused`` by name if not."""
    name = read_unsigned(envelope).resource
    with store.changing() as entries:
        resource = _found(store, name)
        accepted = accept(envelope, name, resource.owners, resource.serial, broker=store.public)
        entries.append(_logged(accepted))
        if isinstance(accepted.document, ReleasePolicy):
            store.db.execute("DELETE FROM signed WHERE resource = ? AND serial = ?", (name, resource.policy_serial))
        store.db.execute("INSERT INTO signed VALUES (?, ?, ?)", (name, accepted.document.serial, envelope.encode()))
    return accepted


def _logged(accepted: Accepted) -> Entry:
    document = accepted.document
    code = "policy" if isinstance(document, ReleasePolicy) else "owners"
    return Entry(ADMIN, document.resource, codes=(code,), policy_sha256=document.sha256.hex())


def find(store: Store, name: str) -> Resource | None:
    """The resource of that name, as its owners' signatures prove it; None if there is none."""
    with store.mutex:
        row = store.db.execute("SELECT owners FROM resource WHERE name = ?", (name,)).fetchone()
        query = "SELECT envelope FROM signed WHERE resource = ? ORDER BY serial"
        envelopes = [envelope for (envelope,) in store.db.execute(query, (name,))]
        return None if row is None else _resource(name, row[0], envelopes, store.public)


def listed(store: Store) -> list[tuple[Resource, tuple[KeyRow, ...]]]:
    """All resources with the generations of their keys, by name."""
    with store.mutex:
        names = [name for (name,) in store.db.execute("SELECT name FROM resource ORDER BY name").fetchall()]
        return [(_found(store, name), _keys(store, name)) for name in names]


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


def _resource(name: str, owners: bytes, envelopes: Sequence[bytes], broker: bytes) -> Resource:
    """Accept what owners signed once more, from the first owners on."""
    try:
        found = Resource(name, owners_from(Fields(loads(owners, what="owners", limit=MAX_POLICY), "owners")))
        for envelope in envelopes:
            signed = dsse.decode(envelope)
            document = accept(signed, name, found.owners, found.serial, broker=broker).document
            if isinstance(document, ReleasePolicy):
                found = replace(found, serial=document.serial, policy=document)
            else:
                found = replace(found, serial=document.serial, owners=document.role)
    except (EvidenceError, Refused) as error:
        raise HostError(
            f"store-damaged: resource {name}: {error.message}", hint="restore the store from its backup"
        ) from error
    return found
