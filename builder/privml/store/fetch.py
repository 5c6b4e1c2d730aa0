"""Fetch objects into the store from pools and mirrors, checking each digest before it is stored."""

from __future__ import annotations

import errno
import functools
import hashlib
import http.client
import ssl
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path

from privml.base.errors import InputsError
from privml.base.files import CHUNK
from privml.base.http import Connections
from privml.base.steps import progress, say
from privml.base.wayout import host_way_out, without_password
from privml.store.lookalikes import BEGIN, meaning
from privml.store.mirrors import configured_addresses
from privml.store.objects import Store
from privml.store.pools import Pool
from privml.store.registry import TokenError, Tokens
from privml.store.room import STORE_HINT, cannot_write, writing

THREADS = 4
ATTEMPTS = 8
MAX_SIZE = 1 << 42
"""Largest file of unknown size that is fetched."""
_LONGEST_WAIT = 8.0
_ABOUT_TIME = (9, 10)  # X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED


@dataclass(frozen=True)
class Item:
    """A wanted object: its digest and size, and its addresses in order of preference.

    Without a size, that of the response counts. ``nowhere`` is said if there is no address.
    """

    sha256: str
    size: int | None
    name: str
    urls: tuple[str, ...]
    nowhere: str = "no mirror is configured for it"


class GoneError(InputsError):
    """Every mirror answered that it does not have these items, as opposed to being unreachable."""

    def __init__(self, items: Sequence[Item], message: str, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.items = tuple(items)


class _WrongBytesError(Exception):
    """The source sent different bytes; retrying it is pointless."""


class _AbsentError(_WrongBytesError):
    """The source does not have the object."""


class _Stopped(Exception):
    """Another item failed permanently; this one is abandoned."""


def fetch(
    store: Store,
    items: Iterable[Item],
    *,
    pools: Sequence[Pool] = (),
    threads: int = THREADS,
    attempts: int = ATTEMPTS,
    sleep: Callable[[float], object] = time.sleep,
) -> int:
    """Fetch all items missing from the store, from pools or mirrors; returns the number of bytes fetched.

    A source that sends wrong bytes is not retried; other failures are retried with increasing delays, resuming
    partial downloads if the server supports it. Items that no source has do not stop the others: ``GoneError`` names
    all of them at the end. Any other failure stops everything with an ``InputsError`` that lists the attempts.
    Nothing of a failed item stays in the store.
    """
    missing = {item.sha256: item for item in items if not store.has(item.sha256)}
    if not missing:
        return 0
    way = host_way_out(configured_addresses())
    meter = _Meter(len(missing), sum(item.size or 0 for item in missing.values()))
    work = _Work(store, pools, attempts, sleep, meter)
    local = threading.local()
    opened: list[Connections] = []

    def connections() -> Connections:
        if not hasattr(local, "connections"):
            local.connections = Connections(way)
            opened.append(local.connections)
        found: Connections = local.connections
        return found

    def one(item: Item) -> GoneError | None:
        with store.locked(item.sha256):
            if not store.has(item.sha256):
                try:
                    _bring(work, item, connections())
                except GoneError as gone:
                    return gone
        return None

    with ThreadPoolExecutor(max_workers=threads, thread_name_prefix="fetch") as pool:
        futures = [pool.submit(one, item) for item in missing.values()]
        try:
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            if any(future.exception() for future in done):
                work.stop.set()
                wait(futures)
        except BaseException:
            work.stop.set()
            pool.shutdown(cancel_futures=True)
            raise
        finally:
            for each in opened:
                each.close()
    failures: list[InputsError] = []
    for future in futures:
        error = future.exception()
        if isinstance(error, InputsError):
            failures.append(error)
        elif error is not None and not isinstance(error, _Stopped):
            raise error
    gone = [found for future in futures if not future.exception() and (found := future.result())]
    if failures or gone:
        message = "\n".join(sorted(failure.message for failure in (*failures, *gone)))
        if not failures:
            raise GoneError(
                [item for found in gone for item in found.items],
                message,
                hint="name a pool that has them (--pool), or replace them with "
                "`privml-build lock NAME --refresh-to FILE`",
            )
        raise InputsError(
            message, hint="name another mirror in mirrors.yaml, or a pool (--pool); then run the command again"
        )
    work.meter.show(final=True)
    return work.meter.bytes


@dataclass
class _Work:
    """Shared state of the threads of one ``fetch``."""

    store: Store
    pools: Sequence[Pool]
    attempts: int
    sleep: Callable[[float], object]
    meter: _Meter
    tokens: Tokens = field(default_factory=Tokens)
    stop: threading.Event = field(default_factory=threading.Event)
    # Hosts that used up all attempts on one item: the next item tries them only once.
    tired: set[str] = field(default_factory=set)


def _bring(work: _Work, item: Item, connections: Connections) -> None:
    partial = work.store.partial(item.sha256)
    tried: list[str] = []
    # A lying or unreachable mirror does not show that the object is gone everywhere.
    gone = bool(item.urls)
    try:
        if _from_folder(work, item, tried):
            return
        pools = [(url, pool.layout.tokens) for pool in work.pools if (url := pool.url(item.sha256))]
        for url, tokens in (*pools, *((url, False) for url in item.urls)):
            get = functools.partial(work.tokens.get, connections) if tokens else connections.get
            attempts = 1 if urllib.parse.urlsplit(url).netloc in work.tired else work.attempts
            try:
                _from_address(work, item, url, partial, _Source(connections, get), attempts)
            except _WrongBytesError as wrong:
                gone = gone and (url not in item.urls or isinstance(wrong, _AbsentError))
                partial.unlink(missing_ok=True)
                tried.append(f"  {without_password(url)}: {wrong}")
            except (OSError, http.client.HTTPException) as error:
                gone = False
                tried.append(f"  {without_password(url)}: {_text(error)} ({attempts} attempts)")
            else:
                work.meter.finished()
                return
    finally:
        # After success the name no longer exists. A killed process leaves the partial file, which the next one
        # resumes.
        partial.unlink(missing_ok=True)
    if not item.urls:
        tried.append(f"  {item.nowhere}")
    message = f"{item.name} (sha256:{item.sha256}) could not be fetched:\n" + "\n".join(tried)
    raise GoneError([item], message) if gone else InputsError(message)


def _from_folder(work: _Work, item: Item, tried: list[str]) -> bool:
    for pool in work.pools:
        file = pool.file(item.sha256)
        if file is None:
            continue
        if not file.is_file():
            tried.append(f"  {pool.place}: not in this pool")
            continue
        found = file.stat().st_size
        if item.size is not None and found != item.size:
            tried.append(f"  {file}: {found} bytes, expected {item.size}")
            continue
        try:
            work.store.add_file(file, expect=item.sha256)
        except InputsError as wrong:
            say(f"ignoring a file of a pool: {wrong.message}")
            tried.append(f"  {wrong.message}")
            continue
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
                raise cannot_write(work.store.root, "the store", STORE_HINT, error) from error
            tried.append(f"  {file}: {_text(error)}")
            continue
        work.meter.add(found, known=item.size is not None)
        work.meter.finished()
        return True
    return False


@dataclass(frozen=True)
class _Source:
    """A thread's connections, and how GET is sent with them."""

    connections: Connections
    get: Callable[[str, Mapping[str, str]], http.client.HTTPResponse]


def _from_address(work: _Work, item: Item, url: str, partial: Path, source: _Source, attempts: int) -> None:
    """Download and store; raises the error of the last attempt."""
    for attempt in range(attempts):
        if work.stop.is_set():
            raise _Stopped
        if attempt:
            work.sleep(min(_LONGEST_WAIT, 0.25 * 2 ** (attempt - 1)))
        try:
            _download(url, item, partial, source, work.meter)
        except TokenError as refused:
            source.connections.drop(url)
            raise _WrongBytesError(str(refused)) from refused
        except _WrongBytesError:
            source.connections.drop(url)
            raise
        except (OSError, http.client.HTTPException):
            source.connections.drop(url)
            if attempt == attempts - 1:
                work.tired.add(urllib.parse.urlsplit(url).netloc)
                raise
        else:
            break
    with _on_the_store(partial):
        work.store.adopt(partial, item.sha256)


def _on_the_store(partial: Path) -> AbstractContextManager[None]:
    """Mark failures as local ones, for which another attempt or server cannot help."""
    return writing(partial.parent.parent, "the store", STORE_HINT)


def _download(url: str, item: Item, partial: Path, source: _Source, meter: _Meter) -> None:
    """Append the missing bytes to ``partial`` and check the complete file."""
    hasher = hashlib.sha256()
    have = 0
    resumed = False
    if partial.exists():
        with partial.open("rb") as file:
            while block := file.read(CHUNK):
                hasher.update(block)
                have += len(block)
    size = item.size
    if size is not None and (have > size or (have == size and hasher.hexdigest() != item.sha256)):
        partial.unlink()
        hasher, have = hashlib.sha256(), 0
    if not have or hasher.hexdigest() != item.sha256:
        # Always close: nothing else does, if the response ends with its connection.
        with source.get(url, {"Range": f"bytes={have}-"} if have else {}) as response:
            if response.status == 206 and response.getheader("Content-Range", "").startswith(f"bytes {have}-"):
                mode, resumed = "ab", True
            elif response.status == 200:
                mode, hasher, have = "wb", hashlib.sha256(), 0
            else:
                raise _refusal(response, have, partial)
            announced = response.getheader("Content-Length")
            total = int(announced) + have if announced is not None and announced.isdigit() else None
            if size is None:
                if total is None or total > MAX_SIZE:
                    raise _WrongBytesError(f"Content-Length got {announced}, expected a size up to {MAX_SIZE}")
                size = total
            elif total is not None and total != size:
                raise _WrongBytesError(f"{total} bytes, expected {size}")
            with _on_the_store(partial):
                # Unbuffered: write errors show up now and not when the file is closed.
                target = FileIO(partial, mode)
            with target:
                while block := response.read1(CHUNK):
                    have += len(block)
                    if have > size:
                        raise _WrongBytesError(f"more than the expected {size} bytes")
                    hasher.update(block)
                    with _on_the_store(partial):
                        _write(target, block)
                    meter.add(len(block), known=item.size is not None)
            # Before Python 3.13 `read1` does not detect the end, and the connection could not be reused.
            response.read()
    if size is not None and have < size:
        raise OSError(f"ended after {have} of {size} bytes")
    if hasher.hexdigest() != item.sha256:
        if resumed:
            # The partial file may come from another source: only a complete response is evidence against this one.
            partial.unlink()
            raise OSError("the earlier part does not belong to this file")
        with partial.open("rb") as file:
            found = meaning(file.read(BEGIN))
        what = "" if found is None else f"; the answer is {found}"
        raise _WrongBytesError(f"sha256 got {hasher.hexdigest()}, expected {item.sha256}{what}")


def _write(file: FileIO, block: bytes) -> None:
    view = memoryview(block)
    while view:
        view = view[file.write(view) :]


def _refusal(response: http.client.HTTPResponse, have: int, partial: Path) -> Exception:
    status = f"HTTP {response.status} {response.reason}"
    if response.status == 416 and have:
        # This server's file is shorter than the partial file from another server: start again.
        partial.unlink(missing_ok=True)
        return OSError(status)
    if response.status in (404, 410):
        return _AbsentError(status)
    if 400 <= response.status < 500 and response.status not in (408, 425, 429):
        # Forbidden, or refused by a proxy: retrying is pointless, but it does not mean that the mirror lacks the
        # file.
        return _WrongBytesError(status)
    return OSError(status)


def _text(error: Exception) -> str:
    text = str(error) or type(error).__name__
    if isinstance(error, ssl.SSLCertVerificationError) and error.verify_code in _ABOUT_TIME:
        return f"{text} (check this machine's clock: it says {datetime.now(UTC):%Y-%m-%d %H:%M})"
    return text


class _Meter:
    """Counts and shows the downloaded bytes. Files of unknown size add to the total as they arrive."""

    def __init__(self, items: int, size: int) -> None:
        self._lock = threading.Lock()
        self._items = items
        self._size = size
        self._done = 0
        self.bytes = 0

    def add(self, count: int, *, known: bool = True) -> None:
        with self._lock:
            self.bytes += count
            if not known:
                self._size += count
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
