"""Pools in OCI's forms: a registry with its tokens and redirects, and an image layout. Bytes count, names do not."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from registry_fake import Registry, encoded, serving

from privml.base.errors import InputsError, UsageError
from privml.store import registry
from privml.store.fetch import Item, fetch
from privml.store.objects import Store
from privml.store.pools import Pool

DATA = b"bytes of an artefact"
DIGEST = hashlib.sha256(DATA).hexdigest()
OTHER = b"bytes of another one"
ITEMS = [Item(hashlib.sha256(data).hexdigest(), len(data), f"file-{n}", ()) for n, data in enumerate((DATA, OTHER))]

pytestmark = pytest.mark.usefixtures("no_proxy")


@pytest.fixture
def server() -> Iterator[Registry]:
    with serving() as found:
        found.blobs = {item.sha256: data for item, data in zip(ITEMS, (DATA, OTHER), strict=True)}
        yield found


def get(store: Store, pool: str, *items: Item) -> None:
    fetch(store, items or ITEMS[:1], pools=[Pool.parse(pool)], threads=1, attempts=3, sleep=lambda _: None)


def refused(store: Store, pool: str) -> str:
    with pytest.raises(InputsError) as error:
        get(store, pool)
    assert not store.has(DIGEST)
    return error.value.message


def test_a_public_registry_gives_blobs_for_an_anonymous_token(store: Store, server: Registry) -> None:
    get(store, server.pool, *ITEMS)
    assert [store.read(item.sha256) for item in ITEMS] == [DATA, OTHER]
    token, home = "Bearer anonymous-1", server.home
    assert [asked for asked in server.asked if "storage" not in asked[0]] == [
        (f"{home}{ITEMS[0].sha256}", None),
        ("/token?x=1&service=registry&scope=repository%3Aproject%2Fimages%3Apull", None),
        (f"{home}{ITEMS[0].sha256}", token),
        (f"{home}{ITEMS[1].sha256}", token),
    ]


def test_a_token_is_not_sent_to_the_server_of_a_redirect(store: Store, server: Registry) -> None:
    get(store, server.pool)
    assert [given for path, given in server.asked if path.startswith("storage")] == [None]


def test_a_registry_that_wants_no_token_is_sent_none(store: Store, server: Registry) -> None:
    server.storage, server.wanted = "", None
    get(store, server.pool)
    assert server.asked == [(f"{server.home}{DIGEST}", None)]


@pytest.mark.parametrize(
    ("bend", "message"),
    [
        (lambda it: it.blobs.update({DIGEST: DATA[::-1]}), "sha256 got "),
        (lambda it: it.blobs.update({DIGEST: DATA[:-1]}), f"{len(DATA) - 1} bytes, expected {len(DATA)}"),
        (lambda it: it.blobs.update({DIGEST: DATA * 9}), f"{len(DATA) * 9} bytes, expected {len(DATA)}"),
        (lambda it: it.blobs.clear(), "HTTP 404"),
        (lambda it: setattr(it, "wanted", "Bearer other"), "HTTP 401 Unauthorized"),
        (lambda it: setattr(it, "challenge", 'Basic realm="x"'), "asks for `Basic realm="),
        (lambda it: setattr(it, "challenge", "Bearer x"), "names the token service ``, expected https"),
        (lambda it: setattr(it, "challenge", 'Bearer realm="ftp://x/"'), "names the token service `ftp://x/`"),
        (lambda it: setattr(it, "challenge", 'Bearer realm="http://a:b@x/"'), "names the token service"),
        (lambda it: setattr(it, "challenge", 'Bearer realm="http://[/"'), "names the token service"),
        (lambda it: setattr(it, "status", 403), "the token service answers HTTP 403, expected 200"),
        (lambda it: setattr(it, "answer", b"[]"), "the token service's answer has no token"),
        (lambda it: setattr(it, "answer", b"{"), "the token service's answer: "),
        (lambda it: setattr(it, "answer", encoded(7)), "has no token"),
        (lambda it: setattr(it, "answer", encoded("a b")), "has no token"),
        (lambda it: setattr(it, "answer", encoded("a\r\nX-Y: z")), "has no token"),
        (lambda it: setattr(it, "answer", encoded("x" * 20_000)), "has no token"),
        (lambda it: setattr(it, "answer", b" " * 70_000), "expected at most 65536"),
    ],
)
def test_what_a_registry_does_wrong_is_said_and_nothing_kept(
    bend: Callable[[Registry], None], message: str, store: Store, server: Registry
) -> None:
    bend(server)
    said = refused(store, server.pool)
    assert said.startswith(
        f"file-0 (sha256:{DIGEST}) could not be fetched:\n  {server.address}{server.home}{DIGEST}: "
    )
    assert message in said
    assert len(server.asked) <= 4  # it is not tried again


def test_a_redirect_loop_ends(store: Store, server: Registry) -> None:
    server.loops = True
    assert "more than 5 redirects (3 attempts)" in refused(store, server.pool)
    assert len(server.asked) < 25


def test_an_endless_answer_is_cut_off(store: Store, server: Registry) -> None:
    server.endless = True
    assert f"more than the expected {len(DATA)} bytes" in refused(store, server.pool)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("oci://registry.example.invalid/a", "https://registry.example.invalid/v2/a"),
        ("oci://registry.example.invalid:5000/a/b-c/d_e/", "https://registry.example.invalid:5000/v2/a/b-c/d_e"),
        ("oci://localhost:5000/a", "http://localhost:5000/v2/a"),
        ("oci://127.0.0.1/a", "http://127.0.0.1/v2/a"),
        ("oci://[::1]:5000/a", "http://[::1]:5000/v2/a"),
    ],
)
def test_the_address_of_a_registry(text: str, address: str) -> None:
    assert registry.address(text) == address
    assert Pool.parse(text).url(DIGEST) == f"{address}/blobs/sha256:{DIGEST}"


@pytest.mark.parametrize(
    "text",
    [
        "oci://",
        "oci://host",
        "oci://host/",
        "oci://host/A",
        "oci://host/a:latest",
        f"oci://host/a@sha256:{DIGEST}",
        "oci://user:secret@host/a",
        "oci://host:99999/a",
        "oci://host:0/a",
        "oci://host/a/../b",
        "oci://host/a?b",
        "oci://host/a#b",
        "oci://[x/a",
    ],
)
def test_what_is_no_repository_of_a_registry(text: str) -> None:
    with pytest.raises(UsageError, match="expected oci://HOST"):
        Pool.parse(text)


def layout(folder: Path, blobs: dict[str, bytes]) -> Path:
    """An image layout whose index and manifest lie about everything."""
    (folder / "blobs/sha256").mkdir(parents=True)
    (folder / "oci-layout").write_text(json.dumps({"imageLayoutVersion": "1.0.0"}))
    (folder / "index.json").write_text(json.dumps({"manifests": [{"digest": f"sha256:{'0' * 64}", "size": 1}]}))
    for digest, data in blobs.items():
        (folder / "blobs/sha256" / digest).write_bytes(data)
    return folder


def test_an_image_layout_is_a_pool_whatever_its_index_says(store: Store, tmp_path: Path) -> None:
    get(store, str(layout(tmp_path / "layout", {DIGEST: DATA})))
    assert store.read(DIGEST) == DATA


@pytest.mark.parametrize(
    ("data", "message"),
    [(DATA[::-1], "sha256 got "), (DATA[:-1], "19 bytes, expected 20"), (DATA * 9, "180 bytes, expected 20")],
)
def test_other_bytes_in_a_layout_are_refused(data: bytes, message: str, store: Store, tmp_path: Path) -> None:
    said = refused(store, str(layout(tmp_path / "layout", {DIGEST: data})))
    assert message in said
    assert str(tmp_path / "layout/blobs/sha256" / DIGEST) in said


def test_a_layout_without_the_blob_is_named(store: Store, tmp_path: Path) -> None:
    assert f"{tmp_path}/layout: not in this pool" in refused(store, str(layout(tmp_path / "layout", {})))
