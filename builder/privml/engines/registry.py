"""Every engine by its name."""

from __future__ import annotations

from privml.base.errors import EvidenceError
from privml.engines.engine import Engine
from privml.engines.llama_server import LLAMA_SERVER
from privml.engines.vllm import VLLM

ENGINES: dict[str, Engine] = {engine.name: engine for engine in (LLAMA_SERVER, VLLM)}


def engine_named(name: str) -> Engine:
    """Look up an engine; ``EvidenceError`` if this version of privml-build does not know the name."""
    engine = ENGINES.get(name)
    if engine is None:
        raise EvidenceError(f"engine `{name[:64]}` is not known: expected one of {', '.join(sorted(ENGINES))}")
    return engine
