"""The guest's end of the sealed channel: what opens, what is refused and where, and what is released."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from agent_guest import NO_MODEL, Guest, a_config, guest
from tests.channel_vectors import fixed_key
from tests.sealed import Sealed, request, seal, wrap

from privml.agent import identity
from privml.agent.answers import Answer, Asked, Denied
from privml.agent.channelkeys import ChannelKeys, boottime
from privml.agent.gateway import Gateway
from privml.agent.layout import Layout
from privml.base.errors import HostError
from privml.channel import bhttp
from privml.channel.kem import X25519, X_WING
from privml.channel.keyconfig import KeyConfig, decode_list
from privml.channel.keyring import GRACE_SECONDS, ROTATE_SECONDS
from privml.channel.ohttp import CHUNKED, GATEWAY, HEADER_SIZE, KEY_PROBLEM, CallerRequest
from privml.channel.record import PATH as RECORD
from privml.channel.record import verify
from privml.channel.suites import AEADS, CannotOpen
from privml.evidence import document
from privml.evidence.sections import CHANNEL_KEY, Keys

CONTENT = 64 * 1024
PROMPT = b'{"prompt":"The capital of France is"}'
ONE_ANSWER = {"type": KEY_PROBLEM, "title": "this request cannot be opened with the keys of this machine"}


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    run = tmp_path_factory.mktemp("guest")
    made = Layout(run=run, root_id=os.getuid(), server_id=os.getuid())
    identity.create(made)
    return made


class Bench:
    """A gateway with a stand-in for the routes behind it, and a clock that the test moves."""

    def __init__(self, layout: Layout, **more: object) -> None:
        self.now = 1000.0
        self.keys = ChannelKeys(layout, clock=lambda: self.now, **{"places": 16, **more})  # type: ignore[arg-type]
        self.gateway = Gateway(self.keys, CONTENT, self._begin, self._answer)
        self.asked: list[tuple[str, str, bytes, str]] = []
        self.encapsulated: list[bytes | None] = []
        self.turns = self.closed = 0
        self.full = False
        self.answer: Callable[[Asked], Answer] = lambda _: Answer(
            200, [(b"content-type", b"text/plain")], (b"Paris", b".")
        )

    def _begin(self, asked: Asked, limit: int) -> tuple[contextlib.ExitStack, bytes]:
        if self.full:
            raise Denied(429, "busy", "this machine is already answering as many requests as it can")
        body = asked.read(limit)
        self.turns += 1
        turn = contextlib.ExitStack()
        turn.callback(self._release)
        return turn, body

    def _release(self) -> None:
        self.turns -= 1

    def _answer(self, asked: Asked, turn: contextlib.ExitStack) -> Answer:
        if asked.path.startswith(("/v1/", "/x/")):
            asked.once()
        body = asked.read(CONTENT)
        self.asked.append((asked.method, asked.target, body, asked.channel))
        self.encapsulated.append(asked.enc_sha256)
        found = self.answer(asked)
        kept = turn.pop_all()
        kept.callback(self._count)
        return replace(found, close=kept.close)

    def _count(self) -> None:
        self.closed += 1

    @property
    def configs(self) -> tuple[KeyConfig, ...]:
        return decode_list(self.keys.offered())

    def post(self, body: bytes, media_type: str = CHUNKED.request_type) -> Answer:
        def read(limit: int) -> bytes:
            if len(body) > limit:
                raise Denied(413, "too-large", f"body larger than {limit} bytes")
            return body

        return self.gateway.answer(Asked("POST", GATEWAY, [(b"content-type", media_type.encode())], read))

    def ask(self, sealed: Sealed) -> bhttp.Response:
        """Send a sealed request and open the whole answer."""
        answer = self.post(sealed.body, sealed.form.request_type)
        with contextlib.closing(answer):
            assert (answer.status, dict(answer.headers)[b"content-type"].decode()) == (200, sealed.form.response_type)
            return sealed.opened(b"".join([*answer.pieces, answer.last()]))

    def refused(self, body: bytes, media_type: str = CHUNKED.request_type) -> None:
        """The one answer to what cannot be opened; nothing went behind, no turn is kept."""
        before = len(self.asked)
        answer = self.post(body, media_type)
        assert (answer.status, dict(answer.headers)[b"content-type"]) == (400, b"application/problem+json")
        assert json.loads(b"".join(answer.pieces)) == ONE_ANSWER
        assert (len(self.asked), self.turns) == (before, 0)


@pytest.fixture
def bench(layout: Layout) -> Bench:
    return Bench(layout)


def denied(call: Callable[[], object]) -> tuple[int, str]:
    with pytest.raises(Denied) as caught:
        call()
    return caught.value.status, caught.value.code


# --- what is offered ------------------------------------------------------------------------------------------------


def test_the_record_is_signed_by_the_attested_key_and_names_the_keys_section(bench: Bench, layout: Layout) -> None:
    section = identity.section(layout)
    attested = Keys.decode(section).find(*CHANNEL_KEY)
    assert attested is not None
    answer = bench.gateway.answer(Asked("GET", RECORD, [], lambda _: b""))
    found = verify(b"".join(answer.pieces), channel_key=attested, keys_sha256=hashlib.sha256(section).digest())
    assert (found.seq, found.configs) == (1000, bench.configs)
    assert [one.kem for one in found.configs] == [X_WING, X25519]
    listed = bench.gateway.answer(Asked("GET", GATEWAY, [], lambda _: b""))
    assert dict(listed.headers)[b"content-type"] == b"application/ohttp-keys"
    assert decode_list(b"".join(listed.pieces)) == found.configs


@pytest.mark.parametrize(("method", "path"), [("POST", RECORD), ("PUT", GATEWAY), ("DELETE", RECORD)])
def test_other_methods_are_refused(bench: Bench, method: str, path: str) -> None:
    assert denied(lambda: bench.gateway.answer(Asked(method, path, [], lambda _: b""))) == (405, "method")


def test_a_channel_key_that_was_not_attested_is_not_used(tmp_path: Path) -> None:
    made = Layout(run=tmp_path, root_id=os.getuid(), server_id=os.getuid())
    identity.create(made)
    made.channel_key.chmod(0o600)
    made.channel_key.write_bytes(bytes(32))
    with pytest.raises(HostError, match="not the one of the keys section"):
        ChannelKeys(made)


# --- requests and answers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kem", [X_WING, X25519], ids=lambda one: one.name)
@pytest.mark.parametrize("way", [seal, wrap])
def test_a_sealed_request_is_answered_as_if_it_had_come_open(bench: Bench, kem: object, way: object) -> None:
    configs = tuple(one for one in bench.configs if one.kem is kem)
    sealed = way(configs, request("POST", "/v1/completions?x=1", PROMPT))  # type: ignore[operator]
    found = bench.ask(sealed)
    assert (found.status, found.content) == (200, b"Paris.")
    assert found.fields == (("content-type", "text/plain"),)
    channel = "wrapped" if way is wrap else "ohttp"
    assert bench.asked == [("POST", "/v1/completions?x=1", PROMPT, channel)]
    start = 4 + 8 + 2 if way is wrap else HEADER_SIZE
    encapsulated = sealed.body[start : start + configs[0].kem.encapsulated_size]
    assert bench.encapsulated == [hashlib.sha256(encapsulated).digest()]
    assert (bench.turns, bench.closed) == (0, 1)


def test_one_of_several_recipients_opens_a_wrapped_request(bench: Bench) -> None:
    others = tuple(fixed_key(seed).config for seed in (1, 2))
    sealed = wrap((others[0], bench.configs[0], others[1]), request("POST", "/v1/completions", PROMPT))
    assert bench.ask(sealed).content == b"Paris."
    assert sealed.opener.answered_by == bench.configs[0]  # type: ignore[union-attr]
    bench.refused(wrap(others, request("GET", "/healthz")).body, "message/privml-wrapped-req")


def test_each_piece_is_sealed_when_it_is_made_and_the_end_comes_last(bench: Bench) -> None:
    made: list[bytes] = []

    def pieces() -> Iterator[bytes]:
        for piece in (b"data: one\n\n", b"", b"x" * 40000):
            made.append(piece)
            yield piece

    trailers = [(b"privml-receipt", b"eyJ9")]
    bench.answer = lambda _: Answer(200, [(b"content-type", b"text/event-stream")], pieces(), lambda: trailers)
    sealed = seal(bench.configs, request("POST", "/v1/chat/completions", PROMPT))
    answer = bench.post(sealed.body)
    assert dict(answer.headers) == {
        b"content-type": b"message/ohttp-chunked-res",
        b"cache-control": b"no-store, no-transform",
        b"x-accel-buffering": b"no",
        b"incremental": b"?1",
    }
    carried = iter(answer.pieces)
    assert sealed.feed(next(carried)) == b""
    assert (sealed.reader.control, made) == (200, [])  # the head is there before the first piece is made
    assert (sealed.feed(next(carried)), len(made)) == (b"data: one\n\n", 1)
    assert (sealed.feed(next(carried)), len(made)) == (b"x" * 40000, 3)
    assert bench.turns == 1
    assert next(carried, None) is None
    assert sealed.feed(answer.last()) == b""
    assert sealed.end() == b""
    assert sealed.reader.trailers == (("privml-receipt", "eyJ9"),)
    answer.close()
    assert (bench.turns, bench.closed) == (0, 1)


def test_the_head_of_an_answer_that_is_there_comes_with_its_first_piece(bench: Bench) -> None:
    bench.answer = lambda _: Answer(200, [], (b"one", b"two"), ready=True)
    sealed = seal(bench.configs, request("POST", "/v1/completions", PROMPT))
    answer = bench.post(sealed.body)
    carried = iter(answer.pieces)
    assert answer.ready and sealed.feed(next(carried)) == b"one" and sealed.reader.control == 200
    assert [sealed.feed(piece) for piece in carried] == [b"two"]
    assert sealed.feed(answer.last()) + sealed.end() == b""
    answer.close()


@pytest.mark.parametrize("ready", [False, True])
@pytest.mark.parametrize("made", [[], [b"half"]])
def test_an_answer_that_breaks_has_its_head_no_end_and_gives_its_turn_back(
    bench: Bench, made: list[bytes], ready: bool
) -> None:
    def pieces() -> Iterator[bytes]:
        yield from made
        raise HostError("engine: the connection was reset")

    bench.answer = lambda _: Answer(203, [], pieces(), ready=ready)
    sealed = seal(bench.configs, request("POST", "/v1/completions", PROMPT))
    answer = bench.post(sealed.body)
    content = b""
    with contextlib.closing(answer), pytest.raises(HostError):
        for piece in answer.pieces:
            content += sealed.feed(piece)
    assert (sealed.reader.control, content, bench.turns, bench.closed) == (203, b"".join(made), 0, 1)
    with pytest.raises(CannotOpen):
        sealed.end()


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("DELETE", 204)])
def test_an_answer_without_a_body_states_no_length(bench: Bench, method: str, status: int) -> None:
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"13")]
    bench.answer = lambda _: Answer(status, headers, (b"13 bytes long",))
    found = bench.ask(seal(bench.configs, request(method, "/x/metrics/")))
    assert (found.status, found.content) == (status, b"")
    assert found.fields == (("content-type", "text/plain"),)


@pytest.mark.parametrize("headers", [[(b"x-name", b"M\xfcller")], [(b"upgrade", b"h2c")], [(b"x y", b"1")]])
def test_an_answer_that_cannot_be_sealed_is_a_502_inside(bench: Bench, headers: list[tuple[bytes, bytes]]) -> None:
    bench.answer = lambda _: Answer(200, headers, (b"never sent",))
    found = bench.ask(seal(bench.configs, request("GET", "/x/metrics/")))
    assert (found.status, json.loads(found.content)["error"]["code"]) == (502, "unsealable")
    assert (bench.turns, bench.closed) == (0, 1)


@pytest.mark.parametrize(
    ("plain", "status", "code"),
    [
        (request("GET", "/boot-stages"), 404, "not-found"),
        (request("GET", "/.well-known/privml-attestation?nonce=00"), 404, "not-found"),
        (request("POST", GATEWAY, b"again"), 404, "not-found"),
        (request("GET", "/v1"), 404, "not-found"),
        (request("GET", "/healthz/"), 404, "not-found"),
        (request("GET", "/healthz", scheme="http"), 400, "scheme"),
        (request("POST", "/v1/completions", bytes(CONTENT + 1)), 413, "too-large"),
        (b"", 400, "malformed"),
        (b"\x00\x04POST", 400, "malformed"),
        (request("GET", "/healthz").encode() + b"\x01", 400, "malformed"),
        (b"\x01\x40\xc8", 400, "malformed"),  # a response
    ],
)
def test_after_it_opened_a_refusal_is_inside(
    bench: Bench, plain: bytes | bhttp.Request, status: int, code: str
) -> None:
    found = bench.ask(seal(bench.configs, plain))
    assert (found.status, json.loads(found.content)["error"]["code"]) == (status, code)
    assert (bench.asked, bench.turns) == ([], 0)


def test_every_path_that_is_answered_sealed_goes_behind(bench: Bench) -> None:
    for path in ("/healthz", "/readyz", "/v1/models", "/x/metrics/a?b=c"):
        assert bench.ask(seal(bench.configs, request("GET", path))).status == 200
        assert bench.asked[-1][1] == path


# --- what does not open ---------------------------------------------------------------------------------------------


def test_every_cause_has_the_same_answer(bench: Bench, layout: Layout) -> None:
    good = seal(bench.configs, request("POST", "/v1/completions", PROMPT)).body
    known = {one.key_id for one in bench.configs}
    unknown = next(number for number in range(256) if number not in known)
    other_suite = good[:3] + b"\x00\x02" + good[5:]
    another_guest = seal(Bench(layout).configs, request("GET", "/healthz")).body
    tried = [b"", good[:6], bytes([unknown]) + good[1:], other_suite, another_guest, good + b"x"]
    tried += [good[:at] for at in range(7, len(good), 97)]  # cut
    tried += [good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :] for at in range(1, len(good), 97)]
    for body in tried:
        bench.refused(body)
    for body in (b"", good, b"\x01\x00\x02\x01" + bytes(2000)):
        bench.refused(body, "message/privml-wrapped-req")
    wrapped = wrap(bench.configs, request("GET", "/healthz")).body
    bench.refused(wrapped)
    bench.refused(wrapped[:-1], "message/privml-wrapped-req")
    assert bench.ask(seal(bench.configs, request("GET", "/healthz"))).status == 200


def test_a_request_without_its_final_chunk_goes_nowhere(bench: Bench) -> None:
    config = bench.configs[0]
    caller = CallerRequest(config, AEADS[config.suites[0][1]])
    plain = request("POST", "/v1/completions", PROMPT).encode()
    bench.refused(caller.start + caller.chunk(plain))


@pytest.mark.parametrize(
    "media_type", ["", "application/json", "message/ohttp-req", "message/ohttp-chunked-req; x=y"]
)
def test_another_media_type_is_refused_before_anything_is_read(bench: Bench, media_type: str) -> None:
    assert denied(lambda: bench.post(b"", media_type)) == (415, "media-type")
    assert bench.turns == 0


def test_a_repetition_is_refused_and_a_full_set_is_not_emptied(bench: Bench) -> None:
    models = request("GET", "/v1/models")
    first = seal(bench.configs, models)
    bench.ask(first)
    assert denied(lambda: bench.post(first.body)) == (400, "replay")
    for _ in range(7):  # a set of 16 places takes 8 requests
        bench.ask(seal(bench.configs, models))
    last = seal(bench.configs, models)
    assert denied(lambda: bench.post(last.body)) == (503, "channel-full")
    assert denied(lambda: bench.post(first.body)) == (400, "replay")
    assert (len(bench.asked), bench.turns) == (8, 0)
    bench.now += ROTATE_SECONDS
    bench.ask(seal(bench.configs, models))
    assert denied(lambda: bench.post(last.body)) == (503, "channel-full")  # its key still has its own set


def test_what_is_not_admitted_is_not_remembered(bench: Bench) -> None:
    refused = request("GET", "/boot-stages"), request("GET", "/healthz", scheme="http"), b"no request"
    for plain in (request("GET", "/healthz"), request("GET", "/readyz"), *refused):
        sealed = seal(bench.configs, plain)
        for _ in range(2):
            assert bench.post(sealed.body).status == 200
    assert not any(len(key.opened) for key in bench.keys.alive())


@pytest.mark.parametrize("way", [seal, wrap])
def test_of_copies_at_the_same_time_one_is_answered(bench: Bench, way: object) -> None:
    sealed = way(bench.configs, request("POST", "/v1/completions", PROMPT))  # type: ignore[operator]
    together = threading.Barrier(8)
    found: list[str] = []

    def send() -> None:
        together.wait()
        try:
            found.append(str(bench.post(sealed.body, sealed.form.request_type).status))
        except Denied as denied:
            found.append(denied.code)

    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == ["200", *["replay"] * 7] and len(bench.asked) == 1


@pytest.mark.parametrize("kem", [X_WING, X25519], ids=lambda one: one.name)
@pytest.mark.parametrize("way", [seal, wrap])
def test_another_spelling_of_an_encapsulated_key_does_not_run_a_request_twice(
    bench: Bench, kem: object, way: object
) -> None:
    """X25519 ignores the highest bit of a point, so both spellings agree on the same secret."""
    configs = tuple(one for one in bench.configs if one.kem is kem)
    sealed = way(configs, request("POST", "/v1/completions", PROMPT))  # type: ignore[operator]
    start = 4 + 8 + 2 if way is wrap else HEADER_SIZE
    last = start + configs[0].kem.encapsulated_size - 1
    again = sealed.body[:last] + bytes([sealed.body[last] ^ 0x80]) + sealed.body[last + 1 :]
    assert bench.ask(sealed).content == b"Paris."
    bench.refused(again, sealed.form.request_type)
    assert len(bench.asked) == 1


@pytest.mark.parametrize("way", [seal, wrap])
def test_a_server_that_is_started_again_opens_nothing_of_before(bench: Bench, layout: Layout, way: object) -> None:
    """Its replay sets are empty, and its keys are others, though the keys section is the same."""
    sealed = way(bench.configs, request("POST", "/v1/completions", PROMPT))  # type: ignore[operator]
    assert bench.ask(sealed).content == b"Paris."
    again = Bench(layout)
    again.refused(sealed.body, sealed.form.request_type)
    assert again.asked == []


def test_a_body_above_the_bound_is_refused_before_it_is_opened(bench: Bench) -> None:
    small = seal(bench.configs, request("POST", "/v1/completions", bytes(CONTENT)))
    assert bench.ask(small).status == 200
    overhead = bench.gateway._sealed_limit - CONTENT
    assert 1024 * 1024 < overhead < 1.25 * 1024 * 1024
    assert denied(lambda: bench.post(bytes(CONTENT + overhead + 1))) == (413, "too-large")
    assert bench.turns == 0


def test_a_busy_machine_says_so_before_it_reads(bench: Bench) -> None:
    bench.full = True
    asked = Asked("POST", GATEWAY, [(b"content-type", CHUNKED.request_type.encode())], lambda _: pytest.fail("read"))
    assert denied(lambda: bench.gateway.answer(asked)) == (429, "busy")


# --- keys by time ---------------------------------------------------------------------------------------------------


def test_a_replaced_key_opens_for_the_grace_and_then_never(bench: Bench, layout: Layout) -> None:
    old = bench.configs
    late, later = (seal(old, request("GET", "/healthz")) for _ in range(2))
    wrapped = wrap(old, request("GET", "/healthz"))
    record = bench.keys.record()
    bench.now += ROTATE_SECONDS
    assert bench.keys.record() != record
    assert not {one.key_id for one in old} & {one.key_id for one in bench.configs}
    assert bench.ask(late).status == 200
    bench.now += GRACE_SECONDS
    bench.refused(wrapped.body, wrapped.form.request_type)
    bench.refused(later.body)
    section = identity.section(layout)
    attested = Keys.decode(section).find(*CHANNEL_KEY)
    assert attested is not None
    digest = hashlib.sha256(section).digest()
    assert verify(bench.keys.record(), channel_key=attested, keys_sha256=digest).seq == 1000 + ROTATE_SECONDS


def test_keys_are_dropped_while_nobody_asks(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(layout, kems=(X25519,))
    (config,) = bench.configs
    slept: list[float] = []

    class Stopped(Exception):
        pass

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        bench.now += ROTATE_SECONDS / 2
        if len(slept) == 4:
            raise Stopped

    monkeypatch.setattr("privml.agent.channelkeys.time.sleep", sleep)
    with pytest.raises(Stopped):
        bench.keys.keep()
    assert max(slept) <= 60
    assert config not in [key.config for key in bench.keys._ring.alive]


def test_the_clock_goes_on() -> None:
    assert 0 < boottime() <= boottime()


# --- a guest --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def served() -> Iterator[Guest]:
    """A guest that has passed every stage."""
    with guest() as made:
        made.start_server()
        assert made.boot().run(), made.said
        yield made


def attested_configs(made: Guest) -> tuple[KeyConfig, ...]:
    """The key configurations, from the attested channel key on."""
    nonce = "5a" * 32
    keys = document.parse(made.request("GET", f"/.well-known/privml-attestation?nonce={nonce}")[2]).keys
    channel_key = Keys.decode(keys).find(*CHANNEL_KEY)
    assert channel_key is not None
    status, headers, record = made.request("GET", RECORD)
    assert (status, headers["cache-control"]) == (200, "no-store")
    return verify(record, channel_key=channel_key, keys_sha256=hashlib.sha256(keys).digest()).configs


def test_a_guest_answers_a_sealed_completion(served: Guest) -> None:
    configs = attested_configs(served)
    for way in (seal, wrap):
        sealed = way(configs, request("POST", "/v1/completions", PROMPT))
        status, headers, body = served.request("POST", GATEWAY, sealed.body, sealed.headers)
        assert (status, headers["content-type"]) == (200, sealed.form.response_type)
        assert headers["transfer-encoding"] == "chunked"
        assert b"Paris" not in body
        found = sealed.opened(body)
        assert (found.status, found.content) == (200, b'{"choices":[{"text":" Paris."}]}')
        assert ("content-length", str(len(found.content))) in found.fields
        path, sent, forwarded = served.engine.requests[-1]
        assert (path, json.loads(forwarded)["prompt"]) == ("/v1/completions", json.loads(PROMPT)["prompt"])
        assert sent["content-type"] == "application/json"
        status, _, answer = served.request("POST", GATEWAY, sealed.body, sealed.headers)
        assert (status, json.loads(answer)["error"]["code"]) == (400, "replay")


def test_an_answer_that_breaks_before_its_body_has_a_head_open_and_sealed(served: Guest) -> None:
    sealed = seal(attested_configs(served), request("POST", "/v1/completions", PROMPT))
    served.engine.break_after = 0
    try:
        # A head that is missing is another error, ``RemoteDisconnected``.
        with pytest.raises(http.client.IncompleteRead) as cut:
            served.request("POST", "/v1/completions", PROMPT, {"content-type": "application/json"})
        assert cut.value.partial == b""
        with pytest.raises(http.client.IncompleteRead) as cut:
            served.request("POST", GATEWAY, sealed.body, sealed.headers)
        assert (sealed.feed(cut.value.partial), sealed.reader.control) == (b"", 200)
    finally:
        served.engine.break_after = None


def test_a_sealed_stream_arrives_token_by_token_and_an_abandoned_one_frees_its_turn(served: Guest) -> None:
    configs = attested_configs(served)
    for abandoned in (True, True, True, False):  # the machine answers two at a time
        served.engine.hold.clear()
        sealed = seal(configs, request("POST", "/v1/chat/completions", b'{"stream":true}'))
        connection = http.client.HTTPSConnection("127.0.0.1", served.config.listen, timeout=10)
        connection.sock = served.connect()
        connection.request("POST", GATEWAY, sealed.body, sealed.headers)
        response = connection.getresponse()
        assert response.status == 200
        got = b""
        while not got:
            got = sealed.feed(response.read1())
        assert got == b"data: one\n\n"  # the engine has not made the second one yet
        if abandoned:
            response.close()
            connection.close()
            served.engine.hold.set()
            served.wait_for(lambda: health(served, configs) == 200, "turn")
            continue
        served.engine.hold.set()
        assert sealed.feed(response.read()) == b"data: two\n\n"
        assert sealed.end() == b""
        connection.close()


def health(made: Guest, configs: tuple[KeyConfig, ...]) -> int:
    sealed = seal(configs, request("GET", "/healthz"))
    return made.request("POST", GATEWAY, sealed.body, sealed.headers)[0]


def test_sealed_and_open_requests_share_the_turns(served: Guest) -> None:
    configs = attested_configs(served)
    served.engine.hold.clear()
    before = len(served.engine.requests)
    statuses: list[int] = []

    def ask() -> None:
        sealed = seal(configs, request("POST", "/v1/chat/completions", b"{}"))
        statuses.append(served.request("POST", GATEWAY, sealed.body, sealed.headers)[0])

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    served.wait_for(lambda: len(served.engine.requests) == before + 2, "two requests under way")
    assert served.request("POST", "/v1/chat/completions", b"{}")[0] == 429
    sealed = seal(configs, request("GET", "/healthz"))
    status, _, body = served.request("POST", GATEWAY, sealed.body, sealed.headers)
    assert (status, json.loads(body)["error"]["code"]) == (429, "busy")
    served.engine.hold.set()
    for thread in threads:
        thread.join()
    assert statuses == [200, 200]
    assert served.request("POST", GATEWAY, sealed.body, sealed.headers)[0] == 200  # it was not opened before


def test_a_machine_that_is_not_ready_offers_keys_and_answers_503_in_the_clear() -> None:
    with guest(a_config(**NO_MODEL)) as made:
        made.start_server()
        boot = made.boot()
        made.add_pci(9, 0x1AF4, 0x1044)
        assert not boot.run()
        configs = decode_list(made.request("GET", GATEWAY)[2])
        sealed = seal(configs, request("GET", "/healthz"))
        status, _, body = made.request("POST", GATEWAY, sealed.body, sealed.headers)
        answer = json.loads(body)
        assert (status, answer["error"]["code"], answer["stages"]["ready"]) == (503, "not-ready", False)
