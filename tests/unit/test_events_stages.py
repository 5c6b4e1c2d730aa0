"""The stage table: which events a boot extends, in which order, and after which events a purpose can be quoted."""

from __future__ import annotations

import json
import re

import pytest
from agent_guest import BROKER, NO_MODEL, VOLUME_KEY, a_config, a_crypt, a_data, a_model, encrypted

from privml.agent.boot import Boot
from privml.agent.layout import Layout
from privml.base.errors import EvidenceError
from privml.events import stages
from privml.events.agent import FAILED, MAX_EVENTS, NAMES
from privml.events.configuration import Config, Data, decode, encode
from privml.events.crypt import Broker
from privml.events.stages import STAGES, Stage, Table
from privml.events.volumes import DATA, MODEL


def measured(**changes: object) -> Config:
    return decode(encode(a_config(**changes)))


def names(config: Config, table: Table = STAGES) -> list[str]:
    return [event.name for event in stages.sequence(config, table)]


def test_the_shipped_table_has_its_stages_and_events() -> None:
    stages.check(STAGES)
    assert [stage.name for stage in STAGES] == [
        "platform", "config", "identity", "devices", "gpu", "services", "keys", "model", "engine", "ready",
    ]  # fmt: skip
    assert [name for stage in STAGES for name in stage.events] == [name for name in NAMES if name != FAILED]
    assert {stage.name: stage.purposes for stage in STAGES if stage.purposes} == {
        "keys": ("key-release",),
        "ready": ("serve",),
    }


def test_the_configuration_decides_which_events_there_are() -> None:
    assert names(measured()) == ["config", "model", "engine", "system-ready"]
    assert names(measured(**NO_MODEL)) == ["config", "system-ready"]
    config = measured(models=(a_model(), a_model("b", 1), a_model("c", 2)))
    assert names(config) == ["config", "model", "model", "model", "engine", "system-ready"]
    payloads = [json.loads(event.payload) for event in stages.sequence(config)]
    assert payloads[0] == {"sha256": config.sha256}
    assert payloads[1:4] == [
        {"name": name, "root_hash": digit * 32} for name, digit in (("tiny", "aa"), ("b", "01"), ("c", "02"))
    ]


def test_data_has_events_after_the_models_and_its_own_keys() -> None:
    broker = Broker("partner", b"p" * 32)
    config = measured(**encrypted(data=(a_data(crypt=a_crypt("corpus", "partner")),), brokers=(broker, BROKER)))
    assert names(config) == ["config", "keys", "model", "data", "engine", "system-ready"]
    payloads = [json.loads(event.payload) for event in stages.sequence(config)]
    assert [each["resource"] for each in payloads[1]["resources"]] == ["model/tiny", "corpus"]
    assert payloads[3] == {"name": "corpus", "root_hash": "cc" * 32}
    assert stages.purposes(config) == {"key-release": 1, "serve": 6}
    bare = encode(a_config())
    assert b'"data"' not in bare and b'"data"' in encode(config)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ((a_data(), a_data()), "two data volumes have the same name"),
        ((a_data("../x"),), "expected words of a-z and 0-9"),
        ((a_data(crypt=a_crypt()),), "one resource of a broker is the key of two volumes"),
        ((a_data(crypt=a_crypt("x", "nobody")),), "exactly the brokers of the encrypted volumes"),
        (tuple(a_data(f"d{number}") for number in range(DATA.most + 1)), "data"),
    ],
)
def test_a_configuration_with_wrong_data_is_refused(data: tuple[Data, ...], why: str) -> None:
    with pytest.raises(EvidenceError, match=re.escape(why)):
        measured(**encrypted(data=data))


def test_the_longest_sequence_fits_a_log() -> None:
    config = measured(
        models=tuple(a_model(f"m{number}", number) for number in range(MODEL.most)),
        data=tuple(a_data(f"d{number}", number) for number in range(DATA.most)),
    )
    assert len(stages.sequence(config)) + len(("gpu-policy", "gpu-ready", "keys", "failed")) <= MAX_EVENTS


def test_each_purpose_has_its_number_of_events() -> None:
    assert stages.purposes(measured()) == {"serve": 4}
    assert stages.purposes(measured(**NO_MODEL)) == {"serve": 2}
    three = measured(models=(a_model(), a_model("b", 1), a_model("c", 2)))
    assert stages.purposes(three) == {"serve": 6}
    assert stages.purposes(measured(**encrypted())) == {"key-release": 1, "serve": 5}


def test_released_keys_are_one_event_before_the_models() -> None:
    config = measured(**encrypted())
    assert names(config) == ["config", "keys", "model", "engine", "system-ready"]
    check = a_crypt().check.hex()
    assert json.loads(stages.sequence(config)[1].payload) == {
        "resources": [{"broker": "weights", "resource": "model/tiny", "generation": 1, "check": check}]
    }
    assert a_crypt().is_key(VOLUME_KEY) and not a_crypt().is_key(VOLUME_KEY[::-1])


@pytest.mark.parametrize(
    ("table", "text"),
    [
        ((), "last stage has no purpose"),
        (STAGES[:-1], "last stage has no purpose"),
        ((*STAGES, STAGES[-1]), "stage given twice"),
        ((Stage("again", events=("config",)), *STAGES), "agent event given twice"),
        ((*STAGES[:-1], Stage("ready", purposes=("serve", "serve"))), "purpose given twice"),
        ((Stage("x", events=("failed",)), STAGES[-1]), "unknown event `failed`"),
        ((Stage("x", events=("shell",)), STAGES[-1]), "unknown event `shell`"),
        ((Stage("x", purposes=("key-release",)), STAGES[-1]), "purpose `key-release` at stage `x`"),
        ((Stage("x", purposes=("prompt",)), STAGES[-1]), "purpose `prompt` at stage `x`"),
    ],
)
def test_inconsistent_table_is_refused(table: Table, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        stages.check(table)


def test_a_stage_that_the_boot_cannot_do_is_refused(tmp_path: object) -> None:
    with pytest.raises(ValueError, match="stage `more` has no function"):
        Boot(
            Layout(), volumes=None, engine=None, service=None, say=print, outbound=lambda: None,  # type: ignore[arg-type]
            gpus=None, table=(Stage("more"), *STAGES),  # type: ignore[arg-type]
        )  # fmt: skip
