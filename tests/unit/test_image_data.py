"""Images with data volumes: built, encrypted by another owner's key, described, rebuilt and compared."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from image_varied import BASE, Document, Predictor, Workshop
from test_image_volumekeys import digests, encrypted

from privml.base.errors import UsageError
from privml.base.strictjson import loads
from privml.cli.inspect import inspect
from privml.events.volumes import DATA, slot_of
from privml.image import build as room
from privml.image.services import overlay
from privml.image.volumekeys import VolumeKeys
from privml.output import manifest as manifests
from privml.output.volumekey import VolumeKey
from privml.recipe.service import Service

WEIGHTS = VolumeKey("model/small", 1, bytes(range(64)))
CORPUS = VolumeKey("data/corpus", 3, bytes(range(1, 65)))
FILES = {"data/corpus/a.txt": "first", "data/corpus/more/b.txt": "second", "data/terms.txt": "terms"}


def with_data(base: Document, **changes: Any) -> Document:
    """``base`` with a folder and a file as data."""
    document = copy.deepcopy(base)
    document["data"] = [
        {"name": "corpus", "source": "file:data/corpus/", **changes},
        {"name": "terms", "source": "file:data/terms.txt"},
    ]
    document["devices"][0]["virtio-blk"] = 4
    return document


def two_owners() -> Document:
    document = with_data(encrypted(), encrypt={"broker": "partner", "resource": "data/corpus"})
    document["keys"]["brokers"]["partner"] = {"ed25519": "cd" * 32}
    return document


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield Workshop(tmp_path_factory.mktemp("data"), monkeypatch)


@pytest.fixture(scope="module")
def bare(shop: Workshop) -> Path:
    return shop.image("bare", BASE)


@pytest.fixture(scope="module")
def plain(shop: Workshop) -> Path:
    return shop.image("plain", with_data(BASE), FILES)


@pytest.fixture(scope="module")
def owned(shop: Workshop) -> Path:
    return shop.image("owned", two_owners(), FILES, volumes=VolumeKeys.of([WEIGHTS, CORPUS]))


def test_data_is_built_measured_and_described(shop: Workshop, bare: Path, plain: Path) -> None:
    found = manifests.read(plain)
    assert [(each.name, each.volume, each.source) for each in found.data] == [
        ("corpus", "data.raw", "file:data/corpus/"),
        ("terms", "data-2.raw", "file:data/terms.txt"),
    ]
    assert found.volumes == ("root.raw", "model.raw", "data.raw", "data-2.raw") == found.disks
    events = [event.name for event in found.agent_events]
    assert events == ["config", "model", "data", "data", "engine", "system-ready"]
    assert json.loads(found.agent_events[2].payload)["root_hash"] == found.data[0].verity.root_hash.hex()
    assert digests(plain)["model.raw"] == digests(bare)["model.raw"], "data is no input of a model's volume"
    tree = next(place for place in (shop.fake.root / "trees").iterdir() if (place / "more/b.txt").is_file())
    assert {path.relative_to(tree).as_posix(): path.stat().st_mode & 0o777 for path in tree.rglob("*")} == {
        "a.txt": 0o644, "more": 0o755, "more/b.txt": 0o644,
    }  # fmt: skip
    inside = loads((plain / "sbom.cdx.json").read_bytes(), what="sbom")["components"]
    (corpus,) = [part for part in inside if part["type"] == "data" and part["name"] == "corpus"]
    assert [part["name"] for part in corpus["components"]] == ["a.txt", "more/b.txt"]
    inputs = loads((plain / "provenance.json").read_bytes(), what="provenance")["predicate"]["buildDefinition"]
    assert "data terms: terms.txt" in {part.get("name") for part in inputs["resolvedDependencies"]}
    assert not manifests.read(bare).data and b'"data"' not in (bare / "manifest.json").read_bytes()


def test_inspect_shows_data(owned: Path) -> None:
    shown = CliRunner().invoke(inspect, [str(owned)])
    assert shown.exit_code == 0, shown.output
    assert "data corpus, root hash" in shown.output
    assert "encrypted, with the key `data/corpus`, generation 3, of broker partner" in shown.output


def test_what_changes_in_the_data_explains_what_differs(shop: Workshop, bare: Path, plain: Path, owned: Path) -> None:
    document = with_data(BASE)
    document["data"][0]["name"] = "other"
    document["data"][1]["source"] = "file:data/corpus/a.txt"
    varied = shop.image("varied", document, FILES)
    found = shop.diff(plain, varied)
    assert [change.text() for change in found.unexplained] == []
    assert {"data[0].name", "data[1].source"} <= {change.name for change in found.changes}
    assert found.registers is not None and set(found.registers) == {"rtmr1", "rtmr2", "rtmr3"}
    content = shop.image("content", with_data(BASE), FILES | {"data/terms.txt": "new"})
    found = shop.diff(plain, content)
    assert [change.text() for change in found.unexplained] == []
    assert {(change.kind, change.name) for change in found.changes if change.kind.startswith("data")} >= {
        ("data", "terms"), ("data volume", "data-2.raw"),
    }  # fmt: skip
    for other in (bare, owned):
        assert [change.text() for change in shop.diff(plain, other).unexplained] == []


def test_a_change_of_one_volume_leaves_the_others_cached(shop: Workshop) -> None:
    image = shop.image("steps", with_data(BASE), FILES)
    order = shop.fake.order(tools=lambda: shop.tools, predictor=Predictor())
    assert room.build(order, image).cached
    files = FILES | {"data/corpus/a.txt": "another", "data/corpus/c.txt": "third"}
    more = shop.recipe("steps", with_data(BASE), files, "varied")
    because = room.build(replace(order, lock=shop.lock(more)), image).because
    assert because["data.raw"] == ("data file a.txt changed", "data file c.txt is new")
    assert not any(because[name] for name in ("model.raw", "data-2.raw", "base tree", "firmware.fd"))
    assert because["root.raw"] and because["manifest.json"] and because["prediction.json"]


def test_two_owners_have_a_key_each_and_neither_needs_the_other_s(shop: Workshop, owned: Path) -> None:
    found = manifests.read(owned)
    assert [each.crypt and each.crypt.broker for each in found.filled] == ["owner", "partner", None]
    assert found.purposes == {"key-release": 1, "serve": 7}
    partner = VolumeKeys.of([CORPUS], owned)
    assert [given.path.name for given in partner.given_of(shop.recipe("again", two_owners(), FILES, "varied"))] == [
        "model.raw"
    ]
    again = shop.image("again", two_owners(), FILES, volumes=partner)
    assert digests(again) == digests(owned)
    owner = shop.image("weights", two_owners(), FILES, volumes=VolumeKeys.of([WEIGHTS], owned))
    assert digests(owner) == digests(owned)
    with pytest.raises(UsageError, match=r"data\.raw is encrypted, and the key of `data/corpus` is not given"):
        shop.image("none", two_owners(), FILES, volumes=VolumeKeys.of([WEIGHTS]))


def test_the_first_image_of_two_owners_needs_no_key_of_the_other(shop: Workshop, owned: Path) -> None:
    """The partner encrypts the corpus in an image of its own, without a model; the owner takes the volume from it."""
    document = two_owners()
    del document["inference"], document["keys"]["brokers"]["owner"]
    document["devices"][0]["virtio-blk"] = 3
    partner = shop.image("partner", document, FILES, "corpus-alone", volumes=VolumeKeys.of([CORPUS]))
    assert [event.name for event in manifests.read(partner).agent_events] == [
        "config", "keys", "data", "data", "system-ready",
    ]  # fmt: skip
    made = shop.image("joint", two_owners(), FILES, volumes=VolumeKeys.of([WEIGHTS], partner))
    assert digests(made) == digests(owned)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"volume": "data-2.raw"}, "manifest.data: expected the volumes data.raw, data-2.raw, in this order"),
        ({"crypt": CORPUS.crypt("owner")}, "given if, and only if, a volume is encrypted"),
        (None, "expected one `data` event for each data volume"),
    ],
)
def test_a_manifest_whose_data_is_inconsistent_is_refused(
    plain: Path, change: dict[str, Any] | None, why: str
) -> None:
    found = manifests.read(plain)
    first, second = found.data
    data = (first,) if change is None else (replace(first, **change), second)
    with pytest.raises(manifests.EvidenceError, match=why):
        manifests.decode(replace(found, data=data).encode())


def test_only_the_services_are_in_the_group_that_may_enter_the_data() -> None:
    service = {"metrics": Service.model_validate({"run": ["/usr/bin/python3"], "memory": "64MiB"})}
    with_group, without = overlay(service, data=True), overlay(service)
    users = "usr/lib/sysusers.d/privml-services.conf"
    limits = "etc/systemd/system/privml-service@metrics.service.d/limits.conf"
    assert b"g privml-data 905\n" in with_group[users].data
    assert b"SupplementaryGroups=privml-data\n" in with_group[limits].data
    assert not any(b"privml-data" in file.data for file in without.values())
    others = [file.data for path, file in with_group.items() if path not in (users, limits)]
    assert not any(b"privml-data" in data for data in others)


def test_the_names_of_data_volumes_are_those_of_no_model() -> None:
    found = slot_of("data-8.raw")
    assert found is not None and (found.kind, found.number, found.partition) == (DATA, 7, "privml-data-8")
    assert slot_of("data-9.raw") is None and slot_of("root.raw") is None
