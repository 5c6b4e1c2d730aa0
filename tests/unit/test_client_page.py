"""A verdict as a page: well-formed, without scripts and references, and with a stranger's text as text only."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import re

import attestation_samples as samples
import pytest
from html_page import Page

from privml.base import html
from privml.client.page import Guest, Without, guests_page, verdict_page
from privml.client.pagestyle import POLICY, STYLE
from privml.client.settled import Settled
from privml.events.registers import RTMR2
from privml.events.stagetable import STATUSES, Row, StageTable
from privml.statement.index import State
from privml.verify.anchor import ExpectedData, ExpectedModel, Published
from privml.verify.judgement import Judgement
from privml.verify.policy import Policy

TAGS = "<script>alert(1)</script>\"'&"
HOSTILE = f"{TAGS}\x1b[2J\u202e"
URL = "https://gpu1.example:8443"
PUBLISHED = Published(
    "demo-cpu", "1.2", 3, State.CURRENT, "", None, 1, ("ab" * 32, "cd" * 32), 2, 3, samples.NOW, rebuilders=("zoe",)
)
STAGES = StageTable(
    True,
    (
        Row("config", "ok", "", 0, 1500),
        Row("gpu", "skipped", "", None, None),
        Row("engine", "ok", "", 1500, 20000),
    ),
)
PARKED = StageTable(
    False,
    (
        Row("config", "ok", "", 0, 1500),
        Row("model", "failed", "no partition is named privml-model", 1500, 1600),
        Row("engine", "pending", "", None, None),
    ),
)


def judged(items: list[samples.Extend] | None = None, **changes: object) -> Judgement:
    return samples.judge(samples.document(items), **changes)


def shown(*guests: Guest) -> str:
    return guests_page(guests, now=samples.NOW + 5, refresh=30)


def of(judgement: Judgement, stages: StageTable | None = STAGES) -> Guest:
    return Guest(URL, "", judgement, verified_at=samples.NOW, stages=stages)


ACCEPTED = of(judged())
REFUSED = of(judged([*samples.extends(4 << 30, TAGS), (RTMR2, 13, b"x", TAGS.encode(), "")], policy=Policy()))
FIRST = Guest(URL, "", None)
AWAY = Guest(URL, f"{URL}: no document: {HOSTILE}", None, Without.UNAVAILABLE, stages=PARKED)
MALFORMED = Guest(URL, "document: not JSON", None, Without.MALFORMED)
PAGES = {
    "accepted": shown(ACCEPTED),
    "refused": shown(REFUSED),
    "first": shown(FIRST),
    "away": shown(AWAY),
    "malformed": shown(MALFORMED),
    "several": shown(ACCEPTED, REFUSED, AWAY),
    "file": verdict_page(ACCEPTED.judgement.verdict, ACCEPTED.judgement, "with your nonce"),  # type: ignore[union-attr]
}


@pytest.mark.parametrize("name", PAGES)
def test_every_page_is_well_formed_accessible_and_loads_nothing(name: str) -> None:
    text = PAGES[name]
    page = Page(text)
    assert (page.wrong, page.links) == ([], [])
    assert page.headings[0] == 1 and page.headings.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(page.headings, page.headings[1:], strict=False))
    assert not re.search(r"<th[^>]*></th>", text), "every column has a name"
    assert not re.search(r"url\(|@import|javascript:", text)
    assert "<script" not in text and "\x1b" not in text and "\u202e" not in text


@pytest.mark.parametrize("name", PAGES)
def test_the_policy_allows_the_style_of_the_page_and_nothing_else(name: str) -> None:
    text = PAGES[name]
    (style,) = re.findall("<style>(.*?)</style>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'" == POLICY
    assert f'content="{html.attribute(POLICY)}"' in text


def test_an_accepted_guest_is_shown_with_its_columns_and_stages() -> None:
    page = Page(PAGES["accepted"])
    for words in (
        "ACCEPTED-SIMULATED (no hardware vouches for this)",
        "demo-cpu (production), against the build in out/demo-cpu",
        "gpu1.example:8443, verified at 2026-11-18T11:06:40Z",
        "qemu-11-q35, 4 vcpus, 4096 MiB",
        samples.SPKI.hex(),
        "config 1.5 s",
        "gpu skipped",
        "engine 18.5 s",
        "ready 20.0 s after the agent started",
        "= uki.efi .cmdline (recipes/demo-cpu.yaml:9 kernel.package)",
        "As of 2026-11-18T11:06:45Z",
    ):
        assert words in page.text, words
    assert page.counts["rect"] == 3
    assert "\N{NOT EQUAL TO} uki" not in page.text
    assert '<meta http-equiv="refresh" content="30">' in PAGES["accepted"]


def test_a_refused_guest_is_shown_with_reasons_advice_and_the_event_that_differs() -> None:
    page = Page(PAGES["refused"])
    for words in (
        "REFUSED",
        "simulated: the evidence comes from a simulation",
        "rtmr2: command line, initrd or a section of the UKI differs",
        "See RTMR2 below. Read the named event",
        "\N{NOT EQUAL TO} uki.efi .cmdline (recipes/demo-cpu.yaml:9 kernel.package)",
        f'logged EV_IPL "{TAGS}"',
    ):
        assert words in page.text, words
    assert samples.SPKI.hex() not in page.text  # nothing may be sent to that key


def test_a_published_version_is_shown_with_its_signers_models_and_data() -> None:
    expected = dataclasses.replace(
        samples.EXPECTED,
        anchor=PUBLISHED,
        models=(ExpectedModel(HOSTILE, "a1" * 20, "key 3f"),),
        data=(ExpectedData("corpus", "`data/corpus`, generation 2"),),
    )
    judgement = judged(expected=expected)
    text = verdict_page(judgement.verdict, judgement, "with your nonce")
    page = Page(text)
    assert page.wrong == [] and "<script" not in text
    for words in (
        "1.2 (serial 3, current)",
        "2 of 3 publishers, 2 needed",
        "ab" * 32,
        "cd" * 32,
        "not asked",
        "key 3f",
        "corpus, encrypted with `data/corpus`, generation 2",
    ):
        assert words in page.text, words


@pytest.mark.parametrize(
    ("guest", "words"),
    [
        (FIRST, ("NOT VERIFIED YET", "No prompt is sent")),
        (AWAY, ("NOT AVAILABLE", "model failed", "attach the volume's disk", "engine pending", "not ready")),
        (MALFORMED, ("REFUSED", "document: not JSON")),
    ],
)
def test_a_guest_without_a_judgement_says_why(guest: Guest, words: tuple[str, ...]) -> None:
    text = Page(shown(guest)).text
    assert all(word in text for word in words)
    assert "Measured events" not in text and "ACCEPTED" not in text


def test_several_guests_have_a_table_and_the_first_that_is_shut_is_open() -> None:
    text = PAGES["several"]
    page = Page(text)
    assert page.counts["details"] == 3
    assert re.findall(r"<details( open)?>", text) == ["", " open", ""]
    assert "demo-cpu: 3 guests" in page.text
    assert "simulated, rtmr2" in page.text


def test_a_file_is_not_loaded_again_and_has_no_stages() -> None:
    assert "refresh" not in PAGES["file"]
    assert "Boot stages" not in PAGES["file"]
    assert "with your nonce" in Page(PAGES["file"]).text


def test_the_last_receipts_are_listed_once_there_are_some() -> None:
    assert "receipt" not in PAGES["accepted"]
    receipts = (
        Settled("0b" * 16, URL, "/v1/completions", samples.NOW, ("response-hash", HOSTILE)),
        Settled("0a" * 16, URL, f"/v1/{HOSTILE}", samples.NOW),
    )
    for guests in ((ACCEPTED,), (ACCEPTED, AWAY)):
        text = guests_page(guests, now=samples.NOW, refresh=30, receipts=receipts)
        page = Page(text)
        assert page.wrong == [] and "<script" not in text
        for words in ("Last receipts", "0b" * 16, "response-hash", "accepted", "/v1/completions"):
            assert words in page.text, words


@pytest.mark.parametrize("status", STATUSES)
def test_the_bar_has_a_colour_for_each_status_of_a_stage(status: str) -> None:
    assert re.search(rf"\.bar \.{status}\b[^{{}}]*{{ fill: #", STYLE)
