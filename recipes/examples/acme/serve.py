"""Answer GET /NAME with the entry NAME of the settings, as JSON.

The agent passes requests for /x/SERVICE/NAME on as HTTP/1.1 over the unix socket that $SOCKET names.
"""

import http.server
import json
import os
import socketserver
from pathlib import Path

SETTINGS = json.loads(Path(os.environ["ACME_SETTINGS"]).read_bytes())


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        name = self.path.partition("?")[0].removeprefix("/")
        known = name in SETTINGS
        body = json.dumps(SETTINGS[name] if known else sorted(SETTINGS)).encode()
        self.send_response(200 if known or not name else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Write no log: requests may be confidential."""


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    pass


Server(os.environ["SOCKET"], Handler).serve_forever()
