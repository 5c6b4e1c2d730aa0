"""A running agent against its own OpenAPI document: what that describes is answered, all else is a clean error."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tests.unit.agent_guest import Guest, guest
from tests.unit.json_schema import accepts

from privml.engines.registry import ENGINES
from privml.image import openapi

DOCUMENT = openapi.document(ENGINES["llama-server"])
ERROR = DOCUMENT["components"]["schemas"]["Error"]
BODIES = {
    path: operations["post"]["requestBody"]["content"]["application/json"]["schema"]
    for path, operations in DOCUMENT["paths"].items()
    if "post" in operations
}
# Bounds of a request's whole content are in descriptions only: what is made here stays far below them.
MANY, LONG = 3, 12
# Not shrunk: each example is a connection, and what is found is short.
EXAMPLES = settings(
    max_examples=20, phases=[Phase.explicit, Phase.generate], suppress_health_check=[HealthCheck.too_slow]
)
ODD = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**53), 2**53), st.text(max_size=LONG), st.just([]), st.just({})
)


def values(rule: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values that the schema describes."""
    if "enum" in rule:
        return st.sampled_from(rule["enum"])
    if "anyOf" in rule:
        return st.one_of([values(one) for one in rule["anyOf"]])
    match rule["type"]:
        case "null":
            return st.none()
        case "boolean":
            return st.booleans()
        case "integer":
            return st.integers(rule["minimum"], rule["maximum"])
        case "number":
            return st.floats(rule["minimum"], rule["maximum"])
        case "string":
            return st.text(st.characters(codec="utf-8"), max_size=min(rule["maxLength"], LONG))
        case "array":
            least = rule["minItems"]
            return st.lists(values(rule["items"]), min_size=least, max_size=min(rule["maxItems"], least + MANY))
    if "propertyNames" in rule:
        keys = st.integers(0, 1 << 30).map(str)
        return st.dictionaries(keys, values(rule["additionalProperties"]), max_size=min(rule["maxProperties"], MANY))
    fields = {name: values(one) for name, one in rule.get("properties", {}).items()}
    needed = set(rule.get("required", ()))
    return st.fixed_dictionaries(
        {name: one for name, one in fields.items() if name in needed},
        optional={name: one for name, one in fields.items() if name not in needed},
    )


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, Any]:
    """A path, and a body for it: as described, or with one field at any depth replaced, added or removed."""
    path = draw(st.sampled_from(sorted(BODIES)))
    body = draw(values(BODIES[path]))
    if draw(st.booleans()):
        place = draw(st.sampled_from(list(objects(body))))
        name = draw(st.sampled_from([*sorted(place), "unknown"]))
        if draw(st.booleans()) and name in place:
            del place[name]
        else:
            place[name] = draw(ODD)
    return path, body


def objects(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from objects(item)


@pytest.fixture(scope="module")
def agent() -> Iterator[Guest]:
    """An agent whose machine is ready."""
    with guest() as made:
        made.start_server()
        assert made.boot().run(), made.said
        made.engine.requests.clear()
        yield made


def is_error(body: bytes) -> bool:
    return accepts(ERROR, json.loads(body), DOCUMENT)


@EXAMPLES
@given(requests())
def test_the_agent_takes_what_its_document_describes_and_nothing_else(agent: Guest, asked: tuple[str, Any]) -> None:
    path, body = asked
    described = accepts(BODIES[path], body, BODIES[path])
    before = len(agent.engine.requests)
    status, headers, answer = agent.request(
        "POST", path, json.dumps(body).encode(), {"content-type": "application/json"}
    )
    assert (status == 200) is described, (asked, status, answer)
    assert len(agent.engine.requests) - before == described, "only what is described reaches the engine"
    if not described:
        assert status in (400, 413) and is_error(answer), (asked, status, answer)
        assert headers["content-type"] == "application/json"


@EXAMPLES
@given(
    st.sampled_from(["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"]),
    st.one_of(
        st.sampled_from(
            [*DOCUMENT["paths"], "/v1/", "/x/none/", "/readyz", "/boot-stages", "/.well-known/privml-channel"]
        ),
        st.text("/v1x.%-_~?=&", min_size=0, max_size=LONG).map(lambda text: f"/{text}"),
    ),
    st.binary(max_size=LONG),
)
def test_any_method_path_and_body_is_answered_or_a_clean_error(
    agent: Guest, method: str, path: str, body: bytes
) -> None:
    status, _, answer = agent.request(method, path, body or None)
    assert status < 500, (method, path, status)
    described = DOCUMENT["paths"].get(path, {})
    if method.lower() not in described and method != "HEAD":  # else the answer is the engine's, or has no body
        assert status == 200 or is_error(answer), (method, path, answer)
        assert status >= 400 or path not in DOCUMENT["paths"]


def test_the_agent_is_still_ready(agent: Guest) -> None:
    assert agent.json("/readyz") == (200, {"ready": True})
