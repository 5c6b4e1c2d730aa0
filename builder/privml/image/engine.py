"""How the guest's engine is started, from a recipe: the argv that the measured configuration carries."""

from __future__ import annotations

MODEL_DIRECTORY = "/run/privml/model"
SOCKET = "/run/privml-engine/engine.sock"
"""`agent.layout`'s; llama-server takes a host that ends in `.sock` for the path of a unix socket."""
CONTEXT = 2048


def llama_server(model_file: str, model_name: str) -> tuple[str, ...]:
    """argv of llama-server: no network, no log, no cache of prompts (`agent.inference` closes what is left)."""
    return (
        "/usr/bin/llama-server",
        "--model", f"{MODEL_DIRECTORY}/{model_file}",
        "--alias", model_name,
        "--host", SOCKET,
        "--ctx-size", str(CONTEXT),
        "--parallel", "1",
        "--cache-ram", "0",
        "--no-cache-prompt",
        "--no-slots",
        "--no-webui",
        "--no-warmup",
        "--offline",
        "--log-disable",
    )  # fmt: skip
