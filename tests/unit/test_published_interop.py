"""python-tuf and this project read what the other writes, and refuse the same attacks."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pytest
from published_fake import NAME, NOW, Fake, new_root, published, role, signer
from securesystemslib.signer import CryptoSigner, SSlibKey
from tuf.api import exceptions
from tuf.api import metadata as theirs
from tuf.ngclient import Updater
from tuf.ngclient.fetcher import FetcherInterface

from privml.statement import tufkeys
from privml.statement.follow import Memory, follow, index_of
from privml.statement.index import State

TIME = datetime.datetime.fromtimestamp(NOW, datetime.UTC)


class Fetcher(FetcherInterface):
    """Their client's way to the table of files."""

    def __init__(self, fake: Fake) -> None:
        self.fake = fake

    def _fetch(self, url: str) -> Any:
        data = self.fake.files.get(url.removeprefix("mem:/"))
        if data is None:
            raise exceptions.DownloadHTTPError("absent", 404)
        return iter([data])


def their_index(fake: Fake, folder: Path) -> bytes:
    """The index as their client gets it, with a new state directory each time."""
    state = folder / f"state-{len(list(folder.iterdir()))}"
    updater = Updater(str(state), "mem:/tuf/", str(folder), "mem:/", fetcher=Fetcher(fake), bootstrap=fake.trusted)
    updater.config.prefix_targets_with_hash = False
    updater._trusted_set.reference_time = TIME
    updater.refresh()
    info = updater.get_targetinfo(f"{NAME}/index.json")
    assert info is not None
    return Path(updater.download_target(info, str(folder / "got"))).read_bytes()


def test_their_client_follows_what_our_writer_wrote(tmp_path: Path) -> None:
    fake = published()
    fake.set_state("1.0", State.REVOKED, "a hole")
    assert their_index(fake, tmp_path) == fake.files[f"{NAME}/index.json"]


def test_their_client_follows_a_demonstration_and_keeps_its_mark(tmp_path: Path) -> None:
    fake = published(demonstration_until=NOW + 3650 * 86400)
    assert their_index(fake, tmp_path) == fake.files[f"{NAME}/index.json"]
    root = theirs.Metadata[theirs.Root].from_bytes(fake.trusted)
    assert root.signed.unrecognized_fields == {"demonstration": True}
    root.verify_delegate("root", root)


def test_their_client_follows_our_roots(tmp_path: Path) -> None:
    fake = published()
    roles = {
        "root": role(2, "root-2", "root-4", "p384-root-3"),
        "targets": role(1, "root-1"),
        "snapshot": role(1, "p256-online"),
        "timestamp": role(1, "p256-online"),
    }
    new_root(fake, roles, ("root-1", "root-2", "p384-root-3", "root-4", "p256-online"))
    assert their_index(fake, tmp_path) == fake.files[f"{NAME}/index.json"]


@pytest.mark.parametrize(
    "path",
    ["tuf/2.root.json", "tuf/timestamp.json", "tuf/3.snapshot.json", "tuf/1.targets.json", f"tuf/2.{NAME}.json"],
)
def test_their_client_and_ours_refuse_the_same_change(path: str, tmp_path: Path) -> None:
    fake = published()
    if path == "tuf/2.root.json":
        new_root(fake, fake.roles)
    data = bytearray(fake.files[path])
    at = data.index(b'"2026-' if b'"2026-' in data else b'"2027-') + 5
    data[at + 4] ^= 1  # the tens of the day
    fake.files[path] = bytes(data)
    with pytest.raises(exceptions.RepositoryError):
        their_index(fake, tmp_path)
    with pytest.raises(Exception, match=r"does not verify|sha256"):
        fake.walk()


def their_key(name: str) -> SSlibKey:
    public = signer(name).public
    return SSlibKey.from_dict(public.keyid, tufkeys.key_to_dict(public))


def made_by_them() -> dict[str, bytes]:
    """A repository of our profile, written by python-tuf."""
    from published_fake import PUBLISHERS, ROOTS

    index = published().files[f"{NAME}/index.json"]
    root = theirs.Root(consistent_snapshot=True, expires=TIME)
    for part, names in (("root", ROOTS), ("targets", ROOTS), ("snapshot", ["online"]), ("timestamp", ["online"])):
        for name in names:
            root.add_key(their_key(name), part)
    root.roles["root"].threshold = root.roles["targets"].threshold = 2
    keys = {their_key(name).keyid: their_key(name) for name in PUBLISHERS}
    delegated = theirs.DelegatedRole(NAME, list(keys), 2, terminating=True, paths=[f"{NAME}/*"])
    targets = theirs.Targets(expires=TIME, delegations=theirs.Delegations(keys, {NAME: delegated}))
    target = theirs.TargetFile.from_data(f"{NAME}/index.json", index, ["sha256"])
    image = theirs.Targets(expires=TIME, targets={f"{NAME}/index.json": target})
    files = {f"{NAME}/index.json": index}

    def write(path: str, body: Any, names: Any) -> theirs.MetaFile:
        envelope = theirs.Metadata(body)
        for name in names:
            envelope.sign(CryptoSigner(signer(name)._key, their_key(name)), append=True)
        files[path] = envelope.to_bytes()
        return theirs.MetaFile.from_data(1, files[path], ["sha256"])

    write("tuf/1.root.json", root, ROOTS)
    meta = {
        "targets.json": write("tuf/1.targets.json", targets, ROOTS),
        f"{NAME}.json": write(f"tuf/1.{NAME}.json", image, PUBLISHERS[:2]),
    }
    snapshot = write("tuf/1.snapshot.json", theirs.Snapshot(expires=TIME, meta=meta), ["online"])
    write("tuf/timestamp.json", theirs.Timestamp(expires=TIME, snapshot_meta=snapshot), ["online"])
    return files


def test_our_client_follows_what_their_writer_wrote() -> None:
    files = made_by_them()
    update = follow(lambda path, _: files.get(path), files["tuf/1.root.json"], Memory())
    index = index_of(update, lambda path, _: files.get(path), NAME)
    assert index.encode() == files[f"{NAME}/index.json"]
    assert update.publishers(NAME).threshold == 2
    assert update.expiries == dict.fromkeys(("root", "timestamp", "snapshot", "targets", NAME), NOW)
