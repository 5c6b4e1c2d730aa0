"""A witness of https://c2sp.org/tlog-witness for tests: it keeps what it cosigned, and checks proofs by itself.

Its check of consistency is the algorithm of RFC 9162, section 2.1.4.2, and shares no code with what makes the proofs.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.unit.logged_fake import cosignature, key
from tests.unit.published_fake import NOW
from tests.unit.server_thread import in_thread

from privml.base.errors import EvidenceError
from privml.statement.tlog import Checkpoint, NoteKey

Answer = tuple[int, str, bytes]


def continues(size1: int, size2: int, root1: bytes, root2: bytes, proof: Sequence[bytes]) -> bool:
    """True if ``proof`` shows that the tree of ``size2`` leaves continues that of ``size1``."""
    if size1 == size2:
        return root1 == root2 and not proof
    if not 0 < size1 < size2 or not proof:
        return False
    path = list(proof) if size1 & (size1 - 1) else [root1, *proof]
    fn, sn = size1 - 1, size2 - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    fr = sr = path[0]
    for each in path[1:]:
        if sn == 0:
            return False
        if fn & 1 or fn == sn:
            fr, sr = _node(each, fr), _node(each, sr)
            while fn and not fn & 1:
                fn, sn = fn >> 1, sn >> 1
        else:
            sr = _node(sr, each)
        fn, sn = fn >> 1, sn >> 1
    return (fr, sr, sn) == (root1, root2, 0)


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


@dataclass
class Witness:
    """A witness that knows ``logs``. ``cosigned`` is its memory; ``asked`` the bodies and statuses of each call.

    ``bend`` changes an answer before it is sent.
    """

    name: str
    logs: list[NoteKey] = field(default_factory=list)
    cosigned: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    asked: list[tuple[bytes, int]] = field(default_factory=list)
    bend: Callable[[Answer], Answer] | None = None
    at: int = NOW
    url: str = ""

    @property
    def row(self) -> str:
        """Its line of a policy."""
        return f"witness {self.name} {key(self.name).text} {self.url}/prefix\n"

    def add_checkpoint(self, body: bytes) -> Answer:
        """The checks in the order of the specification."""
        head, blank, note = body.partition(b"\n\n")
        first, *lines = head.decode().split("\n")
        origin = note.decode().split("\n")[0]
        known = [each for each in self.logs if each.name == origin]
        if not blank or not first.startswith("old ") or len(lines) > 63:
            return 400, "text/plain", b"malformed\n"
        if not known:
            return 404, "text/plain", b"unknown log\n"
        try:
            [state] = [Checkpoint.read(note, each) for each in known]
        except EvidenceError:
            return 403, "text/plain", b"not signed\n"
        old, proof = int(first.removeprefix("old ")), [base64.b64decode(line, validate=True) for line in lines]
        size, root = self.cosigned.get(origin, (0, b""))
        if old > state.size:
            return 400, "text/plain", b"old size\n"
        if old != size:
            return 409, "text/x.tlog.size", f"{size}\n".encode()
        if old == state.size and root != state.root:
            return 409, "text/plain", b"another root\n"
        if (proof and not old) or (old and not continues(old, state.size, root, state.root, proof)):
            return 422, "text/plain", b"inconsistent\n"
        self.cosigned[origin] = (state.size, state.root)
        return 200, "text/plain", cosignature(self.name, state.text, self.at).encode()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    witness: Witness

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        assert self.path == "/prefix/add-checkpoint"
        answer = self.witness.add_checkpoint(body)
        if self.witness.bend is not None:
            answer = self.witness.bend(answer)
        status, kind, said = answer
        self.witness.asked.append((body, status))
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(said))}.items():
            self.send_header(name, value)
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(said)


@contextlib.contextmanager
def serving(name: str) -> Iterator[Witness]:
    """A witness that knows no log yet."""
    found = Witness(name)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Of", (_Handler,), {"witness": found}))
    with in_thread(server):
        found.url = f"http://127.0.0.1:{server.server_address[1]}"
        yield found
