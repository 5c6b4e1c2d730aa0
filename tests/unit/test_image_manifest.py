"""manifest.json v2: it round-trips, and other documents are refused."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from privml.base.errors import BuildError, EvidenceError
from privml.base.strictjson import canonical, loads, pretty
from privml.events.agent import AgentEvent, engine_event, model_event
from privml.events.crypt import Crypt
from privml.events.verity import Verity
from privml.machine.platform import Size
from privml.output import manifest
from privml.output.artefacts import artefact, check_artefacts
from privml.output.contents import Engine, Firmware, Model, Package
from privml.output.manifest import Manifest
from privml.output.signature import Signature

ARTEFACTS = ("firmware.fd", "model.raw", "root.raw", "uki.efi")


def on_one_disk(folder: Path) -> Manifest:
    """The manifest of an image that boots from its disk."""
    made = sample(folder)
    (folder / "disk.raw").write_bytes(b"disk")
    return replace(made, boot="disk", artefacts={**made.artefacts, "disk.raw": artefact(folder / "disk.raw")})


def sample(folder: Path) -> Manifest:
    """A manifest of existing artefacts."""
    folder.mkdir(exist_ok=True)
    for name in ARTEFACTS:
        (folder / name).write_bytes(name.encode())
    return Manifest(
        name="demo-cpu",
        variant="production",
        recipe_sha256="1" * 64,
        lock_sha256="2" * 64,
        refreshed=False,
        source_date_epoch=1_750_000_000,
        listen=8443,
        cmdline="quiet privml.root=x",
        kernel="6.99",
        root=Verity(b"3" * 32, b"4" * 32, 10, 1),
        boot="direct",
        firmware={"tdx": Firmware("firmware.fd", "9" * 64)},
        models=(
            Model(
                "small", "model.raw", "gguf", Verity(b"5" * 32, b"6" * 32, 20, 1), "pypi:small==1", "1", "Apache-2.0"
            ),
        ),
        engine=Engine("llama-server", "1.0"),
        config_sha256="7" * 64,
        agent_events=tuple(AgentEvent(name, b"{}") for name in ("config", "model", "engine", "system-ready")),
        purposes={"serve": 4},
        artefacts={name: artefact(folder / name) for name in ARTEFACTS},
        platforms=("qemu-11-q35",),
        shapes=(Size(2, 2 << 30),),
        packages=(Package("bash", "5.3", "amd64", "8" * 64),),
        origins={"uki.efi": "recipes/demo-cpu.yaml:4 kernel.package"},
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = sample(tmp_path / "image")
    (tmp_path / "image/manifest.json").write_bytes(made.encode())
    return tmp_path / "image"


def test_a_manifest_round_trips(folder: Path) -> None:
    data = sample(folder).encode()
    assert manifest.decode(data) == sample(folder)
    assert manifest.decode(data).encode() == data
    assert manifest.read(folder) == sample(folder)
    assert hashlib.sha256(data).digest() == sample(folder).sha256
    with pytest.raises(EvidenceError, match="not canonical"):
        manifest.decode(pretty(loads(data)))


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in the document, objects and arrays included."""
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*path, key))


def bent(data: bytes, path: tuple[Any, ...], change: Any) -> bytes:
    document = loads(data)
    at = document
    for key in path[:-1]:
        at = at[key]
    change(at, path[-1])
    return canonical(document)


def field_paths(data: bytes) -> list[tuple[Any, ...]]:
    """Every field of the schema; the keys of origins, artefacts and purposes are data."""
    return [
        path
        for path in places(loads(data))
        if isinstance(path[-1], str) and (path[0] not in ("origins", "artefacts", "purposes") or len(path) != 2)
    ]


def test_every_missing_field_is_refused(folder: Path) -> None:
    data = sample(folder).encode()
    paths = field_paths(data)
    assert len(paths) > 45
    for path in paths:
        with pytest.raises(EvidenceError) as caught:
            manifest.decode(bent(data, path, lambda at, key: at.pop(key)))
        assert str(path[-1] if path != ("firmware", "tdx") else "one TEE") in caught.value.message, path


def test_every_field_of_a_wrong_type_is_refused(folder: Path) -> None:
    data = sample(folder).encode()

    def put(wrong: Any) -> Any:
        return lambda at, key: at.__setitem__(key, wrong)

    for path in places(loads(data)):
        old = loads(data)
        for key in path:
            old = old[key]
        for wrong in (None, True, 3, "?", ["?", None], {"?": None}):
            if type(wrong) is type(old) and not isinstance(old, list | dict):
                continue
            if wrong is None and path[-1] in ("revision", "licence"):
                assert manifest.decode(bent(data, path, put(None)))
                continue
            with pytest.raises(EvidenceError):
                manifest.decode(bent(data, path, put(wrong)))


def test_every_unknown_field_is_refused(folder: Path) -> None:
    data = sample(folder).encode()
    objects = {path[:-1] for path in field_paths(data)}
    assert len(objects) > 9
    for path in objects:
        with pytest.raises(EvidenceError, match="unexpected: unknown field"):
            manifest.decode(bent(data, (*path, "unexpected"), lambda at, key: at.update({key: 1})))


KEY = {"signer": "key", "key_id": "a" * 64, "sha256": "b" * 64}
IDENTITY = {"signer": "identity", "subject": "a@b.invalid", "issuer": "https://b.invalid", "sha256": "b" * 64}


def signed(folder: Path, by: dict[str, str]) -> Manifest:
    """The sample with a signed model."""
    made = sample(folder)
    return dataclasses.replace(made, models=(dataclasses.replace(made.models[0], signature=Signature(**by)),))


@pytest.mark.parametrize(
    ("by", "said"), [(KEY, f"key {'a' * 64}"), (IDENTITY, "identity a@b.invalid (https://b.invalid)")]
)
def test_a_signer_is_in_the_manifest_and_nothing_where_nobody_signed(
    by: dict[str, str], said: str, folder: Path
) -> None:
    assert b"signature" not in sample(folder).encode()
    data = signed(folder, by).encode()
    assert manifest.decode(data) == signed(folder, by)
    assert str(manifest.decode(data).models[0].signature) == said
    (model,) = loads(data)["models"]
    assert model["signature"] == by
    other = "identity" if by is KEY else "key"
    wrongs = [None, {}, by | {"signer": other}, by | {"more": 1}, KEY | IDENTITY, IDENTITY | {"subject": "a b"}]
    wrongs += [{key: value for key, value in by.items() if key != name} for name in by]
    for wrong in wrongs:
        with pytest.raises(EvidenceError, match="signature"):
            manifest.decode(bent(data, ("models", 0, "signature"), lambda at, key, new=wrong: at.update({key: new})))


def without_model(folder: Path) -> Manifest:
    made = sample(folder)
    return replace(
        made,
        models=(),
        engine=None,
        artefacts={name: found for name, found in made.artefacts.items() if name != "model.raw"},
        agent_events=(made.agent_events[0], made.agent_events[-1]),
        purposes={"serve": 2},
    )


def test_a_manifest_without_a_model_round_trips(folder: Path) -> None:
    data = without_model(folder).encode()
    assert (loads(data)["models"], loads(data)["engine"]) == ([], None)
    assert loads(data).keys() == loads(sample(folder).encode()).keys()
    assert manifest.decode(data) == without_model(folder)
    assert manifest.decode(data).encode() == data
    (folder / "model.raw").unlink()
    check_artefacts(folder, without_model(folder).artefacts)


@pytest.mark.parametrize(
    ("with_model", "path", "value", "text"),
    [
        (True, ("models",), [], ": models without an engine, or an engine without models"),
        (True, ("engine",), None, ": models without an engine, or an engine without models"),
        (True, ("artefacts", "model.raw"), None, ".artefacts.model.raw: null, expected an object"),
        (True, ("models", 0, "verity"), None, ".models[0].verity: null, expected an object"),
        (True, ("models", 0, "crypt"), 1, ".models[0].crypt: "),
        (True, ("models", 0, "volume"), "root.raw", ".models: expected the volumes model.raw, in this order"),
        (True, ("models", 0, "volume"), "model-2.raw", ".models: `model-2.raw` is not listed in the artefacts"),
        (False, ("models",), [{}], ".models[0].name: missing"),
        (False, ("models",), None, ".models: null, expected an array"),
        (False, ("engine",), {"name": "x", "version": "1"}, ": models without an engine, or an engine without"),
        (False, ("gpus",), {}, ".gpus.architecture: missing"),
        (False, ("gpus",), {"architecture": "hopper", "count": 0, "switches": 0}, ".gpus.count: "),
        (
            False,
            ("gpus",),
            {"architecture": "hopper", "count": 1, "switches": 0},
            ".gpus: given if, and only if, agent_events has `gpu-ready`",
        ),
        (False, ("exceptions",), [1], ".exceptions[0]: "),
        (False, ("boot",), "iso", ".boot: got `iso`, expected one of direct, disk"),
        (False, ("boot",), "disk", ".boot: `disk.raw` is not listed in the artefacts"),
        (
            False,
            ("artefacts", "disk.raw"),
            {"sha256": "1" * 64, "size": 1},
            ".artefacts: `disk.raw` is given if, and only if, boot is `disk`",
        ),
        (False, ("firmware",), {}, ".firmware: empty"),
        (False, ("firmware", "tdx", "file"), "other.fd", ".firmware: `other.fd` is not listed in the artefacts"),
        (
            False,
            ("artefacts", "../x"),
            {"sha256": "1" * 64, "size": 1},
            ".artefacts: `../x` is not a plain file name",
        ),
        (False, ("purposes", "serve"), 3, ".purposes.serve: got 3, expected 0 to 2"),
    ],
)
def test_a_model_requires_its_volume_and_the_reverse(
    folder: Path, with_model: bool, path: tuple[Any, ...], value: Any, text: str
) -> None:
    data = (sample(folder) if with_model else without_model(folder)).encode()
    with pytest.raises(EvidenceError, match=re.escape(f"manifest{text}")):
        manifest.decode(bent(data, path, lambda at, key: at.__setitem__(key, value)))


def encrypted(folder: Path) -> Manifest:
    """The manifest of an image whose model is encrypted."""
    made = sample(folder)
    crypt = Crypt("owner", "model/small", 2, b"c" * 32)
    events = (made.agent_events[0], AgentEvent("keys", b"{}"), *made.agent_events[1:])
    models = (replace(made.models[0], crypt=crypt),)
    return replace(made, models=models, agent_events=events, purposes={"key-release": 1, "serve": 5})


def test_an_encrypted_model_is_described_by_what_is_public_of_its_key(folder: Path) -> None:
    made = encrypted(folder)
    assert manifest.decode(made.encode()) == made
    assert loads(made.encode())["models"][0]["crypt"] == {
        "cipher": "aes-xts-plain64", "sector_size": 4096, "broker": "owner", "resource": "model/small",
        "generation": 2, "check": "63" * 32,
    }  # fmt: skip
    assert made.encrypted == made.models
    assert made.models[0].key == "`model/small`, generation 2, of broker owner"
    assert sample(folder).encrypted == () and sample(folder).models[0].key == ""


@pytest.mark.parametrize(
    "change",
    [
        {"purposes": {"serve": 5}},
        {"agent_events": tuple(AgentEvent(name, b"{}") for name in ("config", "model", "engine", "system-ready"))},
        {"models": "plain"},
    ],
)
def test_an_encrypted_model_its_event_and_its_purpose_come_together(folder: Path, change: dict[str, Any]) -> None:
    made = encrypted(folder)
    changes = {"models": sample(folder).models} if "models" in change else change
    purposes = {"purposes": {"key-release": 1, "serve": 4}} if "agent_events" in change else {}
    with pytest.raises(EvidenceError, match="one `keys` event and the purpose `key-release` are given if, and only"):
        manifest.decode(replace(made, **changes, **purposes).encode())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("cipher", "aes-cbc"), ("sector_size", 512), ("broker", "Owner"), ("resource", "/"), ("generation", 0),
        ("check", "63"), ("more", 1),
    ],
)  # fmt: skip
def test_a_malformed_encryption_is_refused(folder: Path, field: str, value: object) -> None:
    data = bent(encrypted(folder).encode(), ("models", 0, "crypt"), lambda at, key: at[key].__setitem__(field, value))
    with pytest.raises(EvidenceError, match=rf"manifest.models\[0\].crypt.*{field}"):
        manifest.decode(data)


@pytest.mark.parametrize("event", [model_event("small", "5" * 64), engine_event("llama-server", ["/x"])])
def test_events_of_a_missing_model_are_refused(folder: Path, event: AgentEvent) -> None:
    made = without_model(folder)
    contradicting = replace(made, agent_events=(made.agent_events[0], event, made.agent_events[-1]))
    with pytest.raises(EvidenceError, match="agent_events: expected one `model` event per model"):
        manifest.decode(contradicting.encode())


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("format",), "privml-manifest/v1"),
        (("variant",), "test"),
        (("recipe_sha256",), "1" * 62),
        (("recipe_sha256",), "A" * 64),
        (("listen",), 0),
        (("listen",), 65536),
        (("root", "block_size"), 512),
        (("root", "data_blocks"), 0),
        (("root", "root_hash"), "3" * 66),
        (("models", 0, "verity", "salt"), ""),
        (("shapes", 0, "vcpus"), 0),
        (("shapes", 0, "memory"), 0),
        (("agent_events", 0, "payload"), "e30"),
        (("artefacts", "uki.efi", "size"), -1),
        (("packages", 0, "sha256"), "zz" * 32),
    ],
)
def test_values_out_of_range_are_refused(folder: Path, path: tuple[Any, ...], value: Any) -> None:
    data = sample(folder).encode()

    def change(at: Any, key: Any) -> None:
        assert at[key] != value
        at[key] = value

    with pytest.raises(EvidenceError):
        manifest.decode(bent(data, path, change))


def test_a_directory_without_a_manifest_is_reported(tmp_path: Path) -> None:
    with pytest.raises(BuildError) as caught:
        manifest.read(tmp_path)
    assert "no manifest.json" in caught.value.message
    assert "privml-build image" in (caught.value.hint or "")


@pytest.mark.parametrize("name", ARTEFACTS)
def test_a_missing_or_changed_artefact_is_refused(folder: Path, name: str) -> None:
    made = manifest.read(folder)
    check_artefacts(folder, made.artefacts)
    body = (folder / name).read_bytes()
    for harm in (body + b"x", body[:-1] + b"?", b""):
        (folder / name).write_bytes(harm)
        with pytest.raises(BuildError, match=f"{name} does not match manifest.json"):
            check_artefacts(folder, made.artefacts)
    (folder / name).unlink()
    with pytest.raises(BuildError, match=f"{name} is missing"):
        check_artefacts(folder, made.artefacts)


def test_an_image_that_boots_from_its_disk_has_one(tmp_path: Path) -> None:
    made = on_one_disk(tmp_path / "image")
    assert manifest.decode(made.encode()) == made
    assert (made.boot_disk, made.disks, made.volumes) == ("disk.raw", ("disk.raw",), ("root.raw", "model.raw"))
    direct = sample(tmp_path / "image")
    assert (direct.boot_disk, direct.disks) == (None, direct.volumes)
