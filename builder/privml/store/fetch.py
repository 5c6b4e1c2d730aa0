"""Bring objects into the store from any of several addresses, checked before they get their name."""

from __future__ import annotations

import hashlib
import http.client
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from privml.base.errors import InputsError
from privml.base.files import CHUNK
from privml.base.steps import progress
from privml.store.http import Connections
from privml.store.objects import Store

THREADS = 4
ATTEMPTS = 8
_LONGEST_WAIT = 8.0


@dataclass(frozen=True)
class Item:
    """One object wanted: what it must be, and where it may be found, in order of preference."""

    sha256: str
    size: int
    name: str
    urls: tuple[str, ...]


class _WrongBytesError(Exception):
    """The source answered with something else: asking it again cannot help."""


class _Stopped(Exception):
    """Another item failed for good; this one need not go on."""


def fetch(
    store: Store,
    items: Iterable[Item],
    *,
    threads: int = THREADS,
    attempts: int = ATTEMPTS,
    sleep: Callable[[float], object] = time.sleep,
) -> int:
    """Bring every item that the store lacks; the number of bytes fetched.

    A source that answers with other bytes is not asked again; one that fails otherwise is retried with growing
    pauses, going on from where it stopped when the server can. ``InputsError`` names each item that no source gave,
    with what was tried; nothing of a failed item stays in the store.
    """
    missing = {item.sha256: item for item in items if not store.has(item.sha256)}
    if not missing:
        return 0
    meter = _Meter(len(missing), sum(item.size for item in missing.values()))
    stop = threading.Event()
    local = threading.local()
    opened: list[Connections] = []

    def connections() -> Connections:
        if not hasattr(local, "connections"):
            local.connections = Connections()
            opened.append(local.connections)
        found: Connections = local.connections
        return found

    def one(item: Item) -> None:
        with store.locked(item.sha256):
            if not store.has(item.sha256):
                _bring(store, item, connections(), meter, attempts=attempts, sleep=sleep, stop=stop)

    failures: list[InputsError] = []
    with ThreadPoolExecutor(max_workers=threads, thread_name_prefix="fetch") as pool:
        futures = [pool.submit(one, item) for item in missing.values()]
        try:
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            if any(future.exception() for future in done):
                stop.set()
                wait(futures)
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
        finally:
            for each in opened:
                each.close()
    for future in futures:
        error = future.exception()
        if isinstance(error, InputsError):
            failures.append(error)
        elif error is not None and not isinstance(error, _Stopped):
            raise error
    if failures:
        raise InputsError(
            "\n".join(sorted(failure.message for failure in failures)),
            hint="give another mirror in mirrors.yaml, or renew the lock with `privml-build lock NAME --upgrade`",
        )
    meter.show(final=True)
    return meter.bytes


def _bring(
    store: Store,
    item: Item,
    connections: Connections,
    meter: _Meter,
    *,
    attempts: int,
    sleep: Callable[[float], object],
    stop: threading.Event,
) -> None:
    partial = store.partial(item.sha256)
    tried: list[str] = []
    try:
        for url in item.urls:
            for attempt in range(attempts):
                if stop.is_set():
                    raise _Stopped
                if attempt:
                    sleep(min(_LONGEST_WAIT, 0.25 * 2 ** (attempt - 1)))
                try:
                    _download(url, item, partial, connections, meter)
                    store.adopt(partial, item.sha256)
                except _WrongBytesError as wrong:
                    connections.drop(url)
                    partial.unlink(missing_ok=True)
                    tried.append(f"  {url}: {wrong}")
                    break
                except (OSError, http.client.HTTPException) as error:
                    connections.drop(url)
                    if attempt == attempts - 1:
                        tried.append(f"  {url}: {_text(error)} ({attempts} attempts)")
                else:
                    meter.finished()
                    return
    finally:
        # After success the name is gone already. A killed process leaves the part, and the next one goes on from it.
        partial.unlink(missing_ok=True)
    where = "\n".join(tried) if tried else "  no source is configured for it"
    raise InputsError(f"{item.name} (sha256:{item.sha256}) cannot be had:\n{where}")


def _download(url: str, item: Item, partial: Path, connections: Connections, meter: _Meter) -> None:
    """Append what is missing to ``partial`` and check the whole of it."""
    hasher = hashlib.sha256()
    have = 0
    resumed = False
    if partial.exists():
        with partial.open("rb") as file:
            while block := file.read(CHUNK):
                hasher.update(block)
                have += len(block)
    if have > item.size or (have == item.size and hasher.hexdigest() != item.sha256):
        partial.unlink()
        hasher, have = hashlib.sha256(), 0
    if have < item.size or item.size == 0:
        response = connections.get(url, {"Range": f"bytes={have}-"} if have else None)
        if response.status == 206 and response.getheader("Content-Range", "").startswith(f"bytes {have}-"):
            mode, resumed = "ab", True
        elif response.status == 200:
            mode, hasher, have = "wb", hashlib.sha256(), 0
        else:
            raise _refusal(response, have, partial)
        announced = response.getheader("Content-Length")
        if announced is not None and announced.isdigit() and int(announced) + have != item.size:
            raise _WrongBytesError(f"{int(announced) + have} bytes, expected {item.size}")
        with partial.open(mode) as file:
            while block := response.read1(CHUNK):
                have += len(block)
                if have > item.size:
                    raise _WrongBytesError(f"more than the expected {item.size} bytes")
                hasher.update(block)
                file.write(block)
                meter.add(len(block))
        # Before Python 3.13 `read1` does not notice the end by itself, and the connection could not be used again.
        response.read()
    if have < item.size:
        raise OSError(f"ended after {have} of {item.size} bytes")
    if hasher.hexdigest() != item.sha256:
        if resumed:
            # The part may have come from another source: only a whole answer says something about this one.
            partial.unlink()
            raise OSError("the earlier part does not belong to this file")
        raise _WrongBytesError(f"sha256 got {hasher.hexdigest()}, expected {item.sha256}")


def _refusal(response: http.client.HTTPResponse, have: int, partial: Path) -> Exception:
    status = f"HTTP {response.status} {response.reason}"
    if response.status == 416 and have:
        # This server's file is shorter than the part another one gave: begin anew here.
        partial.unlink(missing_ok=True)
        return OSError(status)
    if 400 <= response.status < 500 and response.status not in (408, 425, 429):
        return _WrongBytesError(status)
    return OSError(status)


def _text(error: Exception) -> str:
    return str(error) or type(error).__name__


class _Meter:
    """Counts what arrived and shows it."""

    def __init__(self, items: int, size: int) -> None:
        self._lock = threading.Lock()
        self._items = items
        self._size = size
        self._done = 0
        self.bytes = 0

    def add(self, count: int) -> None:
        with self._lock:
            self.bytes += count
            self.show()

    def finished(self) -> None:
        with self._lock:
            self._done += 1
            self.show()

    def show(self, *, final: bool = False) -> None:
        mib = 1 << 20
        progress(
            f"fetched {self._done}/{self._items} files, {self.bytes / mib:.1f} of {self._size / mib:.1f} MiB",
            final=final,
        )
