"""A recipe's services: what may be said of one, and which files the image gets for them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from privml.base.errors import RecipeError
from privml.events import configuration
from privml.image import resources
from privml.image.config import measured_config
from privml.image.root import plan_of
from privml.lock.lockfile import read_lock
from privml.lock.trees import guest_tree, images_folder
from privml.recipe.loader import Recipe, load, shipped

TEXT = """\
extends: ./tdx-min.yaml
services:
  metrics:
    run: [/usr/bin/python3, /usr/lib/acme/metrics.py]
    environment: {ACME_LEVEL: info}
    memory: 64MiB
    scratch: 32MiB
  guard: {run: [/usr/lib/acme/guard], memory: 1GiB, required: true}
"""


def recipe(tmp_path: Path, text: str = TEXT) -> Recipe:
    (tmp_path / "tdx-min.yaml").write_bytes((shipped() / "tdx-min.yaml").read_bytes())
    path = tmp_path / "acme.yaml"
    path.write_text(text)
    return load(path)


def own(tmp: int) -> bytes:
    """The lines for a service's writable directories, with a /tmp of that many MiB."""
    sizes = {"/tmp": tmp, "/var/tmp": 64, "/dev/shm": 64}
    options = "mode=1777,noexec,nosuid,nodev"
    return "".join(f"TemporaryFileSystem={path}:size={size}M,{options}\n" for path, size in sizes.items()).encode()


def test_files_of_the_image(tmp_path: Path) -> None:
    given = recipe(tmp_path)
    files = resources.overlay(given, [], config=b"{}")
    assert files["usr/lib/sysusers.d/privml-services.conf"].data.decode().splitlines() == [
        "g privml-x-guard 910",
        'u privml-x-guard 910:910 "service guard of the image" /',
        "g privml-x-metrics 911",
        'u privml-x-metrics 911:911 "service metrics of the image" /',
    ]
    drop_in = files["etc/systemd/system/privml-server.service.d/services.conf"].data
    assert b"SupplementaryGroups=privml-x-guard privml-x-metrics\n" in drop_in
    limits = {path: file.data for path, file in files.items() if path.endswith("limits.conf")}
    assert limits == {
        "etc/systemd/system/privml-service@guard.service.d/limits.conf": (
            b"[Service]\nMemoryMax=1024M\nMemorySwapMax=0\n" + own(64)
        ),
        "etc/systemd/system/privml-service@metrics.service.d/limits.conf": (
            b"[Service]\nMemoryMax=64M\nMemorySwapMax=0\n" + own(32)
        ),
    }
    assert "usr/lib/systemd/system/privml-service@.service" in files
    locked = {file.path for file in guest_tree(images_folder(), given.content).files}
    assert "guest/services/usr/lib/systemd/system/privml-service@.service" in locked


def test_an_image_without_services_has_nothing_of_them() -> None:
    given = load(shipped() / "tdx-min.yaml")
    files = resources.overlay(given, [], config=b"{}")
    assert not [path for path in files if "privml-service" in path or path.endswith("services.conf")]
    assert not [file.path for file in guest_tree(images_folder(), given.content).files if "/services/" in file.path]


def test_they_are_measured_and_finalize_looks_for_their_programs(tmp_path: Path) -> None:
    given, lock = recipe(tmp_path), read_lock(shipped() / "tdx-min.lock.json")
    data = configuration.encode(measured_config(given, lock, []))
    assert json.loads(data)["services"] == [
        {
            "name": "guard",
            "argv": ["/usr/lib/acme/guard"],
            "environment": {},
            "memory": 1 << 30,
            "required": True,
        },
        {
            "name": "metrics",
            "argv": ["/usr/bin/python3", "/usr/lib/acme/metrics.py"],
            "environment": {"ACME_LEVEL": "info"},
            "memory": 64 << 20,
            "required": False,
            "scratch": 32 << 20,
        },
    ]
    assert configuration.decode(data).services[1].name == "metrics"
    assert plan_of(given, lock, data).services == ("/usr/bin/python3", "/usr/lib/acme/guard")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("  metrics:", "  Metrics:", "services"),
        ("  metrics:", f"  {'a' * 21}:", "services"),
        ("  metrics:", "  a.b:", "services"),
        ("/usr/bin/python3, ", "python3, ", "expected an absolute path first"),
        ("[/usr/bin/python3, /usr/lib/acme/metrics.py]", "[]", "run"),
        ("ACME_LEVEL", "acme_level", "got `acme_level`, expected capitals"),
        ("ACME_LEVEL", "SOCKET", "got `SOCKET`, expected capitals other than SOCKET, PATH, LANG"),
        ("64MiB", "64", "expected a size such as 64MiB"),
        ("required: true", "required: 1", "required"),
        ("    memory: 64MiB\n", "", "memory"),
        ("    memory: 64MiB\n", "    memory: 64MiB\n    user: root\n", "unknown field"),
        ("scratch: 32MiB", "scratch: 64MiB", "got 64MiB, expected less than the 64MiB of `memory`"),
        ("scratch: 32MiB", "scratch: 32", "scratch: got `32`, expected a size such as 64MiB"),
        ("scratch: 32MiB", "scratch: null", "scratch: got"),
    ],
)
def test_what_a_service_may_not_say(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in TEXT
    with pytest.raises(RecipeError) as caught:
        recipe(tmp_path, TEXT.replace(old, new, 1))
    assert message in str(caught.value)
    assert "acme.yaml:" in str(caught.value)


def test_at_most_eight(tmp_path: Path) -> None:
    rows = "".join(f"  s{number}: {{run: [/usr/bin/python3], memory: 1MiB}}\n" for number in range(9))
    with pytest.raises(RecipeError, match="services"):
        recipe(tmp_path, f"extends: ./tdx-min.yaml\nservices:\n{rows}")
