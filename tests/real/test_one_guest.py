"""One honest guest: somebody in front tampers with TLS, documents, channel and requests; its host asks it to stop.

The tests share one boot and run in the order of this file; the last one turns the machine off.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import openai
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.real.conftest import privml
from tests.real.demo import PROMPT, READY, proxied
from tests.real.levers import monitor
from tests.real.meddler import DOCUMENT, Meddler, running
from tests.real.simulation import SIMULATED_ROOT
from tests.sealed import Sealed, seal
from tests.sealed import request as sealed_request

from privml.base import dsse
from privml.channel.kem import KEMS, usable
from privml.channel.keyconfig import decode_list
from privml.channel.keyring import KeyRing
from privml.channel.ohttp import GATEWAY
from privml.channel.record import Record
from privml.deploy import unit
from privml.image.target import recipes_directory, resolve
from privml.image.tools import ToolsTree
from privml.vm.ask import await_ready, request
from privml.vm.launch import launch_of
from privml.vm.machine import Machine, started

pytestmark = pytest.mark.real

MODEL = "smollm2-135m-instruct"
TOKENS = 24
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def machine(demo_cpu_dev: Path, tools: ToolsTree) -> Iterator[Machine]:
    """The development image, ready."""
    target = resolve("demo-cpu-dev", demo_cpu_dev)
    with started(tools, launch_of(demo_cpu_dev, target.manifest(), recipes_directory(target))) as machine:
        await_ready(machine, READY)
        yield machine


@pytest.fixture
def meddler(machine: Machine, tmp_path: Path) -> Iterator[Meddler]:
    with running(machine.port, tmp_path) as meddler:
        yield meddler


def of_a_stranger(data: bytes) -> bytes:
    """The guest's record with keys of the terminator's own, signed by a key of its own."""
    found = Record.decode(dsse.decode(data, what="record").payload)
    ring = KeyRing([kem for kem in KEMS.values() if kem in usable()], now=0.0, places=64)
    return Record(found.seq, found.keys_sha256, ring.configs).sign(Ed25519PrivateKey.generate().sign)


def refused_codes(*where: str, image: Path) -> tuple[str, list[str]]:
    """Binding and codes of the verdict of `verify`, which must refuse."""
    trust = ("--expect", str(image), "--allow-simulated", str(SIMULATED_ROOT))
    done = privml("verify", *where, *trust, "--json")
    assert done.returncode == 8, done.stderr
    told = json.loads(done.stdout)
    return told["binding"], [refusal["code"] for refusal in told["refusals"]]


def completion(url: str) -> str:
    client = openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=60)
    return client.completions.create(model=MODEL, prompt=PROMPT, max_tokens=2, temperature=0).choices[0].text


def asked(tokens: int) -> str:
    """The body of a request for a streamed answer."""
    return json.dumps({"prompt": PROMPT, "max_tokens": tokens, "temperature": 0, "stream": True})


def test_a_man_in_the_middle_of_tls_is_refused_by_his_key(meddler: Meddler, demo_cpu_dev: Path) -> None:
    assert refused_codes(meddler.url, image=demo_cpu_dev) == ("tls-key", ["tls-key"])
    with proxied([meddler.url], demo_cpu_dev) as url, pytest.raises(openai.PermissionDeniedError) as refused:
        completion(url)
    (refusal,) = refused.value.response.json()["error"]["refusals"]
    assert refusal["code"] == "tls-key"
    assert meddler.posts == 0, "nothing was sent"


def test_an_old_document_is_refused_by_its_nonce(machine: Machine, meddler: Meddler, demo_cpu_dev: Path) -> None:
    status, old = request(machine, f"{DOCUMENT}{'0a' * 32}", timeout=60)
    assert status == 200
    meddler.document = lambda _: old
    assert refused_codes(*meddler.way, image=demo_cpu_dev) == ("channel-key", ["nonce"])
    assert refused_codes(meddler.url, image=demo_cpu_dev)[1] == ["nonce", "tls-key"]


def test_a_sealed_request_is_answered_once(meddler: Meddler) -> None:
    context = ssl._create_unverified_context()

    def sent(sealed: Sealed) -> int:
        connection = http.client.HTTPSConnection("127.0.0.1", meddler.guest, timeout=60, context=context)
        with contextlib.closing(connection):
            connection.request("POST", GATEWAY, sealed.body, sealed.headers)
            answer = connection.getresponse()
            body = answer.read()
        return sealed.opened(body).status if answer.status == 200 else answer.status

    _, _, offered = meddler.passed("GET", GATEWAY, {}, b"")
    body = json.dumps({"prompt": PROMPT, "max_tokens": 1, "temperature": 0}).encode()
    sealed = seal(decode_list(offered), sealed_request("POST", "/v1/completions", body))
    assert [sent(sealed), sent(sealed)] == [200, 400]


def test_keys_of_the_terminator_s_own_are_refused_by_name(meddler: Meddler, demo_cpu_dev: Path) -> None:
    meddler.record = of_a_stranger
    assert refused_codes(*meddler.way, image=demo_cpu_dev) == ("channel-key", ["channel-key"])
    with proxied(meddler.way, demo_cpu_dev) as url, pytest.raises(openai.PermissionDeniedError) as refused:
        completion(url)
    (refusal,) = refused.value.response.json()["error"]["refusals"]
    assert refusal["code"] == "channel-key"
    assert meddler.sealed == 0, "nothing was sent"


def test_a_cut_answer_is_an_error_and_never_a_short_one(meddler: Meddler, demo_cpu_dev: Path) -> None:
    with proxied(meddler.way, demo_cpu_dev) as url:
        assert completion(url)
        meddler.answer = lambda body: body[:40]  # before anything of it can be opened
        with pytest.raises(openai.InternalServerError) as nothing:
            completion(url)
        error = nothing.value.response.json()["error"]
        assert (nothing.value.status_code, error["code"]) == (502, "upstream_unavailable")
        assert error["message"].startswith("the sealed answer could not be opened: it was cut or altered")
        meddler.answer = lambda body: body[:-20]  # all but the end, which says that it is complete
        host, port = urlsplit(url).netloc.split(":")
        with contextlib.closing(http.client.HTTPConnection(host, int(port), timeout=60)) as connection:
            connection.request("POST", "/v1/completions", asked(2), JSON)
            with pytest.raises(http.client.IncompleteRead):
                connection.getresponse().read()
    assert meddler.sealed == 3


def test_a_guest_that_is_asked_to_stop_ends_its_answer_first(machine: Machine) -> None:
    """The host presses the power button, as a unit of `deploy` does, while an answer is streamed."""
    with contextlib.ExitStack() as stack:
        answering = stack.enter_context(contextlib.closing(connected(machine)))
        answering.request("POST", "/v1/completions", asked(TOKENS), JSON)
        stream = answering.getresponse()
        pieces = [stream.read1(65536)]
        pressing = stack.enter_context(pressed(machine))
        status, headers, data = refusal_of_another(machine)
        assert (status, json.loads(data)["error"]["code"], headers["retry-after"]) == (503, "stopping", "5")
        while piece := stream.read1(65536):
            pieces.append(piece)
        assert machine.qemu.wait(60) == 0
        assert pressing.wait(10) == 0
    events = b"".join(pieces).split(b"\n\n")
    assert events[-2:] == [b"data: [DONE]", b""]
    assert sum(b'"finish_reason":null' in event for event in events) == TOKENS
    assert "reboot: Power down" in machine.console.read_text(errors="replace")


@contextlib.contextmanager
def pressed(machine: Machine) -> Iterator[subprocess.Popen[bytes]]:
    """The command by which a unit presses the power button and waits."""
    with subprocess.Popen([sys.executable, "-c", unit.POWER_BUTTON, str(monitor(machine))]) as pressing:
        try:
            yield pressing
        finally:
            pressing.kill()


def refusal_of_another(machine: Machine) -> tuple[int, http.client.HTTPMessage, bytes]:
    """The first answer to a new caller that is not 200."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        with contextlib.closing(connected(machine)) as asking:
            try:
                asking.request("GET", "/v1/models")
                found = asking.getresponse()
                data = found.read()
            except (http.client.RemoteDisconnected, ConnectionResetError):
                continue  # it was connected and had not asked yet when the server was told to stop
            if found.status != 200:
                return found.status, found.headers, data
    pytest.fail("the guest was told to stop 30 s ago and still answers new callers")


def connected(machine: Machine) -> http.client.HTTPSConnection:
    """A connection of its own, to this machine's own guest."""
    context = ssl._create_unverified_context()
    return http.client.HTTPSConnection("127.0.0.1", machine.port, timeout=60, context=context)
