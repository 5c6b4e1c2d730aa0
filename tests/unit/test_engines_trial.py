"""The first completions of an engine: those of a working one are accepted, noise of each kind is named."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence

import pytest
from agent_guest import COUNTED, guest

from privml.engines.registry import ENGINES
from privml.engines.trial import Trial

TRIAL = Trial("/v1/completions")
# Of SmolLM2-135M in vLLM 0.32.0, shortened to what is read.
REAL = {
    "object": "text_completion",
    "choices": [
        {
            "index": 0,
            "text": " 6, 7",
            "logprobs": {
                "text_offset": [0, 1, 2, 3],
                "token_logprobs": [-0.0335, -0.0084, -0.0561, -0.0512],
                "tokens": [" ", "6", ",", " 7"],
                "top_logprobs": [{" ": -0.0335}, {"6": -0.0084}, {",": -0.0561}, {" 7": -0.0512}],
            },
            "finish_reason": "length",
        }
    ],
}


def answer(text: str = " 6, 7", probabilities: Sequence[object] = (-0.1, -0.2)) -> bytes:
    return json.dumps({"choices": [{"text": text, "logprobs": {"token_logprobs": list(probabilities)}}]}).encode()


def test_what_a_working_engine_answers_is_accepted() -> None:
    assert TRIAL.fault([json.dumps(REAL).encode()] * 2) is None
    assert TRIAL.fault([COUNTED] * TRIAL.times) is None
    # llama-server has the form of chat completions.
    content = [{"id": 5, "token": " 6", "bytes": [32, 54], "logprob": -0.01, "top_logprobs": []}]
    other = {"choices": [{"text": " 6", "index": 0, "logprobs": {"content": content}, "finish_reason": "length"}]}
    assert TRIAL.fault([json.dumps(other).encode()] * 2) is None
    assert TRIAL.fault([answer("\n6\n", [0, -1])] * 2) is None


@pytest.mark.parametrize(
    ("answers", "text"),
    [
        ([answer(), answer(" 6, 8")], "two answers to one prompt differ"),
        ([answer(" Paris")] * 2, "does not go on counting, expected `6` after `1, 2, 3, 4, 5,`"),
        # What token 0 is in many vocabularies, and what engines answer when all logits are NaN.
        ([answer("!!!!")] * 2, "does not go on counting"),
        ([answer("")] * 2, "does not go on counting"),
        ([answer(" 6\ufffd\ufffd")] * 2, "is not readable text"),
        ([answer(" 6\x00")] * 2, "is not readable text"),
        ([answer(" 6\x1b[2J")] * 2, "is not readable text"),
        ([answer(probabilities=[-0.1, math.nan])] * 2, "no finite log-probability"),
        ([answer(probabilities=[-math.inf])] * 2, "no finite log-probability"),
        ([answer(probabilities=[None, -0.1])] * 2, "no finite log-probability"),
        ([answer(probabilities=["-0.1"])] * 2, "no finite log-probability"),
        ([answer(probabilities=[True])] * 2, "no finite log-probability"),
        ([answer(probabilities=[-9.5, -8.7])] * 2, "a mean log-probability of -9.10, expected at least -3"),
        ([answer(probabilities=[])] * 2, "not a completion with the log-probability of each token"),
        ([b"{}"] * 2, "not a completion"),
        ([b"null"] * 2, "not a completion"),
        ([b'{"choices":[]}'] * 2, "not a completion"),
        ([b'{"choices":[{"text":" 6"}]}'] * 2, "not a completion"),
        ([b'{"choices":[{"text":" 6","logprobs":null}]}'] * 2, "not a completion"),
        ([b'{"choices":[{"text":6,"logprobs":{"token_logprobs":[-0.1]}}]}'] * 2, "not a completion"),
        ([b'{"choices":[{"text":" 6","logprobs":{"content":[{}]}}]}'] * 2, "not a completion"),
        ([answer(probabilities=[10**400])] * 2, "not a completion"),
        ([b"[" * 100_000] * 2, "not a completion"),
        ([b"\xff\xfe\x00"] * 2, "not a completion"),
        # The second answer is read as the first is.
        ([answer(), b"{}"], "not a completion"),
    ],
)
def test_what_is_wrong_is_said(answers: list[bytes], text: str) -> None:
    fault = TRIAL.fault(answers)
    assert fault is not None
    assert text in fault


def test_probabilities_of_random_logits_are_noise_whatever_the_text() -> None:
    rng = random.Random(8)
    for spread in (0.1, 0.5, 1.0):
        probabilities = []
        for _ in range(4):
            logits = [rng.gauss(0, spread) for _ in range(32_000)]
            probabilities.append(max(logits) - math.log(sum(map(math.exp, logits))))
        fault = TRIAL.fault([answer(probabilities=probabilities)] * 2)
        assert fault is not None
        assert "mean log-probability" in fault


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_has_this_trial(engine: str) -> None:
    trial = ENGINES[engine].trial
    (body,) = trial.bodies(["m"])
    assert json.loads(body) == {"prompt": "1, 2, 3, 4, 5,", "max_tokens": 4, "temperature": 0, "logprobs": 1}
    assert trial.times == 2


@pytest.mark.parametrize(
    ("counts", "text"),
    [
        ([answer("\ufffd\ufffd6")] * 2, "the answer is not readable text"),
        ([COUNTED, answer(" 6, 9")], "two answers to one prompt differ"),
    ],
)
def test_noise_parks_the_guest(counts: list[bytes], text: str) -> None:
    with guest() as made:
        made.engine.counts = iter(counts)
        assert not made.boot().run()
        (said,) = [line for line in made.said if "engine-answers-wrong" in line]
        assert said.startswith(f"privml: stage engine failed: engine: engine-answers-wrong: {text}")
