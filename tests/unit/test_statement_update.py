"""Following a repository: the attacks of TUF's conformance list, each with the code that refuses it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable

import pytest
from published_fake import (
    DAY,
    EVERYBODY,
    NAME,
    NOW,
    ROOT_ROLES,
    Fake,
    build,
    new_root,
    published,
    role,
    signer,
)

from privml.base.errors import EvidenceError, Refused
from privml.statement import follow, metadata, update
from privml.statement.follow import version_of
from privml.statement.index import State
from privml.statement.metadata import ImageTargets, Metadata, Root, Signed, Snapshot, Targets, Timestamp
from privml.statement.untrusted import UntrustedError
from privml.statement.update import Memory


def code_of(fake: Fake, memory: Memory | None = None) -> str:
    """The code with which a client refuses the repository; ``malformed`` for an ``EvidenceError``."""
    try:
        found, index = fake.walk(memory)
        for entry in index.versions:
            version_of(fake.fetch, index, entry, found.publishers(NAME))
    except UntrustedError as error:
        return error.code
    except EvidenceError:
        return "malformed"
    return "accepted"


def memory_of(fake: Fake) -> Memory:
    return fake.walk()[0].memory


def online(fake: Fake, path: str, data: bytes) -> None:
    """What a thief of the online key does: put ``data`` at ``path``, and sign a snapshot and timestamp for it."""
    fake.files[path] = data
    role_name = path.split(".")[1]
    found = fake.repository
    assert found is not None
    info = metadata.FileInfo(int(path.split("/")[1].split(".")[0]), len(data), update.hashlib.sha256(data).digest())
    meta = {**found.snapshot.body.meta, role_name: info}
    put_snapshot(fake, lambda body: dataclasses.replace(body, meta=meta))


def put_snapshot(fake: Fake, change: Callable[[Snapshot], Snapshot]) -> None:
    """A changed snapshot under the next version, with a timestamp for it, both signed by the online key."""
    found = fake.repository
    assert found is not None
    number = found.snapshot.body.version + 1
    made = signed(change(dataclasses.replace(found.snapshot.body, version=number)), "online")
    fake.files[f"tuf/{number}.snapshot.json"] = made
    info = metadata.FileInfo(number, len(made), update.hashlib.sha256(made).digest())
    body = dataclasses.replace(found.timestamp.body, version=found.timestamp.body.version + 1, snapshot=info)
    fake.files["tuf/timestamp.json"] = signed(body, "online")


def signed(body: Metadata, *names: str) -> bytes:
    made = Signed.of(body)
    for name in names:
        made = made.with_signature(signer(name).public.keyid, signer(name).sign(made.data))
    return made.encode()


def test_an_honest_repository_gives_the_index_and_every_version() -> None:
    fake = published()
    found, index = fake.walk()
    assert found.images == (NAME,)
    assert [entry.version for entry in index.versions] == ["1.0", "1.1"]
    version = version_of(fake.fetch, index, index.versions[1], found.publishers(NAME))
    assert version.statement.predicate.name == NAME
    assert len(version.signers) == 3
    assert found.expiries == {
        "root": NOW + 365 * DAY,
        "timestamp": NOW + 30 * DAY,
        "snapshot": NOW + 30 * DAY,
        "targets": NOW + 180 * DAY,
        NAME: NOW + 180 * DAY,
    }
    assert code_of(fake, found.memory) == "accepted"


# --- signatures -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "kind", "signers", "code"),
    [
        ("tuf/1.root.json", Root, ("root-1",), "trust-root"),
        ("tuf/1.root.json", Root, ("root-1", "alice"), "trust-root"),
        ("tuf/timestamp.json", Timestamp, (), "index-signatures"),
        ("tuf/timestamp.json", Timestamp, ("root-1", "root-2"), "index-signatures"),
    ],
)
def test_metadata_without_its_threshold_is_refused(
    path: str, kind: type[Metadata], signers: tuple[str, ...], code: str
) -> None:
    fake = published()
    fake.resign(path, kind, lambda body: body, *signers)
    fake.trusted = fake.files["tuf/1.root.json"]
    assert code_of(fake) == code


@pytest.mark.parametrize(
    ("path", "kind", "signers"),
    [
        ("tuf/1.targets.json", Targets, ("root-1",)),
        ("tuf/1.targets.json", Targets, ("alice", "bob", "online")),
        (f"tuf/2.{NAME}.json", ImageTargets, ("alice",)),
        (f"tuf/2.{NAME}.json", ImageTargets, ("root-1", "root-2", "online")),
    ],
)
def test_a_thief_of_the_online_key_cannot_replace_what_others_sign(
    path: str, kind: type[Metadata], signers: tuple[str, ...]
) -> None:
    fake = published()
    old = metadata.decode(kind, fake.files[path], path).body
    online(fake, path, signed(dataclasses.replace(old, expires=NOW + 999 * DAY), *signers))
    assert code_of(fake) == "index-signatures"


def test_a_thief_of_the_online_key_can_only_serve_what_others_signed() -> None:
    """The control: the same with enough keys is accepted."""
    fake = published()
    path = f"tuf/2.{NAME}.json"
    old = metadata.decode(ImageTargets, fake.files[path], path).body
    online(fake, path, signed(old, "alice", "bob"))
    assert code_of(fake) == "accepted"


def test_metadata_of_another_role_is_not_taken_for_it() -> None:
    fake = published()
    for path, other in (("tuf/timestamp.json", "tuf/3.snapshot.json"), ("tuf/timestamp.json", "tuf/1.root.json")):
        bad = published()
        bad.files[path] = fake.files[other]
        assert code_of(bad) == "malformed"


# --- roll-back and freeze -------------------------------------------------------------------------------------------


def test_an_older_copy_of_the_whole_repository_is_a_roll_back() -> None:
    fake = Fake()
    fake.publish("1.0")
    old = dict(fake.files)
    fake.publish("1.1")
    memory = memory_of(fake)
    fake.files = old
    assert code_of(fake) == "accepted"
    assert code_of(fake, memory) == "index-rollback"


@pytest.mark.parametrize("seen", ["timestamp", "snapshot"])
def test_an_older_timestamp_or_snapshot_than_seen_is_refused(seen: str) -> None:
    fake = published()
    memory = memory_of(fake)
    assert code_of(fake, dataclasses.replace(memory, **{seen: 4})) == "index-rollback"
    assert code_of(fake, dataclasses.replace(memory, **{seen: 3})) == "accepted"


@pytest.mark.parametrize("seen", ["targets", NAME])
def test_older_metadata_of_a_role_than_seen_is_refused(seen: str) -> None:
    fake = published()
    memory = memory_of(fake)
    newer = {**memory.roles, seen: memory.roles[seen] + 1}
    assert code_of(fake, dataclasses.replace(memory, roles=newer)) == "index-rollback"


def test_a_role_that_vanishes_from_the_snapshot_is_a_roll_back() -> None:
    fake = published()
    memory = memory_of(fake)
    put_snapshot(fake, lambda body: dataclasses.replace(body, meta={"targets": body.meta["targets"]}))
    assert code_of(fake, memory) == "index-rollback"
    assert code_of(fake) == "version-unknown"


def test_an_online_key_cannot_serve_an_older_index_under_a_newer_snapshot() -> None:
    fake = Fake()
    fake.publish("1.0")
    first = fake.files[f"{NAME}/index.json"]
    fake.publish("1.1")
    memory = memory_of(fake)
    fake.files[f"{NAME}/index.json"] = first
    online(fake, f"tuf/1.{NAME}.json", fake.files[f"tuf/1.{NAME}.json"])
    assert code_of(fake) == "accepted"
    assert code_of(fake, memory) == "index-rollback"


def test_a_root_that_was_seen_cannot_be_hidden_again() -> None:
    fake = published()
    old = dict(fake.files)
    new_root(fake, ROOT_ROLES)
    memory = memory_of(fake)
    assert memory.root == 2
    fake.files = old
    assert code_of(fake, memory) == "index-rollback"


def test_publishers_cannot_take_back_a_minimum_serial() -> None:
    fake = published()
    index = fake.index()
    assert index is not None
    fake.put(dataclasses.replace(index, minimum_serial=2))
    memory = memory_of(fake)
    fake.put(index)
    assert code_of(fake, memory) == "index-rollback"


def test_what_expires_is_a_fact_of_each_role_and_of_the_newest_root_only() -> None:
    fake = published()
    edit = fake.edit(now=NOW - 400 * DAY)
    edit.root(ROOT_ROLES)
    fake.files |= edit.files
    new_root(fake, ROOT_ROLES)
    found, _ = fake.walk()
    assert found.next_root == 4
    assert found.expiries["root"] == NOW + 365 * DAY


# --- mix and match --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    ["tuf/3.snapshot.json", "tuf/1.targets.json", f"tuf/2.{NAME}.json", f"{NAME}/index.json"],
)
def test_a_file_of_another_time_is_not_the_one_that_is_named(path: str) -> None:
    fake, other = published(), Fake()
    other.publish("1.0")
    other.publish("1.1", build(lock="third"))
    edit = other.edit(now=NOW + DAY)
    edit.targets({NAME: role(2, "alice", "bob", "p256-carol")})
    edit.renew_image(NAME)
    found = {**other.files, **edit.finish()}
    newer = {"tuf/1.targets.json": "tuf/2.targets.json", f"tuf/2.{NAME}.json": f"tuf/3.{NAME}.json"}.get(path, path)
    fake.files[path] = found[newer]
    assert code_of(fake) == "index-digest"


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("1.1/release.json", "statement-digest"),
        ("1.1/statement.dsse.json", "statement-digest"),
    ],
)
def test_files_of_one_version_are_not_those_of_another(path: str, code: str) -> None:
    fake = published()
    other = Fake()
    other.publish("1.0")
    other.publish("1.1", build(dataclasses.replace(build_predicate(), purposes={"serve": 3})))
    fake.files[f"{NAME}/{path}"] = other.files[f"{NAME}/{path}"]
    assert code_of(fake) == code
    fake.files[f"{NAME}/1.0/release.json"] = fake.files[f"{NAME}/1.1/release.json"]
    assert code_of(fake) == "statement-digest"


def build_predicate() -> metadata.Any:
    from tests.unit import attestation_samples

    return attestation_samples.PREDICATE


def test_a_statement_signed_by_too_few_publishers_is_refused() -> None:
    fake = published()
    place = f"{NAME}/1.0/statement.dsse.json"
    one = follow.dsse.decode(fake.files[place])
    for count, code in ((1, "statement-signatures"), (2, "accepted")):
        fake.files[place] = dataclasses.replace(one, signatures=one.signatures[:count]).encode()
        assert code_of(fake) == code


def test_a_statement_of_another_image_or_manifest_is_refused() -> None:
    for change in ({"name": "other"}, {"manifest_sha256": bytes(32)}):
        fake = Fake()
        made = build()
        statement = follow.intoto.decode(made.statement)
        bent = dataclasses.replace(statement, predicate=dataclasses.replace(statement.predicate, **change))
        fake.publish("1.0", dataclasses.replace(made, statement=follow.intoto.encode(bent)))
        assert code_of(fake) == "statement-digest"


# --- keys change ----------------------------------------------------------------------------------------------------

OTHERS = {**ROOT_ROLES, "root": role(2, "root-2", "root-4", "root-5")}


def test_a_root_with_other_keys_is_taken_when_old_and_new_keys_sign() -> None:
    fake = published()
    new_root(fake, OTHERS | {"targets": ROOT_ROLES["targets"]}, (*EVERYBODY, "root-4", "root-5"))
    assert code_of(fake) == "accepted"
    assert memory_of(fake).root == 2


@pytest.mark.parametrize("signers", [("root-2", "root-4", "root-5"), ("root-1", "root-2")])
def test_a_root_signed_only_by_old_or_only_by_new_keys_is_refused(signers: tuple[str, ...]) -> None:
    fake = published()
    body = dataclasses.replace(metadata.decode(Root, fake.trusted, "root").body, version=2, roles=OTHERS)
    fake.files["tuf/2.root.json"] = signed(body, *signers)
    assert code_of(fake) == "trust-root"


@pytest.mark.parametrize("version", [1, 3])
def test_a_root_of_another_version_than_the_next_is_refused(version: int) -> None:
    fake = published()
    body = dataclasses.replace(metadata.decode(Root, fake.trusted, "root").body, version=version)
    fake.files["tuf/2.root.json"] = signed(body, "root-1", "root-2")
    assert code_of(fake) == "trust-root"


def test_a_gap_in_the_chain_of_roots_ends_it_there() -> None:
    fake = published()
    body = metadata.decode(Root, fake.trusted, "root").body
    fake.files["tuf/3.root.json"] = signed(dataclasses.replace(body, version=3), "root-1", "root-2")
    assert memory_of(fake).root == 1


def test_an_endless_chain_of_roots_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "MAX_ROOTS", 3)
    fake = published()
    for _ in range(3):
        new_root(fake, ROOT_ROLES)
    assert code_of(fake) == "trust-root"
    fake.trusted = fake.files["root.json"]
    assert code_of(fake) == "accepted"


def test_a_revoked_online_key_signs_nothing_any_more() -> None:
    fake = published()
    old = fake.files["tuf/timestamp.json"]
    roles = {**ROOT_ROLES, "snapshot": role(1, "online-2"), "timestamp": role(1, "online-2")}
    new_root(fake, roles, (*EVERYBODY, "online-2"))
    assert code_of(fake) == "accepted"
    fake.files["tuf/timestamp.json"] = old
    assert code_of(fake) == "index-signatures"


def test_versions_that_a_stolen_online_key_signed_are_forgotten_with_it() -> None:
    """Fast-forward: the thief signs the highest version, and the repository recovers with another key."""
    fake = published()
    thief = dataclasses.replace(memory_of(fake), timestamp=2**31 - 1, snapshot=2**31 - 1, roles={NAME: 2**31 - 1})
    assert code_of(fake, thief) == "index-rollback"
    roles = {**ROOT_ROLES, "snapshot": role(1, "online-2"), "timestamp": role(1, "online-2")}
    new_root(fake, roles, (*EVERYBODY, "online-2"))
    assert code_of(fake, thief) == "accepted"
    assert code_of(fake, dataclasses.replace(thief, minimum={NAME: 2})) == "index-rollback"


def test_publishers_that_were_replaced_vouch_for_nothing_any_more() -> None:
    fake = published()
    edit = fake.edit((*EVERYBODY, "dora", "emil"))
    edit.targets({NAME: role(2, "dora", "emil")})
    fake.files |= edit.finish()
    assert code_of(fake) == "index-signatures"
    edit = fake.edit((*EVERYBODY, "dora", "emil"))
    edit.renew_image(NAME)
    fake.files |= edit.finish()
    assert code_of(fake) == "statement-signatures"


# --- what else a repository may do ----------------------------------------------------------------------------------

PATHS = [
    "tuf/timestamp.json",
    "tuf/3.snapshot.json",
    "tuf/1.targets.json",
    f"tuf/2.{NAME}.json",
    f"{NAME}/index.json",
    f"{NAME}/1.1/release.json",
    f"{NAME}/1.1/statement.dsse.json",
]


@pytest.mark.parametrize("path", PATHS)
def test_a_missing_file_is_named(path: str) -> None:
    fake = published()
    del fake.files[path]
    with pytest.raises(EvidenceError, match=f"{re.escape(path)}: no such file"):
        found, index = fake.walk()
        version_of(fake.fetch, index, index.versions[1], found.publishers(NAME))


@pytest.mark.parametrize("path", [*PATHS, "tuf/2.root.json"])
def test_no_file_is_asked_for_without_a_limit(path: str) -> None:
    fake = published()
    fake.files[path] = b" " * (1 << 25)
    named = path in (*PATHS[1:5], f"{NAME}/1.1/release.json")
    assert code_of(fake) == (
        "malformed" if not named else "statement-digest" if "release" in path else "index-digest"
    )


def test_an_image_that_nobody_publishes_is_unknown() -> None:
    with pytest.raises(UntrustedError, match="image other, expected one of those published: demo-cpu"):
        published().walk(name="other")


def test_a_role_cannot_publish_for_another_image() -> None:
    """Two images: the publishers of one sign an index in the name of the other."""
    fake = Fake(images={NAME: role(2, "alice", "bob"), "other": role(1, "mallory")})
    fake.publish("1.0")
    body = ImageTargets(1, NOW + DAY, NAME, 10, bytes(32))
    online(fake, "tuf/1.other.json", signed(body, "mallory"))
    with pytest.raises(UntrustedError, match=f"role other naming {NAME}"):
        fake.walk(name="other")
    assert code_of(fake) == "accepted"
    body = dataclasses.replace(body, name="other")
    for name in ("other", NAME):
        online(fake, f"tuf/1.{name}.json", signed(body, "mallory"))
    assert code_of(fake) == "index-signatures"


def test_an_index_that_says_it_is_of_another_image_is_refused() -> None:
    fake = published()
    index = fake.index()
    assert index is not None
    bent = dataclasses.replace(index, name="other")
    edit = fake.edit()
    edit.image(NAME, bent)
    fake.files |= edit.finish()
    assert code_of(fake) == "index-digest"


# --- the profile ----------------------------------------------------------------------------------------------------


def member(*path: str | int, value: object) -> Callable[[dict[str, metadata.Any]], None]:
    def change(document: dict[str, metadata.Any]) -> None:
        place: metadata.Any = document
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value

    return change


KEY = signer("alice").public


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("root", member("consistent_snapshot", value=False), "got false, expected true"),
        ("root", member("spec_version", value="2.0.0"), "expected 1.0.N"),
        ("root", member("version", value=0), "got 0, expected 1 to"),
        ("root", member("version", value=2**31), "expected 1 to"),
        ("root", member("expires", value="2026-02-30T00:00:00Z"), "expected a time"),
        ("root", member("expires", value="2026-11-29T04:00:00+00:00"), "expected at most 20"),
        ("root", member("x", value=1), "unknown field"),
        ("root", member("roles", "mirrors", value={"keyids": [], "threshold": 1}), "unknown field"),
        ("root", member("roles", "root", "keyids", value=["00" * 32]), "no such key"),
        ("root", member("roles", "root", "threshold", value=4), "threshold 4 of 3"),
        ("root", member("_type", value="targets"), "expected one of root"),
        ("targets", member("targets", f"{NAME}/index.json", value={}), "unknown field"),
        ("targets", member("delegations", "roles", 0, "paths", value=["*"]), "expected the path"),
        ("targets", member("delegations", "roles", 0, "terminating", value=False), "a terminating role"),
        ("targets", member("delegations", "roles", 0, "name", value="snapshot"), "expected an image's name"),
        ("targets", member("delegations", "succinct_roles", value={}), "unknown field"),
        ("snapshot", member("meta", "a/b.json", value={}), "expected targets.json or an image's"),
        ("snapshot", member("meta", "targets.json", "hashes", "sha512", value=""), "unknown field"),
        ("timestamp", member("meta", "other.json", value={}), "unknown field"),
        (NAME, member("targets", f"{NAME}/1.0/release.json", value={}), "2 targets"),
        (NAME, member("delegations", value={"keys": {}, "roles": []}), "unknown field"),
    ],
)
def test_metadata_outside_the_profile_is_malformed(kind: str, change: Callable[..., None], message: str) -> None:
    fake = published()
    path, record = {
        "root": ("tuf/1.root.json", Root),
        "targets": ("tuf/1.targets.json", Targets),
        "snapshot": ("tuf/3.snapshot.json", Snapshot),
        "timestamp": ("tuf/timestamp.json", Timestamp),
        NAME: (f"tuf/2.{NAME}.json", ImageTargets),
    }[kind]
    document = metadata.loads(fake.files[path])
    change(document["signed"])
    with pytest.raises(EvidenceError, match=message):
        metadata.decode(record, metadata.json.dumps(document).encode(), kind)


def test_one_key_under_two_ids_is_malformed() -> None:
    """The hole of clients that trust the ids in a file: a threshold of two met by one key."""
    fake = published()
    document = metadata.loads(fake.files["tuf/1.root.json"])
    keys = document["signed"]["keys"]
    first = signer("root-1").public.keyid
    keys["ab" * 32] = keys[first]
    document["signed"]["roles"]["root"]["keyids"] = [first, "ab" * 32]
    with pytest.raises(EvidenceError, match="expected its key's SHA-256"):
        metadata.decode(Root, metadata.json.dumps(document).encode(), "root")
    document["signed"]["roles"]["root"]["keyids"] = [first, first]
    del keys["ab" * 32]
    with pytest.raises(EvidenceError, match="is listed twice"):
        metadata.decode(Root, metadata.json.dumps(document).encode(), "root")


def test_the_memory_round_trips_and_a_damaged_one_is_malformed() -> None:
    memory = memory_of(published())
    assert Memory.decode(memory.encode(), "memory") == memory
    document = metadata.loads(memory.encode())
    for name in document:
        for value in (None, {}, "x" * 65, -1, {"../x": 1}):
            if document[name] != value and not (name in ("roles", "minimum") and value == {}):
                with pytest.raises(EvidenceError):
                    Memory.decode(metadata.json.dumps({**document, name: value}).encode(), "memory")


# --- the writer -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("absent", ["online", "alice"])
def test_the_writer_refuses_to_write_what_no_client_would_accept(absent: str) -> None:
    fake = published()
    index = fake.index()
    assert index is not None
    before = dict(fake.files)
    with pytest.raises(Refused, match=r"signatures: got 0|signatures: got 1 of its keys, expected 2"):
        fake.put(index, [name for name in ("alice", "bob", "online") if name != absent])
    assert fake.files == before


def test_two_writers_with_the_same_keys_give_the_same_bytes() -> None:
    """ECDSA signatures differ each time, so only Ed25519 keys sign here."""
    roles = {**ROOT_ROLES, "root": role(2, "root-1", "root-2"), "targets": role(2, "root-1", "root-2")}
    made = [Fake(roles, {NAME: role(2, "alice", "bob")}) for _ in range(2)]
    for fake in made:
        fake.publish("1.0")
        fake.set_state("1.0", State.REVOKED, "a hole")
    assert made[0].files == made[1].files
