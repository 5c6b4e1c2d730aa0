"""Only OpenAI's paths and fields reach the engine, within its bounds, and never with a shared prompt cache."""

from __future__ import annotations

import json
import threading
import time
import traceback
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from privml.agent import inference
from privml.engines.fields import Array, Boolean, Field, Integer, Kind, Number, Numbers, Object, Schema, Text
from privml.engines.llama_requests import REQUESTS
from privml.engines.openai_requests import BODY_SIZE, PROMPT_SIZE
from privml.engines.registry import ENGINES
from privml.engines.requests import (
    CODES,
    FIELD_TYPE,
    FIELD_VALUE,
    MISSING_FIELD,
    NOT_JSON,
    REPEATED_KEY,
    TOO_LARGE,
    TOO_MANY,
    UNKNOWN_FIELD,
    UnsupportedError,
)

PATH = "/v1/completions"
CHAT = "/v1/chat/completions"
USER = [{"role": "user", "content": "Hello"}]
BASE: dict[str, dict[str, Any]] = {PATH: {"prompt": "Hello"}, CHAT: {"messages": USER}}
FIELDS = [(path, field) for path, fields in REQUESTS.fields.items() for field in fields]
SECRET = "kept between us"


def engine_body(method: str, path: str, query: str, body: bytes) -> bytes:
    return inference.engine_body(REQUESTS, method, path, query, body)


def shown(body: object, path: str = PATH) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(engine_body("POST", path, "", json.dumps(body).encode()))
    return value


def refusal(body: object, path: str = PATH) -> UnsupportedError:
    data = body if isinstance(body, bytes) else json.dumps(body, ensure_ascii=False).encode()
    with pytest.raises(UnsupportedError) as caught:
        engine_body("POST", path, "", data)
    return caught.value


# ---- The bounds, as the table has them: what is within passes, and one step further is refused by the field's name.


def schemas() -> st.SearchStrategy[Any]:
    leaf = st.sampled_from(
        [
            {"type": "string", "maxLength": 40},
            {"type": "integer", "minimum": -(2**53), "maximum": 2**53},
            {"enum": ["red", "green", 3, None, True]},
            {"type": ["string", "null"], "description": "a colour"},
            True,
        ]
    )

    def bigger(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        properties = st.dictionaries(st.text(max_size=20), inner, max_size=4)
        return (
            st.builds(lambda some, more: {"type": "object", "properties": some, **more}, properties,
                      st.sampled_from([{}, {"additionalProperties": False}]))
            | st.builds(lambda item: {"type": "array", "items": item, "minItems": 1, "maxItems": 9}, inner)
            | st.builds(lambda some: {"anyOf": some}, st.lists(inner, min_size=1, max_size=3))
        )  # fmt: skip

    return st.recursive(leaf, bigger, max_leaves=6)


def within(kind: Kind) -> st.SearchStrategy[Any]:
    """Values of ``kind``."""
    match kind:
        case Boolean():
            return st.booleans()
        case Text():
            text = st.text(st.characters(exclude_categories=["Cs"]), max_size=min(kind.limit, 40))
            return st.sampled_from(kind.words) if kind.words else text
        case Integer():
            return st.sampled_from([kind.low, kind.high]) | st.integers(kind.low, kind.high)
        case Number():
            return st.sampled_from([kind.low, kind.high]) | st.floats(kind.low, kind.high)
        case Array():
            return st.lists(within(kind.of), min_size=kind.least, max_size=min(kind.limit, 4))
        case Object():
            return st.fixed_dictionaries(
                {field.name: value(field) for field in kind.fields if field.required},
                optional={field.name: value(field) for field in kind.fields if not field.required},
            )
        case Numbers():
            return st.dictionaries(st.integers(0, kind.high).map(str), within(kind.of), max_size=min(kind.limit, 4))
        case Schema():
            return schemas()


def value(field: Field) -> st.SearchStrategy[Any]:
    kinds = [within(kind) for kind in field.kinds]
    return st.one_of(*kinds, *([st.none()] if field.nullable else []))


def requests(path: str) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional={field.name: value(field) for field in REQUESTS.fields[path]})


def edges(kind: Kind) -> Iterator[Any]:
    """Values on the bounds of ``kind``."""
    match kind:
        case Boolean():
            yield from (True, False)
        case Text():
            yield from kind.words or ("", "x" * kind.limit)
        case Integer() | Number():
            yield from (kind.low, kind.high)
        case Array():
            smallest = next(edges(kind.of))
            yield from ([smallest] * kind.least, [smallest] * kind.limit)
        case Object():
            for field in kind.fields:
                for item in [
                    *(edge for one in field.kinds for edge in edges(one)),
                    *([None] if field.nullable else []),
                ]:
                    yield {**least(kind), field.name: item}
            yield least(kind)
        case Numbers():
            yield {str(kind.high - index): kind.of.high for index in range(kind.limit)}
        case Schema():
            yield from schema_edges(kind)


def least(kind: Object) -> dict[str, Any]:
    return {field.name: next(edges(field.kinds[0])) for field in kind.fields if field.required}


def schema_edges(kind: Schema) -> Iterator[Any]:
    yield True
    yield {"properties": {f"{index:0{kind.name}}": {} for index in range(kind.keys)}}
    yield {"enum": ["x"] * kind.items}
    yield {"description": "x" * kind.text}
    yield {"anyOf": [{}] * (kind.alternatives // 2), "oneOf": [{}] * (kind.alternatives - kind.alternatives // 2)}
    yield nested(kind.depth - 1)
    yield {"default": kind.number, "const": -kind.number}
    for word, low, high in kind.ranges:
        yield from ({word: low}, {word: high})
    for first, second in kind.ordered:
        yield {first: 3, second: 3}


def nested(depth: int) -> Any:
    schema: Any = {}
    for _ in range(depth):
        schema = {"items": schema}
    return schema


def beyond(kind: Kind) -> Iterator[tuple[Any, str]]:
    """(value one step outside a bound of ``kind``, text of the refusal)."""
    match kind:
        case Boolean():
            pass
        case Text():
            yield "x" * (kind.limit + 1), f"{kind.limit + 1} characters, expected at most {kind.limit}"
            if kind.words:
                yield "other", "got `other`, expected one of"
            if kind.depth:
                yield "[" * 99 + "]" * 99, f"nested deeper than {kind.depth} levels"
        case Integer():
            yield from ((number, f"expected {kind.low} to {kind.high}") for number in (kind.low - 1, kind.high + 1))
            yield 0.5, "got 0.5, expected an integer"
        case Number():
            for number in (kind.low - 0.001, kind.high + 0.001, float("inf"), float("-inf"), float("nan"), 10**4000):
                yield number, f"expected {kind.low:g} to {kind.high:g}"
        case Array():
            smallest = next(edges(kind.of))
            yield [smallest] * (kind.limit + 1), f"{kind.limit + 1} items, expected at most {kind.limit}"
            yield from (([item], said) for item, said in beyond(kind.of) if kind.limit)
        case Object():
            for field in kind.fields:
                for item, said in field_beyond(field):
                    yield {**least(kind), field.name: item}, said
                if field.required:
                    yield {key: item for key, item in least(kind).items() if key != field.name}, "missing"
            yield {**least(kind), "grammar": 1}, "grammar` is not supported"
        case Numbers():
            yield {str(index): 0 for index in range(kind.limit + 1)}, f"expected at most {kind.limit}"
            yield from (({key: 0}, f"key `{key}`") for key in ("-1", "x", "", str(kind.high + 1)))
            yield from (({"5": item}, said) for item, said in beyond(kind.of))
        case Schema():
            yield from schema_beyond(kind)


def schema_beyond(kind: Schema) -> Iterator[tuple[Any, str]]:
    yield {str(index): {} for index in range(kind.keys + 1)}, f"expected at most {kind.keys}"
    yield {"x" * (kind.name + 1): {}}, f"a key of {kind.name + 1} characters"
    yield {"enum": ["x"] * (kind.items + 1)}, f"an array of {kind.items + 1} items"
    yield {"description": "x" * (kind.text + 1)}, f"a string of {kind.text + 1} characters"
    yield {"items": {"anyOf": [{}] * (kind.alternatives + 1)}}, f"{kind.alternatives + 1} alternatives in"
    yield {"type": ["integer"] * (kind.alternatives + 1)}, f"{kind.alternatives + 1} alternatives in"
    yield nested(kind.depth), f"nested deeper than {kind.depth} levels"
    for number in (2 * kind.number, float("inf"), float("-inf"), float("nan"), -(10**4000)):
        yield {"const": number}, f"expected {-kind.number} to {kind.number}"
    for word, low, high in kind.ranges:
        yield from (({"items": {word: number}}, f"`{word}` ") for number in (2 * low, 2 * high))
    for first, second in kind.ordered:
        yield {"items": {first: 3, second: 2}}, f"expected `{first}` <= `{second}`"
    for word in kind.refused:
        yield {"items": {word: "x"}}, f"a schema with `{word}` is not supported"


def field_beyond(field: Field) -> Iterator[tuple[Any, str]]:
    for kind in field.kinds:
        yield from beyond(kind)
    taken = {type(item) for kind in field.kinds for item in edges(kind)}
    for item, name in ((True, "a boolean"), ([], "an array"), ({}, "an object"), ("", "a string"), (0.5, "a number")):
        if not (type(item) in taken or (isinstance(item, float) and int in taken)):
            yield item, f"{name}, expected "
    if not field.nullable:
        yield None, "null, expected "


BEYOND = [
    (path, field.name, item, said)
    for path, field in FIELDS
    for item, said in field_beyond(field)
    if len(json.dumps(item)) < 50_000  # larger ones once each, below
]


@settings(max_examples=300)
@given(st.data())
def test_a_request_within_every_bound_passes_unchanged(data: st.DataObject) -> None:
    path = data.draw(st.sampled_from([PATH, CHAT]))
    body = data.draw(requests(path))
    assert shown(body, path) == {**body, "cache_prompt": False}


@settings(max_examples=300)
@given(st.data())
def test_a_value_beyond_its_bound_is_refused_with_its_field(data: st.DataObject) -> None:
    path, name, item, said = data.draw(st.sampled_from(BEYOND))
    error = refusal({**data.draw(requests(path)), name: item}, path)
    assert error.status == 400
    assert f"`{name}" in error.message
    assert said in error.message
    assert len(error.message) < 300


@pytest.mark.parametrize("index", range(len(FIELDS)), ids=lambda index: "{0[0]} {0[1].name}".format(FIELDS[index]))
def test_each_bound_accepts_its_limit_and_refuses_the_next_value(index: int) -> None:
    """Values on a bound pass and values beyond it do not, for every bound of the table."""
    path, field = FIELDS[index]
    for item in (edge for kind in field.kinds for edge in edges(kind)):
        if field.size is None or len(json.dumps(item)) < field.size:
            assert shown({**BASE[path], field.name: item}, path)
    if field.nullable:
        assert shown({**BASE[path], field.name: None}, path)
    for item, said in field_beyond(field):
        if len(json.dumps(item)) >= PROMPT_SIZE:
            continue  # refused for its size: below
        error = refusal({**BASE[path], field.name: item}, path)
        assert (error.status, said in error.message, f"`{field.name}" in error.message) == (400, True, True), said


@pytest.mark.parametrize(
    ("path", "field", "item"),
    [
        (PATH, "prompt", "ä" * (PROMPT_SIZE // 2 + 1)),
        (PATH, "prompt", ["x" * 20_000] * 60),
        (CHAT, "messages", [{"role": "user", "content": "x" * 20_000}] * 60),
        (CHAT, "tools", [{"type": "function", "function": {"name": "f", "description": "x" * 8_000}}] * 9),
        (CHAT, "response_format", {"type": "text", "json_schema": {"schema": {"enum": ["x" * 300] * 250}}}),
    ],
)
def test_a_field_that_is_too_large_is_413(path: str, field: str, item: Any) -> None:
    error = refusal({**BASE[path], field: item}, path)
    assert error.status == 413
    assert f"`{field}`: " in error.message
    assert "bytes of text, expected at most" in error.message


def test_a_body_that_is_too_large_is_not_read() -> None:
    error = refusal(b"[" * (BODY_SIZE + 1))
    assert (error.status, error.message) == (413, f"body of {BODY_SIZE + 1} bytes, expected at most {BODY_SIZE}")
    assert refusal(b"[" * BODY_SIZE).code == TOO_MANY
    assert refusal(b"[" * 20_000).message == "the body is not JSON"


def test_the_values_of_a_schema_are_counted() -> None:
    many = {f"p{index}": {"type": "string"} for index in range(250)}
    some = {f"o{index}": {"type": "object", "properties": many} for index in range(4)}
    error = refusal(schema_request({"type": "object", "properties": some}), CHAT)
    assert error.status == 400
    assert "`response_format`: 2018 values, expected at most 2000" in error.message


# ---- What ended llama-server, or kept it busy for good, when it was sent (see `engines.llama_requests`).


def schema_request(schema: object) -> dict[str, Any]:
    return {"messages": [], "response_format": {"type": "json_schema", "json_schema": {"schema": schema}}}


def call(arguments: str) -> dict[str, Any]:
    made = [{"type": "function", "function": {"name": "f", "arguments": arguments}}]
    return {"messages": [{"role": "assistant", "content": None, "tool_calls": made}]}


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {f"k{index}": {"type": "string"} for index in range(30_000)}},
        {"enum": [f"value{index}" for index in range(16_000)]},
        {"type": "object", "properties": {"k" * 60_000: {}}, "additionalProperties": {"type": "string"}},
        {"type": "string", "minLength": 5, "maxLength": 2},
        {"type": "array", "items": {}, "minItems": 5, "maxItems": 2},
        {"type": "integer", "minimum": 2 * 10**15},
        {"type": "integer", "exclusiveMinimum": 2 * 10**15},
        {"type": "integer", "maximum": -2 * 10**15},
        {"type": "number", "minimum": 1e300},
        {"anyOf": [{"type": "integer", "minimum": 10**9 + index, "maximum": 2**53} for index in range(256)]},
        {"type": "string", "pattern": "^((((a?){1,1000})?){1,1000})*$"},
        {"anyOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/a"}]},
    ],
    ids=lambda schema: json.dumps(schema)[:60],
)
def test_schemas_that_crash_the_engine_are_refused(schema: dict[str, Any]) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
    for body in (schema_request(schema), schema_request({"items": schema}), {"messages": [], "tools": [tool]}):
        error = refusal(body, CHAT)
        assert error.status in (400, 413)
        assert error.code == TOO_MANY or "`response_format" in error.message or "`tools" in error.message


def test_nesting_that_could_crash_the_engine_is_refused() -> None:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(25):
        schema = {"type": "object", "properties": {"a": schema}}
    assert shown(schema_request(schema), CHAT)
    deep = b'{"messages":[],"response_format":{"type":"json_schema","json_schema":{"schema":%s}}}'
    assert "nested deeper than 64" in refusal(deep % (b'{"items":' * 300 + b"1" + b"}" * 300), CHAT).message
    assert refusal(deep % (b'{"items":' * 9000 + b"1" + b"}" * 9000), CHAT).status == 400
    for field in ("prompt", "logit_bias", "stop"):
        error = refusal(b'{"%s":%s}' % (field.encode(), b"[" * 70 + b"]" * 70))
        assert (error.status, f"`{field}" in error.message) == (400, True)
    for arguments in ("[" * 8000 + "]" * 8000, '{"a":' * 2000 + "1" + "}" * 2000):
        message = refusal(call(arguments), CHAT).message
        assert message == "`messages[0].tool_calls[0].function.arguments`: JSON nested deeper than 64 levels"
    assert shown(call("[" * 64 + "]" * 64), CHAT)
    assert shown(call("[[1]"), CHAT)  # not JSON: it is the engine's to refuse


def test_property_names_are_not_read_as_schema_keywords() -> None:
    properties = {word: {"type": "string"} for word in ("pattern", "$ref", "minLength", "minimum", "anyOf")}
    assert shown(schema_request({"type": "object", "properties": properties}), CHAT)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"prompt":"x","temperature":1e999}',
         "`temperature`: got a number beyond the range of a 64-bit float, expected 0 to 2"),
        (b'{"prompt":"x","temperature":NaN}', "`temperature`: got nan, expected 0 to 2"),
        (b'{"prompt":"x","top_p":-Infinity}',
         "`top_p`: got a number beyond the range of a 64-bit float, expected 0 to 1"),
        (b'{"prompt":"x","logit_bias":{"7":1e999}}',
         "`logit_bias.7`: got a number beyond the range of a 64-bit float, expected -100 to 100"),
        (b'{"prompt":"x","seed":1%s}' % (b"0" * 9000),
         "`seed`: got a number beyond the range of a 64-bit float, expected an integer from 0 to 4294967294"),
        (b'{"prompt":"x","max_tokens":1%s}' % (b"0" * 99),
         "`max_tokens`: got an integer of 100 digits, expected 0 to 1048576"),
        (b'{"prompt":"x","max_tokens":4294967296}', "`max_tokens`: got 4294967296, expected 0 to 1048576"),
        (b'{"prompt":"x","max_tokens":1.0}', "`max_tokens`: got 1.0, expected an integer from 0 to 1048576"),
        (b'{"prompt":"x","stop":true}', "`stop`: a boolean, expected a string or an array"),
        (b'{"prompt":"x","stop":[null]}', "`stop[0]`: null, expected a string"),
        (b'{"prompt":null}', "`prompt`: null, expected a string or an array"),
        (b'{"prompt":{"prompt_string":"x"}}', "`prompt`: an object, expected a string or an array"),
        (b'{"prompt":["x",1]}', "`prompt[1]`: a number, expected a string"),
        (b'{"prompt":[[1],2]}', "`prompt[1]`: a number, expected an array"),
        (b'{"prompt":[5,2147483648]}', "`prompt[1]`: an integer out of range, expected 0 to 2147483647"),
        (b'{"prompt":"\\ud800"}', "`prompt`: a string with a lone surrogate"),
    ],
)  # fmt: skip
def test_a_refusal_says_field_value_and_bound(body: bytes, message: str) -> None:
    error = refusal(body)
    assert (error.status, error.message) == (400, message)


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://a/b"}}]}, "image_url"),
        ({"role": "user", "content": [{"type": "text"}]}, "`messages[0].content[0].text`: missing"),
        ({"role": "root", "content": "x"}, "`messages[0].role`: got `root`, expected one of system, developer"),
        ({"content": "x"}, "`messages[0].role`: missing"),
        ({"role": "user", "content": 5}, "`messages[0].content`: a number, expected a string or an array"),
        ({"role": "user", "content": "x", "audio": {"id": "a"}}, "`messages[0].audio`: an object, expected null"),
        ("x", "`messages[0]`: a string, expected an object"),
    ],
)
def test_only_text_messages_are_accepted(message: object, said: str) -> None:
    assert said in refusal({"messages": [message]}, CHAT).message


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (PATH, {"prompt": SECRET * 100_000}),
        (PATH, {"prompt": [SECRET] * 100}),
        (PATH, {"prompt": [[7_134_221_990]]}),
        (PATH, {"prompt": [SECRET, {SECRET: SECRET}]}),
        (PATH, {"prompt": SECRET, "stop": [SECRET * 100]}),
        (CHAT, {"messages": [{"role": "user", "content": [{"type": "text", "text": SECRET * 100_000}]}]}),
        (CHAT, {"messages": [{"role": "user", "content": {SECRET: SECRET}}]}),
        (CHAT, call(SECRET * 2000)),
        (CHAT, schema_request({"description": SECRET * 1000})),
        (CHAT, schema_request({"properties": {SECRET * 40: {}}})),
        (CHAT, schema_request({"enum": [SECRET] * 300})),
    ],
)
def test_a_refusal_does_not_quote_the_prompt(path: str, body: dict[str, Any]) -> None:
    message = refusal(body, path).message
    assert SECRET not in message
    assert "7134221990" not in message


# ---- What people send.


class Sum(BaseModel):
    """Two numbers to add."""

    a: int
    b: float | None = None


def sent_by_openai() -> list[bytes]:
    """The bodies that OpenAI's own client sends for ordinary requests."""
    openai = pytest.importorskip("openai")
    httpx = pytest.importorskip("httpx2")
    answer = {
        "id": "c", "object": "chat.completion", "created": 1, "model": "m",
        "choices": [{"index": 0, "finish_reason": "tool_calls", "message": {
            "role": "assistant", "content": None, "reasoning_content": "well",
            "tool_calls": [{"id": "a", "type": "function", "function": {"name": "add", "arguments": '{"a":1}'}}],
        }}],
    }  # fmt: skip
    bodies: list[bytes] = []

    def handle(request: Any) -> Any:
        bodies.append(request.content)
        return httpx.Response(200, json=answer)

    parameters = {
        "type": "object",
        "properties": {
            "a": {"type": "integer", "minimum": -(2**53) + 1, "maximum": 2**53 - 1},
            "b": {"type": "number"},
        },
        "required": ["a"],
        "additionalProperties": False,
    }
    tool = {"type": "function", "function": {"name": "add", "description": "Add.", "parameters": parameters}}
    messages: list[Any] = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1 + 1?"}]
    parts = [{"role": "user", "content": [{"type": "text", "text": "1"}, {"type": "text", "text": "+ 1?"}]}]
    with openai.OpenAI(
        base_url="http://127.0.0.1/v1",
        api_key="none",
        http_client=httpx.Client(transport=httpx.MockTransport(handle)),
    ) as client:
        create = client.chat.completions.create
        create(model="m", messages=messages)
        create(
            model="m", messages=parts, temperature=0.7, top_p=1, max_completion_tokens=100, seed=7, n=1, stop=["."]
        )
        create(model="m", messages=messages, logprobs=True, top_logprobs=5, logit_bias={"15043": -100}, user="me")
        create(model="m", messages=messages, stream=True, stream_options={"include_usage": True}).close()
        called = create(model="m", messages=messages, tools=[tool], tool_choice="auto", parallel_tool_calls=False)
        message = called.choices[0].message
        result = {"role": "tool", "tool_call_id": "a", "content": "2"}
        create(model="m", messages=[*messages, message, result])
        create(
            model="m", messages=[*messages, message.model_dump(), result], tools=[openai.pydantic_function_tool(Sum)]
        )
        create(model="m", messages=messages, response_format={"type": "json_object"})
        schema = {"name": "sum", "strict": True, "schema": parameters}
        create(model="m", messages=messages, response_format={"type": "json_schema", "json_schema": schema})
    return bodies


def test_an_unmodified_openai_client_is_understood() -> None:
    bodies = sent_by_openai()
    assert len(bodies) == 9
    for body in bodies:
        assert json.loads(engine_body("POST", CHAT, "", body)) == {**json.loads(body), "cache_prompt": False}


def test_the_prompt_cache_is_always_off() -> None:
    assert shown({"prompt": "x", "max_tokens": 1}) == {"prompt": "x", "max_tokens": 1, "cache_prompt": False}
    assert shown({"messages": []}, CHAT)["cache_prompt"] is False


@pytest.mark.parametrize(
    "field", ["cache_prompt", "id_slot", "n_keep", "grammar", "lora", "return_tokens", "n_cache_reuse"]
)
def test_engine_specific_fields_are_refused_by_name(field: str) -> None:
    error = refusal({"prompt": "x", field: True})
    assert (error.status, error.message) == (400, f"field `{field}` is not supported by {PATH}")


@pytest.mark.parametrize(
    ("method", "path", "query", "body", "status"),
    [
        ("POST", "/v1/embeddings", "", b"{}", 404),
        ("POST", "/v1/../slots", "", b"{}", 404),
        ("POST", "/v1/completions/", "", b"{}", 404),
        ("GET", PATH, "", b"", 405),
        ("POST", "/v1/models", "", b"", 405),
        ("GET", "/v1/models", "", b"x", 400),
        ("GET", "/v1/models", "autoload=1", b"", 400),
        ("POST", PATH, "a=b", b"{}", 400),
        ("POST", PATH, "", b"", 400),
        ("POST", PATH, "", b"[]", 400),
        ("POST", PATH, "", b'{"prompt":"a","prompt":"b"}', 400),
        ("POST", PATH, "", b'{"prompt":"\xff"}', 400),
        ("POST", PATH, "", b"[" * 100_000, 400),
    ],
)
def test_fields_and_paths_not_on_the_list_are_refused(
    method: str, path: str, query: str, body: bytes, status: int
) -> None:
    with pytest.raises(UnsupportedError) as caught:
        engine_body(method, path, query, body)
    assert caught.value.status == status


def test_an_error_in_the_json_does_not_quote_the_prompt() -> None:
    assert "secret" not in refusal(b'{"prompt": "my secret" "').message


def test_models_can_be_listed() -> None:
    assert engine_body("GET", "/v1/models", "", b"") == b""


@settings(max_examples=200)
@given(st.binary(max_size=200) | st.text(max_size=80).map(lambda text: json.dumps({"prompt": text}).encode()))
def test_any_body_is_reserialised_or_refused(body: bytes) -> None:
    try:
        sent = engine_body("POST", PATH, "", body)
    except UnsupportedError:
        return
    value = json.loads(sent)
    assert value.pop("cache_prompt") is False
    assert value == json.loads(body)


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
RECORDS = [(name, path) for name, engine in ENGINES.items() for path in engine.requests.fields]


@pytest.mark.parametrize(("engine", "path"), RECORDS, ids=lambda word: word)
@settings(max_examples=60)
@given(st.data())
def test_any_json_is_within_the_record_or_refused_with_a_code(engine: str, path: str, data: st.DataObject) -> None:
    """Fields of the record with any values, and fields that it has not: never another exception."""
    record = ENGINES[engine].requests
    names = st.sampled_from([field.name for field in record.fields[path]]) | st.text(max_size=8)
    body = json.dumps(data.draw(st.dictionaries(names, ANY, max_size=4))).encode()
    try:
        sent = inference.engine_body(record, "POST", path, "", body)
    except UnsupportedError as error:
        assert error.code in CODES
        assert error.status in (400, 413)
        assert len(error.message) < 300
        return
    passed = {name: item for name, item in json.loads(sent).items() if name not in record.always}
    assert passed == json.loads(body)
    assert passed.keys() <= {field.name for field in record.fields[path]}
    assert "Infinity" not in sent.decode() and "NaN" not in sent.decode()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b'{"prompt":"x","grammar":"x"}', 400, UNKNOWN_FIELD),
        (b'{"prompt":"x","stream_options":{"continuous_usage_stats":true}}', 400, UNKNOWN_FIELD),
        (b'{"prompt":"x","temperature":1e999}', 400, FIELD_VALUE),
        (b'{"prompt":"x","max_tokens":1e999}', 400, FIELD_VALUE),
        (b'{"prompt":"x","logit_bias":{"x":1}}', 400, FIELD_VALUE),
        (b'{"prompt":"x","stop":5}', 400, FIELD_TYPE),
        (b'{"prompt":"x","stop":[%s]}' % b",".join([b'"a"'] * 17), 400, FIELD_VALUE),
        (b'{"prompt":"%s"}' % (b"x" * (PROMPT_SIZE + 1)), 413, TOO_LARGE),
        (b'{"prompt":"x","tools":[%s]}' % b",".join([b"{}"] * 20_000), 400, TOO_MANY),
        (b"[" * 20_001, 400, TOO_MANY),
        (b'{"prompt":"x","prompt":"y"}', 400, REPEATED_KEY),
        (b'{"prompt":', 400, NOT_JSON),
    ],
    ids=lambda part: repr(part)[:40],
)
def test_a_refusal_has_a_code(engine: str, body: bytes, status: int, code: str) -> None:
    with pytest.raises(UnsupportedError) as caught:
        inference.engine_body(ENGINES[engine].requests, "POST", PATH, "", body)
    assert (caught.value.status, caught.value.code) == (status, code)


def test_brackets_of_a_prompt_are_no_values_and_are_skipped_in_linear_time() -> None:
    prompt = '\\"[{' * 200_000
    assert shown({"prompt": prompt})["prompt"] == prompt
    unended = b'{"prompt":"' + b'\\"[' * 600_000
    assert refusal(unended).code == NOT_JSON


def test_one_body_is_parsed_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixty-four of the largest bodies took 2 GB together."""
    now, most = [0], [0]

    def check(*_: object) -> None:
        now[0] += 1
        most[0] = max(most[0], now[0])
        time.sleep(0.005)
        now[0] -= 1

    monkeypatch.setattr(inference, "check", check)
    threads = [threading.Thread(target=shown, args=({"prompt": "Hello"},)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]


def test_a_refusal_does_not_keep_what_was_parsed() -> None:
    for body in (b'{"prompt":[%s]}' % (b"1," * 40_000 + b"1"), b'{"prompt":"x"'):
        error = refusal(body)
        frames = [frame.f_code.co_name for frame, _ in traceback.walk_tb(error.__traceback__)]
        assert frames[-1] == "engine_body" and error.__cause__ is error.__context__ is None


def test_a_missing_field_has_a_code() -> None:
    assert refusal({"messages": [{"content": "x"}]}, CHAT).code == MISSING_FIELD
