"""A real nginx that ends TLS in front of guests, and what can be found of a prompt in it.

It gets the file that docs/OPERATING.md shows, with other ports and a log of request bodies.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.real.conftest import unpacked
from tests.unit.terminator_certificate import certificate

from privml.image.tools import Bind, ToolsTree
from privml.vm.machine import free_port
from privml.vm.process import Child

# nginx 1.30 of Debian forky.
LOCK = Path(__file__).parent / "platforms/nginx.lock.json"
CONF = Path(__file__).with_name("nginx.conf")
_PORTS = ("9001", "9002")
_LOGGED = (
    "http {\n    log_format bodies escape=none '$request $status $request_body';\n"
    "    access_log /var/log/nginx/access.log bodies;\n"
)


@dataclass(frozen=True)
class Nginx:
    """One that runs: its port, the authority of its certificate, and the directory that it writes to."""

    child: Child
    port: int
    authority: Path
    var: Path

    @property
    def log(self) -> bytes:
        """The log of requests and their bodies."""
        return (self.var / "log/nginx/access.log").read_bytes()

    def workers(self) -> list[int]:
        """Its processes: those whose ancestor is the one that was started here."""
        listed = subprocess.run(["ps", "-eo", "pid=,ppid=,comm="], capture_output=True, text=True, check=True).stdout
        rows = [line.split(None, 2) for line in listed.splitlines()]
        parents = {int(pid): int(parent) for pid, parent, _ in rows}

        def mine(pid: int) -> bool:
            while pid > 1:
                if pid == self.child.pid:
                    return True
                pid = parents.get(pid, 0)
            return False

        return [int(pid) for pid, _, name in rows if name.startswith("nginx") and mine(int(pid))]

    def remembers(self, wanted: bytes) -> bool:
        """Whether the memory of one of its processes has these bytes; ``PermissionError`` if it may not be read."""
        found = self.workers()
        assert len(found) >= 2, "a master and its workers"
        return any(_memory_has(pid, wanted) for pid in found)

    def kept(self, wanted: bytes) -> list[str]:
        """Its files with these bytes: the log, and bodies that it put aside."""
        return [path.name for path in self.var.rglob("*") if path.is_file() and wanted in path.read_bytes()]


def listens(port: int) -> bool:
    """Whether somebody accepts connections there."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def configuration(front: int, guests: Sequence[int]) -> str:
    """The documented file for these ports, with a log of bodies; one guest takes both places."""
    text = CONF.read_text().replace("listen 443", f"listen 127.0.0.1:{front}").replace("http {\n", _LOGGED)
    for place, port in zip(_PORTS, [*guests, guests[0]], strict=False):
        text = text.replace(f"127.0.0.1:{place}", f"127.0.0.1:{port}")
    return text


@contextlib.contextmanager
def running(
    tools: ToolsTree, folder: Path, guests: Sequence[int], changed: Callable[[str], str] = lambda text: text
) -> Iterator[Nginx]:
    """Run it in front of guests on these ports of 127.0.0.1, with all of its files in a new ``folder``."""
    nginx = tools.other(unpacked(LOCK, folder / "root"))
    etc, var, front = nginx.root / "etc", folder / "var", free_port()
    (etc / "passwd").write_text("root:x:0:0::/:/bin/false\n")
    (etc / "group").write_text("root:x:0:\n")
    authority = certificate(folder)
    (etc / "nginx/tls.crt").write_bytes(authority.read_bytes())
    (etc / "nginx/tls.key").write_bytes((folder / "key.pem").read_bytes())
    (etc / "nginx/nginx.conf").write_text(changed(configuration(front, guests)))
    for name in ("log/nginx", "lib/nginx"):
        (var / name).mkdir(parents=True)
    binds = [Bind(var, "/var", writable=True)]
    child = Child(nginx, ["nginx", "-g", "daemon off; user root;"], folder / "log", binds=binds, network=True)
    try:
        child.await_until(lambda: listens(front), "does not listen", 20)
        yield Nginx(child, front, authority, var)
    finally:
        child.stop()


def _memory_has(pid: int, wanted: bytes) -> bool:
    with Path(f"/proc/{pid}/maps").open() as maps, Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in maps:
            span, rights, *_ = line.split()
            start, end = (int(edge, 16) for edge in span.split("-"))
            if "r" not in rights or line.rstrip().endswith(("[vvar]", "[vsyscall]", "[vvar_vclock]")):
                continue
            with contextlib.suppress(OSError):
                memory.seek(start)
                if wanted in memory.read(end - start):
                    return True
    return False
