"""`deploy --for kubevirt`: each field is one of KubeVirt's API with its type, and the files are where it says."""

from __future__ import annotations

import copy
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from deployed import from_disk, of, shipped_platform

from privml.base.errors import UsageError
from privml.deploy import virtualmachine
from privml.deploy.virtualmachine import LAYOUT

API = json.loads(Path(__file__).with_name("kubevirt_types.json").read_text())
SCALARS: dict[str, Any] = {"string": str, "number": int, "boolean": bool, "object": dict}
PLAIN = shipped_platform("qemu-11-q35")
ONE_DISK = shipped_platform("qemu-11-q35-one-disk")
REFERENCE = "registry.example/demo-cpu@sha256:" + "ab" * 32


def written(name: str = "demo-cpu", **more: Any) -> tuple[str, dict[str, Any]]:
    text = virtualmachine.write(of(PLAIN, name=name, container=REFERENCE, **more)).text
    return text, yaml.safe_load(text)


def problems(value: Any, kind: str, at: str) -> list[str]:
    """What of ``value`` is not as the API describes the type ``kind``."""
    if match := re.fullmatch(r"(Array|Map)<(.+)>", kind):
        items = enumerate(value) if match[1] == "Array" else value.items()
        return [each for key, one in items for each in problems(one, match[2], f"{at}[{key}]")]
    if kind in API["values"]:
        return [] if value in API["values"][kind] else [f"{at}: {value}"]
    if kind in SCALARS:
        return [] if type(value) is SCALARS[kind] else [f"{at}: {value!r} is not a {kind}"]
    fields = API["types"][kind]
    found = [f"{at}.{key}: unknown" for key in value if key not in fields]
    found += [f"{at}.{key}: missing" for key, (_, needed) in fields.items() if needed and key not in value]
    return found + [
        each for key, one in value.items() if key in fields for each in problems(one, fields[key][0], f"{at}.{key}")
    ]


@pytest.mark.parametrize("platform", [PLAIN, ONE_DISK], ids=lambda one: one.name)
def test_every_field_is_one_of_the_api(platform: Any) -> None:
    document = yaml.safe_load(virtualmachine.write(of(platform, container=REFERENCE)).text)
    assert problems(document, API["root"], "") == []


def test_the_check_sees_mistakes() -> None:
    _, document = written()
    for path, value, said in (
        (("spec", "template", "spec", "domain", "firmware", "kernel"), {}, "kernel: unknown"),
        (("spec", "template", "spec", "domain", "cpu", "cores"), "2", "'2' is not a number"),
        (("spec", "template", "spec", "readinessProbe", "httpGet", "scheme"), "SSH", "scheme: SSH"),
        (("spec", "template", "spec"), {}, "domain: missing"),
    ):
        changed = copy.deepcopy(document)
        place = changed
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
        assert any(said in one for one in problems(changed, API["root"], "")), said


def test_the_containerfile_puts_each_file_where_the_manifest_looks() -> None:
    text, document = written()
    layout = [line.removeprefix(LAYOUT) for line in text.splitlines() if line.startswith(LAYOUT)]
    assert layout[0] == "FROM scratch"
    copied = {f"{words[-1]}{file}" for words in (line.split() for line in layout[1:]) for file in words[2:-1]}
    spec = document["spec"]["template"]["spec"]
    kernel = spec["domain"]["firmware"]["kernelBoot"]["container"]
    wanted = {volume["containerDisk"]["path"] for volume in spec["volumes"]} | {kernel["kernelPath"]}
    assert copied == wanted == {"/disk/root.raw", "/disk/model.raw", "/boot/uki.efi"}
    assert {volume["containerDisk"]["image"] for volume in spec["volumes"]} | {kernel["image"]} == {REFERENCE}
    assert [disk["name"] for disk in spec["domain"]["devices"]["disks"]] == [one["name"] for one in spec["volumes"]]


def test_an_image_that_boots_from_its_disk_is_one_disk_of_the_container() -> None:
    text = virtualmachine.write(from_disk(ONE_DISK, container=REFERENCE)).text
    document = yaml.safe_load(text)
    assert problems(document, API["root"], "") == []
    layout = [line for line in text.splitlines() if line.startswith(LAYOUT)]
    assert layout[1:] == [f"{LAYOUT}COPY --chown=107:107 disk.raw /disk/"]
    spec = document["spec"]["template"]["spec"]
    assert spec["domain"]["firmware"] == {"bootloader": {"efi": {"secureBoot": False}}}
    assert spec["domain"]["devices"]["disks"] == [
        {"name": "disk", "bootOrder": 1, "disk": {"bus": "virtio", "readonly": True}}
    ]
    assert spec["volumes"] == [{"name": "disk", "containerDisk": {"image": REFERENCE, "path": "/disk/disk.raw"}}]


def test_it_is_a_td_of_the_wanted_size_that_is_ready_when_the_guest_is() -> None:
    _, document = written("two")
    spec = document["spec"]["template"]["spec"]
    assert spec["domain"]["launchSecurity"] == {"tdx": {}}
    assert (spec["domain"]["cpu"]["cores"], spec["domain"]["memory"]["guest"]) == (2, "2048Mi")
    assert spec["readinessProbe"]["httpGet"] == {"scheme": "HTTPS", "path": "/readyz", "port": 8443}
    assert document["metadata"]["name"] == "two"


def test_it_says_that_firmware_and_machine_are_not_predicted() -> None:
    found = virtualmachine.write(of(PLAIN, container=REFERENCE))
    assert found.registers == {
        "mrtd": "unknown", "rtmr0": "unknown", "rtmr1": "predicted", "rtmr2": "predicted", "rtmr3": "predicted",
    }  # fmt: skip
    assert any("no verifier accepts this guest yet" in note for note in found.notes)


@pytest.mark.parametrize("reference", [None, "", "a b", "a\nb", "-x", "a" * 300, "a'b"])
def test_another_word_is_no_container_image(reference: str | None) -> None:
    with pytest.raises(UsageError, match="expected the name of an image of your registry"):
        virtualmachine.write(of(PLAIN, container=reference))


def test_gpus_are_refused() -> None:
    with pytest.raises(UsageError, match="has GPUs, whose resource names are those of the cluster"):
        virtualmachine.write(of(shipped_platform("qemu-11-q35-h100"), container=REFERENCE))


def test_without_a_port_there_is_no_probe() -> None:
    own = of(PLAIN, container=REFERENCE)
    silent = replace(own, launch=replace(own.launch, forward=None))
    spec = yaml.safe_load(virtualmachine.write(silent).text)["spec"]["template"]["spec"]
    assert "readinessProbe" not in spec and "ports" not in spec["domain"]["devices"]["interfaces"][0]
