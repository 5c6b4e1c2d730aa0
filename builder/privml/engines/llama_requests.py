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

from privml.engines.requests import (
    Array,
    Boolean,
    Field,
    Integer,
    Number,
    Numbers,
    Object,
    Requests,
    Schema,
    Text,
)

PROMPT_SIZE = 1 << 20
BODY_SIZE = 2 << 20
"""A prompt of the largest size, with escapes and a schema around it."""
_SCHEMA_SIZE = 64 << 10
_SCHEMA_NODES = 2_000
_TOKENS = 32_768
"""Bound of one prompt. It limits what is read; the engine refuses prompts that exceed its context."""
_TOKEN = Integer(0, 2**31 - 1, private=True)
_NAME = Text(256)

SCHEMA = Schema(
    depth=64,
    keys=256,
    items=256,
    name=256,
    text=8_192,  # descriptions
    alternatives=128,
    choices=("anyOf", "oneOf", "allOf", "type"),
    refused=("pattern", "$ref"),
    number=2**53,  # the range in which all JSON readers agree on integers; the usual bound of "any integer"
    # A 16-digit minimum without a maximum: see above.
    ranges=(
        ("minimum", -(2**53), 10**15 - 1),
        ("exclusiveMinimum", -(2**53), 10**15 - 1),
        ("maximum", 1 - 10**15, 2**53),
        ("exclusiveMaximum", 1 - 10**15, 2**53),
    ),
    ordered=(
        ("minLength", "maxLength"),
        ("minItems", "maxItems"),
        ("minimum", "maximum"),
    ),
)

_COMMON = (
    Field("model", (Text(256),)),
    # A context is full long before this; 2**31 would wrap.
    Field("max_tokens", (Integer(0, 1 << 20),), nullable=True),
    Field("temperature", (Number(0, 2),), nullable=True),
    Field("top_p", (Number(0, 1),), nullable=True),
    Field("n", (Integer(1, 1),), nullable=True),  # the engine has one slot (`--parallel 1`)
    Field("stream", (Boolean(),), nullable=True),
    Field(
        "stream_options",
        (Object((Field("include_usage", (Boolean(),)), Field("include_obfuscation", (Boolean(),)))),),
        nullable=True,
    ),
    # Each is searched for after each token. OpenAI allows 4.
    Field("stop", (Text(256), Array(Text(256), 16)), nullable=True),
    Field("presence_penalty", (Number(-2, 2),), nullable=True),
    Field("frequency_penalty", (Number(-2, 2),), nullable=True),
    # 32 bits, and the last of them means "any".
    Field("seed", (Integer(0, 2**32 - 2),), nullable=True),
    Field("logit_bias", (Numbers(2**31 - 1, Number(-100, 100), 300),), nullable=True),
    Field("user", (Text(512),)),
)

_TEXT_PART = Object(
    (
        Field("type", (Text(16, ("text",)),), required=True),
        Field("text", (Text(PROMPT_SIZE),), required=True),
    )
)
_CONTENT = (Text(PROMPT_SIZE), Array(_TEXT_PART, 256))
_CALL = Object(
    (
        Field("id", (_NAME,)),
        Field("type", (Text(16, ("function",)),), required=True),
        Field(
            "function",
            (Object((Field("name", (_NAME,), required=True), Field("arguments", (Text(16_384, depth=64),)))),),
            required=True,
        ),
    )
)
_MESSAGE = Object(
    (
        Field("role", (Text(16, ("system", "developer", "user", "assistant", "tool")),), required=True),
        Field("content", _CONTENT, nullable=True),
        Field("name", (_NAME,)),
        Field("tool_calls", (Array(_CALL, 128),), nullable=True),
        Field("tool_call_id", (_NAME,)),
        # Fields of an answer, because callers send answers back unchanged.
        Field("reasoning_content", (Text(PROMPT_SIZE),)),
        Field("refusal", (Text(PROMPT_SIZE),), nullable=True),
        Field("annotations", (Array(Object(()), 0),), nullable=True),
        Field("audio", nullable=True),
        Field("function_call", nullable=True),
    )
)
_TOOL = Object(
    (
        Field("type", (Text(16, ("function",)),), required=True),
        Field(
            "function",
            (
                Object(
                    (
                        Field("name", (_NAME,), required=True),
                        Field("description", (Text(SCHEMA.text),), nullable=True),
                        Field("parameters", (SCHEMA,), nullable=True),
                        Field("strict", (Boolean(),), nullable=True),
                    )
                ),
            ),
            required=True,
        ),
    )
)
_TOOL_CHOICE = (
    Text(16, ("none", "auto", "required")),
    Object(
        (
            Field("type", (Text(16, ("function",)),), required=True),
            Field("function", (Object((Field("name", (_NAME,), required=True),)),), required=True),
        )
    ),
)
_RESPONSE_FORMAT = Object(
    (
        Field("type", (Text(16, ("text", "json_object", "json_schema")),), required=True),
        Field(
            "json_schema",
            (
                Object(
                    (
                        Field("name", (_NAME,)),
                        Field("description", (Text(SCHEMA.text),), nullable=True),
                        Field("schema", (SCHEMA,), nullable=True),
                        Field("strict", (Boolean(),), nullable=True),
                    )
                ),
            ),
        ),
    )
)

_COMPLETIONS = (
    Field(
        "prompt",
        # Each of several prompts is answered in turn, and 2,000 of one token kept the slot for more than 30 s.
        (Text(PROMPT_SIZE), Array(Text(PROMPT_SIZE), 64), Array(_TOKEN, _TOKENS), Array(Array(_TOKEN, _TOKENS), 64)),
        size=PROMPT_SIZE,
    ),
    Field("echo", (Boolean(),), nullable=True),
    # OpenAI allows 5. The answer has this many for each token.
    Field("logprobs", (Integer(0, 20),), nullable=True),
)
_CHAT = (
    Field("messages", (Array(_MESSAGE, 1024),), size=PROMPT_SIZE),
    Field("max_completion_tokens", (Integer(0, 1 << 20),), nullable=True),
    Field("logprobs", (Boolean(),), nullable=True),
    Field("top_logprobs", (Integer(0, 20),), nullable=True),
    Field("response_format", (_RESPONSE_FORMAT,), nullable=True, size=_SCHEMA_SIZE, nodes=_SCHEMA_NODES),
    Field("tools", (Array(_TOOL, 128),), nullable=True, size=_SCHEMA_SIZE, nodes=_SCHEMA_NODES),
    Field("tool_choice", _TOOL_CHOICE, nullable=True),
    Field("parallel_tool_calls", (Boolean(),), nullable=True),
)

REQUESTS = Requests(
    body=BODY_SIZE,
    fields={"/v1/completions": _COMMON + _COMPLETIONS, "/v1/chat/completions": _COMMON + _CHAT},
    readable=frozenset({"/v1/models"}),
    # It would reveal, by timing and by `cached_tokens`, the beginning of the previous caller's prompt.
    always={"cache_prompt": False},
)
