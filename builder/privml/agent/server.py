"""The only network-facing process: TLS 1.3 connections, a thread each. It keeps nothing of requests or answers.

What is asked is answered by `routes`; requests and answers are written to their connection and nowhere else.
"""

from __future__ import annotations

import socket
import ssl
import sys
import threading
import time

import h11

from privml.agent import identity
from privml.agent.conversation import Conversation
from privml.agent.layout import Layout
from privml.agent.routes import Routes
from privml.base.errors import PrivmlError
from privml.events import configuration
from privml.events.configuration import Config

HANDSHAKE_TIMEOUT = 30.0


class Server:
    """A thread per connection: enough for ``max_concurrency`` engine answers, and some for the other paths."""

    def __init__(self, config: Config, layout: Layout) -> None:
        self._routes = Routes(config, layout)
        self._connections = threading.BoundedSemaphore(2 * config.max_concurrency + 32)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.minimum_version = ssl.TLSVersion.TLSv1_3
        self._context.num_tickets = 0
        self._context.set_alpn_protocols(["http/1.1"])
        identity.load_tls(layout, self._context)

    def serve(self, listener: socket.socket) -> None:
        """Accept connections forever; those over the limit wait in the kernel's queue."""
        threading.Thread(target=self._routes.channel.keep, daemon=True).start()
        while True:
            self._connections.acquire()
            try:
                connection, _ = listener.accept()
            except OSError:
                self._connections.release()
                time.sleep(0.1)  # out of descriptors, or the caller has already disconnected
                continue
            threading.Thread(target=self._connection, args=(connection,), daemon=True).start()

    def _connection(self, connection: socket.socket) -> None:
        try:
            with connection:
                connection.settimeout(HANDSHAKE_TIMEOUT)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                with self._context.wrap_socket(connection, server_side=True) as tls:
                    Conversation(tls, self._routes.answer).run()
        except (OSError, h11.ProtocolError):
            return  # the caller disconnected, or never spoke TLS or HTTP; no response is possible
        finally:
            self._connections.release()


def listen(port: int, host: str = "", *, ipv6: bool = False) -> socket.socket:
    """Create the server's TCP socket, on all addresses unless ``host`` names one; ``ipv6``: of both IP versions."""
    if ipv6:
        return socket.create_server((host, port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=256)
    return socket.create_server((host, port), backlog=256)


def main(layout: Layout | None = None) -> int:
    """Wait for this boot's identity, then serve."""
    layout = layout or Layout()
    try:
        config = configuration.read(layout.config)
        while not identity.is_there(layout):
            time.sleep(0.1)
        server = Server(config, layout)
        listener = listen(config.listen, ipv6=any(card.has_ipv6 for card in config.network))
    except (PrivmlError, OSError) as error:
        sys.stderr.write(f"privml: server: {error}\n")
        return 1
    server.serve(listener)
    return 0


if __name__ == "__main__":
    sys.exit(main())
