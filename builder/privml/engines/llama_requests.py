"""Requests allowed for llama-server: OpenAI's paths and fields, with bounds under which it was tested to survive.

Tested with the locked llama-server 0.7.0 and the demo's model on two cores. Each bound is far below the failures:

- An object with 30,000 optional properties (889 kB) was a SIGSEGV, one with 4,000 kept it busy for over a minute; 256
  take 0.25 s. An ``enum`` of 16,000 strings took over a minute, one of 256 takes 0.35 s.
- A property name of 60,000 characters with ``additionalProperties`` was a SIGSEGV, and so was a schema 9,000 deep.
- ``minLength`` 5 with ``maxLength`` 2, ``minItems`` 5 with ``maxItems`` 2, and an integer with ``minimum`` 2e15 and
  no ``maximum``: each of them took all memory of the machine.
- 256 alternatives with a common prefix (ranges of integers) kept it busy for 56 s after the caller had disconnected;
  with 128 the next caller waited for 1.3 s.
- With a template that shows tool calls, ``arguments`` that are JSON 100,000 deep were a SIGSEGV; 20,000 were not.
- ``pattern`` and ``$ref`` can make a grammar that keeps its only slot busy forever.
- It wraps integers of more than 32 bits (``max_tokens`` 2**32 is 0), and ignores a ``tool_choice`` of 5.

The bounds in bytes are far above the image's context of 2,048 tokens (about 8 kB of English).
"""

from __future__ import annotations

from privml.engines import openai_requests
from privml.engines.fields import Boolean, Field, Integer
from privml.engines.openai_requests import BODY_SIZE
from privml.engines.requests import Requests

_ONE_ANSWER = Field("n", (Integer(1, 1),), nullable=True)  # the engine answers with one choice

REQUESTS = Requests(
    body=BODY_SIZE,
    fields={
        "/v1/completions": openai_requests.completions(_ONE_ANSWER, Field("echo", (Boolean(),), nullable=True)),
        "/v1/chat/completions": openai_requests.chat(_ONE_ANSWER),
    },
    readable=frozenset({"/v1/models"}),
    # It would reveal, by timing and by `cached_tokens`, the beginning of the previous caller's prompt.
    always={"cache_prompt": False},
)
