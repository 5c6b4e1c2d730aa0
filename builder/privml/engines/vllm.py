"""vLLM from Python wheels: one safetensors model on the GPUs.

Options and variables are those of `vllm/engine/arg_utils.py`, `vllm/entrypoints/*/cli_args.py` and `vllm/envs.py` in
the wheels 0.19.1, 0.24.0, 0.28.0, 0.29.0, 0.31.0 and 0.33.0. What a version calls otherwise is in ``_SERVERS``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from privml.engines.engine import (
    DIRECTORY,
    DRIVER_LIBRARIES,
    ENVIRONMENT,
    USER,
    WHEELS,
    ChoiceOption,
    Engine,
    Health,
    NumberOption,
    ServedModel,
    Value,
    Versions,
    Wheels,
    numbers,
)
from privml.engines.trial import Trial
from privml.engines.vllm_requests import REQUESTS

# The module with the server, by the first version that has it there.
_SERVERS = (
    ((0, 19), "vllm.entrypoints.openai.api_server"),
    ((0, 29), "vllm.entrypoints.launchers.api_server.entry"),
)
_FLAGS = {
    "context": "--max-model-len",
    "slots": "--max-num-seqs",
    "batched_tokens": "--max-num-batched-tokens",
    "gpus": "--tensor-parallel-size",
    "dtype": "--dtype",
    "kv_cache_dtype": "--kv-cache-dtype",
    "reasoning_parser": "--reasoning-parser",
}
# Those that every version above has.
_TOOL_PARSERS = (
    "deepseek_v3", "deepseek_v31", "deepseek_v32", "ernie45", "gemma4", "glm45", "glm47", "granite", "granite4",
    "hermes", "hunyuan_a13b", "internlm", "jamba", "kimi_k2", "llama3_json", "llama4_json", "llama4_pythonic",
    "longcat", "minimax_m2", "mistral", "olmo3", "openai", "phi4_mini_json", "pythonic", "qwen3_coder", "qwen3_xml",
    "seed_oss", "step3", "step3p5", "xlam",
)  # fmt: skip
_REASONING_PARSERS = (
    "deepseek_r1", "deepseek_v3", "ernie45", "gemma4", "glm45", "granite", "hunyuan_a13b", "kimi_k2", "minimax_m2",
    "mistral", "nemotron_v3", "olmo3", "openai_gptoss", "qwen3", "seed_oss", "step3", "step3p5",
)  # fmt: skip


def _arguments(models: Sequence[ServedModel], options: Mapping[str, Value], version: str) -> tuple[str, ...]:
    """No network, no log, no cache of prompts and no code of the model's; the request rules restrict the rest."""
    (model,) = models
    server = [name for first, name in _SERVERS if first <= numbers(version)][-1]
    parser = options.get("tool_parser")
    return (
        # Only modules of the wheels and of Python: not those of the working directory or of a home.
        "/usr/bin/python3", "-P", "-s", "-m", server,
        "--model", model.directory,
        "--served-model-name", model.name,
        *(("--chat-template", model.template_path) if model.template_path else ()),
        "--uds", VLLM.socket,
        *(word for name, flag in _FLAGS.items() if name in options for word in (flag, str(options[name]))),
        "--gpu-memory-utilization", f"{int(options['gpu_memory_percent']) / 100:.2f}",
        *(("--enable-auto-tool-choice", "--tool-call-parser", str(parser)) if parser else ()),
        "--load-format", "safetensors",
        "--no-trust-remote-code",
        # By their time to the first token, callers would learn which prompts were asked before.
        "--no-enable-prefix-caching",
        "--language-model-only",
        # An empty list allows every address. Names below `invalid` belong to nobody (RFC 2606).
        "--allowed-media-domains", "none.invalid",
        # The others would be chosen by the schema of a request.
        "--structured-outputs-config", '{"backend":"xgrammar"}',
        "--distributed-executor-backend", "mp" if int(options["gpus"]) > 1 else "uni",
        "--enforce-eager",
        "--no-enable-log-requests",
        "--disable-log-stats",
        "--disable-uvicorn-access-log",
        "--uvicorn-log-level", "error",
        "--disable-fastapi-docs",
    )  # fmt: skip


VLLM = Engine(
    name="vllm",
    wheels=Wheels("vllm", Versions((0, 19), (0, 34))),
    packages=(),
    programs=("python3",),
    paths=(),
    removals=(),
    model_format="safetensors",
    model_file="*.safetensors",
    model_entry="config.json",
    max_models=1,
    options={
        "context": NumberOption(
            "Maximum number of tokens in a prompt and its answer together; by default what the model was made for.",
            256,
            1 << 20,
        ),
        "slots": NumberOption("Answers that are computed at the same time.", 1, 1024, 64),
        "batched_tokens": NumberOption("Maximum number of tokens that one step computes.", 256, 1 << 18),
        "gpus": NumberOption("GPUs that share the model.", 1, 16, 1),
        "gpu_memory_percent": NumberOption("Share of each GPU's memory that it takes, in percent.", 10, 98, 90),
        "dtype": ChoiceOption(
            "Number format of weights and answers; by default the model's.",
            ("auto", "bfloat16", "float16", "float32"),
        ),
        "kv_cache_dtype": ChoiceOption(
            "Number format of the context's cache; by default that of the weights.",
            ("auto", "bfloat16", "float16", "fp8", "fp8_e4m3", "fp8_e5m2"),
        ),
        "tool_parser": ChoiceOption("How the model writes calls of tools; by default there are none.", _TOOL_PARSERS),
        "reasoning_parser": ChoiceOption(
            "How the model marks its reasoning; by default it is part of the answer.", _REASONING_PARSERS
        ),
    },
    arguments=_arguments,
    environment={
        **ENVIRONMENT,
        "PYTHONPATH": WHEELS,
        # torch asks for a name, and the engine's user may be in no file.
        "USER": USER,
        "LD_LIBRARY_PATH": DRIVER_LIBRARIES,
        "TRITON_LIBCUDA_PATH": DRIVER_LIBRARIES,
        # Nothing may be compiled with the compiler of a machine.
        "TVM_FFI_DISABLE_TORCH_C_DLPACK": "1",
        # With the other one, answers under confidential computing were noise (vllm-project/vllm#57224).
        "VLLM_USE_V2_MODEL_RUNNER": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_DO_NOT_TRACK": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        # No plug-in has an empty name.
        "VLLM_PLUGINS": "",
        # Its warnings may quote a request.
        "VLLM_LOGGING_LEVEL": "ERROR",
        # Sockets between its processes, and the loopback of its own network.
        "VLLM_RPC_BASE_PATH": DIRECTORY,
        "VLLM_HOST_IP": "127.0.0.1",
        "VLLM_LOOPBACK_IP": "127.0.0.1",
        "GLOO_SOCKET_IFNAME": "lo",
        "NCCL_SOCKET_IFNAME": "lo",
        "HF_HOME": f"{DIRECTORY}/huggingface",
        "VLLM_CACHE_ROOT": f"{DIRECTORY}/vllm",
        "VLLM_CONFIG_ROOT": f"{DIRECTORY}/vllm-config",
        "TORCHINDUCTOR_CACHE_DIR": f"{DIRECTORY}/inductor",
        "TRITON_CACHE_DIR": f"{DIRECTORY}/triton",
    },
    health=Health("/health"),
    trial=Trial("/v1/completions"),
    requests=REQUESTS,
    takes_template=True,
    needs_gpus=True,
    # Its processes find each other over TCP, and look for the loopback's address over netlink.
    families=("AF_UNIX", "AF_INET", "AF_NETLINK"),
)
