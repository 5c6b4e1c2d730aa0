"""The broker's store: one process, keys that wrap keys, rotation, backups, and copies that are too old."""

from __future__ import annotations

import json
import os
import resource as limits
import signal
import sqlite3
import stat
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import broker_samples as samples
import pytest
from broker_samples import RESOURCE, desk

from privml.base.errors import EvidenceError, HostError, Refused, UsageError
from privml.base.strictjson import b64
from privml.channel.release import LogHead
from privml.events.crypt import check_key
from privml.keybroker import backup, entry, head, kek, resources, store
from privml.keybroker.tree import EMPTY, LABEL, Tree
from privml.statement.tlog import leaf_hash, root_of

PASSPHRASE = b"six random words are a good one"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scrypt at a cost that tests can afford."""
    monkeypatch.setattr(kek, "SCRYPT_N", 2**4)


def copied(folder: Path) -> dict[str, bytes]:
    return {each.name: each.read_bytes() for each in folder.iterdir() if each.is_file()}


def put_back(folder: Path, files: dict[str, bytes], *names: str) -> None:
    for name in names or files:
        (folder / name).write_bytes(files[name])


def test_a_new_store_holds_its_keys_and_no_secret_in_the_clear(tmp_path: Path) -> None:
    with desk(tmp_path) as made:
        public, key, root = made.store.public, made.key.key, made.store.root
        signing = made.store.secret(store.SIGNING, "", 1)
    assert stat.S_IMODE((tmp_path / "broker.store").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "broker.kek").stat().st_mode) == 0o600
    files = copied(tmp_path)
    assert RESOURCE.encode() in files["broker.store"], "the search finds what is there"
    for secret in (key, root, signing):
        assert not any(secret in data or secret.hex().encode() in data for data in files.values())
        assert not any(b64(secret).encode() in data for data in files.values())
    with store.opened(tmp_path / "broker.store", f"file:{tmp_path}/broker.kek") as again:
        row = resources.key(again, RESOURCE, 1)
        assert row is not None
        assert (again.public, resources.volume_key(again, row)) == (public, key)
    check_key(key)


def test_each_key_is_new(tmp_path: Path) -> None:
    with desk(tmp_path) as made:
        second = resources.rotate(made.store, RESOURCE)
        other = resources.add(made.store, "data/claims", samples.role())
    assert len({made.key.key, second.key, other.key}) == 3
    assert (second.generation, other.generation) == (2, 1)


def test_an_existing_store_is_not_made_again(tmp_path: Path) -> None:
    with desk(tmp_path):
        pass
    before = copied(tmp_path)
    with pytest.raises(UsageError, match="store-exists"), desk(tmp_path):
        pass
    assert copied(tmp_path) == before


def test_a_second_process_is_refused_by_name(tmp_path: Path) -> None:
    code = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from privml.base.errors import HostError
        from privml.keybroker import store
        try:
            with store.opened(Path(sys.argv[1]), "file:" + sys.argv[2]):
                print("opened")
        except HostError as error:
            print(error.exit_code, error.message)
        """
    )
    words = [sys.executable, "-c", code, str(tmp_path / "broker.store"), str(tmp_path / "broker.kek")]
    with desk(tmp_path):
        busy = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert busy.startswith("5 store-busy: another process uses ")
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout == "opened\n"


def test_rotation_wraps_every_key_again_and_destroys_the_old_root(tmp_path: Path) -> None:
    with desk(tmp_path) as made:
        public, old = made.store.public, made.store.root
        wrapped = made.store.db.execute("SELECT wrapped FROM root").fetchone()[0]
        sealed = [row[0] for row in made.store.db.execute("SELECT sealed FROM secret")]
        made.store.rotate()
        assert made.store.root != old
        assert made.store.root_generation == 2
    data = b"".join(copied(tmp_path).values())
    assert not any(each in data for each in (wrapped, *sealed)), "overwritten, not only unlinked"
    with store.opened(made.path, made.kek) as again:
        assert again.public == public
        assert again.secret(store.VOLUME, RESOURCE, 1) == made.key.key


def test_rotation_can_change_the_key_that_wraps_the_root(tmp_path: Path) -> None:
    (tmp_path / "words").write_bytes(PASSPHRASE + b"\n")
    (tmp_path / "words").chmod(0o600)
    with desk(tmp_path) as made:
        made.store.rotate(kek.make(f"passphrase:{tmp_path}/words"))
    with pytest.raises(Refused, match="kek-kind"), store.opened(made.path, made.kek):
        pass
    with store.opened(made.path, "passphrase", ask=lambda _: PASSPHRASE.decode()) as again:
        assert again.secret(store.VOLUME, RESOURCE, 1) == made.key.key
    with pytest.raises(Refused, match="kek-wrong"), store.opened(made.path, "passphrase", ask=lambda _: "x" * 20):
        pass


def test_a_rotation_that_is_killed_leaves_the_store_as_it_was(tmp_path: Path) -> None:
    """Killed at each of its writes in turn, until it is not killed any more."""
    with desk(tmp_path) as made:
        resources.add(made.store, "data/claims", samples.role())
    code = textwrap.dedent(
        """
        import os, signal, sys
        from pathlib import Path
        from privml.keybroker import head, kek, store
        left = int(sys.argv[3])
        def counted(real):
            def wrapped(*words, **more):
                global left
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*words, **more)
            return wrapped
        with store.opened(Path(sys.argv[1]), "file:" + sys.argv[2]) as found:
            store.Store.keep = counted(store.Store.keep)
            store._put_root = counted(store._put_root)
            store.Store._log = counted(store.Store._log)
            head.write = counted(head.write)
            store.Store.forget = counted(store.Store.forget)
            found.rotate()
        """
    )
    generations = []
    for stop in range(20):
        words = [sys.executable, "-c", code, str(made.path), f"{tmp_path}/broker.kek", str(stop)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        with store.opened(made.path, made.kek) as again:
            assert again.secret(store.VOLUME, RESOURCE, 1) == made.key.key
            assert len(again.secret(store.VOLUME, "data/claims", 1)) == 64
            generations.append(again.root_generation)
            assert entry.check(again.lines()).head == again.tree.head
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
    assert stop == 7
    assert generations == [1, 1, 1, 1, 1, 2, 3, 4], "committed from the sixth on: what follows is only pinned later"


def test_a_full_disk_changes_and_releases_nothing(tmp_path: Path) -> None:
    with desk(tmp_path) as made:
        before, size = made.entries(), made.path.with_name("broker.store-wal").stat().st_size
        soft, hard = limits.getrlimit(limits.RLIMIT_FSIZE)
        old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        limits.setrlimit(limits.RLIMIT_FSIZE, (size, hard))
        try:
            status, told, _ = made.ask(samples.guest(samples.X25519))
            with pytest.raises(HostError, match=r"store-full: .* cannot be written"):
                resources.rotate(made.store, RESOURCE)
        finally:
            limits.setrlimit(limits.RLIMIT_FSIZE, (soft, hard))
            signal.signal(signal.SIGXFSZ, old)
        assert (status, told["error"]["code"]) == (503, "store")
        assert made.entries() == before
        assert made.ask(samples.guest(samples.X25519))[0] == 200, "and goes on with some space"


def test_a_store_from_before_a_rotation_is_refused(tmp_path: Path) -> None:
    with desk(tmp_path) as made:
        pass
    old = copied(tmp_path)
    with store.opened(made.path, made.kek) as again:
        again.rotate()
    put_back(tmp_path, old, "broker.store")
    with pytest.raises(Refused, match="store-older: its root is generation 1, expected 2"):
        store.opened(made.path, made.kek).__enter__()


@pytest.mark.parametrize(
    ("code", "bent"),
    [
        ("log-cut", lambda db: db.execute("DELETE FROM log WHERE seq = 2")),
        ("log-head", lambda db: db.execute("UPDATE log SET line = x'7b7d' WHERE seq = 1")),
        ("log-cut", lambda db: db.execute("DELETE FROM log WHERE seq = 1")),
    ],
)
def test_a_shortened_or_changed_log_is_refused(
    code: str, bent: Callable[[sqlite3.Connection], None], tmp_path: Path
) -> None:
    with desk(tmp_path) as made:
        pass
    db = sqlite3.connect(made.path)
    bent(db)
    db.commit()
    db.close()
    with pytest.raises(Refused, match=f"^{code}: "), store.opened(made.path, made.kek):
        pass


def test_a_pinned_head_that_is_lost_malformed_or_of_another_store_is_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    with desk(tmp_path / "a") as made, desk(tmp_path / "b"):
        pass
    pinned = tmp_path / "a" / "broker.store.head"
    good = pinned.read_bytes()
    for code, data in (
        ("head-store", (tmp_path / "b" / "broker.store.head").read_bytes()),
        ("head-malformed", b"{}"),
        ("head-missing", None),
    ):
        pinned.unlink() if data is None else pinned.write_bytes(data)
        with pytest.raises(Refused, match=f"^{code}: "), store.opened(made.path, made.kek):
            pass
    pinned.write_bytes(good)
    with store.opened(made.path, made.kek):
        pass


def test_a_crash_before_pinning_is_made_good(tmp_path: Path) -> None:
    with desk(tmp_path) as made:
        pass
    old = copied(tmp_path)
    with store.opened(made.path, made.kek) as again:
        resources.rotate(again, RESOURCE)
        newest = again.head
    put_back(tmp_path, old, "broker.store.head")
    with store.opened(made.path, made.kek):
        assert head.read(tmp_path / "broker.store.head") == newest


@pytest.mark.parametrize(
    ("mode", "size", "said"),
    [(0o644, 32, "mode 0644"), (0o620, 32, "mode 0620"), (0o600, 31, "31 bytes, expected 32")],
)
def test_a_key_file_that_others_can_use_or_that_is_no_key_is_refused(
    mode: int, size: int, said: str, tmp_path: Path
) -> None:
    with desk(tmp_path) as made:
        pass
    path = tmp_path / "broker.kek"
    path.write_bytes(path.read_bytes()[:size])
    path.chmod(mode)
    with pytest.raises(HostError, match=said), store.opened(made.path, made.kek):
        pass


def test_another_key_file_does_not_open_the_store(tmp_path: Path) -> None:
    with desk(tmp_path) as made:
        pass
    (tmp_path / "broker.kek").write_bytes(os.urandom(32))
    with pytest.raises(Refused, match="kek-wrong"), store.opened(made.path, made.kek):
        pass


def test_a_short_passphrase_and_an_unknown_kind_of_key_are_usage_errors() -> None:
    with pytest.raises(UsageError, match="the passphrase has 5 bytes, expected at least 12"):
        kek.make("passphrase", lambda _: "short")
    with pytest.raises(UsageError, match="expected file:PATH, passphrase"):
        kek.make("vault:x")
    with pytest.raises(HostError, match="nobody to ask"):
        kek.make("passphrase")


def test_a_damaged_key_is_named(tmp_path: Path) -> None:
    with desk(tmp_path) as made:
        made.store.db.execute("UPDATE secret SET generation = 2 WHERE use = 'volume'")
        with pytest.raises(HostError, match="store-damaged: the volume key model/qwen 1 does not open"):
            made.store.secret(store.VOLUME, RESOURCE, 1)
        with pytest.raises(HostError, match="store-damaged"):
            made.store.secret(store.VOLUME, RESOURCE, 2)
        assert made.ask(samples.guest(samples.X25519))[0] == 503


FORGED = {
    "a release less": "UPDATE released SET count = 0",
    "another policy": "UPDATE signed SET serial = 9",
    "other owners": "UPDATE resource SET owners = CAST(replace(owners, 1, 2) AS BLOB)",
    "a retired key": "UPDATE key SET retired = 0",
    "another check value": "UPDATE key SET value = zeroblob(32)",
    "a development store": "UPDATE meta SET value = x'01' WHERE name = 'development'",
    "a value that is none": "UPDATE meta SET value = CAST(x'ff' AS BLOB) WHERE name = 'state'",
    "no MAC": "DELETE FROM meta WHERE name = 'state'",
    "a trigger": "CREATE TRIGGER t AFTER INSERT ON log BEGIN UPDATE released SET count = 0; END",
    "a line after the pinned head": "INSERT INTO log SELECT 9, line FROM log WHERE seq = 1",
}


@pytest.mark.parametrize("name", FORGED)
def test_whoever_can_only_write_the_file_changes_nothing_that_counts(name: str, tmp_path: Path) -> None:
    """Neither while the store is closed, nor while it is used."""
    with desk(tmp_path, development=False, max_releases=1, simulated=False) as made:
        resources.retire(made.store, RESOURCE, 1)
        with made.store.changing(entry.Entry(entry.ADMIN)):
            resources.count_release(made.store, RESOURCE, samples.policy())
    good = made.path.read_bytes()
    db = sqlite3.connect(made.path)
    db.execute(FORGED[name])
    db.commit()
    db.close()
    with pytest.raises(HostError, match=r"^store-changed: ") as found, store.opened(made.path, made.kek):
        pass
    assert found.value.exit_code == 5
    made.path.write_bytes(good)
    with store.opened(made.path, made.kek) as again:
        again.db.execute(FORGED[name])
        if "INTO log" not in FORGED[name]:  # which is read when the store is opened
            with pytest.raises(HostError, match=r"^store-changed: "):
                resources.export(again, RESOURCE, 1)


def test_a_policy_counts_only_with_its_owners_signatures(tmp_path: Path) -> None:
    """Even if the store has it: each release looks at them again."""
    with desk(tmp_path) as made:
        assert made.ask(samples.guest(samples.X25519))[0] == 200
        forged = samples.signed(samples.policy(max_releases=9), 1)
        with made.store.changing(entry.Entry(entry.ADMIN)):
            made.store.db.execute("UPDATE signed SET envelope = ?", (forged.encode(),))
        assert made.ask(samples.guest(samples.X25519))[0] == 503
        with pytest.raises(HostError, match="store-damaged: resource model/qwen: policy-signatures"):
            resources.find(made.store, RESOURCE)


def test_an_entry_that_could_not_be_read_again_is_not_logged(tmp_path: Path) -> None:
    with desk(tmp_path) as made:
        before = made.entries()
        with pytest.raises(EvidenceError, match="resource"), made.store.changing(entry.Entry(entry.ADMIN, "A B")):
            pass
        assert made.entries() == before


def test_a_retired_key_is_kept_and_a_destroyed_one_is_gone(tmp_path: Path) -> None:
    with desk(tmp_path) as made:
        resources.retire(made.store, RESOURCE, 1)
        assert made.store.secret(store.VOLUME, RESOURCE, 1) == made.key.key
        sealed = made.store.db.execute("SELECT sealed FROM secret WHERE use = 'volume'").fetchone()[0]
        resources.retire(made.store, RESOURCE, 1, destroy=True)
        assert sealed not in made.store.snapshot() + b"".join(copied(tmp_path).values())
        with pytest.raises(Refused, match="resource-unknown: model/qwen has no generation 7"):
            resources.retire(made.store, RESOURCE, 7)


def test_resources_are_added_once_and_have_a_name(tmp_path: Path) -> None:
    with desk(tmp_path) as made:
        with pytest.raises(Refused, match="resource-exists"):
            resources.add(made.store, RESOURCE, samples.role())
        with pytest.raises(UsageError, match="expected words of a-z"):
            resources.add(made.store, "Model", samples.role())
        with pytest.raises(Refused, match="resource-unknown"):
            resources.rotate(made.store, "model/other")


def backed_up(folder: Path, made: samples.Desk) -> Path:
    backup.write(made.store, folder / "backup", kek.make(f"file:{folder}/backup.kek"))
    return folder / "backup"


def restored(folder: Path, made: samples.Desk, **more: bool) -> None:
    uri = f"file:{folder}/backup.kek"
    backup.restore(folder / "backup", made.path, backup_kek=uri, kek=made.kek, **more)


def lost(made: samples.Desk) -> None:
    for each in made.path.parent.glob("broker.store*"):
        if not each.name.endswith(".head"):
            each.unlink()


def test_a_backup_restores_the_store(tmp_path: Path) -> None:
    with desk(tmp_path) as made:
        data = backed_up(tmp_path, made).read_bytes()
        public = made.store.public
    assert stat.S_IMODE((tmp_path / "backup").stat().st_mode) == 0o600
    assert RESOURCE.encode() not in data
    with pytest.raises(UsageError, match="store-exists"):
        restored(tmp_path, made)
    lost(made)
    restored(tmp_path, made)
    with store.opened(made.path, made.kek) as again:
        assert (again.public, again.secret(store.VOLUME, RESOURCE, 1)) == (public, made.key.key)
        assert json.loads(list(again.lines())[-1])["codes"] == ["restore"]


def test_a_backup_that_is_older_than_what_is_pinned_is_refused_until_it_is_accepted(tmp_path: Path) -> None:
    with desk(tmp_path) as made:
        backed_up(tmp_path, made)
        made.ask(samples.guest(samples.X25519))
    lost(made)
    with pytest.raises(Refused, match=r"log-cut: .*the backup lacks what happened since"):
        restored(tmp_path, made)
    assert not made.path.exists(), "nothing is left of it"
    restored(tmp_path, made, accept_older=True)
    with store.opened(made.path, made.kek) as again:
        assert [each["codes"] for each in map(json.loads, again.lines())][3:] == [["backup"], ["restore"]]


def test_a_changed_backup_is_refused(tmp_path: Path) -> None:
    with desk(tmp_path) as made:
        data = backed_up(tmp_path, made).read_bytes()
    lost(made)
    cases: dict[str, tuple[type[Exception], bytes]] = {
        "backup-changed": (Refused, data[:-1] + bytes([data[-1] ^ 1])),
        "not a backup": (EvidenceError, b"x" + data),
        "ends in its header": (EvidenceError, data[:30]),
        "kek-wrong": (Refused, data.replace(b'"key":"', b'"key":"AAAA', 1)),
    }
    for said, (kind, bent) in cases.items():
        (tmp_path / "backup").write_bytes(bent)
        with pytest.raises(kind, match=said):
            restored(tmp_path, made)
    assert not made.path.exists()


def test_the_tree_is_that_of_rfc_6962_with_a_label_of_its_own() -> None:
    lines = [b"%d" % number for number in range(70)]
    tree = Tree()
    assert tree.head == LogHead(0, EMPTY)
    for count in range(1, len(lines) + 1):
        tree.append(lines[count - 1])
        assert tree.head == LogHead(count, root_of([leaf_hash(LABEL + line) for line in lines[:count]]))
    assert tree.head.root != root_of([leaf_hash(line) for line in lines])


def a_log(count: int = 8) -> list[bytes]:
    lines, prev = [], entry.START
    for seq in range(count):
        lines.append(entry.Entry(entry.RELEASE, RESOURCE, 1, image="11" * 32).line(seq, prev))
        prev = entry.digest(lines[-1])
    return lines


def test_a_whole_log_is_accepted_with_its_heads() -> None:
    lines = a_log()
    checked = entry.check(lines, [Tree(lines[:3]).head, Tree(lines).head, Tree().head])
    assert checked.head == Tree(lines).head
    assert checked.counts == {"release": 8, "refuse": 0, "admin": 0}


@pytest.mark.parametrize(
    ("said", "bent"),
    [
        ("a line is missing", lambda lines: lines[:3] + lines[4:]),
        ("a line is missing", lambda lines: lines[1:]),
        ("says that it is number", lambda lines: [lines[1], lines[0], *lines[2:]]),
        ("does not follow", lambda lines: [*lines[:3], lines[3].replace(b"11", b"12", 1), *lines[4:]]),
        ("not canonical JSON", lambda lines: [*lines[:3], lines[3] + b" ", *lines[4:]]),
        ("not canonical JSON", lambda lines: [lines[0].replace(b'{"codes"', b'{"seq":0,"codes"'), *lines[1:]]),
        ("unknown field", lambda lines: [lines[0].replace(b'{"codes"', b'{"b":0,"codes"'), *lines[1:]]),
        ("not JSON", lambda lines: [*lines[:7], b"{"]),
        ("expected at most", lambda lines: [*lines[:7], b" " * 20000]),
        ("log-cut", lambda lines: lines[:7]),
        ("log-cut", lambda lines: []),
        ("log-head", lambda lines: [*a_log(7), entry.Entry(entry.ADMIN).line(7, entry.digest(lines[6]))]),
    ],
)
def test_a_line_that_is_cut_changed_moved_or_removed_is_found(
    said: str, bent: Callable[[list[bytes]], list[bytes]]
) -> None:
    lines = a_log()
    with pytest.raises((EvidenceError, Refused), match=said):
        entry.check(bent(lines), [Tree(lines).head])


def test_two_heads_of_one_size_are_of_two_logs() -> None:
    lines = a_log(2)
    with pytest.raises(Refused, match="two different heads of 2 entries"):
        entry.check(lines, [Tree(lines).head, LogHead(2, bytes(32))])
