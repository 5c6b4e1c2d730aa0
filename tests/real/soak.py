"""Callers of every kind at once, good and bad, against the real processes of the agent.

The attestor and the server are processes of their own on a simulated TEE; the engine is a stand-in. Each kind of
caller is a function that does one thing and returns; threads pick them at random until the time is over.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import secrets
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tests.sealed import Sealed, request, seal, wrap
from tests.unit.agent_guest import Guest, a_config, guest

from privml.agent.boot import Boot
from privml.agent.restarts import Restarts
from privml.base.files import write_atomic
from privml.channel.keyconfig import decode_list
from privml.channel.ohttp import GATEWAY
from privml.evidence.quotefault import FAULTS

CANARY = secrets.token_hex(16)
"""In every prompt, and nowhere that outlives its request."""
CALLERS = 24
CRASHES = 4
ATTESTATION = "/.well-known/privml-attestation?nonce="
_HEAD = "POST {path} HTTP/1.1\r\nHost: guest\r\nContent-Type: application/json\r\nContent-Length: {size}\r\n\r\n"


def chat(**more: object) -> bytes:
    """A request with the canary. Each is another one: those that run when the engine exits are not taken again."""
    text = f"say {CANARY} {secrets.token_hex(4)}"
    return json.dumps({"messages": [{"role": "user", "content": text}], "model": "tiny", **more}).encode()


class Soak:
    """One guest under load: what its callers saw, and what became of its processes."""

    def __init__(self, made: Guest, seed: int) -> None:
        self.guest = made
        self.seed = seed
        self.configs = decode_list(made.request("GET", GATEWAY)[2])
        self.seen: Counter[str] = Counter()
        self.health: list[float] = []
        self.faults: list[str] = []
        self.resident: dict[int, list[int]] = {made.server.pid: [], made.attestor.pid: []}
        self._over = threading.Event()
        self._lock = threading.Lock()

    def run(self, seconds: float) -> None:
        """Load the guest for this time."""
        pause = seconds / (CRASHES + 1)
        works = [self._caller(number) for number in range(CALLERS)]
        works += [self._watch, self._disturb, lambda: self._crash(pause)]
        threads = [threading.Thread(target=work, daemon=True) for work in works]
        for thread in threads:
            thread.start()
        self._over.wait(seconds)
        self._over.set()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive(), "a caller hangs"

    def _caller(self, number: int) -> Callable[[], None]:
        chance = random.Random(f"{self.seed} {number}")
        kinds = (
            self.asks, self.streams, self.leaves, self.reads_slowly, self.is_half_open, self.sends_too_much,
            self.is_malformed, self.attests, self.sends_other_fields, self.asks_sealed, self.leaves_sealed,
            self.seals_wrong,
        )  # fmt: skip

        def work() -> None:
            while not self._over.is_set():
                kind = chance.choice(kinds)
                try:
                    outcome = kind(chance)
                except (OSError, ValueError, http.client.HTTPException) as error:
                    outcome = type(error).__name__
                with self._lock:
                    self.seen[f"{kind.__name__}: {outcome}"] += 1

        return work

    # The kinds of callers. Each returns a word or a status.

    def asks(self, _: random.Random) -> str:
        return self._status(self._post("/v1/chat/completions", chat()))

    def streams(self, _: random.Random) -> str:
        answer = self._post("/v1/chat/completions", chat(stream=True))
        whole = answer.endswith(b"0\r\n\r\n")
        return f"{self._status(answer)} {'whole' if whole else 'cut'}"

    def leaves(self, chance: random.Random) -> str:
        """Disconnect in the middle of an answer."""
        with self._connected() as tls:
            tls.sendall(self._request("/v1/chat/completions", chat(stream=True)))
            tls.recv(chance.randint(1, 400))
        return "left"

    def reads_slowly(self, chance: random.Random) -> str:
        with self._connected() as tls:
            tls.sendall(self._request("/v1/chat/completions", chat(stream=True)))
            for _ in range(chance.randint(1, 20)):
                if not tls.recv(1):
                    break
                self._over.wait(0.05)
        return "left"

    def is_half_open(self, chance: random.Random) -> str:
        """Begin TLS and never end it."""
        with socket.create_connection(("127.0.0.1", self.guest.config.listen), timeout=10) as raw:
            raw.sendall(b"\x16\x03\x01\x02\x00\x01\x00"[: chance.randint(0, 7)])
            self._over.wait(chance.random())
        return "left"

    def sends_too_much(self, chance: random.Random) -> str:
        size = chance.choice([20 << 20, 1 << 40])
        with self._connected() as tls:
            tls.sendall(_HEAD.format(path="/v1/chat/completions", size=size).encode())
            with contextlib.suppress(OSError):
                tls.sendall(bytes(1 << 16))
            return self._status(self._rest(tls))

    def is_malformed(self, chance: random.Random) -> str:
        data = bytearray(self._request("/v1/completions", chat()))
        for _ in range(chance.randint(1, 8)):
            data[chance.randrange(min(len(data), 120))] = chance.randrange(256)
        with self._connected() as tls:
            tls.sendall(bytes(data))
            tls.settimeout(2)
            return self._status(self._rest(tls))

    def attests(self, chance: random.Random) -> str:
        path = ATTESTATION + chance.randbytes(32).hex()
        with self._connected() as tls:
            tls.sendall(f"GET {path} HTTP/1.1\r\nHost: guest\r\nConnection: close\r\n\r\n".encode())
            return self._status(self._rest(tls))

    def sends_other_fields(self, chance: random.Random) -> str:
        values: list[object] = [None, True, -1, 1 << 70, 1.5, "x" * 3000, [], [[[]]], {"a": {}}, CANARY]
        names = [
            "model",
            "messages",
            "max_tokens",
            "stop",
            "logit_bias",
            "temperature",
            "n",
            "cache_prompt",
            "x" * 80,
        ]
        fields = {chance.choice(names): chance.choice(values) for _ in range(3)}
        body = chat(**fields).replace(b"null", chance.choice([b"null", b"1e999", b"NaN", b"[" * 2000]))
        return self._status(self._post("/v1/chat/completions", body))

    def asks_sealed(self, chance: random.Random) -> str:
        sealed = self._sealed(chance)
        connection = self._posted(sealed)
        with contextlib.closing(connection):
            response = connection.getresponse()
            body = response.read()
            return f"{response.status} {sealed.opened(body).status if response.status == 200 else ''}".rstrip()

    def leaves_sealed(self, chance: random.Random) -> str:
        """Disconnect in the middle of a sealed answer."""
        with contextlib.closing(self._posted(self._sealed(chance))) as connection:
            connection.getresponse().read(chance.randint(1, 200))
        return "left"

    def seals_wrong(self, chance: random.Random) -> str:
        """A sealed request that was changed or cut, or one that was sent before."""
        sealed = self._sealed(chance)
        data = bytearray(sealed.body)
        match chance.randrange(3):
            case 0:
                data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
            case 1:
                del data[chance.randrange(len(data)) :]
            case _:
                with contextlib.closing(self._posted(sealed)) as connection:
                    if (status := connection.getresponse().status) != 200:
                        return f"first {status}"
        with contextlib.closing(self._posted(replace(sealed, body=bytes(data)))) as connection:
            return str(connection.getresponse().status)

    # What watches and what disturbs.

    def _watch(self) -> None:
        """Health within a second, and the memory of the server and the attestor."""
        while not self._over.wait(0.5):
            began = time.monotonic()
            try:
                status, _, _ = self.guest.request("GET", "/healthz")
                if status != 200:
                    self.faults.append(f"/healthz answered {status}")
            except OSError as error:
                self.faults.append(f"/healthz: {error!r}")
            self.health.append(time.monotonic() - began)
            for process, sizes in self.resident.items():
                pages = Path(f"/proc/{process}/statm").read_text().split()[1]
                sizes.append(int(pages) * os.sysconf("SC_PAGE_SIZE"))

    def _disturb(self) -> None:
        """A provider of quotes that is missing, busy or late, and an engine that hangs."""
        chance = random.Random(f"{self.seed} disturb")
        fault = self.guest.root / "fault"
        while not self._over.wait(0.7):
            write_atomic(fault, chance.choice(sorted(FAULTS)).encode())  # the platform reads it at any moment
            self.guest.engine.hold.clear()
            self._over.wait(0.3)
            fault.unlink()
            self.guest.engine.hold.set()

    def _crash(self, pause: float) -> None:
        """An engine that exits, after each ``pause`` seconds; fewer times than it is started again in an hour."""
        for _ in range(CRASHES):
            if self._over.wait(pause):
                return
            self.guest.engine.die()

    # How they talk.

    def _connected(self) -> ssl.SSLSocket:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        raw = socket.create_connection(("127.0.0.1", self.guest.config.listen), timeout=20)
        try:
            return context.wrap_socket(raw)
        except BaseException:
            raw.close()
            raise

    def _request(self, path: str, body: bytes) -> bytes:
        return _HEAD.format(path=path, size=len(body)).replace("Host", "Connection: close\r\nHost").encode() + body

    def _sealed(self, chance: random.Random) -> Sealed:
        plain = request("POST", "/v1/chat/completions", chat(stream=chance.random() < 0.5))
        return chance.choice((seal, wrap))(self.configs, plain)

    def _posted(self, sealed: Sealed) -> http.client.HTTPSConnection:
        connection = http.client.HTTPSConnection("127.0.0.1", self.guest.config.listen, timeout=20)
        connection.sock = self._connected()
        connection.request("POST", GATEWAY, sealed.body, sealed.headers)
        return connection

    def _post(self, path: str, body: bytes) -> bytes:
        with self._connected() as tls:
            tls.sendall(self._request(path, body))
            return self._rest(tls)

    @staticmethod
    def _rest(tls: ssl.SSLSocket) -> bytes:
        answer = b""
        while piece := tls.recv(65536):
            answer += piece
        return answer

    @staticmethod
    def _status(answer: bytes) -> str:
        words = answer.split(b" ", 2)
        return words[1].decode("ascii", "replace") if len(words) == 3 and answer.startswith(b"HTTP/1.1 ") else "none"


def _watch_over(boot: Boot) -> None:
    """Start the engine again when it exits. At the end the guest's folder is removed, and nothing can be written."""
    with contextlib.suppress(FileNotFoundError):
        boot.watch(0.1)


@contextlib.contextmanager
def soaked(seconds: float, seed: int):  # type: ignore[no-untyped-def]
    """A guest after ``seconds`` of load, still running."""
    with guest(a_config(max_concurrency=16)) as made:
        boot = made.boot(restarts=Restarts(first=0.2, longest=1.0))
        made.start_server()
        assert boot.run(), made.said
        threading.Thread(target=_watch_over, args=(boot,), daemon=True).start()
        found = Soak(made, seed)
        found.run(seconds)
        yield found
