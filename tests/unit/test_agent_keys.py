"""Stage `keys` of a boot, with the processes and sockets of a guest: from the first document to ready."""

from __future__ import annotations

import base64
import dataclasses
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from agent_guest import (
    BROKER,
    IMAGE,
    LIMIT,
    SIGNER,
    VOLUME_KEY,
    Guest,
    a_config,
    a_crypt,
    a_data,
    a_model,
    encrypted,
    guest,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from key_release import a_release, said
from test_agent_purposes import predicted

from privml.agent import identity, keydelivery, wire
from privml.agent.answers import Asked, Denied
from privml.agent.attestation import Attestation
from privml.agent.attestorclient import QUOTE_TIMEOUT
from privml.agent.boot import Boot
from privml.agent.keydelivery import RELEASE, REQUEST, KeyDelivery
from privml.agent.layout import Layout
from privml.agent.progress import Progress
from privml.agent.volumekeys import CODES
from privml.base.strictjson import b64, loads
from privml.channel.kem import X25519
from privml.channel.release import MAX_RELEASE, Release, seal
from privml.client import attested
from privml.events import stages
from privml.events.agent import parse_log
from privml.events.configuration import Service, decode
from privml.events.crypt import Broker, Crypt
from privml.events.stages import KEY_RELEASE, STAGES
from privml.evidence import merkle
from privml.evidence.document import Document, parse
from privml.evidence.report_data import compute
from privml.evidence.sections import TLS_KEY, Keys

NONCE = bytes(range(32))
DATA_SIGNER = Ed25519PrivateKey.from_private_bytes(b"data".ljust(32))
DATA = Broker("data", DATA_SIGNER.public_key().public_bytes_raw())
CORPUS = a_crypt("corpus", "data")
WANTED = {"broker": BROKER.ed25519.hex(), "name": "weights", "resource": "model/tiny", "generation": 1}
TWO_OWNERS = {
    "models": (dataclasses.replace(a_model(), crypt=a_crypt()),),
    "data": (a_data(crypt=CORPUS),),
    "brokers": (DATA, BROKER),
}


class Waiting:
    """A guest whose boot process waits for keys."""

    def __init__(self, made: Guest, **changes: object) -> None:
        self.made = made
        self.boot: Boot = made.boot(**changes)
        self.boot._interval = 0.02
        self.result: list[bool] = []
        self.thread = threading.Thread(target=lambda: self.result.append(self.boot.run()), daemon=True)

    def ask(self, request: dict[str, object]) -> dict[str, object]:
        """What the server asks of the boot process."""
        answer = wire.ask(self.made.layout.release_socket, request, timeout=LIMIT)
        return wire.result_of(answer, "boot process")

    def report_data(self, root: bytes = NONCE) -> tuple[bytes, Keys]:
        """The report data of a new quote, and the keys section."""
        parts = self.ask({"op": "quote", "root": root.hex()})
        names = ("header", "keys", "devices", "eventlog")
        sections = {name: base64.b64decode(parts[name]) for name in names}  # type: ignore[arg-type]
        return compute(root=root, **sections), Keys.decode(sections["keys"])

    def a_release(self, crypt: Crypt | None = None, **changes: object) -> Release:
        data, keys = self.report_data()
        return a_release((crypt or a_crypt(),), data, keys, **changes)  # type: ignore[arg-type]

    def bring(self, release: Release) -> dict[str, object]:
        return self.ask({"op": "release", "release": b64(release.encode())})

    def refused(self, release: Release) -> str:
        with pytest.raises(wire.RefusedRequest) as caught:
            self.bring(release)
        return caught.value.code

    def ended(self) -> bool:
        """Whether the boot was a success, once it is over; the socket is gone."""
        self.thread.join(LIMIT)
        assert not self.made.layout.release_socket.exists()
        return self.result[0]

    def row(self, stage: str = "keys") -> tuple[str, str]:
        rows = loads(self.made.layout.stages.read_bytes())["stages"]
        return next((row["status"], row["detail"]) for row in rows if row["name"] == stage)


@contextmanager
def waiting(changes: dict[str, object] | None = None, **of_boot: object) -> Iterator[Waiting]:
    with guest(a_config(**(changes or encrypted()))) as made:
        found = Waiting(made, **of_boot)
        found.thread.start()
        made.wait_for(lambda: found.row()[1].startswith("waiting for") or found.result, "stage")
        yield found
        found.made.layout.release_socket.unlink(missing_ok=True)


def files_with(root: Path, *secrets: bytes) -> list[str]:
    """The files below ``root`` that have one of ``secrets``, raw, in hex or in base64."""
    forms = [form for each in secrets for form in (each, each.hex().encode(), base64.b64encode(each))]
    files = [path for path in root.rglob("*") if path.is_file() and not path.is_symlink()]
    return [path.name for path in files if any(form in path.read_bytes() for form in forms)]


def document_of(made: Guest, nonce: bytes = NONCE) -> Document:
    status, headers, body = made.request("GET", f"{REQUEST}?nonce={nonce.hex()}")
    assert (status, headers["cache-control"]) == (200, "no-store")
    return parse(body)


def code_of(made: Guest, method: str, path: str, body: bytes | None = None) -> tuple[int, str]:
    status, headers, answer = made.request(method, path, body)
    assert ("retry-after" in headers) == (status in (429, 503))
    return status, json.loads(answer)["error"]["code"]


def test_a_boot_waits_for_its_key_over_the_network_and_becomes_ready() -> None:
    """A courier's whole way: what is wanted, a document that the broker's verifier accepts, the release, ready."""
    with guest(a_config(**encrypted())) as made:
        reached = threading.Event()
        found = Waiting(made, work={"services": lambda: (reached.wait(LIMIT), ("ok", ""))[1]})
        made.start_server()
        found.thread.start()
        assert code_of(made, "GET", REQUEST) == (503, "keys-not-yet")
        assert code_of(made, "POST", RELEASE, b"{}") == (503, "keys-not-yet")
        reached.set()
        made.wait_for(lambda: found.row()[1], "stage")

        assert made.json(REQUEST) == (200, {"wanted": [WANTED]})
        assert code_of(made, "GET", f"{REQUEST}?nonce=00") == (400, "nonce")
        assert code_of(made, "POST", REQUEST, b"{}") == (405, "method")
        assert code_of(made, "GET", RELEASE) == (405, "method")
        assert code_of(made, "GET", f"/.well-known/privml-attestation?nonce={NONCE.hex()}") == (503, "not-ready")
        assert code_of(made, "POST", RELEASE, b"x" * (MAX_RELEASE + 1)) == (413, "too-large")
        for _ in range(3):
            assert code_of(made, "POST", RELEASE, b"{}") == (400, "release-malformed"), "garbage costs no turn"
        assert found.boot._keys is not None
        private = found.boot._keys._private["x25519"]
        assert files_with(made.root, private._key.private_bytes_raw()) == []  # type: ignore[attr-defined]
        waits = "waiting for weights for model/tiny, generation 1"
        assert found.row() == ("running", waits)
        assert f"privml: stage keys: {waits}" in made.said

        document = document_of(made)
        config = decode(made.layout.config.read_bytes())
        keys = Keys.decode(document.keys)
        assert judged(document, made) == ("accepted-simulated", ())
        assert [event.name for event in parse_log(document.eventlog)] == ["config"]
        root = merkle.build([NONCE]).root
        data = compute(
            header=document.header,
            root=root,
            keys=document.keys,
            devices=document.devices,
            eventlog=document.eventlog,
        )
        release = a_release((a_crypt(),), data, keys, kem="x25519")
        status, _, body = made.request("POST", RELEASE, release.encode())
        assert (status, json.loads(body)) == (
            200,
            {"released": [{"resource": "model/tiny", "generation": 1}], "missing": []},
        )
        assert found.ended(), made.said
        assert found.row() == ("ok", "released: model/tiny, generation 1")
        assert (found.boot._keys._private, found.boot._keys._keys) == ({}, {})

        assert made.json("/readyz") == (200, {"ready": True})
        for method, path in (("GET", REQUEST), ("GET", f"{REQUEST}?nonce={NONCE.hex()}"), ("POST", RELEASE)):
            assert code_of(made, method, path, release.encode() if method == "POST" else None) == (503, "keys-closed")
        status, _, body = made.request("GET", f"/.well-known/privml-attestation?nonce={NONCE.hex()}")
        assert status == 200
        assert parse_log(parse(body).eventlog) == stages.sequence(config)
        assert [event.name for event in stages.sequence(config)][:3] == ["config", "keys", "model"]
        key_is_nowhere_but_in_the_keyring(made)


def judged(document: Document, made: Guest) -> tuple[str, tuple[object, ...]]:
    """The verifier's judgement for key release, as a broker asks for it."""
    from privml.evidence.tdx import signature
    from privml.sim import quote as sim
    from privml.verify.anchor import Built, Expected
    from privml.verify.policy import Policy

    config = decode(made.layout.config.read_bytes())
    verdict = attested.judge(
        document.encode(),
        Expected(predicted(config), Built("out/x")),
        Policy(purpose=KEY_RELEASE, allow_simulated=signature.root_der(sim.root_pem())),
        now=int(time.time()),
        nonce=NONCE,
        tls_spki_sha256=Keys.decode(document.keys).find(*TLS_KEY),
    ).verdict
    return verdict.outcome.value, verdict.refusals


def key_is_nowhere_but_in_the_keyring(made: Guest) -> None:
    """The positive controls: the kernel was given the key, and the search finds one that is in a file."""
    assert made.had_keys == [("privml:privml-model", VOLUME_KEY)] and made.keyring == {}
    crypt = next(argv for argv in made.commands if argv[2] == "privml-model-plain")
    assert crypt[-1] == (
        f"0 32 crypt aes-xts-plain64 :64:logon:privml:privml-model 0 {made.layout.dev}/dm-1 0 "
        "2 sector_size:4096 iv_large_sectors"
    )
    processes = [Path(f"/proc/{child.pid}/{name}") for child in made._children for name in ("cmdline", "environ")]
    seen = "\n".join([*made.said, *map(" ".join, made.commands)]).encode()
    seen += b"\n".join(path.read_bytes() for path in processes)
    for form in (VOLUME_KEY, VOLUME_KEY.hex().encode(), base64.b64encode(VOLUME_KEY)):
        assert form not in seen
    assert files_with(made.root, VOLUME_KEY) == []
    (made.root / "leak").write_bytes(b"x" + base64.b64encode(VOLUME_KEY))
    assert files_with(made.root, VOLUME_KEY) == ["leak"]


def test_a_release_is_for_one_boot_only_and_a_bad_one_ends_nothing() -> None:
    with waiting() as first, waiting() as second:
        release = first.a_release()
        assert second.refused(release) == "release-other-boot"
        assert second.refused(second.a_release(signer=DATA_SIGNER)) == "release-broker"
        assert second.refused(second.a_release(keys=(b"x" * 64,))) == "release-wrong-key"
        with pytest.raises(wire.RefusedRequest, match="unknown"):
            second.ask({"op": "wanted", "release": ""})
        assert second.thread.is_alive() and second.row()[0] == "running"
        for each, given in ((first, release), (second, second.a_release())):
            assert each.bring(given)["missing"] == []
            assert each.ended(), each.made.said


def test_the_machine_is_ready_only_when_both_owners_released() -> None:
    with waiting(TWO_OWNERS) as found:
        assert found.row()[1] == "waiting for weights for model/tiny, generation 1; data for corpus, generation 1"
        release = found.a_release(CORPUS, signer=DATA_SIGNER)
        assert found.bring(release) == {
            "released": [{"resource": "corpus", "generation": 1}],
            "missing": [{"broker": "weights", "resource": "model/tiny", "generation": 1}],
        }
        found.made.wait_for(lambda: found.row()[1] == "waiting for weights for model/tiny, generation 1", "detail")
        assert found.refused(release) == "already-released"
        assert found.refused(found.a_release(signer=DATA_SIGNER)) == "release-other-broker"
        assert found.ask({"op": "wanted"}) == {"wanted": [WANTED]}
        assert found.bring(found.a_release())["missing"] == []
        assert found.ended(), found.made.said
        assert [name for name, _ in found.made.had_keys] == ["privml:privml-model", "privml:privml-data"]
        assert found.row("model") == ("ok", f"tiny, root hash {'aa' * 32}; data corpus, root hash {'cc' * 32}")


def test_what_ends_while_keys_are_awaited_fails_the_boot() -> None:
    service = Service("metrics", ("/usr/bin/metrics",), {}, 1 << 20, required=True)
    with waiting(encrypted(services=(service,))) as found:
        found.made.services["metrics"].living = False
        assert not found.ended()
        assert found.row("services") == ("failed", "the service metrics exited")
        assert found.boot._keys is not None and found.boot._keys._private == {}


def test_a_device_that_is_plugged_in_while_keys_are_awaited_fails_the_boot() -> None:
    with waiting() as found:
        found.made.add_pci(9, 0x1AF4, 0x1050)
        assert not found.ended()
        assert found.row("devices")[1] == "devices: 1 x virtio-gpu not declared"
        assert not found.made.engine.started


def test_a_restarted_attestor_goes_on_at_the_stage(again: float = LIMIT) -> None:
    with waiting(attestor_again=again) as found:
        before = found.a_release()
        found.made.kill_attestor()
        found.made.start_attestor()
        found.made.wait_for(lambda: "attestor was started again" in found.made.said[-1], "restart")
        assert found.bring(before)["missing"] == []  # it is the same boot
        assert found.ended(), found.made.said


def test_without_an_attestor_no_key_is_awaited() -> None:
    with waiting(attestor_again=0.1) as found:
        found.made.kill_attestor()
        assert not found.ended()
        assert found.row("platform")[0] == "failed"


@pytest.mark.parametrize(
    ("plain", "why"),
    [(bytes(len(IMAGE)), "it was encrypted with another key"), (IMAGE, "its sectors were numbered otherwise")],
    ids=["key", "numbering"],
)
def test_a_volume_that_its_key_does_not_open_is_named_and_not_mounted(plain: bytes, why: str) -> None:
    with waiting() as found:
        found.made.plain = plain
        found.bring(found.a_release())
        assert not found.ended()
        assert why in found.row("model")[1]
        assert [argv[0] for argv in found.made.commands] == ["dmsetup", "dmsetup"]
        assert found.boot._keys is not None and found.boot._keys._keys == {}


def test_without_an_encrypted_model_nobody_waits_and_the_paths_do_not_exist() -> None:
    with guest() as made:
        made.start_server()
        assert made.boot().run(), made.said
        assert not made.layout.release_socket.exists()
        assert {key.use for key in Keys.decode(identity.section(made.layout)).keys} == {"channel", "receipt", "tls"}
        for method, path in (("GET", REQUEST), ("POST", RELEASE)):
            assert code_of(made, method, path) == (404, "no-keys")


@pytest.fixture
def delivery(tmp_path: Path) -> KeyDelivery:
    """The server's side, of a boot that waits for keys and does not answer."""
    layout = Layout(run=tmp_path)
    Progress(layout.stages, [stage.name for stage in STAGES]).begin("keys")
    return KeyDelivery(a_config(**encrypted()), layout, Attestation(layout))


def signed(signer: Ed25519PrivateKey = SIGNER) -> bytes:
    """A new release that the measured broker signed, whatever it is sealed to."""
    statement = said((a_crypt(),), bytes(64), kem="x25519", signer=signer)
    return seal(statement, (VOLUME_KEY,), X25519.generate().public, signer.sign).encode()


def denied(delivery: KeyDelivery, body: bytes | None = None) -> Denied:
    asked = Asked("POST", RELEASE, [], lambda _: signed() if body is None else body)
    with pytest.raises(Denied) as caught:
        delivery.answer(asked, lambda *_: pytest.fail("no document was asked for"))
    return caught.value


@pytest.mark.parametrize(
    ("code", "status"), [(code, 409 if code == "already-released" else 400) for code in CODES] + [("malformed", 503)]
)
def test_a_refused_release_is_the_courier_s_fault_and_a_refused_request_is_not(
    delivery: KeyDelivery, monkeypatch: pytest.MonkeyPatch, code: str, status: int
) -> None:
    refusal = {"error": {"code": code, "message": "no"}}
    monkeypatch.setattr(wire, "ask", lambda *_, **__: refusal)
    found = denied(delivery)
    assert (found.status, found.code, found.message) == (status, code, "no")


def test_one_release_at_a_time(delivery: KeyDelivery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codes = []
    monkeypatch.setattr(wire, "ask", lambda *_, **__: {"error": {"code": "release-other-boot", "message": "no"}})
    for held in (True, False, False):
        if held:
            delivery._turn.acquire()
        found = denied(delivery)
        codes.append((found.status, found.code, found.retry_after))
        if held:
            delivery._turn.release()
    assert codes == [(503, "busy", 1), (400, "release-other-boot", None), (429, "too-soon", 1)]
    monkeypatch.undo()
    delivery._last = 0
    assert [denied(delivery).code for _ in range(2)] == ["unavailable"] * 2, "what got no answer costs no second"
    failed = Progress(Layout(run=tmp_path).stages, [stage.name for stage in STAGES])
    failed.begin("keys")
    failed.end("services", "failed", "gone")
    found = denied(delivery)
    assert (found.code, "failed in stage services" in found.message) == ("keys-closed", True)


def test_what_no_measured_broker_signed_takes_no_turn(delivery: KeyDelivery, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(wire, "ask", lambda *_, **__: asked.append(1) or {"ok": {"released": [], "missing": []}})
    bent = loads(signed())
    bent["signature"] = b64(bytes(64))
    for body, code in (
        (b"", "release-malformed"),
        (signed(DATA_SIGNER), "release-broker"),
        (json.dumps(bent).encode(), "release-signature"),
    ):
        assert (denied(delivery, body).status, denied(delivery, body).code) == (400, code)
    assert asked == []
    answer = delivery.answer(Asked("POST", RELEASE, [], lambda _: signed()), lambda *_: pytest.fail("no document"))
    assert (answer.status, asked) == (200, [1]), "the turn was left for it"


def test_a_release_that_was_refused_takes_no_turn_again(
    delivery: KeyDelivery, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    refusal = {"error": {"code": "release-other-boot", "message": "no"}}
    monkeypatch.setattr(wire, "ask", lambda *_, **__: asked.append(1) or refusal)
    body = signed()
    for each in (body, body, json.dumps(loads(body), indent=1).encode()):
        assert (denied(delivery, each).code, len(asked)) == ("release-other-boot", 1)
    assert denied(delivery).code == "too-soon"
    monkeypatch.setattr(keydelivery, "MAX_REFUSED", 1)
    for each in (signed(), body):
        delivery._last = 0
        denied(delivery, each)
    assert (len(asked), len(delivery._refused)) == (3, 1), "the memory is bounded"


def test_a_release_keeps_its_connection_s_place_until_it_was_answered(
    delivery: KeyDelivery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for as long as a quote may take, and is passed on before the server gives up."""
    held = [False]
    timeouts = []

    @contextmanager
    def share() -> Iterator[None]:
        held[0] = True
        yield
        held[0] = False

    def ask(*_: object, timeout: float, **__: object) -> dict[str, object]:
        timeouts.append(timeout)
        assert held == [True]
        return {"ok": {"released": [], "missing": []}}

    monkeypatch.setattr(wire, "ask", ask)
    answer = delivery.answer(Asked("POST", RELEASE, [], lambda _: signed(), share=share), lambda *_: pytest.fail(""))
    assert held == [True]
    answer.close()
    assert held == [False] and min(timeouts) > QUOTE_TIMEOUT


def test_strangers_who_ask_for_the_list_are_one_question_a_second(
    delivery: KeyDelivery, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    now = [0.0]

    def ask(_: object, request: dict[str, str], **__: object) -> dict[str, object]:
        asked.append(request["op"])
        return {"ok": {"wanted": [len(asked)]}}

    def listed() -> object:
        answer = delivery.answer(Asked("GET", REQUEST, [], lambda _: b""), lambda *_: pytest.fail("no document"))
        return loads(b"".join(answer.pieces))["wanted"]

    monkeypatch.setattr(wire, "ask", ask)
    monkeypatch.setattr(keydelivery, "INTERVAL", 0.2)
    delivery._clock = lambda: now[0]
    assert [listed(), listed()] == [[1], [1]]
    now[0] += 0.2
    assert [listed(), listed()] == [[2], [2]]
    delivery.answer(Asked("POST", RELEASE, [], lambda _: signed()), lambda *_: pytest.fail("no document"))
    assert listed() == [4], "it is not kept beyond a release"
    with delivery._asking, pytest.raises(Denied, match="busy"):
        listed()


def test_a_machine_without_a_tee_fails_instead_of_waiting_for_keys_for_ever() -> None:
    with guest(a_config(**encrypted()), tee="none") as made:
        found = Waiting(made)
        found.thread.start()
        assert not found.ended()
        why = "no-tee: this machine cannot be attested, so no broker releases a key to it"
        assert made.said[-1] == f"privml: stage keys failed: {why}"
