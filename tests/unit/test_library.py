"""The library: the examples of the package's docstring run unchanged, and importing the package loads no room."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import attestation_samples as samples
import guest_fake
import pytest
import terminator_fake
from guest_fake import Guest
from sealed_guest import SealedGuest
from terminator_fake import Front
from test_cli_main import image, place  # noqa: F401 - fixtures
from test_readers_files import LOG, QUOTE, REPORT

import privml
from privml.base.errors import EvidenceError, HostError, MeasurementError, Refused, UsageError
from privml.events import types
from privml.events.registers import RTMR2
from privml.lock.trees import AGENT_ROOTS, DEVELOPMENT_ROOTS, module_closure
from privml.verify.verdict import Outcome

BUILDER = Path(privml.__file__).parents[1]
CALLS = ("verify", "openai_client", "measure")
COMPLETION = {
    "id": "x",
    "object": "chat.completion",
    "created": 1,
    "model": "smollm2",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Paris."}}],
}


def examples() -> dict[str, str]:
    """The code of each call's example in the package's docstring."""
    blocks = re.findall(r"::\n\n((?:(?: {4}.*)?\n)+)", privml.__doc__ or "")
    found = {name: textwrap.dedent(block).strip() for block in blocks for name in CALLS if f"privml.{name}(" in block}
    assert len(blocks) == len(found)
    return found


@pytest.fixture
def guest(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Guest]:  # noqa: F811
    """A simulated guest of the image in out/demo-cpu, and the root certificate of its platform in root.pem."""
    monkeypatch.setattr("privml.client.calls.time.time", lambda: samples.NOW)
    image(place)
    (place / "root.pem").write_bytes(samples.sim.root_pem())
    with guest_fake.running(Guest()) as running:
        running.answer = COMPLETION
        yield running


def run_example(name: str, guest: Guest, *, simulated: bool = True) -> None:
    """Run an example with the address of ``guest`` and with the simulation allowed."""
    code = examples()[name].replace("https://HOST:8443", guest.url)
    if simulated:
        code = code.replace('expect="out/demo-cpu"', 'expect="out/demo-cpu", allow_simulated="root.pem"')
    exec(compile(code, f"<{name}>", "exec"), {"__name__": "example"})


def test_each_call_has_an_example_of_about_ten_lines() -> None:
    assert set(examples()) == set(CALLS)
    assert all(5 <= len(code.splitlines()) <= 10 for code in examples().values())


def test_the_example_of_verify(guest: Guest, capsys: pytest.CaptureFixture[str]) -> None:
    run_example("verify", guest)
    assert capsys.readouterr().out == f"accepted-simulated\nthe guest's TLS key is {guest.spki.hex()}\n"
    run_example("verify", guest, simulated=False)
    first, *rest = capsys.readouterr().out.splitlines()
    assert first == "refused"
    assert rest and rest[0].startswith("simulated ")
    assert not [line for line in rest if "TLS key" in line]


def test_the_example_of_openai_client(guest: Guest, capsys: pytest.CaptureFixture[str]) -> None:
    run_example("openai_client", guest)
    assert capsys.readouterr().out == "Paris.\n"
    ((method, path, _, body),) = guest.requests
    assert (method, path) == ("POST", "/v1/chat/completions")
    assert b"The capital of France is" in body


def test_the_example_of_measure(place: Path, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    (place / "ccel.bin").write_bytes(LOG)
    exec(compile(examples()["measure"], "<measure>", "exec"), {"__name__": "example"})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == privml.measure("ccel.bin").title
    assert [line.split()[0] for line in lines[1:5]] == ["rtmr0", "rtmr1", "rtmr2", "rtmr3"]
    assert len(lines) > 20


def test_nothing_is_sent_to_a_refused_guest(guest: Guest) -> None:
    guest.items = [*samples.extends(4 << 30), (RTMR2, types.EV_IPL, b"x", b"x", "")]
    with pytest.raises(Refused, match="rtmr2"):
        privml.openai_client(guest.url, "out/demo-cpu", allow_simulated="root.pem")
    guest.items = samples.extends(4 << 30)
    with pytest.raises(Refused, match="simulated"):
        privml.openai_client(guest.url, "out/demo-cpu")
    assert guest.requests == []


def test_a_guest_that_is_no_longer_accepted_gets_no_more_prompts(guest: Guest) -> None:
    openai = pytest.importorskip("openai")
    with privml.openai_client(guest.url, "out/demo-cpu", allow_simulated="root.pem", interval=0.05) as client:
        guest.items = [*samples.extends(4 << 30), (RTMR2, types.EV_IPL, b"x", b"x", "")]
        time.sleep(0.2)
        with pytest.raises(openai.PermissionDeniedError, match="rtmr2"):
            client.chat.completions.create(model="m", messages=[{"role": "user", "content": "secret"}])
    assert guest.requests == []


def test_guests_behind_somebody_elses_tls_server(guest: Guest, tmp_path: Path) -> None:
    with terminator_fake.running(Front(tmp_path, SealedGuest(), SealedGuest())) as front:
        front.pieces = lambda _: [json.dumps(COMPLETION).encode()]
        front.fields = lambda _: (("content-type", "application/json"),)
        given = {"expect": "out/demo-cpu", "via": front.url, "via_ca": front.authority}
        with privml.openai_client(**given, allow_simulated="root.pem") as client:
            for _ in range(3):
                answer = client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hello"}])
                assert answer.choices[0].message.content == "Paris."
        assert len(front.opened) == 3 and not any(b"hello" in body for _, _, body in front.seen)
        with pytest.raises(Refused, match="simulated"):
            privml.openai_client(**given)
    assert guest.requests == []


@pytest.mark.parametrize(
    "given",
    [
        {"expect": "out/demo-cpu"},
        {"url": "https://h:1", "expect": "out/demo-cpu", "via": "https://api.example"},
        {"url": "https://h:1", "expect": "out/demo-cpu", "via_ca": "ca.pem"},
        {"url": "https://h:1"},
        {"expect": "out/demo-cpu", "via": "http://api.example"},
    ],
)
def test_an_address_or_via_is_expected(guest: Guest, given: dict[str, str]) -> None:
    with pytest.raises(UsageError, match=r"expected|goes with"):
        privml.openai_client(**given)


def test_several_guests_of_which_one_is_accepted(guest: Guest) -> None:
    nobody = f"https://127.0.0.1:{guest_fake.unused_port()}"
    with privml.openai_client([nobody, guest.url], "out/demo-cpu", allow_simulated="root.pem") as client:
        answer = client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hello"}])
    assert answer.choices[0].message.content == "Paris."
    with pytest.raises(HostError, match=f"{nobody}: .*; {guest.url}: refused: demo-cpu"):
        privml.openai_client([nobody, guest.url], "out/demo-cpu")


def test_the_environment_s_proxy_is_not_used(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with privml.openai_client(guest.url, "out/demo-cpu", allow_simulated="root.pem") as client:
        answer = client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hello"}])
    assert answer.choices[0].message.content == "Paris."


def test_the_socket_belongs_to_the_user_and_is_removed_with_the_client(
    guest: Guest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "t").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "t"))
    client = privml.openai_client(guest.url, "out/demo-cpu", allow_simulated="root.pem")
    (folder,) = (tmp_path / "t").iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700
    client.close()
    assert list((tmp_path / "t").iterdir()) == []


def test_a_folder_whose_path_is_too_long_for_a_socket_is_named_and_left_empty(
    guest: Guest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("t" * 100)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    with pytest.raises(HostError, match="no socket can be made at") as caught:
        privml.openai_client(guest.url, "out/demo-cpu", allow_simulated="root.pem")
    assert "TMPDIR" in (caught.value.hint or "")
    assert list(long.iterdir()) == []


def test_errors_are_the_package_s_own(guest: Guest, place: Path) -> None:  # noqa: F811
    with pytest.raises(HostError, match="no attestation document"):
        privml.verify(f"https://127.0.0.1:{guest_fake.unused_port()}", "out/demo-cpu")
    with pytest.raises(HostError):
        privml.openai_client(f"https://127.0.0.1:{guest_fake.unused_port()}", "out/demo-cpu")
    with pytest.raises(EvidenceError):
        privml.verify(b"{}", "out/demo-cpu")
    with pytest.raises(UsageError):
        privml.measure("nowhere")
    (place / "text").write_text("hello")
    with pytest.raises(MeasurementError, match="not recognised"):
        privml.measure(place / "text")
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = privml.nothing


def test_a_captured_document_is_judged(guest: Guest, place: Path) -> None:  # noqa: F811
    data = samples.document().encode()
    (place / "doc.json").write_bytes(data)
    (place / "collateral.json").write_bytes(json.dumps(samples.sim.collateral()).encode())
    about = {"nonce": samples.NONCE, "tls_spki_sha256": samples.SPKI, "allow_simulated": "root.pem"}
    for source in (data, "doc.json", place / "doc.json"):
        found = privml.verify(source, "out/demo-cpu", **about, collateral="collateral.json")
        assert found.verdict.outcome is Outcome.ACCEPTED_SIMULATED
    assert privml.verify(data, "out/demo-cpu", **{**about, "nonce": bytes(32)}).keys is None


@pytest.mark.parametrize(
    "code",
    [
        "import privml; found = privml.measure({path!r})",
        "from privml import measure; found = measure({path!r})",
        "import privml.measure.pe; import privml; found = privml.measure({path!r})",
        "import privml; privml.measure({path!r}); import privml.measure.pe as pe; found = privml.measure({path!r})",
        "import privml; privml.verify; import privml.verify.check as check; found = privml.measure({path!r})",
    ],
)
def test_a_callable_room_works_in_any_import_order(code: str, tmp_path: Path) -> None:
    (tmp_path / "report").write_bytes(REPORT)
    code = f"{code.format(path=str(tmp_path / 'report'))}; print(found.kind)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "tdreport\n"


def loaded(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; import sys; print(*sys.modules)"], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_importing_the_package_imports_no_room() -> None:
    assert {name for name in loaded("import privml") if name.startswith("privml")} == {"privml"}


def test_verifying_and_measuring_load_only_what_they_need(tmp_path: Path) -> None:
    (tmp_path / "quote").write_bytes(QUOTE)
    measured = loaded(f"import privml; privml.measure({str(tmp_path / 'quote')!r})")
    assert not {name.partition(".")[0] for name in measured} & {
        "pydantic",
        "yaml",
        "openai",
        "cryptography",
        "uvicorn",
    }
    verified = loaded("import privml.client.calls")
    rooms = {name.split(".")[1] for name in verified if name.startswith("privml.")}
    assert rooms <= {"base", "events", "channel", "machine", "evidence", "statement", "output", "verify", "client"}
    assert not {name.partition(".")[0] for name in verified} & {"pydantic", "yaml", "openai", "uvicorn"}


@pytest.mark.parametrize("roots", [AGENT_ROOTS, DEVELOPMENT_ROOTS])
def test_the_guest_does_not_contain_the_library(roots: tuple[str, ...]) -> None:
    carried = module_closure(BUILDER, roots)
    assert "privml/__init__.py" in carried
    assert not carried & {"privml/base/callables.py", "privml/client/calls.py", "privml/readers/calls.py"}
    assert not [name for name in carried if name.startswith(("privml/verify/", "privml/measure/", "privml/client/"))]
