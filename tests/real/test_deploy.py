"""`deploy --for libvirt` with libvirt's schemas and QEMU's tables; the nginx of docs/OPERATING.md before guests."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.real.conftest import unpacked
from tests.real.terminator import LOCK, listens
from tests.unit.deployed import ODD, of, shipped_platform

from privml.agent import identity
from privml.agent.layout import Layout
from privml.base.run import Completed
from privml.deploy import domain
from privml.image.tools import Bind, ToolsTree
from privml.machine import commandline
from privml.machine.platform import Device, Platform, Size
from privml.machine.qemuopts import pairs
from privml.machine.spellings import IDENTITY
from privml.store.objects import Store
from privml.vm import foreign, learn, libvirt
from privml.vm.machine import free_port
from privml.vm.platforms import record
from privml.vm.process import Child
from privml.vm.qtest import Qemu, blobs, read_of

pytestmark = pytest.mark.real

GIB = 1 << 30
# libvirt-common 12.8 and xmllint of Debian forky, with what they need.
SCHEMAS = Path(__file__).parent / "platforms/libvirt-schemas.lock.json"
DOMAIN = "/usr/share/libvirt/schemas/domain.rng"
OPERATING = Path(__file__).parents[2] / "docs/OPERATING.md"
LIBVIRT = shipped_platform("qemu-11-q35-libvirt")
MORE = (Device("virtio-rng", 5), Device("virtio-balloon", 6), Device("vsock", 7))


@pytest.fixture(scope="module")
def schemas(tools: ToolsTree, tmp_path_factory: pytest.TempPathFactory) -> ToolsTree:
    return tools.other(unpacked(SCHEMAS, tmp_path_factory.mktemp("schemas")))


def valid(schemas: ToolsTree, text: str, place: Path) -> Completed:
    (place / "domain.xml").write_text(text)
    words = ["xmllint", "--noout", "--nonet", "--relaxng", DOMAIN, "/domain/domain.xml"]
    return schemas.run(words, binds=[Bind(place, "/domain")], check=False, what="xmllint")


@pytest.mark.parametrize(
    "platform",
    [
        LIBVIRT,
        shipped_platform("qemu-11-q35"),
        shipped_platform("qemu-11-q35-one-disk"),
        shipped_platform("qemu-11-q35-h100"),
        replace(LIBVIRT, name="more", devices=(*LIBVIRT.devices, *MORE), globals=(("ICH9-LPC.disable_s3", "1"),)),
    ],
    ids=lambda one: one.name,
)
@pytest.mark.parametrize("folder", ["/srv/demo-cpu", ODD], ids=["plain", "odd"])
def test_libvirts_schemas_accept_the_domain(
    platform: Platform, folder: str, schemas: ToolsTree, tmp_path: Path
) -> None:
    text = domain.write(of(platform, folder)).text
    done = valid(schemas, text, tmp_path)
    assert done.returncode == 0, done.stdout
    broken = valid(schemas, text.replace("<memballoon", "<memballon").replace('type="tdx"', 'type="tdy"'), tmp_path)
    assert broken.returncode != 0, "a mistake is seen"


def test_qemu_makes_the_platforms_tables_of_the_domain(tools: ToolsTree, tmp_path: Path) -> None:
    identity = {key: value for key, value in pairs(LIBVIRT.cpu, "")[1:] if key in IDENTITY}
    line = commandline.read(libvirt.read(domain.write(of(LIBVIRT)).text.encode()).words, identity)
    found = foreign.find(tools, tools.root / "usr/bin/qemu-system-x86_64")
    learnt = learn.learn("domain", tools, found, line, ((1, 4), (2 * GIB, 8 * GIB)))
    Store(tmp_path).add_bytes(learnt.tables)
    for size in (Size(2, 2 * GIB), Size(4, 8 * GIB)):
        kept = blobs(tools, record(learnt.file), size, tmp_path)
        read = read_of(Qemu(tools), tools, LIBVIRT, size)
        assert kept == {name: read[name] for name in kept}
        assert len(kept) >= 6
        plain = read_of(Qemu(tools), tools, replace(LIBVIRT, uuid=None, boot=()), size)
        assert sorted(name for name in kept if kept[name] != plain.get(name)) == [
            "bootorder",
            "etc/smbios/smbios-tables",
        ]


def test_a_uuid_of_zeros_and_the_watchdog_are_in_no_table(tools: ToolsTree) -> None:
    size = Size(2, 2 * GIB)
    plain = replace(LIBVIRT, uuid=None)
    read = read_of(Qemu(tools), tools, plain, size)
    assert read == read_of(Qemu(tools), tools, replace(plain, uuid="00000000-0000-0000-0000-000000000000"), size)
    assert read == read_of(Qemu(tools), tools, replace(plain, globals=(("ICH9-LPC.noreboot", "off"),)), size)


@contextlib.contextmanager
def guest(place: Path) -> Iterator[tuple[int, bytes]]:
    """A TLS server with a certificate as each guest makes it; yields its port and that certificate."""
    place.mkdir()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    layout = Layout(run=place, server_id=os.getuid())
    identity.create(layout)
    identity.load_tls(layout, context)
    certificate = ssl.PEM_cert_to_DER_cert(layout.tls_certificate.read_text())
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with contextlib.suppress(OSError), context.wrap_socket(connection, server_side=True) as tls:
                        tls.sendall(b"hello")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1], certificate
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(10)


def seen(port: int) -> bytes:
    """The certificate of whoever ends TLS behind ``port``."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", port), 10) as plain, context.wrap_socket(plain) as tls:
        assert tls.recv(5) == b"hello"
        return tls.getpeercert(binary_form=True) or b""


def test_the_documented_nginx_passes_tls_through_and_keeps_a_caller_at_its_guest(
    tools: ToolsTree, tmp_path: Path
) -> None:
    nginx = tools.other(unpacked(LOCK, tmp_path / "nginx"))
    shown = re.findall(r"^```nginx\n(.*?)^```$", OPERATING.read_text(), re.MULTILINE | re.DOTALL)
    (text,) = (one for one in shown if "\nstream {" in one)
    front = free_port()
    etc = nginx.root / "etc"
    (etc / "passwd").write_text("root:x:0:0::/:/bin/false\nnobody:x:65534:65534::/:/bin/false\n")
    (etc / "group").write_text("root:x:0:\nnogroup:x:65534:\nnobody:x:65534:\n")
    with contextlib.ExitStack() as stack:
        guests = [guest(tmp_path / name) for name in ("one", "two")]
        entered = [stack.enter_context(each) for each in guests]
        for at, (port, _) in zip(("9001", "9002"), entered, strict=True):
            text = text.replace(f"127.0.0.1:{at}", f"127.0.0.1:{port}")
        (etc / "nginx/nginx.conf").write_text(text.replace("listen 8443", f"listen 127.0.0.1:{front}"))
        binds = [Bind(tmp_path / "var", "/var", writable=True)]
        (tmp_path / "var/log/nginx").mkdir(parents=True)
        words = ["nginx", "-g", "daemon off; master_process off;"]
        child = Child(nginx, words, tmp_path / "log", binds=binds, network=True)
        stack.callback(child.stop)

        child.await_until(lambda: listens(front), "does not listen", 20)
        first = seen(front)
        certificates = [certificate for _, certificate in entered]
        assert first in certificates, "the guest's own TLS key"
        assert {seen(front) for _ in range(5)} == {first}
