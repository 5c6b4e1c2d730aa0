"""Pools: the requests they get, in which order, and that contents are trusted only by hash."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from pool_server import serving

from privml.base.errors import InputsError, UsageError
from privml.store.fetch import GoneError, Item, fetch
from privml.store.objects import Store
from privml.store.pools import Pool, export, relative, take_in

DATA = b"bytes of a package"
DIGEST = hashlib.sha256(DATA).hexdigest()
ITEM = Item(DIGEST, len(DATA), "thing", ("http://127.0.0.1:9/mirror",))

pytestmark = pytest.mark.usefixtures("no_proxy")


def keep(folder: Path, data: bytes, digest: str | None = None) -> Path:
    place = folder / relative(digest or hashlib.sha256(data).hexdigest())
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(data)
    return folder


def get(store: Store, item: Item, *pools: Path | str) -> int:
    return fetch(store, [item], pools=[Pool.parse(str(pool)) for pool in pools], attempts=2, sleep=lambda _: None)


def test_a_folder_is_searched_before_any_address(store: Store, tmp_path: Path) -> None:
    assert get(store, ITEM, keep(tmp_path / "pool", DATA)) == len(DATA)
    assert store.read(DIGEST) == DATA


def test_another_store_can_be_a_pool(store: Store, tmp_path: Path) -> None:
    other = Store(tmp_path / "other")
    other.add_bytes(DATA)
    get(store, ITEM, other.root / "objects")
    assert store.read(DIGEST) == DATA


def test_an_address_can_be_a_pool(store: Store, tmp_path: Path) -> None:
    with serving(keep(tmp_path / "pool", DATA)) as (address, asked):
        get(store, ITEM, f"{address}/")
        assert asked == [f"/{relative(DIGEST)}"]
    assert store.read(DIGEST) == DATA


def test_sources_are_tried_in_order_store_pools_mirrors(store: Store, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with serving(keep(tmp_path / "web", DATA)) as (address, asked):
        item = Item(DIGEST, len(DATA), "thing", (f"{address}/{relative(DIGEST)}",))
        get(store, item, tmp_path / "empty", f"{address}/nothing")
        assert asked == [f"/nothing/{relative(DIGEST)}", f"/{relative(DIGEST)}"]
        get(store, item, f"{address}/nothing")
        assert len(asked) == 2


@pytest.mark.parametrize("lie", [b"other bytes of it!", b"short", DATA + b"more", b""])
def test_a_pool_with_wrong_bytes_is_skipped(store: Store, tmp_path: Path, lie: bytes) -> None:
    liar, good = keep(tmp_path / "liar", lie, DIGEST), keep(tmp_path / "good", DATA)
    get(store, ITEM, liar, good)
    assert store.read(DIGEST) == DATA
    other = Store(tmp_path / "other")
    with serving(liar) as (address, _):
        get(other, ITEM, address, good)
    assert other.read(DIGEST) == DATA


def test_an_object_is_gone_when_every_source_says_so(store: Store, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with serving(tmp_path / "empty") as (address, _):
        gone = [Item(str(n) * 64, 5, f"thing-{n}", (f"{address}/{n}",)) for n in range(3)]
        here = Item(DIGEST, len(DATA), "here", (f"{address}/here",))
        (tmp_path / "empty/here").write_bytes(DATA)
        with pytest.raises(GoneError) as caught:
            fetch(store, [*gone, here], pools=[Pool.parse(str(tmp_path / "empty"))], threads=1)
    assert [item.name for item in caught.value.items] == ["thing-0", "thing-1", "thing-2"]
    assert "not in this pool" in caught.value.message
    assert "--refresh-to" in (caught.value.hint or "")
    assert store.has(DIGEST), "what is gone does not keep the rest away"


def test_an_unreachable_source_does_not_mean_gone(store: Store, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with serving(tmp_path / "empty") as (address, _):
        item = Item(DIGEST, 5, "thing", (f"{address}/x", "http://127.0.0.1:9/x"))
        with pytest.raises(InputsError) as caught:
            get(store, item)
    assert not isinstance(caught.value, GoneError)
    assert "HTTP 404" in caught.value.message


def test_an_unreachable_pool_is_retried_only_once(store: Store, tmp_path: Path) -> None:
    pauses: list[float] = []
    with serving(tmp_path) as (address, _):
        items = []
        for n in range(3):
            (tmp_path / f"{n}").write_bytes(bytes([n]))
            items.append(Item(hashlib.sha256(bytes([n])).hexdigest(), 1, f"{n}", (f"{address}/{n}",)))
        fetch(store, items, pools=[Pool("http://127.0.0.1:9")], threads=1, attempts=4, sleep=pauses.append)
    assert pauses == [0.25, 0.5, 1.0]


def test_exported_objects_can_be_imported(store: Store, tmp_path: Path) -> None:
    digests = [store.add_bytes(bytes([n])) for n in range(3)]
    pool = tmp_path / "pool"
    assert export(store, digests[:2], pool) == (2, 2)
    (pool / relative(digests[0])).chmod(0o644)
    (pool / relative(digests[0])).write_bytes(b"rotten")
    assert export(store, digests[:2], pool) == (1, 1)
    assert sorted(path.name for path in pool.rglob("*") if path.is_file()) == sorted(d[2:] for d in digests[:2])
    other = Store(tmp_path / "other")
    assert take_in(other, pool) == (2, 2)
    assert take_in(other, pool) == (0, 0)
    assert list(other.digests()) == sorted(digests[:2])


def test_import_refuses_misnamed_objects_and_takes_the_rest(store: Store, tmp_path: Path) -> None:
    pool = keep(tmp_path / "pool", DATA)
    keep(pool, b"rotten", "00" * 32)
    (pool / "sha256/00/.hidden").write_bytes(b"a name that is none of ours")
    with pytest.raises(InputsError, match=r"sha256 got .*, expected 0000"):
        take_in(store, pool)
    assert list(store.digests()) == [DIGEST]
    assert not list((store.root / "temp").iterdir())


def test_a_damaged_object_is_not_exported(store: Store, tmp_path: Path) -> None:
    place = store.path(store.add_bytes(DATA))
    place.chmod(0o644)
    place.write_bytes(b"rotten")
    with pytest.raises(InputsError, match="damaged"):
        export(store, [DIGEST], tmp_path / "pool")
    assert not [path for path in (tmp_path / "pool").rglob("*") if path.is_file()]


def test_pools_are_parsed_as_folder_or_address(tmp_path: Path) -> None:
    assert Pool.parse("https://pool.example.invalid/x/").url(DIGEST) == (
        f"https://pool.example.invalid/x/sha256/{DIGEST[:2]}/{DIGEST[2:]}"
    )
    for text in (str(tmp_path / "absent"), "ftp://pool.example.invalid/"):
        with pytest.raises(UsageError, match="neither a directory nor"):
            Pool.parse(text)
