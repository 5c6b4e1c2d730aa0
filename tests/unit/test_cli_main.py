"""The command line: targets, standard output and error, and one exit code for each kind of error."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attestation_samples as samples
import click
import pytest
from test_image_manifest import encrypted, sample, without_model

from privml.base import errors
from privml.base.errors import BuildError, EvidenceError, PrivmlError, RecipeError, UsageError
from privml.base.steps import set_quiet
from privml.base.strictjson import canonical, pretty
from privml.cli import main as main_module
from privml.cli.completion import SHELLS
from privml.cli.main import GROUPS, TITLES, VERBS, main
from privml.cli.measure_image import by_purpose, described
from privml.cli.run import awaited
from privml.client import anchors
from privml.client.environment import client_variables
from privml.client.guests import Guests
from privml.client.receipts import Receipts
from privml.events.agent import AgentEvent, replay
from privml.events.event import Evidence
from privml.events.registers import RTMR3
from privml.image.target import recipes_directory, resolve
from privml.output import manifest
from privml.output.contents import Data
from privml.output.prediction import read_prediction, write_prediction
from privml.recipe.loader import shipped
from privml.statement.launch import Accepted
from privml.verify.anchor import ExpectedData

CODES = {
    "Differs": 1,
    "UsageError": 2,
    "RecipeError": 3,
    "InputsError": 4,
    "HostError": 5,
    "BuildError": 6,
    "MeasurementError": 7,
    "Refused": 8,
    "EvidenceError": 9,
}


@pytest.fixture(autouse=True)
def as_found() -> Iterator[None]:
    """Restore the signal handler, steps and logging that `main` sets."""
    before, level, handlers = signal.getsignal(signal.SIGTERM), logging.root.level, logging.root.handlers[:]
    yield
    signal.signal(signal.SIGTERM, before)
    logging.root.setLevel(level)
    logging.root.handlers[:] = handlers
    set_quiet(False)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, with an empty store."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PRIVML_STORE", str(tmp_path / "store"))
    return tmp_path


class Outcome:
    def __init__(self, capsys: pytest.CaptureFixture[str], *words: str) -> None:
        with pytest.raises(SystemExit) as caught:
            main(words)
        self.code = caught.value.code
        self.stdout, self.stderr = capsys.readouterr()


def image(place: Path, name: str = "demo-cpu", **changes: Any) -> Path:
    """An image directory with a prediction, as `image` and `measure` write it, with invented contents.

    ``changes`` are of the predicate.
    """
    folder = place / "out" / name
    folder.parent.mkdir(exist_ok=True)
    made = sample(folder)
    (folder / "manifest.json").write_bytes(made.encode())
    write_prediction(folder, made, dataclasses.replace(samples.PREDICATE, manifest_sha256=made.sha256, **changes))
    return folder


def test_every_error_class_has_its_code() -> None:
    found = {
        name: kind.exit_code
        for name, kind in vars(errors).items()
        if isinstance(kind, type)
        and issubclass(kind, PrivmlError)
        and kind is not PrivmlError
        and not name.startswith("_")
    }
    assert found == CODES
    assert errors.EXIT_ACCEPTED_SIMULATED == 10


@pytest.mark.parametrize(("name", "code"), CODES.items())
@pytest.mark.parametrize("hint", ["do that", None])
def test_an_error_is_a_message_a_hint_and_a_code(
    name: str, code: int, hint: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @click.command()
    def fails() -> None:
        raise getattr(errors, name)("it is so", hint=hint)

    monkeypatch.setattr(main_module.Verbs, "get_command", lambda *_: fails)
    outcome = Outcome(capsys, "image")
    assert outcome.code == code
    assert outcome.stderr == "privml-build: it is so\n" + (f"hint: {hint}\n" if hint else "")
    assert outcome.stdout == ""


@pytest.mark.parametrize(
    ("error", "code", "text", "hint"),
    [
        (KeyboardInterrupt(), 130, "stopped", ""),
        (OSError(28, "No space left on device", "/x/y"), 5, "No space left on device: /x/y", "free some space; "),
        (PermissionError(13, "Permission denied"), 5, "Permission denied", "a place that you may write"),
        (OSError(30, "Read-only file system", "/ro/x"), 5, "Read-only file system: /ro/x", "`--output`"),
        (OSError(20, "Not a directory", "f/x"), 5, "Not a directory: f/x", "a file is in the place"),
        (OSError(71, "Protocol error"), 5, "Protocol error", ""),
    ],
)
def test_other_exceptions_have_a_code_and_a_message(
    error: BaseException,
    code: int,
    text: str,
    hint: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    @click.command()
    def fails() -> None:
        raise error

    monkeypatch.setattr(main_module.Verbs, "get_command", lambda *_: fails)
    outcome = Outcome(capsys, "image")
    assert outcome.code == code
    first, *rest = outcome.stderr.strip().splitlines()
    assert first == f"privml-build: {text}"
    assert [line.startswith("hint: ") and hint in line for line in rest] == ([True] if hint else [])


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command()
    def fails() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(main_module.Verbs, "get_command", lambda *_: fails)
    with pytest.raises(ZeroDivisionError):
        main(["image"])


def test_a_verb_can_end_with_a_code_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @click.command()
    @click.pass_context
    def ends(context: click.Context) -> None:
        click.echo("data")
        context.exit(10)

    monkeypatch.setattr(main_module.Verbs, "get_command", lambda *_: ends)
    outcome = Outcome(capsys, "verify")
    assert (outcome.code, outcome.stdout, outcome.stderr) == (10, "data\n", "")


@pytest.mark.parametrize("words", [["imgae"], ["--frobnicate"], ["image"], ["diff", "a"]])
def test_a_meaningless_command_line_is_a_usage_error(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    outcome = Outcome(capsys, *words)
    assert outcome.code == 2
    assert outcome.stdout == ""
    assert "\nprivml-build: " in outcome.stderr
    assert "--help` " in outcome.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (["imgae", "x"], "there is no verb `imgae`", "did you mean `image`?"),
        (["insp"], "there is no verb `insp`", "did you mean `inspect`?"),
        (["qqq"], "there is no verb `qqq`", "`privml-build --help` lists the verbs"),
        (["store", "exprot"], "there is no verb `exprot`", "did you mean `export`?"),
        (["measure", "x", "--vcpu", "2"], "there is no option `--vcpu`", "did you mean `--vcpus`?"),
        (["verify", "x", "--expct", "y"], "there is no option `--expct`", "did you mean `--expect`?"),
        (["--verbos", "doctor"], "there is no option `--verbos`", "did you mean `--verbose`?"),
        (["image", "--qqqqqq"], "there is no option `--qqqqqq`", "`privml-build image --help` explains the verb"),
        (["store", "size", "-v"], "`-v` goes before the verb", "for example `privml-build -v store size`"),
        (["image"], "TARGET is missing", "for example `privml-build image demo-cpu`"),
        (["diff", "a"], "B is missing", "for example `privml-build diff out/demo-cpu /tmp/rebuilt`"),
        (
            ["verify", "x"],
            "the option `--expect` or `--trust` is missing",
            "--expect DIRECTORY for an image that you",
        ),
        (["store", "export"], "TARGET is missing", "for example `privml-build store export demo-cpu /media/pool`"),
        (["lock", "--apt", "no", "x"], "invalid value for '--apt': 'no'", "`privml-build lock --help` explains"),
    ],
)
def test_a_misspelled_word_is_answered_with_the_nearest_one(
    words: list[str], message: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = Outcome(capsys, *words)
    assert (outcome.code, outcome.stdout) == (2, "")
    *_, said, last = outcome.stderr.splitlines()
    assert said.startswith(f"privml-build: {message}")
    assert last.startswith(f"hint: {hint}")


def test_without_arguments_the_help_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    outcome = Outcome(capsys)
    assert (outcome.code, outcome.stdout) == (2, "")
    assert outcome.stderr == Outcome(capsys, "--help").stdout


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb_has_an_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = Outcome(capsys, verb, "--help")
    assert outcome.code == 0
    assert outcome.stderr == ""
    assert re.search(rf"\n  Examples:\n    privml-build {verb}( |\n)", outcome.stdout)
    assert max(map(len, outcome.stdout.splitlines())) <= 80


@pytest.mark.parametrize("verb", VERBS)
def test_each_option_and_argument_of_a_verb_is_explained(verb: str) -> None:
    command = main_module.cli.get_command(click.Context(main_module.cli), verb)
    assert command is not None
    commands = [command, *getattr(command, "commands", {}).values()]
    for each in commands:
        assert (each.help or "").split("\n")[0].rstrip().endswith((".", ":"))
        for param in each.params:
            if isinstance(param, click.Option):
                assert param.help, (verb, param.name)


def test_help_names_every_verb_without_loading_any(capsys: pytest.CaptureFixture[str]) -> None:
    def no(*_: object) -> None:
        raise AssertionError("a verb was loaded")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(main_module.importlib, "import_module", no)
        outcome = Outcome(capsys, "--help")
    assert outcome.code == 0
    lines = outcome.stdout.split("Make an image:\n")[1].split("\nOptions:\n")[0].splitlines()
    assert [line.split()[0] for line in lines if line[:2] == "  " and line[2:3] != " "] == list(VERBS)


def test_a_group_is_listed_when_it_has_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    order = ("make", "know", "check", "rely", "publish", "keys", "keep")
    assert list(GROUPS) == [name for name in order if name in GROUPS]
    assert all(GROUPS.values())
    shown = Outcome(capsys, "--help").stdout
    titles = [shown.index(f"\n{TITLES[group]}:\n") for group in GROUPS]
    assert titles == sorted(titles)


def test_registers_shared_by_all_sizes_are_printed_once() -> None:
    small, large = samples.launch(2, 2 << 30), samples.launch(2, 4 << 30)
    lines = described([small, large], events=False)
    assert [line for line in lines if line[0] != " "] == [
        "qemu-11-q35, all 2 sizes", "qemu-11-q35, 2 vcpus, 2048 MiB", "qemu-11-q35, 2 vcpus, 4096 MiB",
    ]  # fmt: skip
    assert [line.split()[0] for line in lines if line[0] == " "] == [
        "mrtd", "mrtd", "rtmr1", "rtmr2", "rtmr3", "rtmr0", "rtmr0",
    ]  # fmt: skip
    for launch in (small, large):
        values = [value.hex() for name in launch.registers for value in launch.accepted(name)]
        assert all(any(value in line for line in lines) for value in values)
    assert [line.split()[0] for line in described([small], events=False)][1:] == [
        "mrtd", "mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3",
    ]  # fmt: skip
    with_events = described([small, large], events=True)
    assert sum("uki.efi .initrd" in line for line in with_events) == 1
    assert sum("TD HOB" in line for line in with_events) == 2


def test_rtmr3_is_printed_for_each_purpose_if_there_are_several() -> None:
    predicate = samples.PREDICATE
    assert by_purpose(predicate) == []
    events = (predicate.agent_events[0], AgentEvent("keys", b"{}"), *predicate.agent_events[1:])
    registers = {**predicate.launches[0].registers, RTMR3: Accepted((replay(events),), Evidence.SOURCE)}
    launch = dataclasses.replace(predicate.launches[0], registers=registers, events=())
    purposes = {"key-release": 1, "serve": len(events)}
    lines = by_purpose(dataclasses.replace(predicate, agent_events=events, purposes=purposes, launches=(launch,)))
    assert lines == [
        "rtmr3 by the purpose of a document",
        f"  {replay(events[:1]).hex()}  key-release, after 1 of {len(events)} agent events",
        f"  {replay(events).hex()}  serve, after {len(events)} of {len(events)} agent events",
    ]


def test_run_names_the_keys_that_a_guest_waits_for(tmp_path: Path) -> None:
    assert awaited(sample(tmp_path), 8443) == []
    assert awaited(encrypted(tmp_path), 8443) == [
        "model.raw is encrypted: the guest waits for the key `model/small`, generation 2, of broker owner",
        "deliver with `privml-build keys deliver https://127.0.0.1:8443 --broker URL`",
    ]


def test_what_is_expected_of_an_image_names_the_keys_of_its_volumes(tmp_path: Path) -> None:
    made = encrypted(tmp_path)
    corpus = Data("corpus", "data.raw", made.models[0].verity, "file:corpus/", made.models[0].crypt)
    made = dataclasses.replace(made, data=(corpus, dataclasses.replace(corpus, name="terms", crypt=None)))
    key = "`model/small`, generation 2, of broker owner"
    assert [model.key for model in anchors.models_of(made)] == [key]
    assert anchors.data_of(made) == (ExpectedData("corpus", key), ExpectedData("terms"))
    assert [model.key for model in anchors.models_of(sample(tmp_path))] == [None]


# -- completion --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_gets_its_completion_script(
    shell: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = Outcome(capsys, "--completion", shell)
    assert (outcome.code, outcome.stderr) == (0, "")
    assert f"_PRIVML_BUILD_COMPLETE={shell}_complete" in outcome.stdout
    if found := shutil.which(shell):
        assert subprocess.run([found, "-n"], input=outcome.stdout.encode(), check=False).returncode == 0


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("privml-build me", ["measure"]),
        ("privml-build store ex", ["export"]),
        ("privml-build measure --vc", ["--vcpus"]),
        ("privml-build image my", ["my-image"]),
        ("privml-build inspect out/", ["out/demo-cpu"]),
        ("privml-build --comp", ["--completion"]),
        ("privml-build --completion f", ["fish"]),
    ],
)
def test_verbs_options_and_targets_are_completed(words: str, found: list[str], place: Path) -> None:
    """Run as the shell runs it: the program with the typed words in its environment."""
    image(place)
    (place / "recipes").mkdir()
    (place / "recipes/my-image.yaml").write_text("schema: 2\n")
    done = subprocess.run(
        [str(Path(sys.executable).with_name("privml-build"))],
        env={
            "_PRIVML_BUILD_COMPLETE": "bash_complete",
            "COMP_WORDS": words,
            "COMP_CWORD": str(len(words.split()) - 1),
            "PATH": "/usr/bin:/bin",
        },
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == [f"plain,{word}" for word in found]


def test_verbs_are_completed_without_loading_any(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(main_module.importlib, "import_module", None)
    found = main_module.cli.shell_complete(click.Context(main_module.cli), "d")
    assert [item.value for item in found] == ["deploy", "diff", "doctor"]


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert Outcome(capsys, "--version").stdout.startswith("privml-build, version ")


# -- TARGET ------------------------------------------------------------------------------------------------------


def test_a_name_is_a_recipe_and_its_directory_is_under_out(place: Path) -> None:
    found = resolve("demo-cpu")
    assert found.recipe == shipped() / "demo-cpu.yaml"
    assert found.directory == Path("out/demo-cpu")
    assert recipes_directory(found) == shipped()
    assert resolve("demo-cpu", place / "x").directory == place / "x"


def test_a_path_is_a_recipe_wherever_it_is(place: Path) -> None:
    (place / "mine").mkdir()
    (place / "mine/own.yaml").write_text("schema: 1\n")
    found = resolve("mine/own.yaml")
    assert found.recipe == Path("mine/own.yaml")
    assert found.directory == Path("out/own")
    assert recipes_directory(found) == Path("mine")


def test_a_directory_with_a_manifest_is_an_image(place: Path) -> None:
    folder = image(place)
    found = resolve(str(folder))
    assert found.recipe is None
    assert found.directory == folder
    assert found.manifest() == manifest.read(folder)
    assert recipes_directory(found) == shipped()


def test_a_directory_without_a_manifest_is_not_an_image(place: Path) -> None:
    (place / "empty").mkdir()
    with pytest.raises(UsageError, match=r"without a manifest\.json"):
        resolve("empty")


@pytest.mark.parametrize("text", ["demo-gpu", "nowhere/x.yaml", "nowhere/x", ""])
def test_other_words_are_not_a_target(place: Path, text: str) -> None:
    with pytest.raises((RecipeError, UsageError)):
        resolve(text)


def test_a_recipe_that_is_not_built_yet_names_the_command(place: Path) -> None:
    with pytest.raises(BuildError) as caught:
        resolve("demo-cpu").manifest()
    assert "privml-build image" in (caught.value.hint or "")


# -- verbs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["measure", "run"])
def test_a_verb_on_an_image_that_is_not_built_fails_with_a_hint(
    verb: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "empty").mkdir()
    outcome = Outcome(capsys, verb, "empty")
    assert (outcome.code, outcome.stdout) == (2, "")
    assert "without a manifest.json" in outcome.stderr
    assert "hint: " in outcome.stderr
    outcome = Outcome(capsys, verb, "demo-cpu")
    assert (outcome.code, outcome.stdout) == (6, "")
    assert "privml-build image" in outcome.stderr


def test_an_image_without_a_model_cannot_be_prompted(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = place / "image"
    made = without_model(folder)
    (folder / "model.raw").unlink()
    (folder / "manifest.json").write_bytes(made.encode())
    outcome = Outcome(capsys, "run", "image", "--prompt", "The capital of France is")
    assert (outcome.code, outcome.stdout) == (2, "")
    assert "demo-cpu has no model to answer a prompt" in outcome.stderr


@pytest.mark.parametrize("path", ["status", "/x/a b", "/x/\u2028", "https://example.invalid/"])
def test_only_a_path_can_be_asked_for(path: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = Outcome(capsys, "run", "demo-cpu", "--get", path)
    assert (outcome.code, outcome.stdout) == (2, "")
    assert "expected a path such as /x/my-service/status" in outcome.stderr


def test_an_image_without_a_model_is_an_anchor(place: Path) -> None:
    folder = place / "image"
    made = without_model(folder)
    (folder / "model.raw").unlink()
    (folder / "manifest.json").write_bytes(made.encode())
    digest = hashlib.sha256(made.encode()).digest()
    write_prediction(folder, made, dataclasses.replace(samples.PREDICATE, manifest_sha256=digest))
    assert anchors.built(folder).predicate.manifest_sha256 == digest


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--vcpus", "2"], "both --vcpus and --memory"),
        (["--memory", "2GiB"], "both --vcpus and --memory"),
        (["--vcpus", "2", "--memory", "2GB"], "expected a number with KiB"),
        (["--vcpus", "2", "--memory", "100KiB"], "expected whole MiB"),
    ],
)
def test_half_a_shape_is_a_usage_error(
    words: list[str], text: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = Outcome(capsys, "measure", str(image(place)), *words)
    assert (outcome.code, outcome.stdout) == (2, "")
    assert text in outcome.stderr


def test_an_image_cannot_be_built_from_an_image(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = Outcome(capsys, "image", str(image(place)))
    assert (outcome.code, outcome.stdout) == (2, "")
    assert "hint: give a recipe" in outcome.stderr


def test_a_stale_lock_stops_a_build(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "recipes").mkdir()
    for name in ("demo-cpu.yaml", "demo-cpu.lock.json"):
        (place / "recipes" / name).write_bytes((shipped() / name).read_bytes())
    (place / "recipes/platforms").symlink_to(shipped() / "platforms")
    with (place / "recipes/demo-cpu.yaml").open("a") as file:
        file.write("# changed\n")
    outcome = Outcome(capsys, "image", "demo-cpu")
    assert (outcome.code, outcome.stdout) == (4, "")
    assert "stale" in outcome.stderr
    assert not (place / "out").exists()


def test_a_malformed_document_exits_with_9(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = image(place)
    for text in ("", "{}", '{"format": "privml-attestation/v2"}', "\x00", "[" * 99):
        (place / "doc.json").write_text(text)
        outcome = Outcome(capsys, "verify", "doc.json", "--expect", str(folder))
        assert (outcome.code, outcome.stdout) == (9, ""), text
        assert outcome.stderr.startswith("privml-build: ")
        assert outcome.stderr.endswith("hint: `privml-build measure doc.json` says what that file is\n")


def test_a_saved_document_without_its_nonce_is_refused_with_a_hint(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("privml.cli.verify.time.time", lambda: samples.NOW)
    outcome = Outcome(capsys, *captured(place)[:4], "--allow-simulated", "root.pem")
    assert outcome.code == 8
    said = "give --nonce and --spki, which the document was fetched with; a bundle of `--save` holds both"
    assert outcome.stderr == f"hint: {said}\n"
    assert "without a nonce, as of 2026-11-18T11:06:40Z (now)\n" in outcome.stdout


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["nowhere.json"], "neither an https:// address nor a file"),
        (["http://127.0.0.1:1"], "neither an https:// address nor a file"),
        (["doc.json", "--nonce", "12"], "--nonce"),
        (["doc.json", "--spki", "Z" * 64], "--spki"),
        (["https://127.0.0.1:1", "--nonce", "1" * 64], "are for a captured document"),
        (["https://127.0.0.1:1", "--save", "nowhere/doc.json"], "there is no directory nowhere"),
    ],
)
def test_verify_refuses_meaningless_options(
    words: list[str], text: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "doc.json").write_text("{}")
    outcome = Outcome(capsys, "verify", *words, "--expect", str(image(place)))
    assert (outcome.code, outcome.stdout) == (2, "")
    assert text in outcome.stderr


def test_verify_needs_an_anchor(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "doc.json").write_text("{}")
    assert Outcome(capsys, "verify", "doc.json").code == 2
    assert Outcome(capsys, "verify", "doc.json", "--expect", "nowhere").code == 2
    folder = image(place)
    (folder / "prediction.json").unlink()
    outcome = Outcome(capsys, "verify", "doc.json", "--expect", str(folder))
    assert outcome.code == 7
    assert "hint: create it with `privml-build measure" in outcome.stderr


def test_an_image_with_changed_artefacts_is_not_an_anchor(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "doc.json").write_text("{}")
    folder = image(place)
    (folder / "uki.efi").write_bytes(b"other")
    assert Outcome(capsys, "verify", "doc.json", "--expect", str(folder)).code == 6


def test_a_prediction_of_another_build_is_not_an_anchor(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = image(place)
    data = json.loads((folder / "manifest.json").read_bytes())
    (folder / "manifest.json").write_bytes(canonical({**data, "refreshed": True}))
    (place / "doc.json").write_text("{}")
    outcome = Outcome(capsys, "verify", "doc.json", "--expect", str(folder))
    assert outcome.code == 7
    assert "belongs to a different build" in outcome.stderr


def captured(place: Path) -> list[str]:
    """A valid document of the invented image, and the arguments that verify it."""
    document = samples.document()
    (place / "doc.json").write_bytes(document.encode())
    (place / "root.pem").write_bytes(samples.sim.root_pem())
    return [
        "verify",
        "doc.json",
        "--expect",
        str(image(place)),
        "--nonce",
        samples.NONCE.hex(),
        "--spki",
        samples.SPKI.hex(),
    ]


def test_a_simulation_exits_with_10_and_is_refused_without_its_root(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("privml.cli.verify.time.time", lambda: samples.NOW)
    words = captured(place)
    accepted = Outcome(capsys, *words, "--allow-simulated", "root.pem")
    assert accepted.code == 10, accepted.stdout + accepted.stderr
    refused = Outcome(capsys, *words)
    assert refused.code == 8
    assert (refused.stderr, accepted.stderr) == ("", "")
    told = json.loads(Outcome(capsys, *words, "--json").stdout)
    assert told["outcome"] == "refused"
    assert told["refusals"]


def test_a_different_nonce_is_refused(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("privml.cli.verify.time.time", lambda: samples.NOW)
    words = [word if word != samples.NONCE.hex() else "ff" * 32 for word in captured(place)]
    assert Outcome(capsys, *words, "--allow-simulated", "root.pem").code == 8


def test_the_callers_collateral_judges_a_captured_document(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It replaces the document's collateral, which may be older or missing."""
    monkeypatch.setattr("privml.cli.verify.time.time", lambda: samples.NOW)
    words = [*captured(place), "--allow-simulated", "root.pem", "--collateral", "collateral.json"]
    own = samples.sim.collateral()
    (place / "collateral.json").write_bytes(pretty(own))
    (place / "doc.json").write_bytes(dataclasses.replace(samples.document(), collateral=None).encode())
    assert Outcome(capsys, *words).code == 10
    (place / "doc.json").write_bytes(samples.document().encode())
    (place / "collateral.json").write_bytes(pretty({**own, "tcb_info_signature": "00" * 64}))
    refused = Outcome(capsys, *words)
    assert refused.code == 8
    assert "quote-signature" in refused.stdout


@pytest.mark.parametrize("listen", ["8000", ":8000", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:99999", "127.0.0.1:²"])
def test_proxy_requires_a_host_and_a_port(listen: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = Outcome(capsys, "proxy", "https://127.0.0.1:1", "--expect", str(image(place)), "--listen", listen)
    assert (outcome.code, outcome.stdout) == (2, "")
    assert "expected HOST:PORT" in outcome.stderr


def test_proxy_listens_on_loopback_only(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = Outcome(capsys, "proxy", "https://127.0.0.1:1", "--expect", str(image(place)), "--listen", "0.0.0.0:0")
    assert outcome.code == 2
    assert "only on this machine" in outcome.stderr


@pytest.mark.parametrize(
    ("listen", "host", "address", "here"),
    [
        ("127.0.0.1:0", "127.0.0.1", "http://127.0.0.1:8123/v1", "127.0.0.1,localhost"),
        ("::1:0", "::1", "http://[::1]:8123/v1", "::1,localhost"),
        ("[::1]:0", "::1", "http://[::1]:8123/v1", "::1,localhost"),
    ],
)
@pytest.mark.parametrize("proxied", [False, True])
def test_proxy_prints_what_its_clients_need(
    listen: str,
    host: str,
    address: str,
    here: str,
    proxied: bool,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def serve(asked: tuple[str, int], *_: object, listening: Callable[[int], None], **__: object) -> None:
        assert asked == (host, 0)
        listening(8123)

    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    if proxied:
        monkeypatch.setenv("https_proxy", "http://me:password@proxy.example:3128")
    monkeypatch.setattr("privml.cli.proxy.serve", serve)
    outcome = Outcome(capsys, "proxy", "https://127.0.0.1:1", "--expect", str(image(place)), "--listen", listen)
    assert (outcome.code, outcome.stdout) == (0, "")
    lines = outcome.stderr.splitlines()
    assert lines[0] == f"listening on {address}; start a client with"
    assert lines[1] == (
        f"  NO_PROXY={here} no_proxy={here} OPENAI_BASE_URL={address} OPENAI_API_KEY=none your-program"
    )
    assert lines[2] == f"the guests and their verdicts, for a browser: {address.removesuffix('v1')}"
    assert [line[:28] for line in lines[3:]] == (["warning: https_proxy is set,"] if proxied else [])
    assert "password" not in outcome.stderr


def test_proxy_keeps_receipts_where_it_is_asked_to(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given: list[object] = []

    def serve(_: object, guests: Guests, *, receipts: Receipts | None, **__: object) -> None:
        if receipts is not None:
            judgement = guests.all[0].gate._check(samples.document().encode(), samples.NONCE, samples.SPKI)
            (evidence,) = receipts._evidence.values()
            assert (evidence.nonce, judgement.verdict.outcome.value) == (samples.NONCE, "accepted-simulated")
        given.append(receipts)

    monkeypatch.setattr("privml.cli.proxy.serve", serve)
    monkeypatch.setattr("privml.cli.proxy.time.time", lambda: samples.NOW)
    captured(place)
    words = ["proxy", "https://127.0.0.1:1", "--expect", "out/demo-cpu", "--allow-simulated", "root.pem", "--offline"]
    assert Outcome(capsys, *words).code == 0
    assert Outcome(capsys, *words, "--receipts", "kept", "--keep-bodies").code == 0
    assert [each is None for each in given] == [True, False]
    assert (place / "kept").is_dir()
    outcome = Outcome(capsys, *words, "--keep-bodies")
    assert outcome.code == 2
    assert "--keep-bodies is for receipts: it needs --receipts DIR" in outcome.stderr
    (place / "file").write_bytes(b"")
    assert Outcome(capsys, *words, "--receipts", "file").code == 2


@pytest.mark.parametrize("document", ["README.md", "docs/VERIFYING.md", "builder/privml/cli/proxy.py"])
def test_texts_that_mention_the_proxy_mention_no_proxy_variables(document: str) -> None:
    text = (Path(__file__).resolve().parents[2] / document).read_text()
    here = client_variables("127.0.0.1", 8000)
    for name, value in here.items():
        assert f"{name}={value} " in text, name


def test_an_anchor_is_the_prediction_in_the_image_s_directory(place: Path) -> None:
    folder = image(place)
    assert read_prediction(folder, manifest.read(folder)).launches == samples.PREDICATE.launches


@pytest.mark.parametrize(
    "change", [lambda data: pretty(json.loads(data)), lambda data: data[:-1], lambda data: data + b" "]
)
def test_a_prediction_that_is_not_canonical_is_not_an_anchor(place: Path, change: Callable[[bytes], bytes]) -> None:
    folder = image(place)
    path = folder / "prediction.json"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(EvidenceError, match=r"out/demo-cpu/prediction\.json is malformed: ") as caught:
        anchors.built(folder)
    assert "privml-build measure" in str(caught.value.hint)


def test_the_store_is_counted_and_checked(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from privml.store.objects import Store

    digest = Store().add_bytes(b"hello")
    assert Outcome(capsys, "store", "size").stdout == f"{place}/store: 1 objects, 0.0 MiB\n"
    assert Outcome(capsys, "store", "verify").stdout == "ok 1 objects\n"
    path = Store().path(digest)
    path.chmod(0o644)
    path.write_bytes(b"other")
    outcome = Outcome(capsys, "store", "verify")
    assert (outcome.code, outcome.stdout) == (4, "")
    assert digest in outcome.stderr
    assert not path.exists()


def test_meaningless_shapes_are_usage_errors(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--vcpus", "0", "--memory", "2GiB"], ["--vcpus", "0"], ["--vcpus", "1", "--memory", "2GB"]):
        assert Outcome(capsys, "measure", "demo-cpu", *words).code == 2
