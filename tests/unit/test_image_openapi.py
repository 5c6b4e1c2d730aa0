"""The OpenAPI documents of the engines describe exactly the requests that the guest takes."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from json_schema import accepts
from test_agent_inference import sent_by_openai

import privml
from privml.engines import requests
from privml.engines.registry import ENGINES
from privml.engines.requests import UnsupportedError
from privml.image import openapi

CHAT = "/v1/chat/completions"
# Who refuses a request to `/v1/`, in the guest and in the local proxy.
REFUSING = (
    "agent/callers", "agent/conversation", "agent/inference", "agent/receipts", "agent/routes", "agent/usage",
    "client/callers", "client/proxy", "engines/requests",
)  # fmt: skip
OF_OTHER_PATHS = {"404", "405"}
SEED = 20261129
MUTATIONS = 400
OTHERS = (None, True, -1, 0, 1.5, 3, 10**9, "", "x" * 600, [], ["x"] * 20, [1, 2], {}, {"1": 5}, {"x": 1})


def body_schema(engine: str, path: str) -> dict[str, Any]:
    operation = openapi.document(ENGINES[engine])["paths"][path]["post"]
    found: dict[str, Any] = operation["requestBody"]["content"]["application/json"]["schema"]
    return found


def taken(engine: str, path: str, body: dict[str, Any]) -> bool:
    try:
        requests.check(body, ENGINES[engine].requests.fields[path], path)
    except UnsupportedError:
        return False
    return True


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from (item for key, item in value.items() if key == "$ref")
        for item in value.values():
            yield from references(item)
    elif isinstance(value, list):
        for item in value:
            yield from references(item)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_document_has_the_paths_of_the_record_and_no_dangling_reference(engine: str) -> None:
    document = openapi.document(ENGINES[engine])
    record = ENGINES[engine].requests
    assert document["paths"].keys() == {*record.fields, *record.readable}
    assert set(references(document)) == {"#/components/schemas/Error"}
    assert "Error" in document["components"]["schemas"]
    ids = [operation["operationId"] for path in document["paths"].values() for operation in path.values()]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_document_has_every_status_of_a_refusal(engine: str) -> None:
    sources = [(Path(privml.__file__).parent / f"{name}.py").read_text() for name in REFUSING]
    refusal = re.compile(r"(?:Denied|UnsupportedError|error_response|_Ended)\(\s*([0-9]{3})\b")
    given = {status for source in sources for status in refusal.findall(source)} - OF_OTHER_PATHS
    for operations in openapi.document(ENGINES[engine])["paths"].values():
        for operation in operations.values():
            assert operation["responses"].keys() == {"200", *given}


@pytest.mark.parametrize("engine", ENGINES)
def test_what_openais_client_sends_matches_the_document(engine: str) -> None:
    schema = body_schema(engine, CHAT)
    for body in sent_by_openai():
        assert accepts(schema, json.loads(body), schema)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_document_and_the_guest_agree_on_altered_requests(engine: str) -> None:
    """Values of one field each, at the top and inside a message, replaced by others of every type."""
    chosen = random.Random(SEED)
    bodies = [json.loads(body) for body in sent_by_openai()]
    fields = [field.name for field in ENGINES[engine].requests.fields[CHAT]]
    schema = body_schema(engine, CHAT)
    seen = set()
    for _ in range(MUTATIONS):
        body = json.loads(json.dumps(chosen.choice(bodies)))
        place = chosen.choice((body, body["messages"][-1]))
        place[chosen.choice((*fields, *place, "unknown"))] = chosen.choice(OTHERS)
        expected = taken(engine, CHAT, body)
        seen.add(expected)
        assert accepts(schema, body, schema) is expected, body
    assert seen == {True, False}
