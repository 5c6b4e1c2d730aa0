"""The measured configuration: what this image was built to do. Strict: an unknown field is an error.

The file lies in the verity root, so RTMR2 covers it through the root hash on the command line; the agent extends its
digest again so that a reader of the agent's log alone can see which configuration ran.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from privml.base.errors import EvidenceError
from privml.base.strictjson import Fields, canonical, loads
from privml.events import agent as events
from privml.events.variants import VARIANTS
from privml.events.verity import Verity

FORMAT = "privml-config/v2"
_MAX_FILE = 64 * 1024


@dataclass(frozen=True)
class Inference:
    """What answers prompts: the engine's name and argv, and the model's name, file and volume."""

    engine_name: str
    engine_argv: tuple[str, ...]
    model_name: str
    model_file: str
    model_verity: Verity


@dataclass(frozen=True)
class Config:
    """The decoded configuration; ``sha256`` is the hex digest of the file's bytes.

    Without ``inference`` the guest attests and does nothing else; an engine without a model, or a model without an
    engine, cannot be said.
    """

    sha256: str
    name: str
    variant: str
    listen: int
    max_concurrency: int
    inference: Inference | None
    devices: tuple[str, ...]
    rtmr3: str

    def events(self) -> tuple[events.AgentEvent, ...]:
        """The agent's events of a healthy boot with this configuration, in order: there are no others."""
        made = [events.config_event(self.sha256), events.system_ready_event()]
        if (inference := self.inference) is not None:
            made.append(events.model_event(inference.model_name, inference.model_verity.root_hash.hex()))
            made.append(events.engine_event(inference.engine_name, list(inference.engine_argv)))
        named = {event.name: event for event in made}
        return tuple(named[name] for name in events.sequence(gpus=False, inference=inference is not None))


def read(path: Path) -> Config:
    """The configuration in ``path``; ``EvidenceError`` when it is not there or not exactly v2."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise EvidenceError(f"configuration {path}: {error.strerror}") from error
    return decode(data)


def decode(data: bytes) -> Config:
    """Decode canonical bytes; ``EvidenceError`` for anything else."""
    value = loads(data, what="config", limit=_MAX_FILE)
    top = Fields(value, "config")
    if canonical(value) != data:
        raise EvidenceError("config: not canonical JSON")
    top.text("format", one_of=(FORMAT,))
    name = _nonempty(top, "name")
    variant = top.text("variant", one_of=VARIANTS)
    agent = top.fields("agent")
    listen = agent.integer("listen", low=1024, high=65535)
    max_concurrency = agent.integer("max_concurrency", low=1, high=1024)
    agent.end()
    inference = _inference(top)
    devices = _texts(top, "devices")
    rtmr3 = top.text("rtmr3", one_of=("staged", "unused"))
    top.end()
    return Config(
        sha256=hashlib.sha256(data).hexdigest(),
        name=name,
        variant=variant,
        listen=listen,
        max_concurrency=max_concurrency,
        inference=inference,
        devices=devices,
        rtmr3=rtmr3,
    )


def encode(config: Config) -> bytes:
    """The canonical bytes of ``config`` (``sha256`` is not a field of the file)."""
    fields: Mapping[str, object] = {
        "format": FORMAT,
        "name": config.name,
        "variant": config.variant,
        "agent": {"listen": config.listen, "max_concurrency": config.max_concurrency},
        **_inference_fields(config.inference),
        "devices": list(config.devices),
        "rtmr3": config.rtmr3,
    }
    return canonical(dict(fields))


def _inference(top: Fields) -> Inference | None:
    """``engine`` and ``model``: both fields, or both null; one alone is no configuration."""
    engine, model = top.fields_or_null("engine"), top.fields_or_null("model")
    if engine is None and model is None:
        return None
    if engine is None or model is None:
        raise EvidenceError("config: one of engine and model is null; expected both objects, or both null")
    engine_name = engine.text("name", one_of=("llama-server",))
    engine_argv = _texts(engine, "argv")
    engine.end()
    if not engine_argv or not engine_argv[0].startswith("/"):
        raise EvidenceError("config.engine.argv: expected an absolute program path first")
    model_name = _nonempty(model, "name")
    model_file = _nonempty(model, "file")
    if "/" in model_file or model_file in (".", ".."):
        raise EvidenceError(f"config.model.file: got `{model_file[:80]}`, expected a file name")
    model_verity = Verity.from_fields(model.fields("verity"))
    model.end()
    return Inference(engine_name, engine_argv, model_name, model_file, model_verity)


def _inference_fields(inference: Inference | None) -> dict[str, object]:
    if inference is None:
        return {"engine": None, "model": None}
    return {
        "engine": {"name": inference.engine_name, "argv": list(inference.engine_argv)},
        "model": {
            "name": inference.model_name,
            "file": inference.model_file,
            "verity": inference.model_verity.to_dict(),
        },
    }


def _nonempty(fields: Fields, key: str) -> str:
    text = fields.text(key, limit=255)
    if not text or not text.isprintable():
        raise EvidenceError(f"{fields.path}.{key}: empty or not printable")
    return text


def _texts(fields: Fields, key: str) -> tuple[str, ...]:
    items = fields.array(key, limit=256)
    for index, item in enumerate(items):
        if not isinstance(item, str) or not item or not item.isprintable():
            raise EvidenceError(f"{fields.path}.{key}[{index}]: expected a printable string")
    return tuple(items)
