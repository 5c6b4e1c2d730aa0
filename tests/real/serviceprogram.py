"""A program for the services of test images: a small HTTP server on the service's socket."""

from __future__ import annotations

_SERVER = """
import http.server, os, socketserver

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        text = answer(self.path)
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass

class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    def get_request(self):
        return super().get_request()[0], ("client", 0)

Server(os.environ["SOCKET"], Handler).serve_forever()
"""


def program(answer: str) -> str:
    """The program's text. ``answer`` is Python that defines ``answer(path)``, which gives the bytes of a response."""
    return f"{answer}\n{_SERVER}"


def command(answer: str) -> list[str]:
    """`run` of a service, without a file of its own in the image."""
    return ["/usr/bin/python3", "-c", f"exec(bytes.fromhex('{program(answer).encode().hex()}'))"]
