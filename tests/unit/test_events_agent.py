"""The agent's event log: a canonical encoding, contiguous numbers, known names, and pinned digests."""

import hashlib

import pytest

from privml.base.errors import EvidenceError
from privml.events import agent
from privml.events.agent import AgentEvent, digest, encode_line, encode_log, parse_log, replay
from privml.events.registers import ZERO
from privml.events.replay import extend

EVENTS = (
    agent.config_event("ab" * 32),
    agent.model_event("smollm2", "cd" * 32),
    agent.engine_event("llama-server", ["llama-server", "-m", "x"]),
    agent.system_ready_event(),
)
LOG = encode_log(EVENTS)


def test_a_line_is_canonical_json_and_its_digest_has_a_domain() -> None:
    line = encode_line(0, AgentEvent("system-ready", b"{}"))
    assert line == b'{"name":"system-ready","payload":"e30=","seq":0}'
    assert digest(line) == hashlib.sha384(b"privml-event-v1\0" + line).digest()


def test_a_log_round_trips_and_replays() -> None:
    assert parse_log(LOG) == EVENTS
    value = ZERO
    for line in LOG[:-1].split(b"\n"):
        value = extend(value, digest(line))
    assert replay(parse_log(LOG)) == value
    assert parse_log(b"") == ()
    assert replay(parse_log(b"")) == ZERO


@pytest.mark.parametrize(
    "log",
    [
        LOG[:-1],
        LOG + b"\n",
        b"\n",
        LOG.replace(b'"seq":1', b'"seq":2'),
        LOG.replace(b'"seq":0', b'"seq":00'),
        LOG.replace(b'{"name"', b'{ "name"'),
        LOG.replace(b"system-ready", b"systemready"),
        LOG.replace(b'"name":"config",', b'"name":"config","name":"config",'),
        LOG.replace(b'"seq":0', b'"seq":0,"x":1'),
        LOG.replace(b"e30=", b"e31="),
        LOG.replace(b"\n", b"\r\n"),
        LOG * 2,
        b"\xff\n",
        b"[" * 5000 + b"\n",
    ],
)
def test_a_non_canonical_line_is_refused(log: bytes) -> None:
    assert log != LOG
    with pytest.raises(EvidenceError):
        parse_log(log)


def test_a_wrong_sequence_number_is_reported() -> None:
    with pytest.raises(EvidenceError, match="line 2: seq is 2, expected 1"):
        parse_log(LOG.replace(b'"seq":1', b'"seq":2'))


def test_an_event_has_a_known_name_and_a_bounded_payload() -> None:
    with pytest.raises(EvidenceError):
        AgentEvent("shell", b"")
    with pytest.raises(EvidenceError):
        AgentEvent("config", bytes(65 * 1024))
    assert agent.failed_event().name == "failed"


def test_a_log_has_at_most_64_events() -> None:
    many = [agent.model_event("smollm2", "cd" * 32)] * 64
    assert len(parse_log(encode_log(many))) == 64
    with pytest.raises(EvidenceError, match="more than 64 events"):
        parse_log(encode_log([*many, many[0]]))
