"""The table of boot stages, used by agent, attestor, manifest and prediction.

A stage extends its listed agent events that occur in the measured configuration. Quotes for a purpose are given only
while its stage is current and all of the stage's events are extended. Each purpose therefore has exactly one prefix
of the agent's log and one value of RTMR3. A configuration without encrypted volumes needs no key, and has no quotes
for `key-release`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from privml.events.agent import (
    CONFIG,
    DATA,
    ENGINE,
    FAILED,
    GPU_POLICY,
    GPU_READY,
    KEYS,
    MODEL,
    NAMES,
    SYSTEM_READY,
    AgentEvent,
    config_event,
    data_event,
    engine_event,
    gpu_policy_event,
    gpu_ready_event,
    keys_event,
    model_event,
    system_ready_event,
)
from privml.events.configuration import Config

SERVE = "serve"
KEY_RELEASE = "key-release"
STAGE_OF: Mapping[str, str] = {SERVE: "ready", KEY_RELEASE: "keys"}
"""All purposes of attestation documents, with their stages."""


@dataclass(frozen=True)
class Stage:
    """A stage: its name, the agent events it extends in order, and the purposes that may be quoted there."""

    name: str
    events: tuple[str, ...] = ()
    purposes: tuple[str, ...] = ()


Table = tuple[Stage, ...]

STAGES: Table = (
    Stage("platform"),
    Stage("config", events=(CONFIG,)),
    Stage("identity"),
    Stage("devices"),
    Stage("gpu", events=(GPU_POLICY, GPU_READY)),
    Stage("services"),
    Stage("keys", purposes=(KEY_RELEASE,)),
    Stage("model", events=(KEYS, MODEL, DATA)),
    Stage("engine", events=(ENGINE,)),
    Stage("ready", events=(SYSTEM_READY,), purposes=(SERVE,)),
)
"""The stages that the agent goes through, in order."""


@dataclass(frozen=True)
class Step:
    """A stage for one configuration: its events with their payloads, and the purposes that may be quoted there."""

    stage: Stage
    events: tuple[AgentEvent, ...]
    purposes: tuple[str, ...]


def check(table: Table) -> None:
    """Raise ``ValueError`` if ``table`` is inconsistent: duplicates, an unknown event, or a misplaced purpose."""
    for what, names in (
        ("stage", [stage.name for stage in table]),
        ("agent event", [event for stage in table for event in stage.events]),
        ("purpose", [purpose for stage in table for purpose in stage.purposes]),
    ):
        if len(set(names)) != len(names):
            raise ValueError(f"stages: {what} given twice in {', '.join(names)}")
    unknown = {event for stage in table for event in stage.events} - {name for name in NAMES if name != FAILED}
    if unknown:
        raise ValueError(f"stages: unknown event `{min(unknown)}`")
    for stage in table:
        for purpose in stage.purposes:
            if STAGE_OF.get(purpose) != stage.name:
                raise ValueError(f"stages: purpose `{purpose}` at stage `{stage.name}`, expected one of {STAGE_OF}")
    if not table or not table[-1].purposes:
        raise ValueError("stages: the last stage has no purpose, so nothing could be quoted after the boot")


def step(config: Config, stage: Stage) -> Step:
    """One stage of a boot with ``config``."""
    events = _events(config)
    return Step(
        stage,
        tuple(event for name in stage.events for event in events.get(name, ())),
        tuple(purpose for purpose in stage.purposes if purpose != KEY_RELEASE or config.encrypted),
    )


def steps(config: Config, table: Table = STAGES) -> tuple[Step, ...]:
    """The stages of a healthy boot with ``config``, in order, each with its events."""
    return tuple(step(config, stage) for stage in table)


def sequence(config: Config, table: Table = STAGES) -> tuple[AgentEvent, ...]:
    """All agent events of a healthy boot with ``config``, in order."""
    return tuple(event for one in steps(config, table) for event in one.events)


def purposes(config: Config, table: Table = STAGES) -> dict[str, int]:
    """For each purpose the number of events of `sequence` after which it may be quoted."""
    found: dict[str, int] = {}
    count = 0
    for one in steps(config, table):
        count += len(one.events)
        found |= dict.fromkeys(one.purposes, count)
    return found


def _events(config: Config) -> Mapping[str, tuple[AgentEvent, ...]]:
    """The events that ``config`` fixes, by name; a name that is missing is not extended."""
    found: dict[str, tuple[AgentEvent, ...]] = {
        CONFIG: (config_event(config.sha256),),
        MODEL: tuple(model_event(model.name, model.verity.root_hash.hex()) for model in config.models),
        DATA: tuple(data_event(data.name, data.verity.root_hash.hex()) for data in config.data),
        SYSTEM_READY: (system_ready_event(),),
    }
    if config.gpu is not None:
        gpu = config.gpu
        pairs = [(each.driver, each.vbios) for each in gpu.allowed]
        found[GPU_POLICY] = (gpu_policy_event(gpu.vendor, gpu.architecture, gpu.count, pairs, gpu.switches),)
        found[GPU_READY] = (gpu_ready_event(gpu.count, gpu.switches),)
    if config.encrypted:
        found[KEYS] = (keys_event(config.encrypted),)
    if config.engine is not None:
        found[ENGINE] = (engine_event(config.engine.name, list(config.engine.argv)),)
    return found
