"""Requests to a guest on this machine: wait until it is ready, and ask its model."""

from __future__ import annotations

import http.client
import json
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable

from privml.base.errors import EvidenceError, HostError
from privml.events.stagetable import MAX_TABLE, StageTable, decode
from privml.vm.machine import Machine

_PAUSE = 0.25


def await_ready(machine: Machine, timeout: float, *, show: Callable[[str], None] = lambda _: None) -> float:
    """Wait until the guest is ready and return the seconds; ``HostError`` with its stages on timeout.

    ``show`` gets a line for each stage that has ended.
    """
    start = time.monotonic()
    found: StageTable | None = None
    shown: set[str] = set()
    # One connection for all questions: under emulation a handshake takes time that the guest could boot in.
    connection = http.client.HTTPSConnection("127.0.0.1", machine.port, timeout=5, context=_own_machine())
    try:
        while time.monotonic() - start < timeout:
            machine.check_running()
            try:
                connection.request("GET", "/boot-stages")
                answer = connection.getresponse()
                data = answer.read(MAX_TABLE + 1)
                if answer.status == 200:
                    found = decode(data)
                    _show(found, shown, lambda text: show(f"{text} after {time.monotonic() - start:.0f} s"))
                    if found.ready:
                        return time.monotonic() - start
            except (OSError, http.client.HTTPException, EvidenceError):
                connection.close()  # the next question opens it again
            time.sleep(_PAUSE)
    finally:
        connection.close()
    rows = () if found is None else found.rows
    reached = ", ".join(f"{row.name} {row.status}" for row in rows) or "none, its agent did not answer"
    raise HostError(
        f"the guest was not ready within {timeout:g} s; stages: {reached}\n{machine.console_tail()}",
        hint="give it longer with --timeout, or read its console with --console",
    )


def _show(found: StageTable, shown: set[str], show: Callable[[str], None]) -> None:
    """Show what stages newly ended or what they wait for; ``HostError`` if one failed."""
    for row in found.rows:
        news = f"stage {row.name}: {row.detail if row.waits else row.status}"
        if (row.ended or row.waits) and news not in shown:
            shown.add(news)
            show(news)
    if found.parked is not None:
        raise HostError(
            f"guest stage `{found.parked.name}` failed: {found.parked.detail}",
            hint="run again with --console to see the console",
        )


def complete(machine: Machine, prompt: str, max_tokens: int, timeout: float = 600) -> str:
    """One completion at temperature 0, as text; ``HostError`` if the guest answers with an error, or not in time."""
    body = {"prompt": prompt, "max_tokens": max_tokens, "temperature": 0}
    try:
        status, answer = request(machine, "/v1/completions", data=json.dumps(body).encode(), timeout=timeout)
    except TimeoutError as error:
        raise HostError(
            f"the model did not answer within {timeout:g} s",
            hint="give it longer with --timeout, or ask for fewer tokens",
        ) from error
    if status != 200:
        raise HostError(f"the guest answered {status}: {answer[:400].decode('utf-8', 'replace')}")
    text: str = json.loads(answer)["choices"][0]["text"]
    return text


def fetch(machine: Machine, path: str, timeout: float) -> str:
    """The answer to GET ``path`` as text; ``HostError`` if its status is not 200, or not in time."""
    try:
        status, answer = request(machine, path, timeout=timeout)
    except TimeoutError as error:
        raise HostError(
            f"{path} was not answered within {timeout:g} s", hint="give it longer with --timeout"
        ) from error
    text = answer.decode("utf-8", "replace")
    if status != 200:
        raise HostError(f"the guest answered {status} for {path}: {text[:400]}")
    return text


def request(machine: Machine, path: str, *, data: bytes | None = None, timeout: float) -> tuple[int, bytes]:
    """One request over TLS."""
    query = urllib.request.Request(
        f"https://127.0.0.1:{machine.port}{path}", data=data, headers={"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(query, timeout=timeout, context=_own_machine()) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def _own_machine() -> ssl.SSLContext:
    """TLS without a check of the certificate, because the machine is our own."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
