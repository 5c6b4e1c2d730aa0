"""llama-server of llama.cpp, as Debian builds it: one GGUF model on the CPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from privml.engines.engine import ENVIRONMENT, Engine, Health, Option, ServedModel, Trial
from privml.engines.llama_requests import REQUESTS


def _arguments(models: Sequence[ServedModel], options: Mapping[str, int]) -> tuple[str, ...]:
    """No network, no log and no prompt cache; the request rules restrict the rest."""
    (model,) = models
    return (
        "/usr/bin/llama-server",
        "--model", model.path,
        "--alias", model.name,
        "--host", LLAMA_SERVER.socket,  # a host that ends in `.sock` is the path of a unix socket
        "--ctx-size", str(options["context"]),
        "--parallel", "1",
        "--cache-ram", "0",
        "--no-cache-prompt",
        "--no-slots",
        "--no-webui",
        "--no-warmup",
        "--offline",
        "--log-disable",
    )  # fmt: skip


LLAMA_SERVER = Engine(
    name="llama-server",
    packages=("llama.cpp-tools",),
    programs=("llama-server",),
    paths=(
        "usr/lib/x86_64-linux-gnu/ggml/**",
        "usr/lib/x86_64-linux-gnu/llama/libllama-server-impl.so",
        "usr/libexec/x86_64-linux-gnu/ggml/**",
    ),
    # Libraries of llama.cpp's other programs, which are in the same package.
    removals=("usr/lib/x86_64-linux-gnu/llama/libllama-[bcq]*",),
    model_format="gguf",
    model_file="*.gguf",
    max_models=1,
    options={"context": Option("Maximum number of tokens in a prompt and its answer together.", 2048, 256, 1 << 17)},
    arguments=_arguments,
    environment=ENVIRONMENT,
    health=Health("/health"),
    trial=Trial("/v1/completions", {"prompt": "Hello", "max_tokens": 1}),
    requests=REQUESTS,
)
