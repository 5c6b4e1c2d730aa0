"""The first completions of an engine, made by the agent before the machine becomes ready, and their faults.

A fault of a driver or a kernel can leave an engine that answers quickly, with status 200, and with noise: with GPUs
under confidential computing this was seen without any error. So the agent asks every model to count on, twice, and
for the most probable tokens. A model of text answers with the next number, both times alike, and is sure of it.
Nothing else is expected of a model: readable text, finite probabilities, and the number.

Measured: SmolLM2-135M gives these tokens a mean log-probability of -0.1 with 4 bits a weight, and of -0.06 with 16.
Of a model with random weights it is about minus the logarithm of its vocabulary: -10 for 32,000 tokens.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from privml.base.strictjson import canonical

_PROMPT = "1, 2, 3, 4, 5,"
_NEXT = "6"
_TOKENS = 4
_FIELDS: Mapping[str, str | int] = {"prompt": _PROMPT, "max_tokens": _TOKENS, "temperature": 0, "logprobs": 1}
_LEAST = -3.0
"""Lowest accepted mean log-probability of the tokens, each of which the model itself finds the most probable."""
_REPLACED = "\ufffd"


@dataclass(frozen=True)
class Trial:
    """The trial of an engine: the path of its completions, with the fields of a request.

    With ``names_model`` each model is asked, by its name in the body's field ``model``; without it, the only one.
    Each request is made ``times`` times.
    """

    path: str
    names_model: bool = False
    fields: Mapping[str, str | int] = field(default_factory=lambda: _FIELDS)
    times: int = 2

    def bodies(self, models: Sequence[str]) -> list[bytes]:
        """The request bodies for models with these names."""
        if self.names_model:
            return [canonical({**self.fields, "model": name}) for name in models]
        return [canonical(dict(self.fields))]

    def fault(self, answers: Sequence[bytes]) -> str | None:
        """Say what is wrong with the answers to one body; None for those of an engine that works."""
        texts = []
        for answer in answers:
            text, wrong = _read(answer)
            if wrong is not None:
                return wrong
            texts.append(text)
        if len(set(texts)) > 1:
            return "two answers to one prompt differ, though both have the most probable tokens"
        if _NEXT not in texts[0]:
            return f"the answer does not go on counting, expected `{_NEXT}` after `{_PROMPT}`"
        return None


def _read(answer: bytes) -> tuple[str, str | None]:
    """The text of one answer, and what is wrong with it by itself."""
    try:
        choice = json.loads(answer)["choices"][0]
        text, probabilities = choice["text"], _probabilities(choice["logprobs"])
    except (ValueError, RecursionError, LookupError, TypeError, OverflowError):
        text, probabilities = None, []
    if not isinstance(text, str) or not probabilities:
        return "", "the answer is not a completion with the log-probability of each token"
    if not all(map(math.isfinite, probabilities)):
        return text, "a token has no finite log-probability"
    mean = sum(probabilities) / len(probabilities)
    if mean < _LEAST:
        return text, f"the tokens have a mean log-probability of {mean:.2f}, expected at least {_LEAST:g}"
    if _REPLACED in text or not all(each.isprintable() or each in "\n\t" for each in text):
        return text, "the answer is not readable text"
    return text, None


def _probabilities(found: Any) -> list[float]:
    """The log-probability of each token, in the form of completions or of chat completions; NaN for what is none."""
    given = found["token_logprobs"] if "token_logprobs" in found else [token["logprob"] for token in found["content"]]
    return [
        float(each) if isinstance(each, int | float) and not isinstance(each, bool) else math.nan for each in given
    ]
