"""llama-server of llama.cpp, as Debian builds it: one GGUF model on the CPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from privml.engines.engine import ENVIRONMENT, ChoiceOption, Engine, Health, NumberOption, ServedModel, Value
from privml.engines.llama_requests import REQUESTS
from privml.engines.trial import Trial

_CACHE_TYPES = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")
_FLAGS = {"threads": "--threads", "cache_type_k": "--cache-type-k", "cache_type_v": "--cache-type-v"}


def _arguments(models: Sequence[ServedModel], options: Mapping[str, Value], _version: str) -> tuple[str, ...]:
    """No network, no log and no prompt cache; the request rules restrict the rest."""
    (model,) = models
    slots = int(options["slots"])
    return (
        "/usr/bin/llama-server",
        "--model", model.path,
        "--alias", model.name,
        # Without its template engine the server takes only templates that it knows, and no tools.
        *(("--jinja", "--chat-template-file", model.template_path) if model.template_path else ()),
        "--host", LLAMA_SERVER.socket,  # a host that ends in `.sock` is the path of a unix socket
        "--ctx-size", str(int(options["context"]) * slots),  # the server divides it among its slots
        "--parallel", str(slots),
        *(word for name, flag in _FLAGS.items() if name in options for word in (flag, str(options[name]))),
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
    options={
        "context": NumberOption("Maximum number of tokens in a prompt and its answer together.", 256, 1 << 17, 2048),
        "slots": NumberOption("Answers that are computed at the same time; each has the whole context.", 1, 64, 1),
        "threads": NumberOption("Threads that compute answers; by default one for each CPU.", 1, 512),
        "cache_type_k": ChoiceOption(
            "Number format of the keys in the context's cache; by default f16.", _CACHE_TYPES
        ),
        "cache_type_v": ChoiceOption(
            "Number format of the values in the context's cache; by default f16.", _CACHE_TYPES
        ),
    },
    arguments=_arguments,
    environment=ENVIRONMENT,
    health=Health("/health"),
    trial=Trial("/v1/completions"),
    requests=REQUESTS,
    takes_template=True,
)
