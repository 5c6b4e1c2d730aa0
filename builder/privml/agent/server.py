"""The only network-facing process: TLS 1.3 connections, a thread each. It keeps nothing of requests or answers.

What is asked is answered by `routes`; requests and answers are written to their connection and nowhere else.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import ssl
import sys
import threading
import time
from functools import partial

import h11

from privml.agent import console, identity, vital
from privml.agent.admission import Admission, Slot
from privml.agent.conversation import Conversation
from privml.agent.layout import Layout
from privml.agent.metrics import CONNECTIONS, Metrics
from privml.agent.routes import Routes
from privml.base.errors import PrivmlError
from privml.events import configuration
from privml.events.configuration import Config

HANDSHAKE_TIMEOUT = 10.0
"""Seconds for a whole handshake."""
DRAIN = 120.0
"""Seconds that running answers get once the server was told to stop; privml-server.service allows a little more."""
_NAME = "server"
_BACKLOG = 1024
_UNSENT = 128 << 10
"""Bytes of an answer that the kernel keeps unsent for a caller who reads slowly: with megabytes of them it lets
nothing more be written for many seconds, and the caller would seem to read nothing."""


class Server:
    """A thread per connection, and room for as many connections as `admission` says."""

    def __init__(self, config: Config, layout: Layout) -> None:
        self._metrics = Metrics()
        self._routes = Routes(config, layout, self._metrics)
        self._admission = Admission(config.max_concurrency, config.per_address)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.minimum_version = ssl.TLSVersion.TLSv1_3
        self._context.num_tickets = 0
        self._context.set_alpn_protocols(["http/1.1"])
        identity.load_tls(layout, self._context)

    def serve(self, listener: socket.socket) -> None:
        """Accept connections until ``listener`` is closed; one for which there is no room is closed at once."""
        vital.begin(_NAME, self._routes.channel.keep)
        self._routes.watch()
        while True:
            try:
                connection, address = listener.accept()
            except OSError:
                if listener.fileno() < 0:
                    return
                time.sleep(0.1)  # out of descriptors, or the caller has already disconnected
                continue
            self._begin(connection, address[0])

    def drain(self, seconds: float) -> bool:
        """Take no more requests, and give running answers ``seconds`` to end; True if all did.

        Until the process ends, `/readyz` answers 503, so that whoever sends callers here notices.
        """
        self._routes.stop()
        return self._admission.settle(seconds)

    def _begin(self, connection: socket.socket, address: str) -> None:
        try:
            tls = self._context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        except OSError:
            connection.close()  # the caller has already disconnected
            return
        slot = self._admission.admit(address, partial(_cut, tls))
        if not isinstance(slot, Slot):
            self._metrics.count(CONNECTIONS, f"refused-{slot}")
            tls.close()
            return
        try:
            threading.Thread(target=self._connection, args=(tls, slot), daemon=True).start()
        except RuntimeError:  # the machine is out of threads
            slot.leave()
            tls.close()

    def _connection(self, tls: ssl.SSLSocket, slot: Slot) -> None:
        try:
            with tls:
                if self._shakes_hands(tls):
                    self._metrics.count(CONNECTIONS, "accepted")
                    Conversation(tls, self._routes.answer, slot).run()
                else:
                    self._metrics.count(CONNECTIONS, "no-tls")
        except (OSError, h11.ProtocolError):
            return  # the caller disconnected or was too slow, or never spoke HTTP; no response is possible
        finally:
            slot.leave()

    def _shakes_hands(self, tls: ssl.SSLSocket) -> bool:
        try:
            tls.settimeout(HANDSHAKE_TIMEOUT)  # for all of it: OpenSSL's reads and writes share it
            tls.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            tls.do_handshake()
        except OSError:
            return False
        return True


def _cut(tls: ssl.SSLSocket) -> None:
    """End a connection that another thread uses; that thread then closes it."""
    with contextlib.suppress(OSError):
        # Not SSLSocket's own method: it drops the TLS state first, and the other thread could then write plain text.
        socket.socket.shutdown(tls, socket.SHUT_RDWR)


def keep_to_one_processor() -> None:
    """Run all threads of this process on one of its processors, from now on.

    Python runs one thread at a time. On several processors, a thread that makes a system call finds another one
    running when it returns, and sleeps: with 16 callers, half of the time went into that (ADR 0114).
    """
    with contextlib.suppress(OSError):  # it then works as before
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def listen(port: int, host: str = "", *, ipv6: bool = False) -> socket.socket:
    """Create the server's TCP socket, on all addresses unless ``host`` names one; ``ipv6``: of both IP versions."""
    listener = (
        socket.create_server((host, port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=_BACKLOG)
        if ipv6
        else socket.create_server((host, port), backlog=_BACKLOG)
    )
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT)  # connections have it from here
    return listener


def main(layout: Layout | None = None) -> int:
    """Wait for this boot's identity, then serve until SIGTERM. Only this thread receives it."""
    layout = layout or Layout()
    keep_to_one_processor()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        config = configuration.read(layout.config)
        while not identity.is_there(layout):
            if signal.sigtimedwait({signal.SIGTERM}, 0.1) is not None:
                return 0
        server = Server(config, layout)
        listener = listen(config.listen, ipv6=any(card.has_ipv6 for card in config.network))
    except (PrivmlError, OSError) as error:
        console.say(f"privml: {_NAME}: {error}")
        return 1
    vital.begin(_NAME, partial(server.serve, listener))
    signal.sigwait({signal.SIGTERM})
    server.drain(DRAIN)
    return 0


if __name__ == "__main__":
    sys.exit(main())
