"""Kept connections to a real TLS guest: when one is used again, when it is not, and what a broken one means."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import attestation_samples as samples
import guest_fake
import pytest

from privml.base.errors import HostError, Refused
from privml.client import kept
from privml.client.connection import Endpoint
from privml.client.direct import Direct
from privml.client.gate import Decision
from privml.client.ways import Answer, Asked, Judged, Unsent
from privml.verify.policy import Policy

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
GET = Asked("GET", "/v1/models")
POST = Asked("POST", "/v1/chat/completions", ((b"content-type", b"application/json"),), b"{}")


class Server:
    """A TLS server that plays one script for each connection: it sees the connection and how many there were."""

    def __init__(self) -> None:
        self.pem, self.spki = guest_fake.identity()
        self.scripts: list[Callable[[ssl.SSLSocket], object]] = []
        self.connections = 0
        self.heads: list[bytes] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        guest = guest_fake.Guest()
        guest.use(self.pem)
        self.context = guest.context

    @property
    def where(self) -> Endpoint:
        return Endpoint("127.0.0.1", self.listener.getsockname()[1])

    def read(self, tls: ssl.SSLSocket) -> bytes:
        """The next whole request of a connection; nothing at its end."""
        data = b""
        while b"\r\n\r\n" not in data:
            if not (piece := tls.recv(65536)):
                return b""
            data += piece
        head, _, rest = data.partition(b"\r\n\r\n")
        body = bytearray(rest)
        length = next((int(line[15:]) for line in head.lower().split(b"\r\n") if line[:15] == b"content-length:"), 0)
        while len(body) < length:
            body += tls.recv(65536)
        self.heads.append(head)
        return head

    def replying(self, *answers: bytes) -> Callable[[ssl.SSLSocket], object]:
        """Answer one request after the other with these bytes, and then close."""

        def script(tls: ssl.SSLSocket) -> None:
            for answer in answers:
                if self.read(tls):
                    tls.sendall(answer)

        return script

    def run(self) -> None:
        while True:
            try:
                raw, _ = self.listener.accept()
            except OSError:
                return
            with raw, contextlib.suppress(OSError), self.context.wrap_socket(raw, server_side=True) as tls:
                self.connections += 1
                self.scripts.pop(0)(tls)


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    thread = threading.Thread(target=made.run)
    thread.start()
    yield made
    with contextlib.suppress(OSError):
        made.listener.shutdown(socket.SHUT_RDWR)
    made.listener.close()
    thread.join()


def decision(spki: bytes) -> Decision:
    """The accepted judgement of a guest with this TLS key."""
    return Decision(0.0, samples.judge(samples.document(spki=spki), tls_spki_sha256=spki))


def refused() -> Decision:
    return Decision(0.0, samples.judge(policy=Policy()))


def run(server: Server, work: Callable[[Direct, Judged], Awaitable[Any]]) -> Any:
    """``work`` with the direct way to the server, and the judgement that allows it."""

    async def all_of_it() -> Any:
        way = Direct(server.where)
        try:
            return await work(way, Judged(server.where, decision(server.spki)))
        finally:
            way.close()
            await asyncio.sleep(0)  # the transports close

    return asyncio.run(all_of_it())


async def whole(answer: Answer) -> bytes:
    try:
        return b"".join([piece async for piece in answer.pieces])
    finally:
        answer.close()


async def ask(way: Direct, judged: Judged, asked: Asked = POST) -> bytes:
    return await whole(await way.send(asked, judged))


def test_one_connection_carries_many_requests(server: Server) -> None:
    server.scripts = [server.replying(OK, OK, OK)]

    async def work(way: Direct, judged: Judged) -> None:
        for _ in range(3):
            assert await ask(way, judged) == b"ok"

    run(server, work)
    assert (server.connections, len(server.heads)) == (1, 3)
    assert server.heads[0].split(b"\r\n")[0] == b"POST /v1/chat/completions HTTP/1.1"


def test_an_answer_names_its_guest_and_its_trailers(server: Server) -> None:
    server.scripts = [
        server.replying(
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Yes\r\nX-A: b\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"3\r\none\r\n3\r\ntwo\r\n0\r\nPrivml-Receipt: e30=\r\n\r\n"
        )
    ]

    async def work(way: Direct, judged: Judged) -> None:
        answer = await way.send(GET.adding((b"te", b"trailers")), judged)
        assert (answer.status, answer.header(b"x-a"), answer.header(b"x-b")) == (201, b"b", None)
        assert answer.judged is judged
        assert await whole(answer) == b"onetwo"
        assert answer.trailers() == ((b"privml-receipt", b"e30="),)

    run(server, work)
    assert b"te: trailers" in server.heads[0] and b"connection: te" in server.heads[0]


def test_another_key_gets_no_byte(server: Server) -> None:
    server.scripts = [lambda tls: server.heads.append(tls.recv(65536))]

    async def work(way: Direct, judged: Judged) -> None:
        with pytest.raises(Refused, match="tls-key"):
            await way.send(POST, Judged(judged.where, decision(bytes(32))))
        with pytest.raises(Refused, match="refused: demo-cpu"):
            await way.send(POST, Judged(judged.where, refused()))

    run(server, work)
    assert server.heads in ([], [b""])


@pytest.mark.parametrize("end", ["refused", "other keys"])
def test_a_kept_connection_does_not_outlive_its_judgement(server: Server, end: str) -> None:
    closed = threading.Event()

    def once(tls: ssl.SSLSocket) -> None:
        server.replying(OK)(tls)
        assert server.read(tls) == b""
        closed.set()

    server.scripts = [once, server.replying(OK)]

    async def work(way: Direct, judged: Judged) -> None:
        assert await ask(way, judged) == b"ok"
        way.settled(judged.decision)
        way.settled(decision(server.spki))
        assert not closed.is_set(), "the same keys again: it stays"
        way.settled(refused() if end == "refused" else decision(bytes(32)))
        assert await asyncio.to_thread(closed.wait, 10)
        assert await ask(way, judged) == b"ok"

    run(server, work)
    assert server.connections == 2


def test_a_kept_connection_serves_no_other_keys(server: Server) -> None:
    server.scripts = [server.replying(OK, OK), lambda tls: server.heads.append(tls.recv(65536))]

    async def work(way: Direct, judged: Judged) -> None:
        assert await ask(way, judged) == b"ok"
        with pytest.raises(Refused, match="tls-key"):
            await way.send(POST, Judged(judged.where, decision(bytes(32))))

    run(server, work)
    assert len([head for head in server.heads if head]) == 1


def test_a_connection_that_was_busy_is_closed_after_its_answer(server: Server) -> None:
    closed = threading.Event()

    def once(tls: ssl.SSLSocket) -> None:
        server.replying(OK)(tls)
        assert server.read(tls) == b""
        closed.set()

    server.scripts = [once, server.replying(OK)]

    async def work(way: Direct, judged: Judged) -> None:
        answer = await way.send(POST, judged)
        way.settled(refused())
        assert await whole(answer) == b"ok"
        assert await asyncio.to_thread(closed.wait, 10)
        assert await ask(way, judged) == b"ok"

    run(server, work)
    assert server.connections == 2


def test_a_new_one_replaces_one_that_the_server_closed_while_idle(server: Server) -> None:
    server.scripts = [server.replying(OK), server.replying(OK)]

    async def work(way: Direct, judged: Judged) -> None:
        assert await ask(way, judged) == b"ok"
        connections: Any = way._kept
        while connections._idle:
            await asyncio.sleep(0.005)
        assert await ask(way, judged) == b"ok"

    run(server, work)
    assert server.connections == 2


def test_idle_connections_are_closed_in_time(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "IDLE", 0.05)
    closed = threading.Event()

    def once(tls: ssl.SSLSocket) -> None:
        server.replying(OK)(tls)
        assert server.read(tls) == b""
        closed.set()

    server.scripts = [once]

    async def work(way: Direct, judged: Judged) -> None:
        assert await ask(way, judged) == b"ok"
        assert await asyncio.to_thread(closed.wait, 10)

    run(server, work)


@pytest.mark.parametrize(("asked", "heads"), [(GET, 4), (POST, 3)], ids=["GET", "POST"])
def test_what_may_have_run_is_not_sent_again(server: Server, asked: Asked, heads: int) -> None:
    """The server takes the whole request on a kept connection and closes: only a safe method is repeated."""

    def twice(tls: ssl.SSLSocket) -> None:
        server.replying(OK)(tls)
        server.read(tls)

    server.scripts = [twice, server.replying(OK), server.replying(OK)]

    async def work(way: Direct, judged: Judged) -> None:
        assert await ask(way, judged) == b"ok"
        if asked is GET:
            assert await ask(way, judged, asked) == b"ok"
        else:
            with pytest.raises(HostError, match="the connection was closed before the end") as caught:
                await way.send(asked, judged)
            assert not isinstance(caught.value, Unsent)
        way.close()
        assert await ask(way, judged) == b"ok"

    run(server, work)
    assert len(server.heads) == heads


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 100 Continue\r\n\r\n"], ids=["nothing", "continue"])
def test_a_rested_connection_says_whether_a_body_was_read(
    server: Server, said: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A guest that ends an idle connection while a POST is on its way has not said that it reads it."""
    monkeypatch.setattr(kept, "_RESTED", 0.0)
    server.scripts = [server.replying(OK, said), server.replying(OK)]

    async def work(way: Direct, judged: Judged) -> None:
        assert await ask(way, judged) == b"ok"
        if said:
            with pytest.raises(HostError, match="closed before the end"):
                await way.send(POST, judged)
        else:
            assert await ask(way, judged) == b"ok"

    run(server, work)
    expects = [b"expect: 100-continue" in head for head in server.heads]
    assert expects == ([False, True] if said else [False, True, False]), "a new connection needs no such word"


def test_what_never_left_is_sent_again(server: Server) -> None:
    """A body so large that the server closes a kept connection while most of it is still here."""
    big = Asked("POST", "/v1/x", (), b"x" * (16 << 20))

    def closing(tls: ssl.SSLSocket) -> None:
        server.replying(OK)(tls)
        tls.recv(1000)

    server.scripts = [closing, server.replying(OK)]

    async def work(way: Direct, judged: Judged) -> None:
        assert await ask(way, judged) == b"ok"
        assert await ask(way, judged, big) == b"ok"

    run(server, work)
    assert server.connections == 2


def test_a_byte_of_an_answer_ends_all_repeating(server: Server) -> None:
    server.scripts = [server.replying(OK, b"H")]

    async def work(way: Direct, judged: Judged) -> None:
        assert await ask(way, judged, GET) == b"ok"
        with pytest.raises(HostError) as caught:
            await way.send(GET, judged)
        assert not isinstance(caught.value, Unsent)

    run(server, work)


def test_nobody_there_means_that_nothing_was_sent() -> None:
    async def work() -> None:
        where = Endpoint("127.0.0.1", guest_fake.unused_port())
        with pytest.raises(Unsent, match="no connection to the attested machine: "):
            await Direct(where).send(POST, Judged(where, decision(bytes(32))))

    asyncio.run(work())


LONG = b"x: " + b"y" * 20_000
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"SSH-2.0-x\r\n\r\n", "illegal status line"),
        (b"HTTP/1.1 200 OK\r\n\r\nno end", "a response without a length"),
        (b"HTTP/1.1 200 OK\r\nx: " + b"y" * 40_000 + b"\r\n\r\n", "larger than|too long"),
        (b"HTTP/1.1 103 Hint\r\n" + LONG + b"\r\n\r\nHTTP/1.1 200 OK\r\n" + LONG + b"\r\n\r\n", "larger than"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 9 + OK, "more than 8 interim responses"),
        (OK[:-1], "closed before the end"),
        (CHUNKED + b"2\r\nok\r\n", "closed before the end"),
        (CHUNKED + b"z\r\nok\r\n0\r\n\r\n", "illegal chunk header"),
        (CHUNKED + b"2\r\nok\r\n0\r\nx: " + b"y" * 300_000, "too long"),
        (b"", "closed before the end"),
    ],
    ids=["not-http", "no-length", "head", "heads", "interim", "short", "no-last", "chunk", "trailers", "nothing"],
)  # fmt: skip
def test_answers_are_bounded_and_whole_or_an_error(server: Server, answer: bytes, words: str) -> None:
    server.scripts = [server.replying(answer)]

    async def work(way: Direct, judged: Judged) -> None:
        with pytest.raises(HostError, match=words):
            await ask(way, judged)

    run(server, work)


@pytest.mark.parametrize("after", [OK[:20], CHUNKED, CHUNKED + b"2\r\nok\r\n"], ids=["head", "first", "next"])
def test_a_peer_that_dribbles_meets_the_deadline(
    server: Server, after: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes that complete nothing do not extend the time."""
    monkeypatch.setattr(kept, "ANSWER_TIMEOUT", 0.3)
    ended = threading.Event()

    def dribble(tls: ssl.SSLSocket) -> None:
        server.replying(after)(tls)
        while not ended.wait(0.02):
            tls.sendall(b"0")

    server.scripts = [dribble]

    async def work(way: Direct, judged: Judged) -> None:
        with pytest.raises(HostError, match=r"timed out"):
            await ask(way, judged)

    try:
        run(server, work)
    finally:
        ended.set()


def test_an_answer_that_is_left_ends_its_connection(server: Server) -> None:
    gone = threading.Event()

    def endless(tls: ssl.SSLSocket) -> None:
        server.replying(CHUNKED)(tls)
        try:
            while True:
                tls.sendall(b"4\r\nmore\r\n")
        except OSError:
            gone.set()

    server.scripts = [endless]

    async def work(way: Direct, judged: Judged) -> None:
        answer = await way.send(POST, judged)
        pieces: AsyncIterator[bytes] = answer.pieces
        assert await anext(pieces)
        await asyncio.sleep(0.3)
        assert len(await anext(pieces)) < 2 * kept._UNREAD, "a slow reader does not fill this process"
        answer.close()
        answer.close()
        assert await asyncio.to_thread(gone.wait, 10)

    run(server, work)


@pytest.mark.parametrize("extra", [b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", b"x"])
def test_bytes_that_nobody_asked_for_end_a_connection(server: Server, extra: bytes) -> None:
    """They could be taken for the answer to the next request, whether they come with the last answer or later."""
    go_on = threading.Event()

    def later(tls: ssl.SSLSocket) -> None:
        server.replying(OK)(tls)
        assert go_on.wait(10)
        tls.sendall(extra)
        assert server.read(tls) == b""

    server.scripts = [server.replying(OK + extra, OK), later, server.replying(OK)]

    async def work(way: Direct, judged: Judged) -> None:
        assert await ask(way, judged) == b"ok"
        assert await ask(way, judged) == b"ok"
        connections: Any = way._kept
        assert len(connections._idle) == 1
        go_on.set()
        async with asyncio.timeout(kept.IDLE / 2):
            while connections._idle:
                await asyncio.sleep(0.005)
        assert await ask(way, judged) == b"ok"

    run(server, work)
    assert server.connections == 3
