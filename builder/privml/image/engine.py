"""How the guest's engine is started, from a recipe: the argv that the measured configuration carries."""

from __future__ import annotations

from privml.recipe.models import ENGINE_PORT

MODEL_DIRECTORY = "/run/privml/model"
CONTEXT = 2048


def llama_server(model_file: str, model_name: str) -> tuple[str, ...]:
    """argv of llama-server: loopback only, no log, no cache of prompts (`agent.inference` closes what is left)."""
    return (
        "/usr/bin/llama-server",
        "--model", f"{MODEL_DIRECTORY}/{model_file}",
        "--alias", model_name,
        "--host", "127.0.0.1",
        "--port", str(ENGINE_PORT),
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
