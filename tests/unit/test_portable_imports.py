"""The verbs of a caller run where Linux's own modules do not exist, and load few packages."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import attestation_samples as samples
import guest_fake
import pytest
from guest_fake import Guest
from published_fake import Fake
from test_cli_main import image, place  # noqa: F401 - fixtures
from test_readers_files import LOG, QUOTE

LINUX_ONLY = (
    *("_posixsubprocess", "crypt", "fcntl", "grp", "nis", "ossaudiodev", "posix", "pty", "pwd", "readline"),
    *("resource", "spwd", "syslog", "termios", "tty"),
)
# Python's own modules choose by system what they import, so only imports from outside it are refused.
HIDE = textwrap.dedent(
    f"""
    import builtins, sys

    hidden, real = {LINUX_ONLY!r}, builtins.__import__

    def visible(name, globals=None, locals=None, fromlist=(), level=0):
        importer = str((globals or {{}}).get("__name__", "")).partition(".")[0]
        if level == 0 and name.partition(".")[0] in hidden and importer not in sys.stdlib_module_names:
            raise ModuleNotFoundError(f"No module named {{name!r}}, imported by {{importer}}", name=name)
        return real(name, globals, locals, fromlist, level)

    builtins.__import__ = visible
    """
)
MAIN = "from privml.cli.main import main\nmain(sys.argv[1:])\n"
ACCEPTED = ("--nonce", samples.NONCE.hex(), "--spki", samples.SPKI.hex(), "--allow-simulated", "root.pem")

VERIFY_CLOSURE = {"click", "cryptography", "cffi", "dcap-qvl"}
MAX_DISTRIBUTIONS = 8


def run(code: str, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture
def files(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:  # noqa: F811
    """An image, a document of it, measurements that somebody published, and files that somebody else made."""
    image(place)
    (place / "root.pem").write_bytes(samples.sim.root_pem())
    (place / "doc.json").write_bytes(samples.document().encode())
    (place / "quote.bin").write_bytes(QUOTE)
    (place / "ccel.bin").write_bytes(LOG)
    published = Fake()
    published.publish("1.0")
    for path, data in published.files.items():
        (place / "m" / path).parent.mkdir(parents=True, exist_ok=True)
        (place / "m" / path).write_bytes(data)
    (place / "state").mkdir()
    monkeypatch.setenv("XDG_STATE_HOME", str(place / "state"))
    return place


def test_the_test_hides_the_modules() -> None:
    done = run(HIDE + "exec('import fcntl', {'__name__': 'privml.x'})")
    assert done.returncode == 1
    assert "No module named 'fcntl', imported by privml" in done.stderr
    assert run(HIDE + "exec('import subprocess', {'__name__': 'privml.x'})").returncode == 0


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (("verify", "doc.json", "--expect", "out/demo-cpu", *ACCEPTED), 10, "ACCEPTED-SIMULATED"),
        (("verify", "doc.json", "--expect", "out/demo-cpu"), 8, "REFUSED"),
        (("verify", "doc.json", "--trust", "m/root.json", "demo-cpu", *ACCEPTED), 10, "ACCEPTED-SIMULATED"),
        (("measure", "quote.bin"), 0, "TDX quote"),
        (("measure", "ccel.bin", "--events"), 0, "rtmr2"),
        (("explain", "ccel.bin"), 0, "rtmr2"),
        (("explain", "ccel.bin", "--against", "quote.bin"), 0, "rtmr2: agrees"),
    ],
)
def test_a_callers_verb_needs_no_module_of_linux_alone(
    files: Path, words: tuple[str, ...], status: int, said: str
) -> None:
    done = run(HIDE + MAIN, *words)
    assert done.returncode == status, done.stderr
    assert said in done.stdout


def test_the_proxy_needs_no_module_of_linux_alone(files: Path) -> None:
    """From start to an answer from the guest, and to its end by a signal."""
    port = guest_fake.unused_port()
    with guest_fake.running(Guest()) as guest:
        guest.answer = {"choices": []}
        words = ("proxy", guest.url, "--expect", "out/demo-cpu", "--allow-simulated", "root.pem")
        ask = f"""
            import threading, urllib.request, _thread, time, os, signal

            def ask():
                opener = urllib.request.build_opener(urllib.request.ProxyHandler({{}}))
                for _ in range(300):
                    time.sleep(0.05)
                    try:
                        answer = opener.open("http://127.0.0.1:{port}/v1/models", timeout=20).read()
                        break
                    except OSError as error:
                        answer = repr(error).encode()
                print("answer", answer.decode(), flush=True)
                os.kill(os.getpid(), signal.SIGINT)

            threading.Thread(target=ask, daemon=True).start()
        """
        done = run(HIDE + textwrap.dedent(ask) + MAIN, *words, "--listen", f"127.0.0.1:{port}")
    assert 'answer {"choices": []}' in done.stdout, done.stderr
    assert "Traceback" not in done.stderr


def distributions(code: str, *words: str) -> set[str]:
    """The distributions of all modules from files that ``code`` has loaded at its end."""
    report = """
        import atexit, json, sys

        def report():
            loaded = [name for name, module in sys.modules.items() if getattr(module, "__file__", None)]
            print(json.dumps(loaded), file=sys.stderr)

        atexit.register(report)
    """
    done = run(textwrap.dedent(report) + code, *words)
    loaded = {name.partition(".")[0] for name in json.loads(done.stderr.splitlines()[-1])}
    known = importlib.metadata.packages_distributions()
    foreign = loaded - sys.stdlib_module_names - {"__main__", "_distutils_hack", "sitecustomize", "privml"}
    assert foreign <= known.keys()
    return {name for module in foreign for name in known[module]}


@pytest.mark.parametrize(
    ("code", "words", "needed"),
    [
        (MAIN, ("verify", "doc.json", "--expect", "out/demo-cpu", *ACCEPTED), VERIFY_CLOSURE),
        (MAIN, ("verify", "doc.json", "--trust", "m/root.json", "demo-cpu", *ACCEPTED), VERIFY_CLOSURE),
        ("import privml; privml.verify('doc.json', 'out/demo-cpu')", (), VERIFY_CLOSURE - {"click"}),
    ],
)
def test_verifying_loads_these_packages_and_no_other(
    files: Path, code: str, words: tuple[str, ...], needed: set[str]
) -> None:
    assert distributions(code, *words) == needed
    # One more, which those declare: `cffi` needs `pycparser` when it compiles, never when it runs.
    assert len({"privml-build", "pycparser", *needed}) <= MAX_DISTRIBUTIONS


def test_a_cold_verify_takes_little_processor_time(files: Path) -> None:
    """The bound of `make bench` is 0.35 s; here three times that, because other tests run at the same time."""
    before = os.times()
    run("import sys\n" + MAIN, "verify", "doc.json", "--expect", "out/demo-cpu", *ACCEPTED)
    after = os.times()
    spent = after.children_user - before.children_user + after.children_system - before.children_system
    assert spent < 1.05
