"""Engine records: each is complete, all code uses them, and a second engine needs only its record."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import threading
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import assert_never

import pytest
from agent_guest import a_config, a_model, guest

import privml
from privml.agent import engine as engine_process
from privml.agent.inference import engine_body
from privml.agent.layout import Layout
from privml.agent.server import Server, listen
from privml.base.errors import EvidenceError, RecipeError
from privml.engines.engine import DIRECTORY, ENVIRONMENT, Engine, Health, NumberOption, ServedModel, Trial
from privml.engines.registry import ENGINES, engine_named
from privml.engines.requests import (
    Array,
    Boolean,
    Field,
    Integer,
    Kind,
    Number,
    Numbers,
    Object,
    Requests,
    Schema,
    Text,
    UnsupportedError,
)
from privml.events import stages
from privml.events.configuration import decode, encode
from privml.events.verity import Verity
from privml.image import render, resources
from privml.image.config import measured_config
from privml.image.modelvolume import ModelVolume
from privml.lock.lockfile import read_lock
from privml.recipe import guestroot
from privml.recipe.distributions import TOOLS
from privml.recipe.loader import load, shipped
from privml.recipe.modelformats import FORMATS, ModelFormat
from privml.recipe.packages import guest_packages, model_pattern

MODEL = ServedModel("tiny", "tiny.model", "/run/privml/model")


def toy_arguments(models: Sequence[ServedModel], options: Mapping[str, int]) -> tuple[str, ...]:
    served = [f"{model.name}={model.path}" for model in models]
    return ("/usr/bin/toyd", f"{DIRECTORY}/toy.sock", f"--heads={options['heads']}", *served)


TOY = Engine(
    name="toy",
    packages=("toy-engine", "toy-kernels"),
    programs=("toyd", "toy-worker"),
    paths=("usr/lib/toy/**",),
    removals=("usr/lib/toy/examples",),
    model_format="toy",
    model_file="*.toy",
    max_models=2,
    options={"heads": NumberOption("How many heads.", 1, 9, 1)},
    arguments=toy_arguments,
    environment={**ENVIRONMENT, "TOY_HOME": DIRECTORY},
    health=Health("/alive", 204),
    trial=Trial("/v1/generate", {"text": "Hello"}, names_model=True),
    requests=Requests(
        body=1000,
        fields={"/v1/generate": (Field("text", (Text(100),), required=True), Field("model", (Text(100),)))},
        readable=frozenset({"/v1/toys"}),
        always={"remember": False},
    ),
    socket=f"{DIRECTORY}/toy.sock",
)


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Engine:
    monkeypatch.setitem(ENGINES, TOY.name, TOY)
    monkeypatch.setitem(FORMATS, TOY.model_format, ModelFormat(TOY.model_format, "toys", folder=False))
    return TOY


# The records.


def bounded(kind: Kind, name: str) -> None:
    """Require valid bounds in ``kind`` and everything inside it."""
    match kind:
        case Text():
            assert 0 < kind.limit <= 1 << 20, name
        case Integer() | Number():
            assert -(2.0**63) < kind.low <= kind.high < 2.0**63, name
        case Array():
            assert 0 <= kind.least <= kind.limit <= 1 << 16, name
            bounded(kind.of, name)
        case Object():
            for field in kind.fields:
                assert field.kinds or field.nullable, f"{name}.{field.name}"
                for inner in field.kinds:
                    bounded(inner, f"{name}.{field.name}")
        case Numbers():
            assert 0 < kind.high < 2**63, name
            assert 0 < kind.limit <= 1 << 16, name
            bounded(kind.of, name)
        case Schema():
            assert all((kind.depth, kind.keys, kind.items, kind.name, kind.text, kind.alternatives)), name
        case Boolean():
            pass
        case _:
            assert_never(kind)


@pytest.mark.parametrize("engine", [*ENGINES.values(), TOY], ids=lambda engine: engine.name)
def test_a_record_is_complete_and_agrees_with_itself(engine: Engine) -> None:
    for field in dataclasses.fields(engine):
        value = getattr(engine, field.name)
        assert value or isinstance(value, bool), f"{field.name} is empty"
    assert re.fullmatch(r"[a-z0-9]+(?:[.-][a-z0-9]+)*", engine.name)
    models = [dataclasses.replace(MODEL, name=f"model-{n}") for n in range(engine.max_models)]
    argv = engine.argv(models)
    assert argv[0].removeprefix("/usr/bin/") in engine.programs
    assert engine.socket in argv
    for model in models:
        assert [word for word in argv if model.path in word]
        assert [word for word in argv if model.name in word]
    assert Path(engine.socket).parent == Path(DIRECTORY)
    assert not [path for path in (*engine.paths, *engine.removals) if path.startswith("/") or ".." in path]
    for removed in engine.removals:
        assert not [path for path in engine.paths if fnmatchcase(path, removed)]
    for name, option in engine.options.items():
        assert option.meaning.endswith("."), name
        assert option.default is None or option.accepts(option.default), name
        if isinstance(option, NumberOption):
            assert option.low < option.high <= 1 << 31, name
            assert not any(map(option.accepts, (option.low - 1, option.high + 1, str(option.low), True))), name
            assert all(map(option.accepts, (option.low, option.high))), name
        else:
            assert all(re.fullmatch(r"[a-z0-9_-]+", value) for value in option.values), name
            assert not any(map(option.accepts, ("", "other", 1))), name
    assert set(ENVIRONMENT) <= set(engine.environment)
    assert fnmatchcase(f"any.{engine.model_format}", engine.model_file)
    requests = engine.requests
    for path in (*requests.fields, *requests.readable):
        assert path.startswith("/v1/")
    assert not set(requests.fields) & requests.readable
    assert requests.body > 0
    for fields in requests.fields.values():
        assert not {field.name for field in fields} & set(requests.always)
        assert len({field.name for field in fields}) == len(fields)
        for field in fields:
            assert field.kinds or field.nullable, field.name
            for kind in field.kinds:
                bounded(kind, field.name)
    for body in engine.trial.bodies([model.name for model in models]):
        assert engine_body(requests, "POST", engine.trial.path, "", body)


def test_engines_are_found_by_name() -> None:
    assert {name: engine.name for name, engine in ENGINES.items()} == {name: name for name in ENGINES}
    assert engine_named("llama-server") is ENGINES["llama-server"]
    with pytest.raises(EvidenceError, match="engine `vllm` is not known: expected one of llama-server"):
        engine_named("vllm")


def test_the_command_line_of_llama_server() -> None:
    model = ServedModel("smollm2", "a.gguf", "/run/privml/model")
    argv = engine_named("llama-server").argv([model])
    assert argv[:9] == (
        "/usr/bin/llama-server", "--model", "/run/privml/model/a.gguf", "--alias", "smollm2",
        "--host", "/run/privml-engine/engine.sock", "--ctx-size", "2048",
    )  # fmt: skip
    assert {"--no-cache-prompt", "--no-slots", "--offline", "--log-disable"} <= set(argv)
    assert argv[9:12] == ("--parallel", "1", "--cache-ram")
    assert engine_named("llama-server").argv([model], {"context": 512})[8] == "512"


def test_the_options_of_llama_server() -> None:
    model = ServedModel("smollm2", "a.gguf", "/run/privml/model")
    engine = engine_named("llama-server")
    chosen = {"context": 512, "slots": 4, "threads": 3, "cache_type_k": "q8_0", "cache_type_v": "f16"}
    argv = engine.argv([model], chosen)
    # Each slot has the whole context, and the server divides the number among them.
    assert argv[7:18] == (
        "--ctx-size", "2048", "--parallel", "4", "--threads", "3", "--cache-type-k", "q8_0", "--cache-type-v", "f16",
        "--cache-ram",
    )  # fmt: skip
    assert set(chosen) == set(engine.options)


@pytest.mark.parametrize(
    ("count", "options", "text"),
    [
        (0, {}, "got 0 models, expected 1 to 1"),
        (2, {}, "got 2 models, expected 1 to 1"),
        (
            1,
            {"batch": 1},
            "has no option `batch`: expected one of context, slots, threads, cache_type_k, cache_type_v",
        ),
        (1, {"slots": 0}, "option `slots` is 0, expected 1 to 64"),
        (1, {"threads": "all"}, "option `threads` is all, expected 1 to 512"),
        (1, {"cache_type_k": "q2"}, "option `cache_type_k` is q2, expected f32 or f16 or bf16 or q8_0"),
        (1, {"context": 1}, "option `context` is 1, expected 256 to 131072"),
    ],
)
def test_unsupported_models_and_options_are_refused(count: int, options: dict[str, int | str], text: str) -> None:
    with pytest.raises(RecipeError, match=text):
        engine_named("llama-server").argv([MODEL] * count, options)


def test_only_the_engines_own_records_name_it() -> None:
    root = Path(privml.__file__).parent
    records = {root / "engines" / f"{name}.py" for name in ("llama_server", "llama_requests", "registry")}
    sources = {*root.rglob("*.py"), *(root.parents[1] / "images").rglob("*")} - records
    assert len(sources) > 200
    named = [path for path in sources if path.is_file() and b"llama" in path.read_bytes().lower()]
    assert named == []


# A second engine.


def recipe_text() -> str:
    text = (shipped() / "demo-cpu.yaml").read_text()
    assert "name: llama-server" in text
    return text.replace("name: llama-server", "name: toy")


def test_a_recipe_gets_the_packages_of_its_engine(toy: Engine, tmp_path: Path) -> None:
    (tmp_path / "toy.yaml").write_text(recipe_text())
    packages = [each.name for each in guest_packages(load(tmp_path / "toy.yaml"))]
    assert set(toy.packages) <= set(packages)
    assert not set(ENGINES["llama-server"].packages) & set(packages)


def test_a_recipe_has_as_many_models_as_its_engine_serves(toy: Engine, tmp_path: Path) -> None:
    text = recipe_text().replace(', file: "*.gguf"', "")
    for number in (2, 3):
        text = text.replace("agent:", f"    - {{name: m{number}, source: pypi:m{number}==1}}\nagent:")
        (tmp_path / "toy.yaml").write_text(text)
        if number == 2:
            recipe = load(tmp_path / "toy.yaml")
            assert [model_pattern(recipe, n) for n in range(2)] == [toy.model_file] * 2
            continue
        with pytest.raises(RecipeError, match=r"inference\.models: toy serves 2, got 3: smollm2.*, m2, m3"):
            load(tmp_path / "toy.yaml")


def test_an_unknown_engine_in_a_recipe_is_refused(tmp_path: Path) -> None:
    (tmp_path / "toy.yaml").write_text(recipe_text())
    with pytest.raises(RecipeError, match=r"inference\.engine\.name: got `toy`, expected llama-server"):
        load(tmp_path / "toy.yaml")


def test_the_root_contains_the_engine_s_files(toy: Engine) -> None:
    plan = render.Plan("x", TOOLS, (), 1, "/tools", {}, development=False, engine=toy)
    facts = json.loads(render.tree(plan, resources.templates())["privml.json"].data)
    assert facts["programs"] == sorted((*guestroot.PROGRAMS, TOOLS.release.python, *toy.programs))
    assert facts["paths"] == [*guestroot.ALLOWED, guestroot.OF_PYTHON.format(python=TOOLS.release.python), *toy.paths]
    assert facts["removals"][-1] == ["toy does not need it", list(toy.removals)]


def test_the_measured_configuration_names_the_engine(toy: Engine, tmp_path: Path) -> None:
    (tmp_path / "toy.yaml").write_text(recipe_text().replace("name: toy", "name: toy, options: {heads: 3}"))
    volume = ModelVolume("tiny", "tiny.toy", Verity(b"\xaa" * 32, b"\xbb" * 32, 4, 1))
    lock = read_lock(shipped() / "demo-cpu.lock.json")
    config = decode(encode(measured_config(load(tmp_path / "toy.yaml"), lock, [volume])))
    assert config.engine is not None
    assert config.engine.name == "toy"
    assert config.engine.argv == (
        "/usr/bin/toyd", "/run/privml-engine/toy.sock", "--heads=3", "tiny=/run/privml/model/tiny.toy",
    )  # fmt: skip
    engine_events = [event for event in stages.sequence(config) if event.name == "engine"]
    assert [json.loads(event.payload)["name"] for event in engine_events] == ["toy"]


def test_requests_follow_the_record(toy: Engine) -> None:
    assert json.loads(engine_body(toy.requests, "POST", "/v1/generate", "", b'{"text":"x"}')) == {
        "text": "x",
        "remember": False,
    }
    assert engine_body(toy.requests, "GET", "/v1/toys", "", b"") == b""
    for method, path, body, status in (
        ("POST", "/v1/completions", b"{}", 404),
        ("GET", "/v1/models", b"", 404),
        ("POST", "/v1/generate", b'{"prompt":"x"}', 400),
        ("POST", "/v1/generate", b'{"remember":true}', 400),
    ):
        with pytest.raises(UnsupportedError) as caught:
            engine_body(toy.requests, method, path, "", body)
        assert caught.value.status == status


def test_the_engine_s_process_gets_argv_and_environment(
    toy: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[object] = []
    monkeypatch.setattr(os, "execve", lambda *given: started.append(given))
    measured = a_config()
    assert measured.engine is not None
    argv = ("/usr/bin/toyd", "x")
    config = dataclasses.replace(measured, engine=dataclasses.replace(measured.engine, name="toy", argv=argv))
    (tmp_path / "config.json").write_bytes(encode(config))
    engine_process.main(Layout(config=tmp_path / "config.json"))
    assert started == [("/usr/bin/toyd", argv, {**ENVIRONMENT, "TOY_HOME": "/run/privml-engine"})]


def test_a_guest_with_another_engine_boots_and_answers(toy: Engine) -> None:
    measured = a_config(models=(a_model("one"), a_model("two", 0xCC)))
    assert measured.engine is not None
    config = dataclasses.replace(measured, engine=dataclasses.replace(measured.engine, name="toy"))
    with guest(config) as made:
        made.engine.health = ("/alive", 204)
        assert made.boot().run(), made.said
        assert "privml: stage engine: ok: toy" in made.said
        assert made.engine.socket.name == "toy.sock"
        tried = [(path, json.loads(body)) for path, _, body in made.engine.requests]
        assert tried == [("/v1/generate", {"text": "Hello", "model": name}) for name in ("one", "two")]
        server = Server(decode(encode(config)), made.layout)
        threading.Thread(target=server.serve, args=(listen(config.listen, "127.0.0.1"),), daemon=True).start()
        assert made.request("POST", "/v1/generate", b'{"text":"x"}')[0] == 200
        assert json.loads(made.engine.requests[-1][2]) == {"text": "x", "remember": False}
        assert made.request("POST", "/v1/completions", b"{}")[0] == 404
        assert made.request("POST", "/v1/generate", b'{"text":"%s"}' % (b"x" * 101))[0] == 400
        assert made.request("POST", "/v1/generate", b'{"text":"%s"}' % (b"x" * 1001))[0] == 413


def test_an_engine_that_is_not_healthy_is_not_ready(toy: Engine) -> None:
    measured = a_config()
    assert measured.engine is not None
    config = dataclasses.replace(measured, engine=dataclasses.replace(measured.engine, name="toy"))
    with guest(config) as made:
        made.engine.health = ("/alive", 200)  # this engine says 204 when it is
        assert not made.boot(engine_wait=0.3).run()
        assert made.said[-1] == "privml: stage engine failed: engine: not ready after 0.3 s"


def test_a_chat_template_of_the_recipe_is_given_to_llama_server() -> None:
    model = ServedModel("smollm2", "a.gguf", "/run/privml/model", "chat_template.jinja")
    argv = engine_named("llama-server").argv([model])
    assert argv[5:9] == ("--jinja", "--chat-template-file", "/run/privml/model/chat_template.jinja", "--host")
    own = ServedModel("smollm2", "a.gguf", "/run/privml/model")
    assert set(argv) - set(engine_named("llama-server").argv([own])) == set(argv[5:8])
