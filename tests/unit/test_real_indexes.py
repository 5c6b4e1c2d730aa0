"""A test is skipped for what the index lacks, and for nothing else that pip or uv may say."""

from __future__ import annotations

import http.server
import importlib.util
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.real import indexes

PIP_NONE = (
    "ERROR: Could not find a version that satisfies the requirement x==9 (from versions: 1)\n"
    "ERROR: No matching distribution found for x==9\n"
)
UNREAD = "Could not fetch URL http://a/x/: "
NOT_FOUND = f"{UNREAD}404 Client Error: Not Found for url: http://a/x/ - skipping\n"
NO_SOLUTION = "error: No solution found when resolving dependencies\n  cause: Because "
UNKNOWN = NO_SOLUTION + "x was not found in the package registry and you require x\n\n"
# A test that is skipped where it must fail would be skipped itself.
EITHER = (pytest.skip.Exception, pytest.fail.Exception)


@pytest.mark.parametrize(
    ("log", "lacking"),
    [
        (PIP_NONE, "x==9"),
        (NOT_FOUND + PIP_NONE, "x==9"),
        ("WARNING: Retrying (Retry(total=1)) after connection broken by x\n" + PIP_NONE, "x==9"),
        (UNREAD + "connection error: Max retries exceeded - skipping\n" + PIP_NONE, None),
        (UNREAD + "403 Client Error: Forbidden for url: http://a/x/ - skipping\n" + PIP_NONE, None),
        (NOT_FOUND + UNREAD + "403 Client Error: Forbidden for url: http://a/x/ - skipping\n" + PIP_NONE, None),
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device\n", None),
        ("ERROR: Cannot install x==9 because these package versions have conflicting dependencies.\n", None),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.\n", None),
        ("ERROR: Wheel 'x' located at /x-9-py3-none-any.whl is invalid.\n", None),
        ("", None),
    ],
)  # fmt: skip
def test_what_pip_says(log: str, lacking: str | None) -> None:
    assert indexes.lacking_by_pip(log) == lacking


@pytest.mark.parametrize(
    ("said", "lacking"),
    [
        (NO_SOLUTION + "there is no version of x==9 and you require x==9, we can conclude", "x==9"),
        (NO_SOLUTION + "there are no versions of x\n  and you require x, we can conclude", "x"),
        (NO_SOLUTION + "there is no version of x{platform_machine == 'a'}==9 and y<=1 depends on it", "x"),
        (NO_SOLUTION + "x was not\n  found in the package registry and you require x", "x"),
        (NO_SOLUTION + "only x<=8 is available and you require x>8, we can conclude", "x<=8"),
        (NO_SOLUTION + "only the following versions of x{a == 'b'} are available:\n x==1\n x==2", "x"),
        (NO_SOLUTION + "x==9 has no wheels with a matching Python ABI tag and you require x==9", "x==9"),
        (UNKNOWN + "hint: An index (http://a) returned a 403 Forbidden", None),
        (UNKNOWN + "hint: An index URL (http://a) could not be queried", None),
        (UNKNOWN + "hint: Packages were unavailable because the network was disabled.", None),
        (NO_SOLUTION + "x==9 depends on y<1 and y>1, we can conclude", None),
        ("error: x was not found in the package registry", None),
        ("error: Request failed after 3 retries in 9.0s\n  cause: Failed to fetch: http://a/x/", None),
        ("error: Failed to install: x-9-py3-none-any.whl\n  cause: No space left on device", None),
        ("", None),
    ],
)  # fmt: skip
def test_what_uv_says(said: str, lacking: str | None) -> None:
    assert indexes.lacking_by_uv(said) == lacking


class Index(http.server.BaseHTTPRequestHandler):
    """Answers each request with the status in its path."""

    def do_GET(self) -> None:
        self.send_response(int(self.path.split("/")[1]))
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Index) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of this machine counts."""
    for name in [*os.environ]:
        if name.upper().startswith("PIP_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_RETRIES", "0")


@pytest.mark.skipif(importlib.util.find_spec("pip") is None, reason="this Python has no pip")
@pytest.mark.parametrize(
    ("status", "outcome", "said"),
    [
        (404, pytest.skip.Exception, "^the index has no x==9$"),
        (403, pytest.fail.Exception, "No matching distribution found for x==9"),
    ],
)
def test_an_index_that_does_not_answer_is_not_one_without_the_package(
    status: int, outcome: type[BaseException], said: str, address: str, alone: None, tmp_path: Path
) -> None:
    """The real pip, which says the same on standard error each time."""
    words = ("download", "--no-deps", "--index-url", f"{address}/{status}", "-d", tmp_path, "x==9")
    with pytest.raises(EITHER, match=said) as found:
        indexes.pip([sys.executable, "-m", "pip"], tmp_path / "log", *words)
    assert found.type is outcome


def test_what_succeeds_neither_skips_nor_fails(tmp_path: Path) -> None:
    indexes.uv(Path(sys.executable), "-c", "")
    with pytest.raises(EITHER, match=r"status 3\nbroken") as found:
        indexes.uv(Path(sys.executable), "-c", "import sys; sys.stderr.write('broken'); sys.exit(3)")
    assert found.type is pytest.fail.Exception
