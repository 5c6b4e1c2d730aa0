"""Stand-ins for NVIDIA's RIM service and OCSP responder, for simulated devices."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import gpu_samples
from cryptography import x509
from cryptography.x509 import ocsp
from tests.unit.server_thread import in_thread

from privml.base.strictjson import b64
from privml.sim import gpu, gpupki

RIMS = {
    "NV_GPU_DRIVER_GH100_590.12": 1,
    "NV_GPU_VBIOS_G520_0200_885_9600A50001": 0,
    "NV_SWITCH_BIOS_5612_0002_890_9610730001": 2,
}
"""The ids of the simulated firmware, and their place in ``sim.gpu.rims``."""


def certificates() -> dict[int, tuple[x509.Certificate, x509.Certificate, str]]:
    """By serial number: each certificate that can be asked about, its issuer, and the name of the issuer's key."""
    found = {}
    for device in (*gpu.GPUS, *gpu.SWITCHES):
        chain = gpu.device_chain(device)
        for number, key in enumerate((f"{device.family.chip} provisioner", "identity", "root"), start=1):
            found[chain[number].serial_number] = (chain[number], chain[number + 1], key)
    for product in ("GH100", "LS10"):
        chain = gpupki.rim_chain(product)
        for number, key in enumerate((f"{product} rim L3", f"{product} rim CA", "rim root")):
            found[chain[number].serial_number] = (chain[number], chain[number + 1], key)
    return found


class Service:
    """Both services: what they have, and what they were asked for. Tests change it while it runs."""

    def __init__(self) -> None:
        made = gpu.rims(gpus=True, switches=True)
        self.rims = {name: made[place] for name, place in RIMS.items()}
        self.known = certificates()
        self.now = gpu_samples.NOW
        self.echo = True
        self.status = ocsp.OCSPCertStatus.GOOD
        self.down = False
        self.asked: list[str] = []
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def rim(self, name: str) -> bytes | None:
        data = self.rims.get(name)
        return None if data is None else json.dumps({"id": name, "rim": b64(data), "sha256": "0" * 64}).encode()

    def answer(self, request: bytes) -> bytes:
        asked = ocsp.load_der_ocsp_request(request)
        certificate, issuer, key = self.known[asked.serial_number]
        nonce = asked.extensions.get_extension_for_class(x509.OCSPNonce).value.nonce
        sent = nonce if self.echo else bytes(32)
        return gpupki.answer(certificate, issuer, gpupki.private_key(key), self.now, status=self.status, nonce=sent)


def _handler(service: Service) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            service.asked.append(self.path)
            self._send(service.rim(self.path.removeprefix("/v1/rim/")))

        def do_POST(self) -> None:
            service.asked.append(f"{self.path} {self.headers['Content-Type']}")
            self._send(service.answer(self.rfile.read(int(self.headers["Content-Length"]))))

        def _send(self, body: bytes | None) -> None:
            self.send_response(503 if service.down else 404 if body is None else 200)
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            self.wfile.write(body or b"")

    return Handler


@contextlib.contextmanager
def running(service: Service) -> Iterator[Service]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(service))
    service.port = server.server_address[1]
    with in_thread(server):
        yield service
