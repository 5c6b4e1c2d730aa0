"""Fields of OpenAI's completions and chat completions that engines share, with bounds that all of them survive.

An engine's own module adds what only that engine reads, and says where a bound was measured. A bound here is the
smallest that an engine needs.
"""

from __future__ import annotations

from privml.engines.fields import Array, Boolean, Field, Integer, Number, Numbers, Object, Schema, Text

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
    # A 16-digit minimum without a maximum took all memory of a machine.
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
_MESSAGE = (
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
        # An engine may answer several prompts in turn: 2,000 of one token kept a slot for more than 30 s.
        (Text(PROMPT_SIZE), Array(Text(PROMPT_SIZE), 64), Array(_TOKEN, _TOKENS), Array(Array(_TOKEN, _TOKENS), 64)),
        size=PROMPT_SIZE,
    ),
    # OpenAI allows 5. The answer has this many for each token.
    Field("logprobs", (Integer(0, 20),), nullable=True),
)
_CHAT = (
    Field("max_completion_tokens", (Integer(0, 1 << 20),), nullable=True),
    Field("logprobs", (Boolean(),), nullable=True),
    Field("top_logprobs", (Integer(0, 20),), nullable=True),
    Field("response_format", (_RESPONSE_FORMAT,), nullable=True, size=_SCHEMA_SIZE, nodes=_SCHEMA_NODES),
    Field("tools", (Array(_TOOL, 128),), nullable=True, size=_SCHEMA_SIZE, nodes=_SCHEMA_NODES),
    Field("tool_choice", _TOOL_CHOICE, nullable=True),
    Field("parallel_tool_calls", (Boolean(),), nullable=True),
)


def completions(*own: Field) -> tuple[Field, ...]:
    """The fields of ``/v1/completions``, with ``own`` ones of an engine."""
    return (*_COMMON, *_COMPLETIONS, *own)


def chat(*own: Field, message: tuple[Field, ...] = ()) -> tuple[Field, ...]:
    """The fields of ``/v1/chat/completions``, with ``own`` ones of an engine, and its own of a ``message``."""
    messages = Field("messages", (Array(Object((*_MESSAGE, *message)), 1024),), size=PROMPT_SIZE)
    return (*_COMMON, messages, *_CHAT, *own)
