"""Engine records: each is complete, all code uses them, and a second engine needs only its record."""

from __future__ import annotations

import dataclasses
import itertools
import json
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
from privml.agent import lastline
from privml.agent.inference import engine_body
from privml.agent.layout import Layout
from privml.agent.server import Server, listen
from privml.base.errors import EvidenceError, InputsError, RecipeError
from privml.engines.engine import DIRECTORY, ENVIRONMENT, Engine, Health, NumberOption, ServedModel, Trial, numbers
from privml.engines.fields import Array, Boolean, Field, Integer, Kind, Number, Numbers, Object, Schema, Text
from privml.engines.registry import ENGINES, engine_named
from privml.engines.requests import Requests, UnsupportedError
from privml.events import stages
from privml.events.configuration import decode, encode
from privml.events.verity import Verity
from privml.image import render, resources
from privml.image.config import measured_config
from privml.image.filling import MadeVolume
from privml.lock.lockfile import read_lock
from privml.lock.models import Requirements, Wheel
from privml.recipe import guestroot
from privml.recipe.distributions import TOOLS
from privml.recipe.loader import load, shipped
from privml.recipe.packages import guest_packages, model_pattern

MODEL = ServedModel("tiny", "tiny.model", "/run/privml/model")


CODE = ("packages", "paths", "removals")
"""Fields about the Debian packages of an engine's code."""


def version_of(engine: Engine) -> str:
    """A version that the engine's record knows."""
    return "" if engine.wheels is None else ".".join(map(str, engine.wheels.versions.first))


def toy_arguments(models: Sequence[ServedModel], options: Mapping[str, int], _version: str) -> tuple[str, ...]:
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
    trial=Trial("/v1/generate", names_model=True, fields={"text": "1, 2, 3, 4, 5,"}),
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
        optional = field.default is not dataclasses.MISSING or (engine.wheels and field.name in CODE)
        assert value or isinstance(value, bool) or optional, f"{field.name} is empty"
    assert re.fullmatch(r"[a-z0-9]+(?:[.-][a-z0-9]+)*", engine.name)
    models = [dataclasses.replace(MODEL, name=f"model-{n}") for n in range(engine.max_models)]
    argv = engine.argv(models, version=version_of(engine))
    assert argv[0].removeprefix("/usr/bin/") in engine.programs
    assert engine.socket in argv
    for model in models:
        assert [word for word in argv if (model.directory if engine.model_entry else model.path) in word]
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
    with pytest.raises(EvidenceError, match="engine `other` is not known: expected one of llama-server, vllm"):
        engine_named("other")


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
    sources = {*root.rglob("*.py"), *(root.parents[1] / "images").rglob("*")}
    assert len(sources) > 200
    # Of models that vLLM serves, some are called Llama.
    for word, others in {
        "llama": ["engines/vllm.py"],
        "vllm": [
            "recipe/pairings.py", "recipe/nativekernels.py", "recipe/judgerules.py", "recipe/modelneeds.py",
            "recipe/readrules.py", "repro/causes.py",
        ],
    }.items():  # fmt: skip
        named = {path for path in sources if path.is_file() and word.encode() in path.read_bytes().lower()}
        records = {path for path in named if path.name.startswith(word) and path.parent.name == "engines"}
        assert len(records) == 2
        assert named - records <= {root / name for name in ("engines/registry.py", *others)}


# vLLM.

VLLM = engine_named("vllm")
FOLDER = ServedModel("qwen", "config.json", "/run/privml/model", None)


@pytest.mark.parametrize(
    ("version", "module"),
    [
        ("0.19.1", "vllm.entrypoints.openai.api_server"),
        ("0.28.0", "vllm.entrypoints.openai.api_server"),
        ("0.29.0", "vllm.entrypoints.launchers.api_server.entry"),
        ("0.33.0+cu130", "vllm.entrypoints.launchers.api_server.entry"),
    ],
)
def test_the_command_line_of_vllm(version: str, module: str) -> None:
    argv = VLLM.argv([FOLDER], version=version)
    assert argv[:11] == (
        "/usr/bin/python3", "-P", "-s", "-m", module,
        "--model", "/run/privml/model", "--served-model-name", "qwen", "--uds", "/run/privml-engine/engine.sock",
    )  # fmt: skip
    assert "--max-model-len" not in argv
    pairs = dict(itertools.pairwise(argv))
    assert pairs["--max-num-seqs"] == "64"
    assert pairs["--gpu-memory-utilization"] == "0.90"
    assert pairs["--distributed-executor-backend"] == "uni"


@pytest.mark.parametrize("version", ["", "0.18.2", "0.34.0", "1.0", "latest"])
def test_an_unknown_version_of_vllm_is_refused(version: str) -> None:
    with pytest.raises(RecipeError, match=r"engine `vllm`: version .*, expected 0\.19 or later, before 0\.34"):
        VLLM.argv([FOLDER], version=version)


FIXED = (
    ("--load-format", "safetensors"),
    ("--no-trust-remote-code",),
    ("--no-enable-prefix-caching",),
    ("--language-model-only",),
    ("--allowed-media-domains", "none.invalid"),
    ("--structured-outputs-config", '{"backend":"xgrammar"}'),
    ("--enforce-eager",),
    ("--no-enable-log-requests",),
    ("--disable-log-stats",),
    ("--disable-uvicorn-access-log",),
    ("--uvicorn-log-level", "error"),
    ("--disable-fastapi-docs",),
)
"""What neither a recipe nor a version changes."""
ENDS = [
    ("0.19.1", "vllm.entrypoints.openai.api_server"),
    ("0.33.0", "vllm.entrypoints.launchers.api_server.entry"),
]
"""The oldest and the newest version that the record's names were compared with, and the server in each."""


def test_oldest_and_newest_are_those_of_the_record() -> None:
    assert VLLM.wheels is not None
    oldest, newest = (numbers(version) for version, _ in ENDS)
    first, before = VLLM.wheels.versions.first, VLLM.wheels.versions.before
    assert (oldest[:2], (newest[0], newest[1] + 1)) == (first, before)


@pytest.mark.parametrize(("version", "module"), ENDS)
def test_the_whole_command_line_of_vllm(version: str, module: str) -> None:
    assert VLLM.argv([FOLDER], version=version) == (
        "/usr/bin/python3", "-P", "-s", "-m", module,
        "--model", "/run/privml/model",
        "--served-model-name", "qwen",
        "--uds", "/run/privml-engine/engine.sock",
        "--max-num-seqs", "64",
        "--tensor-parallel-size", "1",
        "--gpu-memory-utilization", "0.90",
        "--load-format", "safetensors",
        "--no-trust-remote-code",
        "--no-enable-prefix-caching",
        "--language-model-only",
        "--allowed-media-domains", "none.invalid",
        "--structured-outputs-config", '{"backend":"xgrammar"}',
        "--distributed-executor-backend", "uni",
        "--enforce-eager",
        "--no-enable-log-requests",
        "--disable-log-stats",
        "--disable-uvicorn-access-log",
        "--uvicorn-log-level", "error",
        "--disable-fastapi-docs",
    )  # fmt: skip


def test_the_whole_environment_of_vllm() -> None:
    assert VLLM.environment == {
        "PATH": "/usr/bin",
        "LANG": "C.UTF-8",
        "HOME": "/run/privml-engine",
        "XDG_CACHE_HOME": "/run/privml-engine",
        "TMPDIR": "/run/privml-engine",
        "PYTHONPATH": "/usr/lib/python-wheels",
        "USER": "privml-engine",
        "LD_LIBRARY_PATH": "/usr/lib/nvidia",
        "TRITON_LIBCUDA_PATH": "/usr/lib/nvidia",
        "TVM_FFI_DISABLE_TORCH_C_DLPACK": "1",
        "VLLM_USE_V2_MODEL_RUNNER": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_DO_NOT_TRACK": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "VLLM_PLUGINS": "",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_RPC_BASE_PATH": "/run/privml-engine",
        "VLLM_HOST_IP": "127.0.0.1",
        "VLLM_LOOPBACK_IP": "127.0.0.1",
        "GLOO_SOCKET_IFNAME": "lo",
        "NCCL_SOCKET_IFNAME": "lo",
        "HF_HOME": "/run/privml-engine/huggingface",
        "VLLM_CACHE_ROOT": "/run/privml-engine/vllm",
        "VLLM_CONFIG_ROOT": "/run/privml-engine/vllm-config",
        "TORCHINDUCTOR_CACHE_DIR": "/run/privml-engine/inductor",
        "TRITON_CACHE_DIR": "/run/privml-engine/triton",
    }
    # What it writes is in the engine's own directory, a tmpfs.
    for name, value in VLLM.environment.items():
        if name.endswith(("_DIR", "_ROOT", "_HOME", "_BASE_PATH")):
            assert f"{value}/".startswith(f"{DIRECTORY}/"), name


@pytest.mark.parametrize("version", [version for version, _ in ENDS])
@pytest.mark.parametrize("name", VLLM.options)
def test_no_option_of_vllm_undoes_what_its_record_fixes(name: str, version: str) -> None:
    plain = VLLM.argv([FOLDER], version=version)
    option = VLLM.options[name]
    for value in (option.low, option.high) if isinstance(option, NumberOption) else option.values:
        argv = VLLM.argv([FOLDER], {name: value}, version=version)
        assert argv != plain or value == option.default
        assert argv[:5] == plain[:5]
        assert argv[argv.index("--uds") + 1] == VLLM.socket
        flags = [word for word in argv if word.startswith("--")]
        assert len(flags) == len(set(flags))
        for words in FIXED:
            at = argv.index(words[0])
            assert argv[at : at + len(words)] == words
            assert at + len(words) == len(argv) or argv[at + len(words)].startswith("--")


@pytest.mark.parametrize(
    "field",
    [
        "echo", "prompt_logprobs", "prompt_embeds", "chat_template", "chat_template_kwargs", "vllm_xargs", "priority",
        "cache_salt", "kv_transfer_params", "structured_outputs", "guided_regex", "media_io_kwargs", "documents",
        "mm_processor_kwargs", "request_id", "session_id", "ignore_eos", "use_beam_search", "logits_processors",
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_fields_of_vllm_that_reach_further_are_refused(path: str, field: str) -> None:
    body = {"model": "qwen", field: True, "prompt" if path == "/v1/completions" else "messages": []}
    with pytest.raises(UnsupportedError, match=f"field `{field}` is not supported by {path}"):
        engine_body(VLLM.requests, "POST", path, "", json.dumps(body).encode())


@pytest.mark.parametrize(
    ("part", "text"),
    [
        ({"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}, "image_url` is not supported"),
        ({"type": "input_audio", "text": "x"}, "got `input_audio`, expected one of text"),
    ],
)
def test_messages_to_vllm_are_text(part: dict[str, object], text: str) -> None:
    body = {"messages": [{"role": "user", "content": [part]}]}
    with pytest.raises(UnsupportedError, match=text):
        engine_body(VLLM.requests, "POST", "/v1/chat/completions", "", json.dumps(body).encode())


def test_an_answer_of_vllm_may_be_sent_back() -> None:
    answer = {
        "role": "assistant", "content": "4", "refusal": None, "annotations": None, "audio": None,
        "function_call": None, "tool_calls": [], "reasoning": None,
    }  # fmt: skip
    body = {"model": "qwen", "messages": [{"role": "user", "content": "2+2?"}, answer], "top_k": 20, "min_p": 0}
    assert (
        json.loads(engine_body(VLLM.requests, "POST", "/v1/chat/completions", "", json.dumps(body).encode())) == body
    )


WITH_WHEELS = "python: {{requirements: [{}], before: 2026-05-01}}\nplatforms:"


def vllm_recipe(folder: Path, *, requirement: str | None, engine: str = "name: vllm") -> Path:
    text = (shipped() / "demo-cpu.yaml").read_text().replace("name: llama-server", engine)
    if requirement is not None:
        text = text.replace("platforms:", WITH_WHEELS.format(requirement))
    (folder / "x.yaml").write_text(text)
    return folder / "x.yaml"


@pytest.mark.parametrize(
    ("requirement", "engine", "text"),
    [
        (
            None,
            "name: vllm",
            r"inference\.engine\.name: got no wheel of the engine `vllm`, expected vllm==VERSION, 0\.19",
        ),
        ("numpy", "name: vllm", r"python\.requirements: got no wheel of the engine `vllm`"),
        ("vllm", "name: vllm", r"python\.requirements\[0\]: got `vllm`, expected vllm==VERSION"),
        ("vllm>=0.19", "name: vllm", r"got `vllm>=0\.19`, expected vllm==VERSION"),
        ("vllm==0.19.*", "name: vllm", r"got `vllm==0\.19\.\*`, expected vllm==VERSION"),
        ("vllm==0.18.0", "name: vllm", r"got `vllm==0\.18\.0`, expected vllm==VERSION, 0\.19 or later, before 0\.34"),
        (
            "vllm==0.19.1",
            'name: vllm, version: "0.20"',
            r"inference\.engine\.version: got `0\.20`, but `python\.requirements` has vllm==0\.19\.1",
        ),
    ],
)
def test_an_engine_from_wheels_has_its_wheel_pinned(
    requirement: str | None, engine: str, text: str, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match=text) as caught:
        load(vllm_recipe(tmp_path, requirement=requirement, engine=engine))
    assert "[engine-wheel]" in caught.value.message


def test_the_version_of_an_engine_from_wheels_is_that_of_its_wheel(tmp_path: Path) -> None:
    # No service imports the wheels, and there need be none.
    recipe = load(vllm_recipe(tmp_path, requirement="vllm==0.19.1", engine='name: vllm, version: "0.19"'))
    assert [each.name for each in guest_packages(recipe) if "llama" in each.name] == []
    lock = read_lock(shipped() / "demo-cpu.lock.json")
    volume = MadeVolume("tiny", "model-00001-of-00002.safetensors", Verity(b"\xaa" * 32, b"\xbb" * 32, 4, 1))
    with pytest.raises(InputsError, match="the lock has no wheel vllm of the engine `vllm`"):
        measured_config(recipe, lock, [volume])
    wheel = Wheel(name="vllm", version="0.19.1", file="vllm-0.19.1-cp38-abi3-any.whl", sha256="0" * 64, size=1)
    wheels = Requirements(python="3.14", requested=("vllm==0.19.1",), before="2026-05-01", wheels=(wheel,))
    config = decode(encode(measured_config(recipe, lock.model_copy(update={"requirements": wheels}), [volume])))
    assert config.engine is not None
    assert config.engine.argv[4:7] == ("vllm.entrypoints.openai.api_server", "--model", "/run/privml/model")
    # The file that the guest looks for before it starts the engine.
    assert [model.file for model in config.models] == ["config.json"]


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
    with pytest.raises(RecipeError, match=r"inference\.engine\.name: got `toy`, expected llama-server or vllm"):
        load(tmp_path / "toy.yaml")


def test_the_root_contains_the_engine_s_files(toy: Engine) -> None:
    plan = render.Plan("x", TOOLS, (), 1, "/tools", {}, development=False, engine=toy)
    facts = json.loads(render.tree(plan, resources.templates())["privml.json"].data)
    assert facts["programs"] == sorted((*guestroot.PROGRAMS, TOOLS.release.python, *toy.programs))
    assert facts["paths"] == [*guestroot.ALLOWED, guestroot.OF_PYTHON.format(python=TOOLS.release.python), *toy.paths]
    assert facts["removals"][-1] == ["toy does not need it", list(toy.removals)]


def test_the_unit_has_the_address_families_of_its_engine(toy: Engine, tmp_path: Path) -> None:
    (tmp_path / "toy.yaml").write_text(recipe_text())
    assert resources.ENGINE_UNIT not in resources.overlay(load(tmp_path / "toy.yaml"), (), config=b"")
    recipe = load(vllm_recipe(tmp_path, requirement="vllm==0.19.1"))
    unit = resources.overlay(recipe, (), config=b"")[resources.ENGINE_UNIT].data
    assert unit == b"[Service]\nRestrictAddressFamilies=AF_INET AF_NETLINK\n"
    # systemd adds them to those of the unit, and its network stays one of its own.
    own = resources.overlay(recipe, (), config=b"")["usr/lib/systemd/system/privml-engine.service"].data
    assert b"\nRestrictAddressFamilies=AF_UNIX\n" in own
    assert b"\nPrivateNetwork=yes\n" in own


def test_the_measured_configuration_names_the_engine(toy: Engine, tmp_path: Path) -> None:
    (tmp_path / "toy.yaml").write_text(recipe_text().replace("name: toy", "name: toy, options: {heads: 3}"))
    volume = MadeVolume("tiny", "tiny.toy", Verity(b"\xaa" * 32, b"\xbb" * 32, 4, 1))
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
    monkeypatch.setattr(lastline, "run", lambda *given: started.append(given[:2]))
    measured = a_config()
    assert measured.engine is not None
    argv = ("/usr/bin/toyd", "x")
    config = dataclasses.replace(measured, engine=dataclasses.replace(measured.engine, name="toy", argv=argv))
    (tmp_path / "config.json").write_bytes(encode(config))
    engine_process.main(Layout(config=tmp_path / "config.json"))
    assert started == [(argv, {**ENVIRONMENT, "TOY_HOME": "/run/privml-engine"})]


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
        asked = [("/v1/generate", {"text": "1, 2, 3, 4, 5,", "model": name}) for name in ("one", "two")]
        assert tried == [asked[0], asked[0], asked[1], asked[1]]
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
