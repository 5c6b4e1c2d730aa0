"""The engine and the attestor are started again: within limits, without quotes meanwhile, and from nothing but what
was saved in this boot.
"""

from __future__ import annotations

import base64
import http.client
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from agent_guest import COUNTED, Guest, a_config, driven, guest

from privml.agent.answers import Denied
from privml.agent.attestation import Attestation
from privml.agent.attestor import _place_of
from privml.agent.attestorclient import AttestorClient
from privml.agent.attestorstate import Attestor
from privml.agent.boot import Boot
from privml.agent.endings import EndedEngineError, Endings
from privml.agent.layout import Layout
from privml.agent.place import Place, PlaceFile, decode
from privml.agent.progress import Progress
from privml.agent.restarts import ATTESTOR, Restarts
from privml.agent.tee import NoTee
from privml.agent.wire import RefusedRequest
from privml.base.errors import EvidenceError, HostError
from privml.events import configuration, stagetable
from privml.events.agent import AgentEvent, failed_event, parse_log, replay
from privml.events.configuration import Config
from privml.events.stages import SERVE, STAGES, sequence, steps
from privml.evidence import quotefault
from privml.evidence.sections import TLS_KEY, Key, Keys

KEYS = Keys((Key(*TLS_KEY, b"k" * 32),)).encode()
NONCE = "5a" * 32
ATTESTATION = f"/.well-known/privml-attestation?nonce={NONCE}"
CHAT = "/v1/chat/completions"


class Register(NoTee):
    """A platform with a register that outlives the attestor; its quotes are their report data."""

    name = "recorder"
    has_register = True

    def quote(self, report_data: bytes) -> bytes:
        return report_data


def measured(**changes: object) -> Config:
    return configuration.decode(configuration.encode(a_config(**changes)))


@pytest.fixture
def config() -> Config:
    return measured()


def begun(config: Config, tee: NoTee, places: list[Place], *, until: str | None = None) -> Attestor:
    """An attestor that has gone through the stages, and each of its places."""
    return driven(Attestor(config, tee, keep=places.append), config, KEYS, until=until)


def refused(work: Callable[[], object]) -> RefusedRequest:
    with pytest.raises(RefusedRequest) as caught:
        work()
    return caught.value


# The attestor: what it saves, and what it goes on from.


def test_an_attestor_goes_on_from_each_of_its_places(config: Config) -> None:
    """At each place the register is what the log says; the rest of the boot is as if nothing had happened."""
    places: list[Place] = []
    begun(config, Register(), places)
    assert len(places) == 1 + 1 + (len(STAGES) - 1) + len(sequence(config))  # the start, the keys, stages, events
    for place in places:
        tee = Register()
        tee._value = replay(parse_log(place.log))
        again = Attestor(config, tee, place=decode(place.encode()))
        assert again.parked == ""
        if place.keys is None:
            again.keys(KEYS)
        assert refused(lambda again=again: again.keys(KEYS)).code == "order", "keys are accepted once a boot"  # type: ignore[misc]
        at = steps(config)
        for event in at[place.at].events[len(at[place.at].events) - place.left :]:
            again.extend(event)
        for step in at[place.at + 1 :]:
            again.stage(step.stage.name)
            for event in step.events:
                again.extend(event)
        assert again.is_over
        assert tee.rtmr3() == replay(sequence(config))
        assert refused(lambda again=again: again.quote(bytes(32), SERVE)).code == "not-ready"  # type: ignore[misc]
        again.resume()
        parts = again.quote(bytes(32), SERVE)
        assert base64.b64decode(parts["keys"]) == KEYS
        assert parse_log(base64.b64decode(parts["eventlog"])) == sequence(config)


def test_a_step_is_not_made_if_it_cannot_be_saved(config: Config) -> None:
    tee = Register()
    attestor = Attestor(config, tee)

    def full(_: Place) -> None:
        raise OSError(28, "No space left on device")

    attestor.stage("config")
    attestor._keep = full
    for step in (lambda: attestor.extend(sequence(config)[0]), lambda: attestor.keys(KEYS)):
        with pytest.raises(OSError, match="No space"):
            step()
    assert tee.rtmr3() == bytes(48)
    attestor._keep = lambda _: None
    attestor.keys(KEYS)
    attestor.extend(sequence(config)[0])


def last_of(config: Config, tee: Register) -> Place:
    places: list[Place] = []
    begun(config, tee, places)
    return places[-1]


def parked(config: Config, tee: Register, place: Place) -> str:
    """Why an attestor parks at ``place``; it has extended `failed`, and no request makes it give a quote."""
    before = tee.rtmr3()
    saved: list[Place] = []
    attestor = Attestor(config, tee, place=place, keep=saved.append)
    assert attestor.parked and saved[-1].failed == attestor.parked
    assert tee.rtmr3() != before
    for work in (
        attestor.resume,
        attestor.suspend,
        lambda: attestor.quote(bytes(32), SERVE),
        lambda: attestor.keys(KEYS),
        lambda: attestor.stage("config"),
        lambda: attestor.extend(sequence(config)[0]),
    ):
        assert refused(work).code == "failed"
    again = Attestor(config, tee, place=saved[-1])
    assert again.parked == attestor.parked
    return attestor.parked


@pytest.mark.parametrize("number", range(4))
def test_a_log_ahead_of_the_register_parks(config: Config, number: int) -> None:
    """The attestor ended after it had saved a line, and before it had extended the register."""
    events = sequence(config)
    places: list[Place] = []
    begun(config, Register(), places)
    ahead = next(place for place in places if place.seq == number + 1)
    tee = Register()
    tee._value = replay(events[:number])
    assert parked(config, tee, ahead) == "the attestor was started again: RTMR3 differs from the replay of its log"


def test_a_register_ahead_of_the_log_parks(config: Config) -> None:
    tee = Register()
    place = last_of(config, tee)
    tee.extend(b"\x01" * 48)
    assert "RTMR3 differs" in parked(config, tee, place)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"keys": None}, "there are no keys"),
        ({"keys": b"{}"}, "keys"),
        ({"at": 7}, "its log is not that of its stage"),
        ({"at": 40}, "not in the stage table"),
        ({"left": 1}, "its log is not that of its stage"),
        ({"left": 9}, "not in the stage table"),
        ({"log": b""}, "its log is not that of its stage"),
        ({"tee": "tdx"}, "the platform is recorder, and was tdx"),
        ({"failed": "the engine exited"}, "the engine exited"),
    ],
    ids=lambda part: next(iter(part)) if isinstance(part, dict) else "",
)
def test_a_place_that_does_not_fit_parks(config: Config, change: dict[str, object], why: str) -> None:
    tee = Register()
    place = last_of(config, tee)
    assert why in parked(config, tee, replace(place, **change))  # type: ignore[arg-type]


def test_a_failure_is_saved_with_its_line_before_the_register_is_extended(config: Config) -> None:
    tee, places = Register(), list[Place]()
    attestor = begun(config, tee, places)
    attestor.fail("the engine exited")
    assert (places[-1].failed, places[-1].seq) == ("the engine exited", len(sequence(config)) + 1)
    assert tee.rtmr3() == replay([*sequence(config), failed_event()])
    assert parked(config, tee, places[-1]) == "the engine exited"


def test_a_machine_without_a_register_goes_on_from_the_log(config: Config) -> None:
    places: list[Place] = []
    begun(config, NoTee(), places, until="engine")
    again = Attestor(config, NoTee(), place=places[-1])
    again.stage("ready")
    again.extend(sequence(config)[-1])
    assert again.tee.rtmr3() == replay(sequence(config))


def test_a_quote_that_is_being_made_is_not_given_once_quotes_are_suspended(config: Config) -> None:
    tee = Register()
    attestor = driven(Attestor(config, tee), config, KEYS)
    made: list[bytes] = []

    def quote(report_data: bytes) -> bytes:
        attestor.suspend()
        made.append(report_data)
        return report_data

    tee.quote = quote  # type: ignore[method-assign]
    assert refused(lambda: attestor.quote(bytes(32), SERVE)).code == "not-ready"
    assert len(made) == 1


@pytest.fixture
def kept(tmp_path: Path) -> tuple[Layout, PlaceFile]:
    me = tmp_path.stat().st_uid
    layout = Layout(run=tmp_path, root_id=me, server_id=me)
    return layout, PlaceFile(layout.attestor_place, me)


def test_the_first_attestor_of_a_boot_has_no_place(kept: tuple[Layout, PlaceFile]) -> None:
    layout, file = kept
    assert _place_of(file, NoTee(), layout) is None
    place = Place("none", left=3, at=2, keys=KEYS, log=b"a\n")
    file.save(place)
    assert layout.attestor_place.stat().st_mode & 0o777 == 0o600
    assert _place_of(file, NoTee(), layout) == place
    assert [path.name for path in layout.attestor_place.parent.iterdir()] == ["place.json"]


def test_a_place_that_is_gone_parks(kept: tuple[Layout, PlaceFile]) -> None:
    layout, file = kept
    layout.tls_certificate.parent.mkdir(parents=True)
    layout.tls_certificate.write_text("made in this boot")
    place = _place_of(file, NoTee(), layout)
    assert place is not None and place.failed == "the attestor was started again, and its place is not there"


def other_mode(path: Path) -> None:
    path.chmod(0o644)


def linked(path: Path) -> None:
    path.rename(path.with_name("other"))
    path.symlink_to("other")


@pytest.mark.parametrize(
    "change",
    [
        other_mode,
        linked,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-9]),
        lambda path: path.write_bytes(path.read_bytes() + b"\n"),
        lambda path: path.write_bytes(path.read_bytes().replace(b'"at":0', b'"at": 0')),
        lambda path: path.write_bytes(path.read_bytes().replace(b'"at":0', b'"at":true')),
        lambda path: path.write_bytes(path.read_bytes().replace(b"place/v1", b"place/v2")),
        lambda path: path.write_bytes(path.read_bytes().replace(b'"left"', b'"more":1,"left"')),
    ],
    ids=range(9),
)
def test_a_place_that_cannot_be_trusted_parks(kept: tuple[Layout, PlaceFile], change: Callable[[Path], None]) -> None:
    layout, file = kept
    file.save(Place("none", left=0))
    change(layout.attestor_place)
    place = _place_of(file, NoTee(), layout)
    assert place is not None and place.failed.startswith("the attestor was started again: ")


def test_a_place_of_another_user_parks(kept: tuple[Layout, PlaceFile]) -> None:
    layout, file = kept
    file.save(Place("none", left=0))
    other = PlaceFile(layout.attestor_place, layout.root_id + 1)
    place = _place_of(other, NoTee(), layout)
    assert place is not None and "of the attestor's user" in place.failed


# The attestor as a process.


@contextmanager
def running(**changes: object) -> Iterator[tuple[Guest, Boot]]:
    """A guest that is ready, with its server, and its boot."""
    with guest() as made:
        made.start_server()
        boot = made.boot(**changes)
        assert boot.run(), made.said
        yield made, boot


@contextmanager
def watched(made: Guest, boot: Boot) -> Iterator[threading.Thread]:
    """The boot watches in a thread; at the end the machine is failed, so that it ends."""
    thread = threading.Thread(target=boot.watch, args=(0.01,))
    thread.start()
    try:
        yield thread
    finally:
        made.add_pci(9, 0x1AF4, 0x1044)
        thread.join()


def register_of(made: Guest, *more: AgentEvent) -> str:
    """RTMR3 of a healthy boot, and of ``more`` events after it."""
    return replay([*sequence(configuration.read(made.layout.config)), *more]).hex()


def quoted(made: Guest) -> int:
    return made.request("GET", ATTESTATION)[0]


def restarts(made: Guest, stage: str) -> int:
    rows = made.json("/boot-stages")[1]["stages"]
    return next(row["restarts"] for row in rows if row["name"] == stage)  # type: ignore[union-attr, index, misc]


def test_an_attestor_that_is_killed_goes_on_with_its_keys_and_its_log() -> None:
    with running(attestor_again=30.0) as (made, boot), watched(made, boot):
        before = json.loads(made.request("GET", ATTESTATION)[2])
        for number in range(1, ATTESTOR + 1):
            made.kill_attestor()
            assert quoted(made) == 503
            made.start_attestor()
            made.wait_for(lambda: quoted(made) == 200, "quotes")
            assert restarts(made, "platform") == number
            after = json.loads(made.request("GET", ATTESTATION)[2])
            assert [after[part] for part in ("keys", "eventlog", "header")] == [
                before[part] for part in ("keys", "eventlog", "header")
            ]
            assert not made.layout.stage_socket.exists()
            assert made.json("/readyz")[0] == 200
        made.kill_attestor()
        made.start_attestor()
        made.wait_for(lambda: not boot.progress.ready, "the end of restarts")
        assert quoted(made) == 503
        assert made.said[-1] == "privml: stage platform failed: the attestor exited, after 3 restarts"


def test_quotes_of_a_restarted_attestor_wait_for_the_boot_process() -> None:
    with running(attestor_again=30.0) as (made, boot):
        made.kill_attestor()
        made.start_attestor()
        client = AttestorClient(made.layout)
        made.wait_for(lambda: code_of(client) == "not-ready", "an attestor with suspended quotes")
        boot._check_others()
        assert code_of(client) == ""


def code_of(client: AttestorClient) -> str:
    try:
        client.quote(bytes(32), timeout=10)
    except RefusedRequest as refusal:
        return refusal.code
    except HostError:
        return "silent"
    return ""


def test_an_error_that_nobody_foresaw_ends_the_attestor_and_the_next_one_quotes() -> None:
    """The thread that gives quotes must not end alone: the machine would be ready, and never attest again."""
    with running(attestor_again=30.0) as (made, boot), watched(made, boot):
        (made.root / "fault").write_text("no such fault")
        assert quoted(made) == 503
        assert made.attestor.wait(30) == 1
        (made.root / "fault").unlink()
        made.start_attestor()
        made.wait_for(lambda: boot.progress.stage("platform").restarts == 1, "the attestor")
        made.wait_for(lambda: quoted(made) == 200, "a quote")


def test_an_attestor_without_its_place_fails_the_machine() -> None:
    with running(attestor_again=30.0) as (made, boot):
        before = (made.root / "rtmr3").read_text()
        made.kill_attestor()
        made.layout.attestor_place.unlink()
        made.start_attestor()
        boot.watch(interval=0.01)
        assert made.said[-1].startswith("privml: stage platform failed: attestor: this machine has failed: ")
        assert "its place is not there" in made.said[-1]
        assert (quoted(made), made.json("/readyz")[0]) == (503, 503)
        assert before == register_of(made)
        assert (made.root / "rtmr3").read_text() != register_of(made)


def test_an_attestor_that_is_killed_between_stages_goes_on() -> None:
    with guest() as made:
        boot = made.boot(attestor_again=30.0)
        models = boot._work["model"]

        def model() -> tuple[str, str]:
            made.kill_attestor()
            made.start_attestor()
            return models()

        boot._work["model"] = model
        assert boot.run(), made.said
        assert code_of(AttestorClient(made.layout)) == ""
        assert boot.progress.stage("platform").restarts == 1


def test_an_attestor_that_ends_between_log_and_register_parks() -> None:
    with guest() as made:
        made.start_server()
        boot = made.boot(attestor_again=30.0)
        models = boot._work["model"]

        def model() -> tuple[str, str]:
            (made.root / "crash").touch()
            return models()

        boot._work["model"] = model
        boot._failed = lambda name, why: failures.append((name, why))  # type: ignore[method-assign]
        failures: list[tuple[str, str]] = []
        assert not boot.run()
        assert failures == [("model", "attestor message: the connection was closed early")]
        made.attestor.wait()
        made.start_attestor()
        made.wait_for(lambda: code_of(AttestorClient(made.layout)) == "failed", "a parked attestor")
        assert not made.layout.stage_socket.exists()
        with pytest.raises(RefusedRequest, match="RTMR3 differs from the replay of its log"):
            AttestorClient(made.layout).resume()


@pytest.mark.parametrize("request_", [{"op": "quote"}, {"op": "keys"}, {"op": "resume", "more": 1}, {}, []])
def test_the_control_socket_takes_suspend_and_resume_only(request_: object) -> None:
    from privml.agent import wire

    with guest() as made:
        made.wait_for(made.layout.quote_socket.exists, "sockets")
        answer = wire.ask(made.layout.control_socket, request_, timeout=5)  # type: ignore[arg-type]
        assert answer["error"]["code"] == "malformed"
        assert made.layout.control_socket.stat().st_mode & 0o777 == 0o600


# The engine.


def quick(**changes: object) -> Restarts:
    return Restarts(first=0.01, **changes)  # type: ignore[arg-type]


def test_an_engine_that_exits_is_started_again_and_quotes_wait_for_its_trial() -> None:
    with running(restarts=quick()) as (made, boot):
        before = json.loads(made.request("GET", ATTESTATION)[2])
        trial = threading.Event()

        def counts() -> Iterator[bytes]:
            trial.wait(30)
            while True:
                yield COUNTED

        with watched(made, boot):
            made.engine.counts = counts()
            made.engine.die()
            made.wait_for(lambda: made.engine.starts == 2, "the next engine")
            assert made.json("/readyz")[0] == 503
            assert (quoted(made), code_of(AttestorClient(made.layout))) == (503, "not-ready")
            assert made.request("POST", CHAT, b"{}")[0] == 503
            trial.set()
            made.wait_for(lambda: made.json("/readyz")[0] == 200, "readiness")
            assert restarts(made, "engine") == 1
            after = json.loads(made.request("GET", ATTESTATION)[2])
            assert [after[part] for part in ("keys", "eventlog")] == [before[part] for part in ("keys", "eventlog")]
            assert made.request("POST", CHAT, b"{}")[0] == 200


def test_beyond_the_limit_failed_is_extended_before_anything_says_so() -> None:
    with running(restarts=quick(hour=1)) as (made, boot):
        said: list[str] = []
        made.engine.die()
        with watched(made, boot) as thread:
            made.wait_for(lambda: boot.progress.stage("engine").restarts == 1 and boot.progress.ready, "a restart")
            end = boot.progress.end

            def told(name: str, status: str, detail: str = "") -> None:
                said.append(code_of(AttestorClient(made.layout)))
                end(name, status, detail)

            boot.progress.end = told  # type: ignore[method-assign]
            made.engine.die()
            thread.join()
        assert "privml: stage engine failed: the engine exited, after 1 restarts within an hour" in made.said
        assert said == ["failed"]
        assert (made.root / "rtmr3").read_text() == register_of(made, failed_event())


def test_an_engine_that_fails_its_trial_is_not_ready_and_takes_a_restart() -> None:
    noise = COUNTED.replace(b"6, 7", b"8, 9")
    with running(restarts=quick()) as (made, boot):
        made.engine.counts = iter([noise, noise, COUNTED, COUNTED])
        made.engine.die()
        with watched(made, boot):
            made.wait_for(lambda: made.engine.starts == 3 and boot.progress.ready, "readiness")
        assert any("engine-answers-wrong" in line and "it is started again" in line for line in made.said)


def test_an_engine_is_not_started_where_another_one_left_its_directory() -> None:
    with running(restarts=quick(hour=2)) as (made, boot):
        made.engine.leaves = True
        made.engine.die()
        boot.watch(interval=0.01)
        assert made.engine.starts == 1
        assert "the one that exited left" in made.said[-1]
        assert not boot.progress.ready


def test_shared_memory_of_an_engine_that_exited_must_be_gone() -> None:
    with running(restarts=quick(hour=1)) as (made, boot):
        (made.layout.dev / "shm").mkdir()
        (made.layout.dev / "shm" / "cache").touch()
        made.engine.die()
        boot.watch(interval=0.01)
        assert (made.engine.starts, "the one that exited left shared memory" in made.said[-1]) == (1, True)


def test_a_device_that_is_plugged_in_while_the_engine_starts_fails_the_machine() -> None:
    with running(restarts=Restarts(first=60.0)) as (made, boot):
        made.engine.die()
        thread = threading.Thread(target=boot.watch, args=(0.01,))
        thread.start()
        made.wait_for(lambda: boot.progress.stage("engine").restarts == 1, "a restart")
        made.add_pci(9, 0x1AF4, 0x1044)
        thread.join()
        assert made.said[-1] == "privml: stage devices failed: devices: 1 x virtio-rng not declared"
        assert (made.engine.starts, quoted(made)) == (1, 503)


def test_an_attestor_that_is_killed_while_the_engine_starts_stays_suspended() -> None:
    with running(restarts=Restarts(first=60.0), attestor_again=30.0) as (made, boot), watched(made, boot):
        made.engine.die()
        made.wait_for(lambda: boot.progress.stage("engine").restarts == 1, "a restart")
        made.kill_attestor()
        made.start_attestor()
        made.wait_for(lambda: boot.progress.stage("platform").restarts == 1, "the attestor")
        assert code_of(AttestorClient(made.layout)) == "not-ready"


def test_the_request_that_was_running_when_the_engine_exited_is_not_sent_again() -> None:
    with running(restarts=quick()) as (made, boot), watched(made, boot):
        made.engine.hold.clear()
        body = b'{"messages":[{"role":"user","content":"poison"}],"stream":false}'
        ended: list[tuple[int, str]] = []

        def ask() -> None:
            status, _, answer = made.request("POST", CHAT, body)
            ended.append((status, json.loads(answer)["error"]["code"]))

        thread = threading.Thread(target=ask)
        thread.start()
        made.wait_for(lambda: any(b"poison" in each for _, _, each in made.engine.requests), "the request")
        made.engine.die()
        thread.join()
        assert ended == [(502, "engine")]
        made.wait_for(lambda: boot.progress.ready and made.json("/readyz")[0] == 200, "readiness")
        made.wait_for(lambda: made.request("POST", CHAT, body)[0] == 422, "a refusal")
        sent = len(made.engine.requests)
        status, _, answer = made.request("POST", CHAT, b" " + body)
        assert (status, json.loads(answer)["error"]["code"]) == (422, "request-ended-engine")
        assert len(made.engine.requests) == sent
        assert made.request("POST", CHAT, body.replace(b"poison", b"other"))[0] == 200


@pytest.mark.parametrize("stream", [b"false", b"true"])
def test_a_request_whose_caller_leaves_frees_its_slot(stream: bytes) -> None:
    with running() as (made, _):
        made.engine.hold.clear()
        for number in range(1, 2 * made.config.max_concurrency + 1):
            connection = http.client.HTTPSConnection("127.0.0.1", made.config.listen, timeout=10)
            connection.sock = made.connect()
            connection.request("POST", CHAT, b'{"stream":%s,"seed":%d}' % (stream, number))
            made.wait_for(lambda number=number: len(chats(made)) == number, "the request at the engine")  # type: ignore[misc]
            connection.close()
            made.wait_for(lambda: free(made), "a free slot")


def chats(made: Guest) -> list[bytes]:
    return [body for path, _, body in made.engine.requests if path == CHAT]


def free(made: Guest) -> bool:
    """Whether no answer is open: as many requests as there are turns get past the turn, to be refused for a field."""
    connections = []
    statuses = set()
    for _ in range(made.config.max_concurrency):
        tls = made.connect()
        tls.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 9\r\n\r\n"
        )
        statuses.add(tls.recv(12))
        connections.append(tls)
    for tls in connections:
        tls.close()
    return statuses == {b"HTTP/1.1 100"}


# How often.


def test_restarts_are_limited_by_the_hour_and_by_the_boot() -> None:
    now = [100.0]
    limits = Restarts(clock=lambda: now[0])
    assert [limits.next() for _ in range(5)] == [1, 2, 4, 8, 16]
    assert limits.used_up == "5 restarts within an hour"
    now[0] += 3599
    assert limits.used_up == "5 restarts within an hour"
    now[0] += 1
    assert [limits.next() for _ in range(5)] == [32, 60, 60, 60, 60]
    assert limits.used_up == "10 restarts since the boot"
    now[0] += 1e6
    assert limits.used_up == "10 restarts since the boot"


# Which requests were running.


class Engine:
    """What the boot process says of an engine, and the time."""

    def __init__(self, limit: int = 8) -> None:
        self.restarts, self.now = 0, 0.0
        self.endings = Endings(lambda: self.restarts, limit=limit, clock=lambda: self.now)

    def exits(self) -> None:
        self.restarts += 1
        self.endings.look()

    def refuses(self, body: bytes) -> bool:
        try:
            running = self.endings.begin(CHAT, body)
        except EndedEngineError:
            return True
        running.answered = True
        self.endings.end(running)
        return False


def test_running_requests_are_refused_after_the_engine_exited_and_others_are_not() -> None:
    engine = Engine()
    answered, failed, open_ = (engine.endings.begin(CHAT, body) for body in (b"answered", b"failed", b"open"))
    assert list(answered.pieces(200, [b"a", b"b"])) == [b"a", b"b"]
    assert list(failed.pieces(500, [b"a"])) == [b"a"]
    for running in (answered, failed):
        engine.endings.end(running)
    engine.endings.look()
    assert not engine.refuses(b"open"), "nothing has exited yet"
    engine.exits()
    assert [engine.refuses(body) for body in (b"answered", b"failed", b"open", b"other")] == [
        False,
        True,
        True,
        False,
    ]
    engine.endings.end(open_)


def test_a_request_that_broke_long_before_the_end_did_not_cause_it() -> None:
    engine = Engine()
    engine.endings.end(engine.endings.begin(CHAT, b"early"))
    engine.now += 11
    engine.endings.end(engine.endings.begin(CHAT, b"late"))
    engine.now += 9
    engine.exits()
    assert (engine.refuses(b"early"), engine.refuses(b"late")) == (False, True)


def test_the_digests_are_bounded_and_the_last_ones_are_kept() -> None:
    engine = Engine(limit=4)
    for number in range(20):
        engine.endings.end(engine.endings.begin(CHAT, b"%d" % number))
        engine.exits()
    assert [number for number in range(20) if engine.refuses(b"%d" % number)] == [16, 17, 18, 19]


def test_requests_without_a_body_are_never_refused() -> None:
    engine = Engine()
    engine.endings.begin("/v1/models", b"")
    engine.exits()
    assert not engine.refuses(b"")


def test_a_place_is_read_strictly() -> None:
    with pytest.raises(EvidenceError, match=r"place\.format"):
        decode(b'{"format":"privml-place/v9"}\n')


# The stage table that the server shows.


def test_another_refusal_does_not_hide_why_there_was_no_quote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = Layout(run=tmp_path)
    Progress(layout.stages, [stage.name for stage in STAGES]).end(STAGES[0].name, "ok", "tdx")
    attestation = Attestation(layout)

    def detail(code: str) -> str:
        def quote(*_: object, **__: object) -> None:
            raise RefusedRequest(code, "no")

        monkeypatch.setattr(AttestorClient, "quote", quote)
        with pytest.raises(Denied) as caught:
            attestation.documents.document(f"nonce={NONCE}")
        assert caught.value.code == code
        return stagetable.decode(attestation.stages()[1]).rows[0].detail

    busy = f"tdx; no quote: {quotefault.BUSY}"
    assert [detail(code) for code in ("gpu-nonce", "quote-busy", "gpu-nonce", "not-ready")] == [
        "tdx",
        busy,
        busy,
        busy,
    ]


@pytest.mark.parametrize(
    "data", [b"", b"[]", b'{"stages":[1]}', b'{"format":"privml-stages/v2","ready":true,"stages":[1]}']
)
def test_a_table_that_cannot_be_read_is_not_ready(tmp_path: Path, data: bytes) -> None:
    layout = Layout(run=tmp_path)
    attestation = Attestation(layout)
    attestation._fault = quotefault.BUSY
    for _ in range(2):
        assert attestation.stages() == (False, b'{"format":"privml-stages/v2","ready":false,"stages":[]}\n')
        layout.stages.write_bytes(data)
