"""Many callers from many addresses at once: each asks for a document, and once again if it is told when."""

from __future__ import annotations

import asyncio
import ssl
import time
from dataclasses import dataclass

PATH = "/.well-known/privml-attestation"


@dataclass(frozen=True)
class Asked:
    """What became of one caller: the statuses of its answers, and when it had the last, in seconds."""

    statuses: tuple[int, ...]
    retry_after: int | None
    ended: float


def burst(port: int, count: int, addresses: int, within: float, *, timeout: float = 30.0) -> list[Asked]:
    """``count`` callers from ``addresses`` loopback addresses begin within so many seconds."""
    return asyncio.run(_all(port, count, addresses, within, timeout))


async def _all(port: int, count: int, addresses: int, within: float, timeout: float) -> list[Asked]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    start = time.monotonic()

    async def caller(number: int) -> Asked:
        await asyncio.sleep(within * number / count)
        place = number % addresses
        source = f"127.0.{1 + place // 250}.{1 + place % 250}"
        statuses, wait = [], None
        for _ in range(2):
            status, wait = await _ask(port, source, number, context)
            statuses.append(status)
            if status == 200 or wait is None:
                break
            if len(statuses) == 1:
                await asyncio.sleep(wait)
        return Asked(tuple(statuses), wait, time.monotonic() - start)

    return await asyncio.wait_for(asyncio.gather(*map(caller, range(count))), timeout)


async def _ask(port: int, source: str, number: int, context: ssl.SSLContext) -> tuple[int, int | None]:
    """The status of one request (0: the connection was closed), and when to come back."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, local_addr=(source, 0))
    except OSError:
        return 0, None
    try:
        writer.write(b"GET %s?nonce=%064x HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n" % (PATH.encode(), number))
        head, _, body = (await reader.read(-1)).partition(b"\r\n\r\n")
    except OSError:
        return 0, None
    finally:
        writer.transport.abort()
    lines = head.lower().split(b"\r\n")
    status = int(lines[0].split()[1])
    assert status != 200 or b"%064x" % number in body
    told = [int(line.partition(b":")[2]) for line in lines if line.startswith(b"retry-after:")]
    return status, told[0] if told else None
