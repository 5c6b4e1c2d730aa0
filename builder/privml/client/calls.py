"""The library's ``privml.verify`` and ``privml.openai_client``: check a guest, and talk to it while it passes."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import os
import shutil
import socket
import tempfile
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

from privml.base.errors import HostError, Refused
from privml.base.strictjson import loads
from privml.client import anchors, attested, policies
from privml.client.gate import INTERVAL, Check, Gate
from privml.evidence.tdx import collateral as collaterals
from privml.evidence.tdx.signature import root_der
from privml.verify.anchor import Expected
from privml.verify.judgement import Judgement
from privml.verify.policy import Policy

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
) -> Judgement:
    """Check the guest at an ``https://`` address, or a captured document (a path, or its bytes).

    ``expect`` is the directory of an image that you built, with its prediction. ``nonce`` and ``tls_spki_sha256``
    (32 bytes each) are those that a captured document was fetched with. ``collateral`` is a file with Intel's
    collateral, ``policy`` a policy or a file with one (the default is strict), ``allow_simulated`` the root
    certificate of a simulated platform to accept.

    The judgement has ``verdict`` (its outcome and every refusal) and ``keys``, None when the guest was refused. A
    refusal is no exception. ``HostError`` when the guest does not answer, ``EvidenceError`` when its document is
    malformed, ``UsageError``, ``BuildError`` or ``MeasurementError`` when ``expect`` holds no whole image.
    """
    expected, criteria, given = _trusted(expect, collateral, policy, allow_simulated)
    now = int(time.time())
    if isinstance(source, str) and source.startswith("https://"):
        return attested.attest(source, expected, criteria, now=now, collateral=given).judgement
    data = source if isinstance(source, bytes) else Path(source).read_bytes()
    return attested.judge(
        data, expected, criteria, now=now, nonce=nonce, tls_spki_sha256=tls_spki_sha256, collateral=given
    )


def openai_client(
    url: str,
    expect: Place,
    *,
    collateral: Place | None = None,
    policy: Place | Policy | None = None,
    allow_simulated: Place | None = None,
    interval: float = INTERVAL,
    **options: Any,
) -> Any:
    """An ``openai.OpenAI`` whose requests reach the guest at ``url`` only while it passes verification.

    The guest is verified now (``Refused`` when it does not pass), and again every ``interval`` seconds and whenever
    its TLS key changes. A request while it does not pass ends in ``openai.PermissionDeniedError`` with the reasons,
    and nothing of it is sent. ``options`` go to ``openai.OpenAI``, which must be installed. The environment's proxies
    are not used. Close the client (or leave its ``with`` block) when done.
    """
    try:
        openai = importlib.import_module("openai")
    except ImportError as error:
        raise HostError("the package `openai` is not installed", hint="pip install openai") from error
    expected, criteria, given = _trusted(expect, collateral, policy, allow_simulated)
    gate = Gate(url, _check(expected, criteria, given), interval=interval)
    decision = gate.decide()
    if decision.error is not None:
        raise decision.error
    if not decision.open:
        raise Refused("\n".join([decision.message, *(f"{one.code}: {one.got}" for one in decision.refusals)]))
    path, stop = _serve(gate, interval)
    http = openai.DefaultHttpxClient(transport=_transport(openai, path, stop), trust_env=False)
    options = {"api_key": "none", "max_retries": 0, **options}
    return openai.OpenAI(**options, base_url="http://attested-guest/v1", http_client=http)


def _trusted(
    expect: Place, collateral: Place | None, policy: Place | Policy | None, allow_simulated: Place | None
) -> tuple[Expected, Policy, dict[str, str] | None]:
    criteria = policy if isinstance(policy, Policy) else Policy() if policy is None else policies.read(Path(policy))
    if allow_simulated is not None:
        criteria = dataclasses.replace(criteria, allow_simulated=root_der(Path(allow_simulated).read_bytes()))
    given = None
    if collateral is not None:
        given = collaterals.decode(loads(Path(collateral).read_bytes(), what=str(collateral)), str(collateral))
    return anchors.built(Path(expect)), criteria, given


def _check(expected: Expected, policy: Policy, collateral: dict[str, str] | None) -> Check:
    def check(document: bytes, nonce: bytes, spki: bytes) -> Judgement:
        return attested.judge(
            document, expected, policy, now=int(time.time()), nonce=nonce, tls_spki_sha256=spki, collateral=collateral
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


def _serve(gate: Gate, interval: float) -> tuple[str, Callable[[], None]]:
    """Run the proxy in this process on a socket that only this user can open: its path, and how to stop it."""
    from privml.client import proxy  # its server is needed by no other call

    folder = tempfile.mkdtemp(prefix="privml-client.")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    path = str(Path(folder) / "guest.sock")
    listener.bind(path)
    server = proxy.server(("127.0.0.1", 0), gate, interval)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="privml-client", daemon=True)
    thread.start()

    def stop() -> None:
        server.should_exit = True
        with contextlib.suppress(RuntimeError):
            thread.join(_STOP)
        shutil.rmtree(folder, ignore_errors=True)

    return path, stop
