"""The proxy's page and its JSON: what they show of each guest, and to whom."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attestation_samples as samples
import guest_fake
import pytest
import terminator_fake
from guest_fake import Guest
from html_page import Page
from proxy_thread import proxied
from sealed_guest import X25519, SealedGuest
from terminator_fake import Front
from test_client_behind import check as judged_by_channel
from test_client_proxy import check, gate_for

from privml.client import pages
from privml.client.behind import guests_behind
from privml.client.callers import VERDICT_PATHS, Callers
from privml.client.gate import Gate
from privml.client.guests import Guest as Served
from privml.client.guests import Guests
from privml.client.pagestyle import POLICY
from privml.client.terminator import Terminator

APP = "https://app.example"
TOKEN = "a-token-of-thirty-two-characters"


@pytest.fixture
def guest() -> Iterator[Guest]:
    with guest_fake.running(Guest()) as running:
        yield running


def get(
    port: int, path: str, *, method: str = "GET", host: str | None = None, **fields: str
) -> tuple[int, http.client.HTTPMessage, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        headers = {"Host": host or f"127.0.0.1:{port}"} | {k.replace("_", "-"): v for k, v in fields.items()}
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        return response.status, response.headers, response.read().decode()
    finally:
        connection.close()


def read(port: int, path: str) -> Any:
    status, _, body = get(port, path)
    assert status == 200
    return json.loads(body)


def basic(password: str, user: str = "me") -> str:
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"


def test_the_page_shows_verdict_stages_and_events_and_sends_nothing(guest: Guest) -> None:
    with proxied(gate_for(guest)) as port:
        status, headers, body = get(port, "/")
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert headers["content-security-policy"] == f"{POLICY}; frame-ancestors 'none'"
    assert headers["cache-control"] == "no-store"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert "access-control-allow-origin" not in headers
    page = Page(body)
    assert page.wrong == []
    for words in (
        "ACCEPTED-SIMULATED",
        f"127.0.0.1:{guest.port}",
        "config 0.0 s",
        "model failed",
        "= uki.efi .cmdline",
    ):
        assert words in page.text, words
    assert guest.requests == []
    assert guest.attestations == 1


def test_a_refused_guest_has_its_reasons_and_the_events_that_differ_as_json_too(guest: Guest) -> None:
    guest.items = samples.extends(4 << 30, samples.CMDLINE + " init=/bin/sh")
    with proxied(gate_for(guest)) as port:
        assert "init=/bin/sh" in Page(get(port, "/")[2]).text
        verdict = read(port, "/privml/verdict")
    assert (verdict["state"], verdict["open"], verdict["refusals"]) == ("refused", False, ["rtmr2"])
    assert verdict["verdict"]["refusals"][0]["code"] == "rtmr2"
    (column,) = (each for each in verdict["registers"] if each["mark"] == "differs")
    (event,) = (each for each in column["events"] if each["mark"] == "differs")
    assert event["recipe"] == "recipes/demo-cpu.yaml:9 kernel.package"
    assert abs(verdict["verified_at"] - pages.time.time()) < 60


@pytest.mark.parametrize(
    ("document", "ready", "state", "words"),
    [(b"{}", True, "refused", "REFUSED"), (None, False, "unavailable", "NOT AVAILABLE")],
)
def test_a_guest_without_a_judgement_says_so(
    guest: Guest, document: bytes | None, ready: bool, state: str, words: str
) -> None:
    guest.ready = ready
    if document is not None:
        guest.document = lambda _: document
    with proxied(gate_for(guest)) as port:
        assert words in Page(get(port, "/")[2]).text
        verdict = read(port, "/privml/verdict")
    assert (verdict["state"], verdict["verdict"], verdict["registers"]) == (state, None, [])


def test_several_guests_are_listed_and_each_can_be_asked_for(guest: Guest) -> None:
    away = f"https://127.0.0.1:{guest_fake.unused_port()}"
    with contextlib.ExitStack() as stack:
        other = stack.enter_context(guest_fake.running(Guest()))
        other.items = samples.extends(4 << 30, "init=/bin/sh")
        gates = [Gate(away, check(), timeout=2), *(gate_for(each) for each in (other, guest))]
        for gate in gates:
            gate.decide()
        port = stack.enter_context(proxied(Guests([Served(gate) for gate in gates])))
        listed = read(port, "/privml/guests")["guests"]
        assert [row["state"] for row in listed] == ["unavailable", "refused", "accepted-simulated"]
        assert [row["url"] for row in listed] == [away, other.url, guest.url]
        assert listed[0]["stages"] is None
        assert listed[2]["stages"]["parked"] == "model"
        assert read(port, "/privml/verdict")["url"] == guest.url, "the one that requests go to"
        assert read(port, f"/privml/verdict?guest={other.url}")["refusals"] == ["rtmr2"]
        status, _, body = get(port, "/privml/verdict?guest=https://other")
        assert (status, json.loads(body)["error"]["code"]) == (404, "guest_unknown")
        text = Page(get(port, "/")[2]).text
        assert "demo-cpu: 3 guests" in text


def test_a_guest_is_not_asked_for_its_stages_by_each_reader(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    with proxied(gate_for(guest)) as port:
        first = read(port, "/privml/guests")["guests"][0]["stages"]
        guest.stages = {**guest.stages, "ready": True}
        assert read(port, "/privml/guests")["guests"][0]["stages"] == first
        monkeypatch.setattr(pages, "STAGES_AGE", 0.0)
        assert read(port, "/privml/guests")["guests"][0]["stages"]["ready"] is True
        guest.stages = "not a table"
        assert read(port, "/privml/guests")["guests"][0]["stages"] is None


@pytest.mark.parametrize("path", VERDICT_PATHS)
def test_no_page_of_another_origin_reads_anything_also_of_an_allowed_one(guest: Guest, path: str) -> None:
    with proxied(gate_for(guest), Callers(origins=frozenset({APP}))) as port:
        for fields in (
            {"Origin": APP},
            {"Origin": "null"},
            {"Origin": f"http://127.0.0.1:{port}"},
            {"Sec_Fetch_Site": "cross-site"},
            {"Sec_Fetch_Site": "same-site"},
        ):
            status, headers, body = get(port, path, **fields)
            assert (status, json.loads(body)["error"]["code"]) == (403, "origin_refused")
            assert "demo-cpu" not in body
            status, headers, _ = get(port, path, method="OPTIONS", **fields, Access_Control_Request_Method="GET")
            assert status == 403 and "access-control-allow-methods" not in headers
        assert get(port, path, host=f"attacker.example:{port}")[0] == 421
        assert get(port, path, Sec_Fetch_Site="none")[0] == 200
        assert get(port, path, Sec_Fetch_Site="same-origin")[0] == 200


@pytest.mark.parametrize("path", VERDICT_PATHS)
def test_a_browser_is_asked_for_the_token_as_a_password(guest: Guest, path: str) -> None:
    with proxied(gate_for(guest), Callers(token=TOKEN)) as port:
        wrong = (
            None,
            basic(TOKEN[:-1]),
            basic(""),
            basic("x", TOKEN),
            "Basic !",
            f"Basic {TOKEN}",
            f"Bearer {TOKEN}x",
        )
        for words in wrong:
            status, headers, body = get(port, path, **({} if words is None else {"Authorization": words}))
            assert status == 401 and headers["www-authenticate"].startswith('Basic realm="')
            assert "demo-cpu" not in body and TOKEN not in body
        for words in (basic(TOKEN), basic(TOKEN, ""), f"Bearer {TOKEN}"):
            assert get(port, path, Authorization=words)[0] == 200
        # A browser would send the password by itself to other paths, too.
        assert get(port, "/v1/models", Authorization=basic(TOKEN))[0] == 401


def test_only_reading_is_possible(guest: Guest) -> None:
    with proxied(gate_for(guest)) as port:
        for path in VERDICT_PATHS:
            assert get(port, path, method="POST")[0] == 405


def test_every_guest_behind_one_address_is_shown_with_its_channel_key_and_no_stages(tmp_path: Path) -> None:
    with terminator_fake.running(Front(tmp_path, SealedGuest([X25519]))) as front:
        front.guests.append(SealedGuest([X25519]))
        with proxied(guests_behind(Terminator.at(front.url, front.authority), judged_by_channel)) as port:
            listed = read(port, "/privml/guests")["guests"]
            verdict = read(port, "/privml/verdict")
            page = Page(get(port, "/")[2])
        asked = {path for _, path, _ in front.seen}
    assert [(row["state"], row["url"], row["stages"]) for row in listed] == [
        ("accepted-simulated", front.url, None)
    ] * 2
    assert verdict["verdict"]["binding"] == "channel-key"
    assert "demo-cpu: 2 guests" in page.text
    assert page.text.count("nothing may travel outside the channel") == 4, "in the table, and in each verdict"
    assert page.text.count("channel key") >= 2 and "TLS key" not in page.text
    assert "/boot-stages" not in asked
