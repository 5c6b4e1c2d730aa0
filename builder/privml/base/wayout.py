"""How this host reaches archives and models: proxies, their exceptions, certificates, passwords. One record for all.

Our own fetcher, `doctor` and apt read this record. pip has a configuration of its own and gets the same environment.
Passwords stay out of addresses: `without_password` takes them away when an address is read, and apt gets them in a
file that only this user can read.

Sources, the first that has an answer: the environment (``http_proxy``, ``https_proxy``, ``all_proxy``, ``no_proxy``;
``SSL_CERT_FILE``, ``REQUESTS_CA_BUNDLE``, ``CURL_CA_BUNDLE``), then the host's apt (``Acquire::*::Proxy``,
``Acquire::https::CaInfo``). Passwords come from the addresses themselves and from apt's ``auth.conf``.
"""

from __future__ import annotations

import base64
import functools
import os
import re
import shutil
import ssl
import urllib.parse
import urllib.request
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult

from privml.base.errors import HostError
from privml.base.run import run

_CERTIFICATES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_SYSTEM = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem")
_DIRECT = "DIRECT"


@dataclass(frozen=True)
class Login:
    """A user name and password for addresses below ``scheme://host[:port]path``; an empty scheme means any."""

    scheme: str
    netloc: str
    path: str
    user: str
    password: str = field(repr=False)

    def covers(self, parts: SplitResult) -> bool:
        """True if it is meant for this address. Without a scheme it is not sent over plain HTTP, as in apt."""
        same = parts.scheme == (self.scheme or "https") and self.netloc in (parts.netloc, parts.hostname)
        return same and (parts.path == self.path or parts.path.startswith(self.path.rstrip("/") + "/"))


@dataclass(frozen=True)
class WayOut:
    """``proxies`` by scheme, or by ``scheme::host`` for one host (``DIRECT`` for none); ``by_environment`` if the
    environment names them, so that ``no_proxy`` counts. ``certificates`` is a PEM file of authorities to trust.
    """

    proxies: Mapping[str, str] = field(default_factory=dict, repr=False)
    by_environment: bool = True
    certificates: Path | None = None
    logins: tuple[Login, ...] = ()

    def proxy(self, parts: SplitResult) -> SplitResult | None:
        """The proxy for an address; None for a direct connection."""
        host = parts.hostname or ""
        if self.by_environment and urllib.request.proxy_bypass(parts.netloc.rpartition("@")[2]):
            return None
        address = self.proxies.get(f"{parts.scheme}::{host}") or self.proxies.get(parts.scheme)
        if not address or address.upper() == _DIRECT:
            return None
        return urllib.parse.urlsplit(address if "://" in address else f"http://{address}")

    def authorization(self, parts: SplitResult) -> str | None:
        """The ``Authorization`` header for an address; None if no password is known for it."""
        if parts.username is not None:
            return basic(parts)
        login = next((login for login in self.logins if login.covers(parts)), None)
        return None if login is None else _basic(login.user, login.password)

    def apt_settings(self, addresses: Iterable[str]) -> dict[str, str]:
        """apt's settings for the same way to these addresses, and to others that they redirect to."""
        settings = {}
        for scheme in ("http", "https"):
            if address := self.proxies.get(scheme):
                settings[f"Acquire::{scheme}::Proxy"] = _quoted(address if "://" in address else f"http://{address}")
        for address in addresses:
            parts = urllib.parse.urlsplit(address)
            if parts.hostname and ":" not in parts.hostname and parts.scheme in ("http", "https"):
                chosen = self.proxy(parts)
                name = f"Acquire::{parts.scheme}::Proxy::{parts.hostname}"
                settings[name] = _DIRECT if chosen is None else _quoted(chosen.geturl())
        return settings

    def apt_logins(self) -> str:
        """The passwords in apt's format (apt_auth.conf(5)); ``HostError`` for one with blanks, which that lacks."""
        for login in self.logins:
            if len(f"{login.user} {login.password}".split()) != 2:
                raise HostError(
                    f"{login.netloc}: apt takes no user name or password that is empty or has a blank",
                    hint="give this mirror another password",
                )
        return "".join(
            f"machine {login.scheme + '://' if login.scheme else ''}{login.netloc}{login.path} "
            f"login {login.user} password {login.password}\n"
            for login in self.logins
        )


def _quoted(address: str) -> str:
    """An address that cannot end a quoted value of apt.conf."""
    return urllib.parse.quote(address, safe=":/@%?&=+$,[]~!*'()-._")


def basic(parts: SplitResult) -> str:
    """The header value for the user name and password in an address."""
    return _basic(urllib.parse.unquote(parts.username or ""), urllib.parse.unquote(parts.password or ""))


def _basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def without_password(address: str) -> str:
    """An address without user name and password, as it may be shown."""
    parts = urllib.parse.urlsplit(address)
    return urllib.parse.urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def login_of(address: str) -> Login | None:
    """The user name and password in an address; None if it has none."""
    parts = urllib.parse.urlsplit(address)
    if parts.username is None:
        return None
    user, password = urllib.parse.unquote(parts.username), urllib.parse.unquote(parts.password or "")
    return Login(parts.scheme, parts.netloc.rpartition("@")[2], parts.path.rstrip("/"), user, password)


def environment_way_out() -> WayOut:
    """The way that the environment names, for services that are not package archives: apt's settings do not count."""
    return WayOut(proxies=_given_proxies(), certificates=_certificates({}))


def host_way_out(addresses: Iterable[str] = (), apt: Path = Path("/etc/apt")) -> WayOut:
    """The way of this host; ``addresses`` are those of its configuration, with their passwords."""
    proxies = _given_proxies()
    of_apt = _apt_settings()
    return WayOut(
        proxies=proxies or _proxies_of(of_apt),
        by_environment=bool(proxies),
        certificates=_certificates(of_apt),
        logins=(*(login for address in addresses if (login := login_of(address))), *_auth_conf(apt)),
    )


def _given_proxies() -> dict[str, str]:
    given = urllib.request.getproxies()
    everything = {scheme: given["all"] for scheme in ("http", "https") if given.get("all")}
    return everything | {scheme: value for scheme, value in given.items() if scheme in ("http", "https")}


@functools.cache
def _apt_settings() -> Mapping[str, str]:
    if shutil.which("apt-config", path="/usr/bin:/bin") is None:
        return {}
    dumped = run(["apt-config", "dump", "--format", "%F|%v%n"], check=False).stdout.decode("utf-8", "replace")
    return {name: value for line in dumped.splitlines() for name, _, value in (line.partition("|"),) if value}


def _proxies_of(settings: Mapping[str, str]) -> dict[str, str]:
    found = {}
    for name, value in settings.items():
        match = re.fullmatch(r"(?i)Acquire::(https?)::Proxy(::[^\s:]+)?", name)
        if match and '"' not in value:
            found[match[1].lower() + (match[2] or "")] = value
    return found


def given_certificates() -> Path | None:
    """The authorities that the environment names, which pip gets too."""
    named = (os.environ.get(name, "") for name in _CERTIFICATES)
    return next((Path(name) for name in named if name and Path(name).is_file()), None)


def _certificates(settings: Mapping[str, str]) -> Path | None:
    named = (settings.get("Acquire::https::CaInfo", ""), ssl.get_default_verify_paths().cafile or "", *_SYSTEM)
    return given_certificates() or next((Path(name) for name in named if name and Path(name).is_file()), None)


def _auth_conf(apt: Path) -> list[Login]:
    """The entries of ``auth.conf`` and ``auth.conf.d``; files that this user may not read are left out."""
    parts = apt / "auth.conf.d"
    found = []
    for file in [apt / "auth.conf", *(sorted(parts.glob("*.conf")) if parts.is_dir() else [])]:
        try:
            words = file.read_text(encoding="utf-8", errors="replace").split()
        except OSError:
            continue
        entry: dict[str, str] = {}
        for name, value in zip(words[::2], words[1::2], strict=False):
            if name == "machine":
                found += _login(entry)
                entry = {}
            entry[name] = value
        found += _login(entry)
    return found


def _login(entry: Mapping[str, str]) -> list[Login]:
    if not {"machine", "login", "password"} <= entry.keys():
        return []
    scheme, _, rest = entry["machine"].rpartition("://")
    netloc, slash, path = rest.partition("/")
    return [Login(scheme, netloc, (slash + path).rstrip("/"), entry["login"], entry["password"])]
