"""The library's ``privml.verify`` and ``privml.openai_client``: check a guest, and talk to it while it passes."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import os
import shutil
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from privml.base.errors import HostError, Refused, UsageError
from privml.base.files import read_start
from privml.base.strictjson import MAX_BYTES, loads
from privml.client import anchors, attested, policies, subject
from privml.client import supply as supplies
from privml.client.gate import INTERVAL, MAX_AGE, Check
from privml.client.listening import unix_listener
from privml.evidence.tdx.signature import MAX_ROOT, root_der
from privml.evidence.tees import read_collateral
from privml.verify.anchor import Expected
from privml.verify.judgement import Judgement
from privml.verify.policy import Policy

if TYPE_CHECKING:
    from privml.client.guests import Guests

Place = str | os.PathLike[str]
_STOP = 5.0


def verify(
    source: Place | bytes,
    expect: Place,
    *,
    nonce: bytes | None = None,
    tls_spki_sha256: bytes | None = None,
    collateral: Place | None = None,
    policy: Place | Policy | None = None,
    allow_simulated: Place | None = None,
    at: int | Literal["bundle"] | None = None,
) -> Judgement:
    """Check the guest at an ``https://`` address, or a bundle or captured document (a path, or its bytes).

    ``expect`` is the directory of an image that you built, with its prediction. ``nonce`` and ``tls_spki_sha256``
    (32 bytes each) are those that a captured document was fetched with; a bundle has its own, which prove freshness
    to its maker only. A file is judged now, or as of ``at``: Unix seconds, or ``"bundle"`` for the bundle's time.
    ``collateral`` is a file with Intel's collateral. Without one, it is taken from this user's cache; for an address
    it is fetched from Intel's service, or that in ``PRIVML_COLLATERAL_SERVICE``; else it is the file's own, as it is
    with ``at``. ``policy`` is a policy or a file with one (the default is strict), ``allow_simulated`` the root
    certificate of a simulated platform to accept.

    The judgement has ``verdict`` (its outcome and every refusal) and ``keys``, None when the guest was refused. A
    refusal is no exception. ``HostError`` when the guest does not answer, ``EvidenceError`` when its document is
    malformed, ``UsageError``, ``BuildError`` or ``MeasurementError`` when ``expect`` holds no whole image.
    """
    remote = isinstance(source, str) and source.startswith("https://")
    expected, criteria, given = _trusted(
        expect, collateral, policy, allow_simulated, offline=not remote, past=at is not None
    )
    now = int(time.time())
    if isinstance(source, str) and remote:
        return attested.attest(source, expected, criteria, now=now, collateral=given).judgement
    data = source if isinstance(source, bytes) else read_start(Path(source), subject.MAX_FILE)
    found = subject.read(data, nonce=nonce, tls_spki_sha256=tls_spki_sha256)
    if at == "bundle":
        if found.bundle is None:
            raise UsageError("at: only a bundle has a time of its own")
        at = found.bundle.judged_at
    return found.judge(expected, criteria, at=now if at is None else at, collateral=given)


def openai_client(
    url: str | Sequence[str] | None = None,
    expect: Place | None = None,
    *,
    via: str | None = None,
    via_ca: Place | None = None,
    collateral: Place | None = None,
    policy: Place | Policy | None = None,
    allow_simulated: Place | None = None,
    interval: float = INTERVAL,
    max_age: float = MAX_AGE,
    **options: Any,
) -> Any:
    """An ``openai.OpenAI`` whose requests reach the guest at ``url`` only while it passes verification.

    With several addresses, each request goes to one of the guests that pass, and only all together can be refused.
    With ``via`` instead of ``url``, the guests behind somebody else's TLS server at that address (port 443 by
    default) are found and judged for their channel keys, and everything is sealed for those that pass. ``via_ca`` is
    a PEM file with the authorities of that server's certificate; the default is this system's.

    The guest is verified now (``Refused`` when it does not pass), and again every ``interval`` seconds and whenever
    its TLS key changes; no judgement is used for more than ``max_age`` seconds. A request while it does not pass ends
    in ``openai.PermissionDeniedError`` with the reasons, and nothing of it is sent. ``options`` go to
    ``openai.OpenAI``, which must be installed. The environment's proxies are not used. Close the client (or leave its
    ``with`` block) when done.
    """
    try:
        openai = importlib.import_module("openai")
    except ImportError as error:
        raise HostError("the package `openai` is not installed", hint="pip install openai") from error
    if expect is None:
        raise UsageError("expect: got nothing, expected the directory of an image that you built")
    if bool(url) is (via is not None):
        raise UsageError("expected the address of a guest or several, or via, and not both")
    if via is None and via_ca is not None:
        raise UsageError("via_ca goes with via")
    # Needed by no other call, and neither are the packages of their loop.
    from privml.client.behind import guests_behind
    from privml.client.guests import Guests
    from privml.client.terminator import Terminator

    terminator = None if via is None else Terminator.at(via, None if via_ca is None else Path(via_ca))
    expected, criteria, given = _trusted(expect, collateral, policy, allow_simulated, offline=False)
    check = _check(expected, criteria, given, sealed=terminator is not None)
    if terminator is None:
        guests = Guests.at([url] if isinstance(url, str) else url or (), check, interval=interval, max_age=max_age)
    else:
        guests = guests_behind(terminator, check, interval=interval, max_age=max_age)
    _must_open(guests)
    path, stop = _serve(guests)
    http = openai.DefaultHttpxClient(transport=_transport(openai, path, stop), trust_env=False)
    options = {"api_key": "none", "max_retries": 0, **options}
    return openai.OpenAI(**options, base_url="http://attested-guest/v1", http_client=http)


def _must_open(guests: Guests) -> None:
    """Verify the guests in turn until one is accepted; the proxy verifies the others when it starts."""
    decisions = []
    for guest in guests.all:
        decision = guest.gate.decide()
        if decision.open:
            return
        decisions.append((guest.url, decision))
    if len(decisions) == 1 and (error := decisions[0][1].error) is not None:
        raise error
    from privml.client.guests import NotOpen  # loaded by then, with the guests

    closed = NotOpen(decisions)
    message = "\n".join([closed.message, *(f"{one.code}: {one.got}" for one in closed.refusals)])
    raise HostError(message) if closed.unavailable else Refused(message)


def _trusted(
    expect: Place,
    collateral: Place | None,
    policy: Place | Policy | None,
    allow_simulated: Place | None,
    *,
    offline: bool,
    past: bool = False,
) -> tuple[Expected, Policy, attested.Collateral | None]:
    criteria = policy if isinstance(policy, Policy) else Policy() if policy is None else policies.read(Path(policy))
    if allow_simulated is not None:
        root = root_der(read_start(Path(allow_simulated), MAX_ROOT))
        criteria = dataclasses.replace(criteria, allow_simulated=root)
    given = None
    if collateral is not None:
        given = read_collateral(loads(read_start(Path(collateral), MAX_BYTES), what=str(collateral)), str(collateral))
    if past:
        return anchors.built(Path(expect)), criteria, given
    source = supplies.supply(os.environ.get(supplies.SERVICE), offline=offline, policy=criteria, given=given)
    return anchors.built(Path(expect)), criteria, source


def _check(
    expected: Expected, policy: Policy, collateral: attested.Collateral | None, *, sealed: bool = False
) -> Check:
    """The check of a gate; ``sealed``: on the record of the channel's keys instead of the connection's key."""

    def check(document: bytes, nonce: bytes, shown: bytes) -> Judgement:
        return attested.judge(
            document,
            expected,
            policy,
            now=int(time.time()),
            nonce=nonce,
            tls_spki_sha256=None if sealed else shown,
            channel_record=shown if sealed else None,
            collateral=collateral,
        )

    return check


def _transport(openai: Any, path: str, stop: Callable[[], None]) -> Any:
    """The HTTP library's transport to a Unix socket, which stops the server behind it when it is closed or lost."""
    # openai brings its HTTP library; which one it is depends on its version.
    library = importlib.import_module(openai.DefaultHttpxClient.__mro__[1].__module__.partition(".")[0])

    class GuestTransport(library.HTTPTransport):  # type: ignore[name-defined, misc]
        def close(self) -> None:
            super().close()
            stop()

    made = GuestTransport(uds=path)
    weakref.finalize(made, stop)
    return made


def _serve(guests: Guests) -> tuple[str, Callable[[], None]]:
    """Run the proxy in this process on a socket that only this user can open: its path, and how to stop it."""
    from privml.client import proxy  # its server is needed by no other call

    folder = tempfile.mkdtemp(prefix="privml.")
    path = str(Path(folder) / "s")
    try:
        listener = unix_listener(Path(path))  # requests wait until the server runs
    except HostError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise HostError(
            error.message, hint="set TMPDIR to a folder with a shorter path; a socket's has at most about 100 bytes"
        ) from error
    server = proxy.unix_server(guests)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="privml-client", daemon=True)
    thread.start()

    def stop() -> None:
        server.should_exit = True
        with contextlib.suppress(RuntimeError):
            thread.join(_STOP)
        shutil.rmtree(folder, ignore_errors=True)

    return path, stop
