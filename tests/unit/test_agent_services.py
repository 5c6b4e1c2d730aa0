"""The image's own services: in the measured configuration, started by the boot, reached through the server."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import threading
from pathlib import Path
from typing import Any

import pytest
from agent_guest import NO_MODEL, Guest, a_config, guest

from privml.agent import routes, service
from privml.agent.layout import Layout
from privml.base.errors import EvidenceError
from privml.base.strictjson import canonical
from privml.events import configuration, services, stages
from privml.events.configuration import Service

METRICS = Service(
    "metrics", ("/usr/bin/python3", "/usr/lib/acme/metrics.py"), {"ACME_LEVEL": "info"}, 64 << 20, False
)
GUARD = dataclasses.replace(METRICS, name="guard", required=True)


def config(*given: Service) -> configuration.Config:
    return a_config(services=given, **NO_MODEL)


def detail_of(made: Guest, name: str) -> tuple[str, str]:
    (row,) = (row for row in json.loads(made.layout.stages.read_bytes())["stages"] if row["name"] == name)
    return row["status"], row["detail"]


# -- the measured configuration ------------------------------------------------------------------------------------


def test_services_are_measured_and_read_back() -> None:
    made = config(GUARD, METRICS)
    data = configuration.encode(made)
    assert configuration.decode(data).services == (GUARD, METRICS)
    changed = config(GUARD, dataclasses.replace(METRICS, argv=(*METRICS.argv, "--more")))
    changed = dataclasses.replace(changed, listen=made.listen)
    (one,), (other,) = (
        [event.payload for event in stages.sequence(configuration.decode(each)) if event.name == "config"]
        for each in (data, configuration.encode(changed))
    )
    assert one != other


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "Acme"}, "config.services[0].name: got `Acme`"),
        ({"name": "a" * 21}, "config.services[0].name"),
        ({"name": "a/b"}, "config.services[0].name"),
        ({"argv": []}, "expected an absolute program path first"),
        ({"argv": ["python3"]}, "expected an absolute program path first"),
        ({"argv": ["/usr/bin/python3", "a\nb"]}, "config.services[0].argv[1]"),
        ({"environment": {"path": "x"}}, "config.services[0].environment.path"),
        ({"environment": {"A": 1}}, "config.services[0].environment.A"),
        ({"environment": {"A": "\x1b[2J"}}, "config.services[0].environment.A"),
        ({"memory": 0}, "config.services[0].memory"),
        ({"required": 1}, "config.services[0].required"),
        ({"more": 1}, "config.services[0].more: unknown field"),
    ],
)
def test_a_malformed_service_is_refused(change: dict[str, Any], message: str) -> None:
    top = json.loads(configuration.encode(config(METRICS)))
    top["services"][0] |= change
    with pytest.raises(EvidenceError) as caught:
        configuration.decode(canonical(top))
    assert message in str(caught.value)


def test_services_are_in_one_order_and_each_is_named_once() -> None:
    for given in ((METRICS, GUARD), (METRICS, METRICS)):
        with pytest.raises(EvidenceError, match="expected them sorted by name, each name once"):
            configuration.decode(configuration.encode(config(*given)))


def test_the_process_becomes_the_measured_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(configuration.encode(config(METRICS)))
    seen: list[Any] = []
    monkeypatch.setenv("SECRET", "1")
    monkeypatch.setattr("os.execve", lambda *words: seen.append(words))
    service.main("metrics", Layout(config=path))
    assert seen == [
        (
            "/usr/bin/python3",
            METRICS.argv,
            {
                "ACME_LEVEL": "info",
                "PATH": "/usr/bin",
                "LANG": "C.UTF-8",
                "SOCKET": "/run/privml-services/metrics/http.sock",
            },
        )
    ]
    assert service.main("other", Layout(config=path)) == 1
    assert len(seen) == 1


# -- the boot ------------------------------------------------------------------------------------------------------


def test_services_start_before_the_engine_and_after_the_identity() -> None:
    names = [stage.name for stage in stages.STAGES]
    assert names.index("identity") < names.index("services") < names.index("engine")


def test_a_boot_starts_each_service_and_is_ready() -> None:
    with guest(config(GUARD, METRICS)) as made:
        assert made.boot().run()
        assert detail_of(made, "services") == ("ok", "guard; metrics")


def test_without_a_service_the_stage_is_skipped() -> None:
    with guest(config()) as made:
        assert made.boot().run()
        assert detail_of(made, "services") == ("skipped", "the measured configuration names no service")


def test_a_service_that_does_not_listen_is_a_warning_unless_it_is_required() -> None:
    with guest(config(METRICS)) as made:
        made.services["metrics"].listens = made.services["metrics"].living = False
        assert made.boot().run()
        assert detail_of(made, "services") == ("warning", "metrics: does not listen on its socket")
    with guest(config(GUARD)) as made:
        made.services["guard"].listens = False
        assert not made.boot(service_wait=0.1).run()
        assert detail_of(made, "services") == ("failed", "services: guard does not listen on its socket")


@pytest.mark.parametrize(("given", "fails"), [(GUARD, True), (METRICS, False)])
def test_the_end_of_a_required_service_fails_the_machine(given: Service, fails: bool) -> None:
    with guest(config(given)) as made:
        boot = made.boot()
        assert boot.run()

        def watch() -> None:
            with contextlib.suppress(OSError):  # at the end of the test the guest's files are removed
                boot.watch(0.01)

        threading.Thread(target=watch, daemon=True).start()
        made.services[given.name].living = False
        if fails:
            made.wait_for(lambda: detail_of(made, "services")[0] == "failed", "failed stage")
            assert detail_of(made, "services") == ("failed", "the service guard exited")
        else:
            assert detail_of(made, "services")[0] == "ok"


# -- the server ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def served() -> Any:
    with guest(config(GUARD, METRICS)) as made:
        made.start_server()
        assert made.boot().run()
        yield made


@pytest.mark.parametrize("method", routes.SERVICE_METHODS)
def test_a_request_reaches_the_service_without_the_prefix(served: Guest, method: str) -> None:
    body = b"" if method in ("GET", "HEAD") else b'{"a":1}'
    headers = {"Content-Type": "application/json", "Cookie": "a=b", "X-More": "1", "Authorization": "Bearer x"}
    status, answered, text = served.request(method, "/x/metrics/some/path?since=1", body or None, headers)
    assert (status, text) == (200, b"" if method == "HEAD" else b'{"metrics":1}')
    assert "set-cookie" not in answered
    asked, path, passed, sent = served.services["metrics"].requests[-1]
    assert (asked, path, sent) == (method, "/some/path?since=1", body)
    assert not {"cookie", "x-more", "authorization"} & passed.keys()
    assert passed["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/x/other/", 404, "no-service"),
        ("GET", "/x/metrics", 404, "no-service"),
        ("GET", "/x/", 404, "no-service"),
        ("GET", "/x/../run/", 404, "no-service"),
        ("PATCH", "/x/metrics/", 405, "method"),
        ("CONNECT", "/x/metrics/", 405, "method"),
    ],
)
def test_other_requests_are_refused(served: Guest, method: str, path: str, status: int, code: str) -> None:
    before = len(served.services["metrics"].requests)
    got, _, text = served.request(method, path)
    assert got == status
    assert json.loads(text)["error"]["code"] == code
    assert len(served.services["metrics"].requests) == before


def test_a_body_has_a_bound(served: Guest) -> None:
    head = b"POST /x/metrics/ HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (routes.SERVICE_BODY + 1)
    answer = served.raw(head)
    assert answer.startswith(b"HTTP/1.1 413 ")


def test_nothing_reaches_a_service_before_the_machine_is_ready() -> None:
    with guest(config(GUARD)) as made:
        made.start_server()
        made.services["guard"].listens = False
        assert not made.boot(service_wait=0.1).run()
        status, _, text = made.request("GET", "/x/guard/")
        assert status == 503
        assert json.loads(text)["error"]["code"] == "not-ready"


def test_a_service_that_is_gone_is_named() -> None:
    with guest(config(METRICS)) as made:
        made.start_server()
        assert made.boot().run()
        made.services["metrics"].stop()
        status, _, text = made.request("GET", "/x/metrics/")
        assert status == 502
        assert json.loads(text)["error"] == {
            "code": "service",
            "message": "the service metrics does not answer",
            "type": "privml",
        }


def test_names_fit_where_they_are_used() -> None:
    longest = "a" * services.MAX_NAME
    assert len(services.user(longest)) <= 31  # useradd(8)
    assert len(services.socket_path(longest)) < 108  # unix(7)
