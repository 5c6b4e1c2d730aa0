"""vLLM behind the real agent: what OpenAI's client gets through `proxy`, and what the guest promises of the engine.

vLLM runs on the CPU (`vllm_cpu`), with a small real model; attestor, server and boot are those of a guest, on a
simulated platform. Takes about ten minutes, three of them to install the wheels.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from tests.real import smollm2
from tests.real.conftest import ROOT, only_full
from tests.real.vllm_cpu import OPTIONS, RECORD, VERSION, Vllm, python
from tests.unit.agent_gate import SIMULATED, gate, url
from tests.unit.agent_guest import Guest, a_config, a_model, guest, prediction
from tests.unit.proxy_thread import proxied

from privml.agent.volume import Volumes
from privml.client import attested
from privml.client.gate import Gate
from privml.engines.engine import ServedModel
from privml.events.configuration import Engine
from privml.verify.anchor import Built, Expected
from privml.verify.verdict import Outcome

pytestmark = [pytest.mark.real, only_full]

READY = 900.0
QUESTION = [{"role": "user", "content": "What is 2+2? Answer with one number."}]
STORY = "Tell me a long story about a river, a stone and a very old bridge."


@dataclasses.dataclass(frozen=True)
class Served:
    made: Guest
    engine: Vllm
    client: openai.OpenAI
    gate: Gate


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    beside = ROOT / "models" / "smollm2"  # where the shipped recipe has it
    if not beside.is_dir():
        beside = tmp_path_factory.mktemp("model") / "smollm2"
        smollm2.convert(beside)
    return beside


@pytest.fixture(scope="module")
def served(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    interpreter = python(tmp_path_factory.mktemp("environment"))
    measured = RECORD.argv([ServedModel("smollm2", "config.json", "/run/privml/model")], OPTIONS, version=VERSION)
    one = dataclasses.replace(a_model("smollm2"), file="config.json")
    with guest(a_config(engine=Engine(RECORD.name, measured), models=(one,))) as made:
        engine = Vllm(interpreter, model, made.layout.engine)

        def runner(argv: list[str]) -> None:
            made.runner(argv)
            if argv[0] == "mount":
                (Path(argv[-1]) / "config.json").write_bytes((model / "config.json").read_bytes())

        volumes = Volumes(sys=made.layout.sys, dev=made.layout.dev, runner=runner, wait=0.2)
        made.start_server()
        try:
            # The boot makes the first completions, twice, and judges them.
            assert made.boot(engine=engine, volumes=volumes, engine_wait=READY).run(), (made.said, engine.said())
            made.connect().close()
            opened = gate(made)
            with proxied(opened) as port:
                client = openai.OpenAI(
                    base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0, timeout=300
                )
                yield Served(made, engine, client, opened)
        finally:
            engine.stop()


def test_the_guest_with_vllm_is_attested_end_to_end(served: Served) -> None:
    found = attested.attest(
        url(served.made),
        Expected(prediction(served.made), Built("out")),
        SIMULATED,
        now=int(time.time()),
    )
    assert (found.judgement.verdict.outcome, found.judgement.verdict.refusals) == (Outcome.ACCEPTED_SIMULATED, ())
    assert any(line.startswith("privml: stage engine: ok: vllm") for line in served.made.said)


def test_models(served: Served) -> None:
    assert [each.id for each in served.client.models.list()] == ["smollm2"]


def test_completions_and_their_probabilities(served: Served) -> None:
    answer = served.client.completions.create(
        model="smollm2", prompt="The capital of France is", max_tokens=3, temperature=0, logprobs=2
    )
    assert answer.choices[0].text.startswith(" Paris")
    assert answer.choices[0].logprobs is not None
    assert len(answer.choices[0].logprobs.token_logprobs or ()) == 3


def test_chat_and_an_answer_that_is_sent_back(served: Served) -> None:
    first = served.client.chat.completions.create(model="smollm2", messages=QUESTION, max_tokens=12, temperature=0)
    assert "4" in str(first.choices[0].message.content)
    # As callers do it: with every field that the engine put there.
    messages = [*QUESTION, first.choices[0].message.model_dump(), {"role": "user", "content": "And 3+3?"}]
    second = served.client.chat.completions.create(
        model="smollm2", messages=messages, max_tokens=4, temperature=0, extra_body={"top_k": 20, "min_p": 0}
    )
    assert second.choices[0].message.content


def test_a_streamed_answer_is_the_whole_answer(served: Served) -> None:
    asked = {"model": "smollm2", "messages": QUESTION, "max_tokens": 8, "temperature": 0}
    whole = served.client.chat.completions.create(**asked)
    pieces = list(served.client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    text = "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)
    assert text == whole.choices[0].message.content
    assert sum(bool(piece.choices) for piece in pieces) > 3
    assert pieces[-1].usage is not None
    assert whole.usage is not None
    assert pieces[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_an_answer_follows_a_schema(served: Served) -> None:
    schema = {
        "type": "object",
        "properties": {"sum": {"type": "integer", "minimum": 0, "maximum": 9}},
        "required": ["sum"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "sum", "schema": schema}}
    answer = served.client.chat.completions.create(
        model="smollm2", messages=QUESTION, response_format=form, max_tokens=40, temperature=0
    )
    assert isinstance(json.loads(str(answer.choices[0].message.content))["sum"], int)


def test_a_caller_that_leaves_ends_its_work(served: Served) -> None:
    served.engine.wait_until_idle(60)
    stream = served.client.chat.completions.create(
        model="smollm2", messages=[{"role": "user", "content": STORY}], max_tokens=900, stream=True
    )
    next(iter(stream))
    before = served.engine.processor_time()
    next(iter(stream))
    time.sleep(2)
    assert served.engine.processor_time() - before > 0.5  # it computes while the caller reads
    stream.close()
    served.engine.wait_until_idle(30)


@pytest.mark.parametrize(
    ("more", "status", "text"),
    [
        ({"extra_body": {"cache_salt": "x"}}, 400, "field `cache_salt` is not supported"),
        ({"extra_body": {"structured_outputs": {"regex": "(a+)+"}}}, 400, "field `structured_outputs` is not"),
        ({"extra_body": {"prompt_logprobs": 1}}, 400, "field `prompt_logprobs` is not supported"),
        ({"n": 9}, 400, "`n`: got 9, expected 1 to 8"),
        ({"max_tokens": 100_000}, 400, "1024"),
        ({"messages": [{"role": "user", "content": "word " * 3000}]}, 400, "1024"),
        ({"model": "other"}, 404, "other"),
        ({"messages": []}, 400, ""),
    ],
)
def test_errors_have_a_status_and_a_reason(served: Served, more: dict[str, object], status: int, text: str) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        served.client.chat.completions.create(**{"model": "smollm2", "messages": QUESTION, "max_tokens": 4, **more})
    assert caught.value.status_code == status
    assert text in caught.value.message


@pytest.mark.parametrize("path", ["/metrics", "/v1/responses", "/tokenize", "/v1/load_lora_adapter", "/docs"])
def test_other_paths_of_vllm_are_not_reached(served: Served, path: str) -> None:
    assert served.made.request("GET", path)[0] == 404
    assert served.made.request("POST", path, b"{}")[0] == 404


def test_a_prompt_asked_twice_is_computed_twice(served: Served) -> None:
    """With a cache of prompts vLLM says here that 384 of these 485 tokens were cached."""
    prompt = "A stone lies in the river and the water is cold. " * 40
    for _ in range(2):
        answer = served.client.completions.create(model="smollm2", prompt=prompt, max_tokens=1, temperature=0)
        assert answer.usage is not None
        assert answer.usage.prompt_tokens > 400
        assert answer.usage.prompt_tokens_details is not None
        assert answer.usage.prompt_tokens_details.cached_tokens == 0


def test_its_files_stay_in_its_directory_and_it_says_nothing(served: Served) -> None:
    said = served.engine.said()
    assert STORY not in said
    assert "2+2" not in said
    sockets = [line.split()[-1] for line in Path("/proc/net/unix").read_text().splitlines() if "/" in line]
    own = [path for path in sockets if path.startswith(str(served.made.layout.engine))]
    assert str(served.engine.socket) in own
    assert len(own) > 1  # those between its processes
