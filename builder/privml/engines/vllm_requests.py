"""Requests allowed for vLLM: OpenAI's paths and fields, and the sampling fields that open models are published with.

Read in the protocol of vLLM 0.19.1 to 0.33.0 (`vllm/entrypoints/openai/*/protocol.py`). Not allowed, because a field
that is not in the record is refused:

- What reads files or addresses: parts of messages other than text, ``prompt_embeds``, ``media_io_kwargs``,
  ``mm_processor_kwargs``, ``documents``.
- Code and templates: ``chat_template``, ``chat_template_kwargs``, ``vllm_xargs``, which plug-ins read.
- ``structured_outputs``, with regular expressions and grammars that can take forever to compile, and the form
  ``structural_tag`` of ``response_format``. JSON schemas are bounded, without ``pattern`` and ``$ref``.
- ``echo`` and ``prompt_logprobs``: both compute probabilities of every token of the prompt, in memory that grows with
  the prompt times the vocabulary.
- What other callers would notice: ``priority``, ``cache_salt``, ``request_id``, ``session_id``,
  ``kv_transfer_params``.
- ``ignore_eos``, ``min_tokens``, ``use_beam_search``, ``allowed_token_ids``, ``bad_words``,
  ``repetition_detection``: work for each token that no caller of OpenAI's API asks for.
"""

from __future__ import annotations

from privml.engines import openai_requests
from privml.engines.fields import Field, Integer, Number, Text
from privml.engines.openai_requests import BODY_SIZE, PROMPT_SIZE
from privml.engines.requests import Requests

_SAMPLING = (
    # Each answer takes a slot of the engine.
    Field("n", (Integer(1, 8),), nullable=True),
    Field("top_k", (Integer(-1, 1 << 20),), nullable=True),
    Field("min_p", (Number(0, 1),), nullable=True),
    # It divides by this number.
    Field("repetition_penalty", (Number(0.01, 2),), nullable=True),
)
REQUESTS = Requests(
    body=BODY_SIZE,
    fields={
        "/v1/completions": openai_requests.completions(*_SAMPLING),
        "/v1/chat/completions": openai_requests.chat(
            *_SAMPLING,
            Field("reasoning_effort", (Text(16, ("none", "low", "medium", "high")),), nullable=True),
            # A field of its answers, which callers send back.
            message=(Field("reasoning", (Text(PROMPT_SIZE),), nullable=True),),
        ),
    },
    readable=frozenset({"/v1/models"}),
    always={},
)
