"""Every client reaches an archive by the host's way: proxy, passwords, IPv6, an authority of its own.

The matrix {proxy, proxy with password, mirror password, IPv6, own CA} x {doctor, lock, fetch, pip} against servers of
this file. `mirror.corp.invalid` can only be reached through the proxy.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import ipaddress
import socket
import ssl
import urllib.parse
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fake_archive
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from test_lock_archive import EARLY, TOOLS, needs_apt
from tests.unit.server_thread import in_thread

from privml.base import wayout
from privml.base.wayout import WayOut, host_way_out, without_password
from privml.host import survey
from privml.lock.apt import resolve
from privml.lock.wanted import Wanted
from privml.recipe.distributions import Suite, base
from privml.recipe.packages import Request
from privml.store.fetch import Item, fetch
from privml.store.mirrors import configured_addresses, host_mirrors
from privml.store.objects import Store
from privml.store.pypi import download_wheel

NAME = "mirror.corp.invalid"
USER, PASSWORD = "us er@corp", "p@ss:w/rd"
QUOTED = f"{urllib.parse.quote(USER, safe='')}:{urllib.parse.quote(PASSWORD, safe='')}"
PAIR = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
# apt's auth.conf holds no blanks.
SHORT = "Basic " + base64.b64encode(f"{USER.replace(' ', '')}:{PASSWORD}".encode()).decode()
WHEEL = "acme_model-6.0-py3-none-any.whl"


@dataclass
class Way:
    """One way to the archive: its address, and what was sent there."""

    address: str
    shown: str
    headers: list[str] = field(default_factory=list)


class Archive(SimpleHTTPRequestHandler):
    """Files of a folder, to those with the password if there is one."""

    password: str | None = None
    seen: list[str]

    def do_GET(self) -> None:
        self.seen.append(self.headers.get("Authorization", ""))
        if self.password is not None and self.headers.get("Authorization") != self.password:
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="archive"')
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        super().do_GET()

    def log_message(self, *_: object) -> None:
        pass


class Proxy(BaseHTTPRequestHandler):
    """Forwards requests for `NAME` to the archive, from those with the password if there is one."""

    protocol_version = "HTTP/1.1"
    password: str | None = None
    target: tuple[str, int]
    seen: list[str]

    def do_GET(self) -> None:
        self.seen.append(self.path)
        parts = urllib.parse.urlsplit(self.path)
        if self.password is not None and self.headers.get("Proxy-Authorization") != self.password:
            self.reply(407, b"", **{"Proxy-Authenticate": 'Basic realm="proxy"'})
        elif parts.hostname != NAME:
            self.reply(502, b"")
        else:
            connection = http.client.HTTPConnection(*self.target)
            connection.request("GET", parts.path, headers={"Host": NAME})
            response = connection.getresponse()
            body = response.read()
            self.reply(response.status, body, **{"Content-Type": response.headers.get("Content-Type", "text/plain")})
            connection.close()

    def reply(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class IPv6(ThreadingHTTPServer):
    address_family = socket.AF_INET6


@contextlib.contextmanager
def served(handler: type[BaseHTTPRequestHandler], *, ipv6: bool = False, tls: Path | None = None) -> Iterator[int]:
    server = (IPv6 if ipv6 else ThreadingHTTPServer)(("::1" if ipv6 else "127.0.0.1", 0), handler)
    if tls is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    with in_thread(server):
        yield server.server_address[1]


def authority(folder: Path) -> tuple[Path, Path]:
    """A CA's certificate, and a server's key with its chain for 127.0.0.1."""
    now = datetime.now(UTC)

    def made(name: str, key: Any, issuer: str, signer: Any, *, ca: bool) -> x509.Certificate:
        def naming(text: str) -> x509.Name:
            return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

        builder = (
            x509.CertificateBuilder().subject_name(naming(name)).issuer_name(naming(issuer)).public_key(key.public_key())
            .serial_number(x509.random_serial_number()).not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
            .add_extension(x509.KeyUsage(not ca, False, False, False, False, ca, ca, False, False), critical=True)
        )  # fmt: skip
        if not ca:
            there = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
            builder = builder.add_extension(there, critical=False)
        return builder.sign(signer, hashes.SHA256())

    root, leaf = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    certificate = made("Corp CA", root, "Corp CA", root, ca=True)
    chain = made("mirror", leaf, "Corp CA", root, ca=False)
    (folder / "ca.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    key = leaf.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "server.pem").write_bytes(key + chain.public_bytes(Encoding.PEM))
    return folder / "ca.pem", folder / "server.pem"


@pytest.fixture
def content(tmp_path: Path) -> Path:
    """An archive and an index of wheels in one folder."""
    folder = tmp_path / "content"
    fake_archive.write(folder / "debian", "first")
    page = folder / "simple/acme-model/index.html"
    page.parent.mkdir(parents=True)
    with zipfile.ZipFile(page.parent / WHEEL, "w") as archive:
        info = "acme_model-6.0.dist-info"
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: acme-model\nVersion: 6.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    page.write_text(f'<!DOCTYPE html><a href="{WHEEL}">{WHEEL}</a>')
    return folder


@pytest.fixture(params=["proxy", "proxy and password", "mirror password", "IPv6", "own CA"])
def way(
    request: pytest.FixtureRequest, content: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_proxy: None
) -> Iterator[Way]:
    kind = request.param
    seen: list[str] = []
    password = SHORT if kind == "mirror password" else None

    class OfContent(Archive):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given, directory=str(content))

    OfContent.password, OfContent.seen = password, seen
    for name in ("no_proxy", "NO_PROXY", *wayout._CERTIFICATES):
        monkeypatch.delenv(name, raising=False)
    with contextlib.ExitStack() as stack:
        tls = None
        if kind == "own CA":
            ca, tls = authority(tmp_path)
            monkeypatch.setenv("SSL_CERT_FILE", str(ca))
        port = stack.enter_context(served(OfContent, ipv6=kind == "IPv6", tls=tls))
        shown = {"IPv6": f"http://[::1]:{port}", "own CA": f"https://127.0.0.1:{port}"}.get(
            kind, f"http://127.0.0.1:{port}"
        )
        address = shown
        if kind == "mirror password":
            address = f"http://{QUOTED.replace('%20', '')}@127.0.0.1:{port}"
        if kind.startswith("proxy"):
            asked: list[str] = []

            class OfProxy(Proxy):
                pass

            OfProxy.password = PAIR if kind == "proxy and password" else None
            OfProxy.target, OfProxy.seen = ("127.0.0.1", port), asked
            there = stack.enter_context(served(OfProxy))
            login = f"{QUOTED}@" if OfProxy.password else ""
            monkeypatch.setenv("http_proxy", f"http://{login}127.0.0.1:{there}")
            address = shown = f"http://{NAME}"
            seen = asked
        file = tmp_path / "config/privml-build/mirrors.yaml"
        file.parent.mkdir(parents=True)
        file.write_text(f"debian: ['{address}/debian']\n")
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
        monkeypatch.setenv("PIP_RETRIES", "0")
        for name in ("PIP_EXTRA_INDEX_URL", "PIP_NO_INDEX", "PIP_FIND_LINKS", "PIP_CERT"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("PIP_TRUSTED_HOST", NAME)
        monkeypatch.setenv("PIP_INDEX_URL", f"{address}/simple")
        yield Way(address, shown, seen)


def test_doctor(way: Way) -> None:
    (mirror,) = host_mirrors()["debian"]
    assert mirror == f"{way.shown}/debian"
    found = survey.ask(
        Suite("debian", "forky"), mirror, host_way_out(configured_addresses()), "Debian", datetime.now(UTC)
    )
    assert (found.problem, found.date) == ("", "2026-10-30")
    assert way.headers


@needs_apt
def test_lock(way: Way) -> None:
    wanted = Wanted(base("debian", "forky"), (Request("app"),), (Request("firm"),))
    found = resolve(TOOLS, host_mirrors(), wanted, now=EARLY)
    assert [str(package) for package in found.packages] == ["app 1", "common 1", "lib 1"]
    assert way.headers


def test_fetch(way: Way, store: Store) -> None:
    deb = fake_archive.STATES["first"].debs[0]
    digest = hashlib.sha256(deb.data).hexdigest()
    (mirror,) = host_mirrors()["debian"]
    fetch(store, [Item(digest, len(deb.data), "app", (f"{mirror}/{deb.pool}",))], sleep=lambda _: None, attempts=1)
    assert store.read(digest) == deb.data
    assert way.headers


def test_pip(way: Way, store: Store) -> None:
    file, _, _ = download_wheel(store, "acme-model", "6.0")
    assert file == WHEEL
    assert way.headers


def test_no_message_has_a_password(way: Way, store: Store, content: Path) -> None:
    (mirror,) = host_mirrors()["debian"]
    lost = Item("0" * 64, 3, "lost", (f"{mirror}/pool/lost.deb",))
    with pytest.raises(Exception, match="could not be fetched") as caught:
        fetch(store, [lost], sleep=lambda _: None, attempts=1)
    (content / "debian/dists/forky/InRelease").unlink()
    said = [str(caught.value), str(host_mirrors()), repr(host_way_out(configured_addresses()))]
    with pytest.raises(Exception, match="package lists") as refused:
        resolve(TOOLS, host_mirrors(), Wanted(base("debian", "forky"), (Request("app"),), ()), now=EARLY)
    said.append(str(refused.value))
    for secret in (PASSWORD, urllib.parse.quote(PASSWORD, safe=""), PAIR.split()[1], SHORT.split()[1]):
        assert not [text for text in said if secret in text]


# -- the record itself ---------------------------------------------------------------------------------------------


def way_to(address: str, given: WayOut) -> str | None:
    proxy = given.proxy(urllib.parse.urlsplit(address))
    return None if proxy is None else proxy.geturl()


def test_no_proxy_counts_for_what_the_environment_names(monkeypatch: pytest.MonkeyPatch, no_proxy: None) -> None:
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    monkeypatch.setenv("all_proxy", "proxy:1")
    monkeypatch.setenv("no_proxy", "example.invalid,[::1]")
    given = host_way_out()
    assert way_to("https://mirror.example.net/debian", given) == "http://proxy:3128"
    assert way_to("http://mirror.example.net/debian", given) == "http://proxy:1"
    assert way_to("https://a.example.invalid/debian", given) is None
    settings = given.apt_settings(["https://a.example.invalid/debian", "https://mirror.example.net/debian"])
    assert settings == {
        "Acquire::http::Proxy": "http://proxy:1",
        "Acquire::https::Proxy": "http://proxy:3128",
        "Acquire::https::Proxy::a.example.invalid": "DIRECT",
        "Acquire::https::Proxy::mirror.example.net": "http://proxy:3128",
    }


def test_without_the_environment_apt_s_proxies_count(monkeypatch: pytest.MonkeyPatch, no_proxy: None) -> None:
    monkeypatch.setattr(
        wayout,
        "_apt_settings",
        lambda: {
            "Acquire::http::Proxy": "http://cacher:3142",
            "Acquire::http::Proxy::near.example.invalid": "DIRECT",
            "Acquire::Retries": "3",
        },
    )
    given = host_way_out()
    assert way_to("http://far.example.invalid/debian", given) == "http://cacher:3142"
    assert way_to("http://near.example.invalid/debian", given) is None
    assert way_to("https://far.example.invalid/debian", given) is None


def test_passwords_of_apt_s_own_file(tmp_path: Path, no_proxy: None) -> None:
    (tmp_path / "auth.conf.d").mkdir()
    (tmp_path / "auth.conf").write_text("machine mirror.example.invalid/debian login me password secret\n")
    (tmp_path / "auth.conf.d/more.conf").write_text(
        "machine http://plain.example.invalid\n  login you\n  password word\nmachine broken.example.invalid login x\n"
    )
    given = host_way_out(apt=tmp_path)

    def asked(address: str) -> bool:
        return given.authorization(urllib.parse.urlsplit(address)) is not None

    assert asked("https://mirror.example.invalid/debian/dists")
    assert not asked("https://mirror.example.invalid/debian-security")
    assert not asked("http://mirror.example.invalid/debian")
    assert asked("http://plain.example.invalid/any")
    assert not asked("https://other.example.invalid/debian")
    assert given.apt_logins() == (
        "machine mirror.example.invalid/debian login me password secret\n"
        "machine http://plain.example.invalid login you password word\n"
    )


def test_an_address_cannot_end_a_value_of_apt_conf() -> None:
    given = WayOut({"http": 'http://x";\nDir::Etc::trusted "/tmp/mine'})
    assert given.apt_settings([]) == {"Acquire::http::Proxy": "http://x%22%3B%0ADir::Etc::trusted%20%22/tmp/mine"}
    assert without_password("http://me:secret@[::1]:80/debian") == "http://[::1]:80/debian"
