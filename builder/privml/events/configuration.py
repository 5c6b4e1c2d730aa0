"""The measured configuration, which defines what the guest does. Unknown fields are refused.

The file is in the verity root, so RTMR2 covers it through the root hash on the command line. The agent also extends
its digest, so that the agent's log alone shows which configuration ran.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from privml.base.errors import EvidenceError
from privml.base.strictjson import Fields, canonical, loads
from privml.events.crypt import MAX_BROKERS, Broker, Crypt
from privml.events.gpus import Gpu
from privml.events.network import MAX_CARDS, Card, cards_from
from privml.events.services import MAX_NAME, MAX_SERVICES, MIB, NAME, VARIABLE
from privml.events.variants import VARIANTS
from privml.events.verity import Verity
from privml.events.volumes import DATA, MODEL, Slot, slots

FORMAT = "privml-config/v4"
Rtmr3 = Literal["staged", "unused"]
"""Whether the agent extends RTMR3 as the stages go by, or the image's kernel cannot extend it."""
STAGED: Final = "staged"
UNUSED: Final = "unused"
PER_ADDRESS: Final = 32
"""Default of `Config.per_address`."""
MAX_PER_ADDRESS = 1024
OPEN: Final = "open"
OUTER: Final = "outer"
TOKENS: Final = "tokens"
Callers = Literal["open", "outer", "tokens"]
"""Who may use the engine and the services: whoever connects, whoever a TLS terminator in front admits, or whoever has
a token of the issuer.
"""
CALLERS: tuple[Callers, ...] = (OPEN, OUTER, TOKENS)
_MAX_FILE = 64 * 1024
_SLUG = re.compile(r"\A[a-z0-9]+(?:[.-][a-z0-9]+)*\Z")


@dataclass(frozen=True)
class Engine:
    """The inference engine: its name in `privml.engines`, and its argv."""

    name: str
    argv: tuple[str, ...]


@dataclass(frozen=True)
class Model:
    """One model: its name in requests, the file in its volume, and the volume's parameters.

    ``crypt`` is None for a volume that is not encrypted.
    """

    name: str
    file: str
    verity: Verity
    crypt: Crypt | None = None


@dataclass(frozen=True)
class Data:
    """One data volume: its name, which is that of its mount point (`events.volumes.data_directory`), and its
    parameters. ``crypt`` is None for a volume that is not encrypted.
    """

    name: str
    verity: Verity
    crypt: Crypt | None = None


@dataclass(frozen=True)
class Service:
    """One of the image's own services (`events.services`): argv, further environment variables, and whether the
    machine fails when it ends. ``memory`` is its limit in bytes, ``scratch`` the size of its /tmp (None: the default,
    `events.services.SCRATCH_SIZE`).
    """

    name: str
    argv: tuple[str, ...]
    environment: Mapping[str, str]
    memory: int
    required: bool
    scratch: int | None = None


@dataclass(frozen=True)
class Config:
    """The decoded configuration; ``sha256`` is the hex digest of the file's bytes.

    ``engine`` and ``models`` are both present or both absent. Without them the guest only attests.
    Model number n is in volume number n (`events.volumes`). ``network`` is empty for a guest with one card and DHCP.
    ``gpu`` is None for a machine without GPUs; ``devices`` lists each of them. ``per_address`` is how many
    handshakes, and how many attestation documents, one network address may have in progress; 0: no limit.
    ``metrics``: counts at `/metrics`. ``issuer`` is the Ed25519 key that signs callers' tokens; None unless
    ``callers`` is tokens. ``brokers`` release the keys of encrypted volumes; each releases at least one. ``data`` is
    what the services read.
    """

    sha256: str
    name: str
    variant: str
    listen: int
    max_concurrency: int
    engine: Engine | None
    models: tuple[Model, ...]
    devices: tuple[str, ...]
    rtmr3: str
    services: tuple[Service, ...] = ()
    network: tuple[Card, ...] = ()
    gpu: Gpu | None = None
    per_address: int = PER_ADDRESS
    metrics: bool = False
    callers: Callers = OPEN
    issuer: bytes | None = None
    brokers: tuple[Broker, ...] = ()
    data: tuple[Data, ...] = ()

    @property
    def volumes(self) -> tuple[tuple[Slot, Model | Data], ...]:
        """The volumes in their order, models before data, each with its place."""
        entries: tuple[Model | Data, ...] = (*self.models, *self.data)
        return tuple(zip(slots(len(self.models), len(self.data)), entries, strict=True))

    @property
    def encrypted(self) -> tuple[Crypt, ...]:
        """The encryption of each encrypted volume, in the volumes' order."""
        return tuple(entry.crypt for _, entry in self.volumes if entry.crypt is not None)


def read(path: Path) -> Config:
    """The configuration in ``path``; ``EvidenceError`` when it is missing or not exactly v4."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise EvidenceError(f"configuration {path}: {error.strerror}") from error
    return decode(data)


def decode(data: bytes) -> Config:
    """Decode canonical bytes; ``EvidenceError`` for anything else.

    Any engine name is accepted here; the agent checks at start whether it has the engine.
    """
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
    per_address = (
        agent.integer("per_address", low=0, high=MAX_PER_ADDRESS) if agent.has("per_address") else PER_ADDRESS
    )
    metrics = agent.has("metrics") and agent.boolean("metrics")
    callers, issuer = _callers(agent)
    agent.end()
    engine = _engine(top.fields_or_null("engine"))
    models = tuple(_model(item, n) for n, item in enumerate(top.array("models", limit=MODEL.most)))
    if (engine is None) != (not models):
        raise EvidenceError(
            "config: one of engine and models is empty; expected an engine with its models, or null and no models"
        )
    names = [model.name for model in models]
    if len(set(names)) != len(names):
        raise EvidenceError("config.models: two models have the same name")
    devices = _texts(top, "devices")
    rtmr3 = top.text("rtmr3", one_of=(STAGED, UNUSED))
    services = tuple(_service(item, n) for n, item in enumerate(top.array("services", limit=MAX_SERVICES)))
    if [service.name for service in services] != sorted({service.name for service in services}):
        raise EvidenceError("config.services: expected them sorted by name, each name once")
    network = cards_from(top.array("network", limit=MAX_CARDS), "config.network") if top.has("network") else ()
    gpu = Gpu.from_fields(top.fields("gpu"), devices) if top.has("gpu") else None
    brokers = _brokers(top.fields("keys")) if top.has("keys") else ()
    data_volumes = _data_volumes(top.array("data", limit=DATA.most)) if top.has("data") else ()
    top.end()
    config = Config(
        sha256=hashlib.sha256(data).hexdigest(),
        name=name,
        variant=variant,
        listen=listen,
        max_concurrency=max_concurrency,
        engine=engine,
        models=models,
        devices=devices,
        rtmr3=rtmr3,
        services=services,
        network=network,
        gpu=gpu,
        per_address=per_address,
        metrics=metrics,
        callers=callers,
        issuer=issuer,
        brokers=brokers,
        data=data_volumes,
    )
    _check_keys(config)
    if encode(config) != data:
        raise EvidenceError("config: a field has its default value, expected it to be left out")
    return config


def encode(config: Config) -> bytes:
    """The canonical bytes of ``config`` (``sha256`` is not a field of the file).

    ``network``, ``gpu``, its ``allowed`` and ``switches``, ``scratch`` of a service, ``keys``, ``crypt`` of a model,
    ``data``, and the fields of ``agent`` after the first two came later: files without them are as they were.
    """
    engine = config.engine
    fields: dict[str, object] = {
        "format": FORMAT,
        "name": config.name,
        "variant": config.variant,
        "agent": _agent(config),
        "engine": None if engine is None else {"name": engine.name, "argv": list(engine.argv)},
        "models": [
            {
                "name": model.name,
                "file": model.file,
                **_parameters(model),
            }
            for model in config.models
        ],
        "devices": list(config.devices),
        "rtmr3": config.rtmr3,
        "services": [
            {
                "name": service.name,
                "argv": list(service.argv),
                "environment": dict(service.environment),
                "memory": service.memory,
                "required": service.required,
                **({} if service.scratch is None else {"scratch": service.scratch}),
            }
            for service in config.services
        ],
    }
    if config.network:
        fields["network"] = [card.to_dict() for card in config.network]
    if config.gpu is not None:
        fields["gpu"] = config.gpu.to_dict()
    if config.brokers:
        fields["keys"] = {"brokers": [broker.to_dict() for broker in config.brokers]}
    if config.data:
        fields["data"] = [{"name": data.name, **_parameters(data)} for data in config.data]
    return canonical(fields)


def _parameters(entry: Model | Data) -> dict[str, object]:
    """The parameters of a volume."""
    crypt = {} if entry.crypt is None else {"crypt": entry.crypt.to_dict()}
    return {"verity": entry.verity.to_dict(), **crypt}


def _agent(config: Config) -> dict[str, object]:
    fields: dict[str, object] = {"listen": config.listen, "max_concurrency": config.max_concurrency}
    if config.per_address != PER_ADDRESS:
        fields["per_address"] = config.per_address
    if config.metrics:
        fields["metrics"] = True
    if config.callers != OPEN:
        fields["callers"] = config.callers
    if config.issuer is not None:
        fields["issuer"] = config.issuer.hex()
    return fields


def _callers(agent: Fields) -> tuple[Callers, bytes | None]:
    named = agent.text("callers", one_of=CALLERS) if agent.has("callers") else OPEN
    callers: Callers = next(each for each in CALLERS if each == named)
    issuer = agent.hexadecimal("issuer", 32) if agent.has("issuer") else None
    if (callers == TOKENS) != (issuer is not None):
        raise EvidenceError(f"config.agent.issuer: expected a key if, and only if, callers is `{TOKENS}`")
    return callers, issuer


def _engine(fields: Fields | None) -> Engine | None:
    if fields is None:
        return None
    name = fields.text("name", limit=64)
    if not _SLUG.match(name):
        raise EvidenceError(f"config.engine.name: got `{name}`, expected words of a-z and 0-9 joined by - or .")
    argv = _texts(fields, "argv")
    fields.end()
    if not argv or not argv[0].startswith("/"):
        raise EvidenceError("config.engine.argv: expected an absolute program path first")
    return Engine(name, argv)


def _model(value: object, number: int) -> Model:
    fields = Fields(value, f"config.models[{number}]")
    name = _nonempty(fields, "name")
    file = _nonempty(fields, "file")
    if "/" in file or file in (".", ".."):
        raise EvidenceError(f"{fields.path}.file: got `{file[:80]}`, expected a file name")
    verity, crypt = _volume(fields)
    return Model(name, file, verity, crypt)


def _volume(fields: Fields) -> tuple[Verity, Crypt | None]:
    """Read the parameters of a volume, which are the last of its fields."""
    verity = Verity.from_fields(fields.fields("verity"))
    crypt = Crypt.from_fields(fields.fields("crypt")) if fields.has("crypt") else None
    fields.end()
    return verity, crypt


def _data_volumes(items: list[object]) -> tuple[Data, ...]:
    found = []
    for number, item in enumerate(items):
        fields = Fields(item, f"config.data[{number}]")
        name = fields.text("name", limit=64)
        if not _SLUG.match(name):
            raise EvidenceError(f"{fields.path}.name: got `{name}`, expected words of a-z and 0-9 joined by - or .")
        found.append(Data(name, *_volume(fields)))
    if len({data.name for data in found}) != len(found):
        raise EvidenceError("config.data: two data volumes have the same name")
    return tuple(found)


def _brokers(keys: Fields) -> tuple[Broker, ...]:
    items = keys.array("brokers", limit=MAX_BROKERS)
    keys.end()
    return tuple(Broker.from_fields(Fields(item, f"config.keys.brokers[{n}]")) for n, item in enumerate(items))


def _check_keys(config: Config) -> None:
    """Each encrypted volume has its broker, each broker a volume; no key is for two volumes."""
    names = [broker.name for broker in config.brokers]
    if names != sorted(set(names)) or len({broker.ed25519 for broker in config.brokers}) != len(names):
        raise EvidenceError("config.keys.brokers: expected them sorted by name, each name and each key once")
    if set(names) != {crypt.broker for crypt in config.encrypted}:
        raise EvidenceError("config.keys.brokers: expected exactly the brokers of the encrypted volumes")
    resources = [(crypt.broker, crypt.resource) for crypt in config.encrypted]
    if len(set(resources)) != len(resources):
        raise EvidenceError("config: one resource of a broker is the key of two volumes")


def _service(value: object, number: int) -> Service:
    fields = Fields(value, f"config.services[{number}]")
    name = fields.text("name", limit=MAX_NAME)
    if not NAME.match(name):
        raise EvidenceError(f"{fields.path}.name: got `{name}`, expected words of a-z and 0-9 joined by -")
    argv = _texts(fields, "argv")
    if not argv or not argv[0].startswith("/"):
        raise EvidenceError(f"{fields.path}.argv: expected an absolute program path first")
    given = fields.fields("environment")
    environment = {}
    for key, text in given.rest().items():
        if not VARIABLE.match(key) or not isinstance(text, str) or not text.isprintable():
            raise EvidenceError(f"{given.path}.{key[:64]}: expected a variable in capitals with printable text")
        environment[key] = text
    given.end()
    memory = fields.integer("memory", low=1, high=1 << 50)
    required = fields.boolean("required")
    scratch = fields.integer("scratch", low=MIB, high=memory - 1) if fields.has("scratch") else None
    fields.end()
    return Service(name, argv, environment, memory, required, scratch)


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
