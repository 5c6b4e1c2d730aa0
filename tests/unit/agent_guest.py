"""A guest in a temporary directory: real attestor and server processes, a fake disk, a fake engine, a simulated TEE.

The attestor and the server run as they do in the guest, as processes of their own over real sockets; only their
`Layout` differs. Directories stand for the kernel's interfaces.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import http.client
import http.server
import itertools
import json
import os
import shutil
import signal
import socket
import socketserver
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import privml
from privml.agent.attestorstate import Attestor
from privml.agent.boot import Boot
from privml.agent.layout import Layout
from privml.agent.restarts import Restarts
from privml.agent.volume import Volumes
from privml.engines.registry import ENGINES
from privml.events import agent, tcg, volumes
from privml.events.configuration import Config, Data, Engine, Model, encode
from privml.events.crypt import LAST_SECTOR, Broker, Crypt, check_value
from privml.events.event import Event, Evidence
from privml.events.registers import RTMR2, TDX_REGISTERS
from privml.events.replay import replay_digests, replay_tpm_as_rtmrs
from privml.events.stages import STAGES, Table, steps
from privml.events.tcg import LogEntry, encode_log
from privml.events.verity import Verity
from privml.sim.gpumachine import SimulatedMachine
from privml.statement.launch import Accepted, MeasuredLaunch, TdMachine
from privml.statement.predicate import Predicate
from privml.statement.predicate import decode as predicate_of
from privml.statement.predicate import encode as encode_predicate

# Seconds that no healthy test needs, on a machine however busy.
LIMIT = 60.0
BLOCKS = 4
IMAGE = bytes(1024) + bytes.fromhex("e2e1f5e0") + bytes(BLOCKS * 4096 - 1028)
CIPHERTEXT = hashlib.shake_256(b"ciphertext").digest(len(IMAGE))
MRTD = bytes(range(48))
SHA384 = 0x000C
TPM_LOG = encode_log(
    [
        LogEntry(1, 0x80000001, {SHA384: b"\x01" * 48}, b"variable"),
        LogEntry(4, 0x80000003, {SHA384: b"\x02" * 48}, b"application"),
        LogEntry(9, 0x00000006, {SHA384: b"\x03" * 48}, b"initrd"),
    ]
)


def free_port() -> int:
    """A port that is currently free."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


SIGNER = Ed25519PrivateKey.from_private_bytes(b"weights".ljust(32))
BROKER = Broker("weights", SIGNER.public_key().public_bytes_raw())
VOLUME_KEY = hashlib.sha512(b"a volume's key").digest()


def a_crypt(resource: str = "model/tiny", broker: str = BROKER.name, key: bytes = VOLUME_KEY) -> Crypt:
    """The encryption of a model by ``key``."""
    return Crypt(broker, resource, 1, check_value(resource, 1, key))


ENGINE = Engine("llama-server", ("/usr/bin/llama-server", "--model", "/run/privml/model/model.gguf"))


def a_model(name: str = "tiny", byte: int = 0xAA) -> Model:
    """A model whose root hash is 32 times ``byte``."""
    return Model(name, "model.gguf", Verity(bytes([byte]) * 32, b"\xbb" * 32, BLOCKS, 1))


def a_data(name: str = "corpus", byte: int = 0xCC, crypt: Crypt | None = None) -> Data:
    """Data whose root hash is 32 times ``byte``."""
    return Data(name, Verity(bytes([byte]) * 32, b"\xbb" * 32, BLOCKS, 1), crypt)


def encrypted(**changes: object) -> dict[str, object]:
    """Changes that make the model of a configuration an encrypted one."""
    return {"models": (dataclasses.replace(a_model(), crypt=a_crypt()),), "brokers": (BROKER,), **changes}


COUNTED = b'{"choices":[{"text":" 6, 7","logprobs":{"tokens":[" 6",","," 7"],"token_logprobs":[-0.1,-0.02,-0.05]}}]}'
"""What an engine that works answers to the first completion."""
NO_MODEL: dict[str, object] = {"engine": None, "models": ()}
"""Changes that make a configuration one without inference."""


def a_config(**changes: object) -> Config:
    """A configuration with free ports."""
    config = Config(
        sha256="",
        name="demo",
        variant="development",
        listen=free_port(),
        max_concurrency=2,
        engine=ENGINE,
        models=(a_model(),),
        devices=("virtio-blk", "virtio-net"),
        rtmr3="staged",
    )
    return dataclasses.replace(config, **changes)  # type: ignore[arg-type]


def driven(
    attestor: Attestor, config: Config, keys: bytes | None, *, until: str | None = None, table: Table = STAGES
) -> Attestor:
    """Take ``attestor`` through the stages of ``table``, up to the end of ``until``, as the boot does."""
    if keys is not None:
        attestor.keys(keys)
    for number, step in enumerate(steps(config, table)):
        if number:
            attestor.stage(step.stage.name)
        for event in step.events:
            attestor.extend(event)
        if step.stage.name == until:
            break
    return attestor


class UnixServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """HTTP over a unix socket."""

    daemon_threads = True

    def __init__(self, path: str, handler: type[http.server.BaseHTTPRequestHandler]) -> None:
        super().__init__(path, handler)
        self.connections: weakref.WeakSet[socket.socket] = weakref.WeakSet()

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        connection, _ = super().get_request()
        self.connections.add(connection)
        return connection, ("engine", 0)  # http.server names its callers

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):  # the agent leaves when its caller does
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class FakeEngine:
    """An engine that answers on a unix socket; also the `Engine` that the boot starts and watches."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.started = False
        self.starts = 0
        self._ending = threading.Lock()
        self.living = True
        self.leaves = False
        """Whether its directory stays when it is stopped."""
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.hold = threading.Event()
        self.hold.set()
        self.completion_status = 200
        # Its answer to a chat, and the events of one that streams.
        self.chat = b'{"choices":[]}'
        self.break_after: int | None = None
        self.events: tuple[bytes, ...] = (b"data: one\n\n", b"data: two\n\n")
        # Its answers to the boot, which asks it to count on.
        self.counts: Iterator[bytes] = itertools.repeat(COUNTED)
        self.health = ("/health", 200)
        engine = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                path, status = engine.health
                if self.path == path:
                    self._answer(status, b"" if status == 204 else b'{"status":"ok"}')
                else:
                    self._answer(404, b"{}")

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                engine.requests.append((self.path, {k.lower(): v for k, v in self.headers.items()}, body))
                if b'"stream": true' in body:
                    self._stream()
                elif self.path in ("/v1/completions", "/v1/generate"):
                    counting = b"1, 2, 3, 4, 5," in body
                    text = next(engine.counts) if counting else b'{"choices":[{"text":" Paris."}]}'
                    self._answer(engine.completion_status, text)
                else:
                    engine.hold.wait(10)
                    self._answer(200, engine.chat)

            def _answer(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.send_header("connection", "close, x-internal")
                self.send_header("x-internal", "1")
                self.send_header("keep-alive", "timeout=5")
                self.end_headers()
                if engine.break_after == 0:
                    self.close_connection = True
                    return
                self.wfile.write(body)

            def _stream(self) -> None:
                self.send_response(200)
                self.send_header("content-type", "text/event-stream")
                self.send_header("transfer-encoding", "chunked")
                self.end_headers()
                for number, text in enumerate(engine.events):
                    if number == engine.break_after:
                        self.close_connection = True
                        return
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(text), text))
                    self.wfile.flush()
                    engine.hold.wait(10)
                self.wfile.write(b"0\r\n\r\n")

            def log_message(self, *_: object) -> None:
                pass

        self._handler = Handler
        self._server: UnixServer | None = None

    def start(self) -> None:
        self.started = self.living = True
        self.starts += 1
        self.socket.parent.mkdir(exist_ok=True)
        self._server = UnixServer(str(self.socket), self._handler)
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def alive(self) -> bool:
        return self.living

    def die(self) -> None:
        """End as a process does: its socket refuses, its connections are cut, and its directory is still there."""
        with self._ending:
            self.living = False
            if self._server is not None:
                for connection in list(self._server.connections):
                    with contextlib.suppress(OSError):
                        connection.shutdown(socket.SHUT_RDWR)
                self._server.shutdown()
                self._server.server_close()
                self._server = None
            self.hold.set()

    def stop(self) -> None:
        self.die()
        if self.leaves:
            return
        shutil.rmtree(self.socket.parent, ignore_errors=True)


class FakeService:
    """One of the image's own services: says on its socket what it was asked, if it listens at all."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.listens = True
        self.living = True
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []
        self._server: UnixServer | None = None

    def start(self) -> None:
        if not self.listens:
            return
        service = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", "0")))
                headers = {name.lower(): value for name, value in self.headers.items()}
                service.requests.append((self.command, self.path, headers, body))
                text = b'{"metrics":1}'
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("set-cookie", "a=b")
                self.send_header("content-length", str(len(text)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(text)

            do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = answer

            def log_message(self, *_: object) -> None:
                pass

        self._server = UnixServer(str(self.socket), Handler)
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def alive(self) -> bool:
        return self.living

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None


class Guest:
    """The directory tree, the processes, and methods to talk to them.

    While the file ``fault`` is there, the platform gives no quote, for the fault whose code is in it; while ``delay``
    is there, each quote takes the seconds in it. With the file ``crash``, the attestor ends between a line of its log
    and the register.
    """

    def __init__(
        self,
        root: Path,
        config: Config,
        *,
        tee: str = "simulated",
        gpus: str = "simulated",
        table: Table = STAGES,
        builder: Path | None = None,
    ) -> None:
        self.root = root
        self._source = builder or Path(privml.__file__).parent.parent
        me = os.getuid()
        self.layout = Layout(
            config=root / "config.json",
            run=root / "run",
            engine=root / "engine",
            services=root / "services",
            data=root / "data",
            gpu=root / "gpu",
            proc=root / "proc",
            sys=root / "sys",
            dev=root / "dev",
            root_id=me,
            server_id=me,
            engine_id=os.getgid(),
            data_id=os.getgid(),
        )
        self.config = config
        self.layout.run.mkdir()
        self.layout.engine.mkdir()
        self.services: dict[str, FakeService] = {}
        for service in config.services:
            self.layout.service_socket(service.name).parent.mkdir(parents=True)
            self.services[service.name] = FakeService(self.layout.service_socket(service.name))
        self.layout.config.write_bytes(encode(config))
        self._disk()
        for slot, (vendor, device) in enumerate([(0x8086, 0x29C0), (0x1AF4, 0x1042), (0x1AF4, 0x1041)]):
            self.add_pci(slot, vendor, device)
        (root / "tpm.log").write_bytes(TPM_LOG)
        (root / "mrtd").write_text(MRTD.hex() + "\n")
        record = ENGINES.get(config.engine.name if config.engine else "llama-server")
        self.engine = FakeEngine(self.layout.engine / (record.socket_name if record else "engine.sock"))
        self.said: list[str] = []
        self.closed: list[bool] = []
        self.commands: list[list[str]] = []
        self.keyring: dict[str, bytes] = {}
        self.had_keys: list[tuple[str, bytes]] = []
        self.plain = IMAGE[: -len(LAST_SECTOR)] + LAST_SECTOR
        self._children: list[subprocess.Popen[bytes]] = []
        self._attestor_code = (
            "from privml.agent.attestor import reader_of, serve\n"
            "from privml.agent.tee import NoTee\n"
            "from privml.events.stages import Stage\n"
            "from privml.sim.tee import SimulatedTee\n"
            "from privml.sim import gpumachine\n"
            f"gpus = gpumachine.reader_of if {gpus!r} == 'simulated' else reader_of\n"
            f"root = Path({str(root)!r})\n"
            "tee = SimulatedTee(tpm_log=root / 'tpm.log', mrtd=root / 'mrtd', register=root / 'rtmr3')\n"
            f"tee = tee if {tee!r} == 'simulated' else NoTee()\n"
            "from privml.evidence.quotefault import FAULTS, QuoteError\n"
            "quote = tee.quote\n"
            "def quote_or_fault(data):\n"
            f"    fault = Path({str(root / 'fault')!r})\n"
            f"    delay = Path({str(root / 'delay')!r})\n"
            "    if delay.exists():\n"
            "        import time\n"
            "        time.sleep(float(delay.read_text()))\n"
            "    if fault.exists():\n"
            "        raise QuoteError(FAULTS[fault.read_text()])\n"
            "    return quote(data)\n"
            "tee.quote = quote_or_fault\n"
            "extend = tee.extend\n"
            "def extend_or_crash(digest):\n"
            "    if (root / 'crash').exists():\n"
            "        (root / 'crash').unlink()\n"
            "        import os\n"
            "        os._exit(1)\n"
            "    extend(digest)\n"
            "tee.extend = extend_or_crash\n"
            f"raise SystemExit(serve(tee=tee, gpus=gpus, layout=layout, table={table!r}))"
        )
        self.start_attestor()

    def start_attestor(self) -> None:
        """Start the attestor, again if one has exited, as systemd does."""
        self.attestor = self._child(self._attestor_code)

    def kill_attestor(self) -> None:
        self.attestor.kill()
        self.attestor.wait()

    def _disk(self) -> None:
        disks = {"vda1": "privml-root"}
        slots = volumes.slots(max(1, len(self.config.models)), len(self.config.data))
        for number, slot in enumerate(slots):
            disk, partition = f"vd{chr(ord('b') + number)}", slot.partition
            disks |= {f"{disk}1": partition, f"{disk}2": f"{partition}-verity"}
        for name, partition in disks.items():
            entry = self.layout.sys / "class" / "block" / name
            entry.mkdir(parents=True)
            (entry / "uevent").write_text(f"MAJOR=254\nDEVNAME={name}\nDEVTYPE=partition\nPARTNAME={partition}\n")
        self.layout.dev.mkdir(parents=True, exist_ok=True)
        kernel = self.layout.proc / "sys" / "kernel"
        kernel.mkdir(parents=True)
        (kernel / "modules_disabled").write_text("1\n")

    def add_pci(self, slot: int, vendor: int, device: int, class_code: int = 0x010000) -> None:
        entry = self.layout.sys / f"slot-{slot}"
        entry.mkdir(parents=True)
        for name, value in (("vendor", vendor), ("device", device), ("class", class_code)):
            (entry / name).write_text(f"0x{value:04x}\n")
        devices = self.layout.sys / "bus" / "pci" / "devices"
        devices.mkdir(parents=True, exist_ok=True)
        entry.rename(devices / f"0000:00:{slot:02x}.0")  # whole, as the kernel shows it

    def _child(self, work: str) -> subprocess.Popen[bytes]:
        me = os.getuid()
        code = (
            "from pathlib import Path, PosixPath\n"
            "from privml.agent.layout import Layout\n"
            f"layout = {self.layout!r}\n"
            f"assert layout.root_id == {me}\n{work}\n"
        )
        path = os.pathsep.join([str(self._source), *(entry for entry in sys.path if entry)])
        said = self.root / f"said-{len(self._children)}"  # a pipe that nobody reads fills up, and then stops it
        with said.open("wb") as file:
            child = subprocess.Popen(
                [sys.executable, "-B", "-P", "-c", code],
                env={"PYTHONPATH": path, "PATH": "/usr/bin:/bin"},
                stdin=subprocess.DEVNULL,
                stderr=file,
            )
        child.stderr = said.open("rb")
        self._children.append(child)
        return child

    def start_server(self) -> None:
        self.server = self._child("from privml.agent.server import main\nraise SystemExit(main(layout))")

    def runner(self, argv: Sequence[str]) -> None:
        """Stand-ins for dmsetup and mount."""
        self.commands.append(list(argv))
        if argv[0] == "dmsetup":
            node = f"dm-{sum(given[0] == 'dmsetup' for given in self.commands)}"
            mapped = self.layout.sys / "class" / "block" / node / "dm"
            mapped.mkdir(parents=True)
            (mapped / "name").write_text(argv[2] + "\n")
            (self.layout.dev / node).write_bytes(self._mapped(argv[2], argv[-1]))
        elif argv[0] == "mount":
            (Path(argv[-1]) / "model.gguf").write_bytes(b"GGUF")

    def _mapped(self, name: str, described: str) -> bytes:
        """What can be read of a device: of an encrypted volume noise, and plaintext if the kernel has its key."""
        if " crypt " in described:
            key = self.keyring[described.split(":logon:")[1].split()[0]]
            return self.plain if key == VOLUME_KEY else CIPHERTEXT
        crypts = {slot.partition: entry.crypt for slot, entry in self.config.volumes}
        return IMAGE if crypts.get(name) is None else CIPHERTEXT

    @contextmanager
    def has_key(self, description: str, key: bytes) -> Iterator[None]:
        """Stand-in for the kernel's keyring."""
        self.keyring[description] = key
        self.had_keys.append((description, key))
        yield
        del self.keyring[description]

    def boot(self, **changes: object) -> Boot:
        given: dict[str, object] = {
            "volumes": Volumes(
                sys=self.layout.sys, dev=self.layout.dev, runner=self.runner, keyring=self.has_key, wait=0.2
            ),
            "engine": self.engine,
            "service": self.services.__getitem__,
            "say": self.said.append,
            "outbound": lambda: self.closed.append(self.layout.tls_key.exists()),
            "gpus": lambda gpu: SimulatedMachine(gpu, self.layout),
            "attestor_wait": LIMIT,
            "attestor_again": 0.2,
            "restarts": Restarts(hour=0),
            "engine_wait": LIMIT,
        }
        return Boot(self.layout, **{**given, **changes})  # type: ignore[arg-type]

    def wait_for(self, condition: object, what: str, seconds: float = LIMIT) -> None:
        end = time.monotonic() + seconds
        while not condition():  # type: ignore[operator]
            assert time.monotonic() < end, f"no {what} after {seconds} s"
            time.sleep(0.01)

    def connect(self) -> ssl.SSLSocket:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        end = time.monotonic() + LIMIT
        while True:
            try:
                raw = socket.create_connection(("127.0.0.1", self.config.listen), timeout=10)
                return context.wrap_socket(raw)
            except ConnectionRefusedError:
                assert time.monotonic() < end
                time.sleep(0.02)

    def raw(self, data: bytes) -> bytes:
        """Send bytes, read to the end."""
        with self.connect() as tls:
            tls.sendall(data)
            answer = b""
            while piece := tls.recv(65536):
                answer += piece
            return answer

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPSConnection("127.0.0.1", self.config.listen, timeout=10)
        connection.sock = self.connect()
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()
        finally:
            connection.close()

    def json(self, path: str) -> tuple[int, dict[str, object]]:
        status, _, body = self.request("GET", path)
        return status, json.loads(body)

    def close(self) -> None:
        self.engine.hold.set()
        self.engine.stop()
        for service in self.services.values():
            service.stop()
        for child in self._children:
            child.send_signal(signal.SIGKILL)
        for child in self._children:
            child.communicate()


@contextmanager
def guest(
    config: Config | None = None,
    *,
    tee: str = "simulated",
    gpus: str = "simulated",
    table: Table = STAGES,
    builder: Path | None = None,
) -> Iterator[Guest]:
    """A guest whose attestor is up; short paths, because socket names are short.

    Its processes run the code of ``builder``, or this one.
    """
    root = Path(tempfile.mkdtemp(prefix="privml-"))
    made = None
    try:
        made = Guest(root, config or a_config(), tee=tee, gpus=gpus, table=table, builder=builder)
        yield made
    finally:
        if made is not None:
            made.close()
        shutil.rmtree(root, ignore_errors=True)


def prediction(made: Guest) -> Predicate:
    """What ``made`` should have measured, from what it was given."""
    config = made.config
    assert config.engine is not None
    events = (
        agent.config_event(hashlib.sha256(made.layout.config.read_bytes()).hexdigest()),
        agent.model_event(config.models[0].name, config.models[0].verity.root_hash.hex()),
        agent.engine_event(config.engine.name, list(config.engine.argv)),
        agent.system_ready_event(),
    )
    registers = replay_tpm_as_rtmrs(tcg.parse_log(TPM_LOG))
    values = {**registers, "mrtd": MRTD, "rtmr3": replay_digests(agent.digests(events))}
    launch = MeasuredLaunch(
        tee="tdx",
        platform="qemu",
        machine=TdMachine(2, 2 << 30),
        registers={register: Accepted((values[register],), Evidence.SOURCE) for register in TDX_REGISTERS},
        events=(Event(RTMR2, 6, b"\x03" * 48, "uki.efi .initrd", Evidence.SOURCE),),
    )
    predicate = Predicate(config.name, config.variant, bytes(32), events, {"serve": len(events)}, (launch,))
    return predicate_of(encode_predicate(predicate))
