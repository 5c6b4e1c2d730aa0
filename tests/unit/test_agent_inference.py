"""Only OpenAI's paths and fields reach the engine, and never with a cache that another caller could read."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privml.agent import inference
from privml.agent.inference import UnsupportedError
from privml.engines.llama_server import LLAMA_SERVER

PATH = "/v1/completions"


def engine_body(method: str, path: str, query: str, body: bytes) -> bytes:
    return inference.engine_body(LLAMA_SERVER, method, path, query, body)


def shown(body: object, path: str = PATH) -> dict[str, object]:
    value: dict[str, object] = json.loads(engine_body("POST", path, "", json.dumps(body).encode()))
    return value


def test_the_cache_is_always_off() -> None:
    assert shown({"prompt": "x", "max_tokens": 1}) == {"prompt": "x", "max_tokens": 1, "cache_prompt": False}
    assert shown({"messages": []}, "/v1/chat/completions")["cache_prompt"] is False


@pytest.mark.parametrize(
    "field", ["cache_prompt", "id_slot", "n_keep", "grammar", "lora", "return_tokens", "n_cache_reuse"]
)
def test_the_engines_own_fields_are_refused_by_name(field: str) -> None:
    with pytest.raises(UnsupportedError, match=field) as caught:
        shown({"prompt": "x", field: True})
    assert caught.value.status == 400


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
        ("POST", PATH, "", b'{"temperature":NaN}', 400),
        ("POST", PATH, "", b'{"prompt":"\xff"}', 400),
        ("POST", PATH, "", b"[" * 100_000, 400),
    ],
)
def test_what_is_not_on_the_list_is_refused(method: str, path: str, query: str, body: bytes, status: int) -> None:
    with pytest.raises(UnsupportedError) as caught:
        engine_body(method, path, query, body)
    assert caught.value.status == status


def schema_request(schema: object) -> dict[str, object]:
    return {"messages": [], "response_format": {"type": "json_schema", "json_schema": {"schema": schema}}}


def test_no_depth_that_could_end_the_engine() -> None:
    schema: dict[str, object] = {"type": "string"}
    for _ in range(25):
        schema = {"type": "object", "properties": {"a": schema}}
    assert shown(schema_request(schema), "/v1/chat/completions")
    for field in ("prompt", "logit_bias", "stop"):
        with pytest.raises(UnsupportedError, match="nested deeper than 64") as caught:
            engine_body("POST", PATH, "", b'{"%s":%s}' % (field.encode(), b"[" * 70 + b"]" * 70))
        assert caught.value.status == 400


@pytest.mark.parametrize(
    ("word", "bad"),
    [
        ("pattern", {"type": "string", "pattern": "^((((a?){1,1000})?){1,1000})*$"}),
        (r"\$ref", {"anyOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/a"}]}),
    ],
)
def test_no_schema_that_could_keep_the_engine_busy(word: str, bad: object) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": bad}}}}
    for request in (schema_request(bad), schema_request({"anyOf": [bad]}), {"messages": [], "tools": [tool]}):
        with pytest.raises(UnsupportedError, match=f"`{word}` is not supported"):
            shown(request, "/v1/chat/completions")
    named = {"type": "object", "properties": {"pattern": {"type": "string"}}}
    assert shown(schema_request(named), "/v1/chat/completions")
    said = {"role": "user", "content": [{"type": "text", "pattern": "x"}]}
    assert shown({"messages": [said]}, "/v1/chat/completions")


def test_an_error_does_not_quote_the_prompt() -> None:
    with pytest.raises(UnsupportedError) as caught:
        engine_body("POST", PATH, "", b'{"prompt": "my secret" "')
    assert "secret" not in caught.value.message


def test_models_can_be_listed() -> None:
    assert engine_body("GET", "/v1/models", "", b"") == b""


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200) | st.text(max_size=80).map(lambda text: json.dumps({"prompt": text}).encode()))
def test_any_body_is_sent_in_our_spelling_or_refused(body: bytes) -> None:
    try:
        sent = engine_body("POST", PATH, "", body)
    except UnsupportedError:
        return
    value = json.loads(sent)
    assert value.pop("cache_prompt") is False
    assert value == json.loads(body)
