"""What an engine answers to a chat, in OpenAI's form: whole, and as the events of a stream."""

from __future__ import annotations

import json
from typing import Any

WORDS = ("The ", "capital ", "is ", "Paris.")
SAID = "".join(WORDS)
USAGE = {"prompt_tokens": 7, "completion_tokens": len(WORDS), "total_tokens": 7 + len(WORDS)}
_HEAD = {"id": "chatcmpl-1", "created": 1, "model": "tiny"}


def _event(*choices: Any, usage: Any = None) -> bytes:
    chunk = {**_HEAD, "object": "chat.completion.chunk", "choices": choices, "usage": usage}
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


def _choice(delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "finish_reason": reason}


_MESSAGE = {"role": "assistant", "content": SAID}
WHOLE = json.dumps(
    {
        **_HEAD,
        "object": "chat.completion",
        "choices": [{"index": 0, "message": _MESSAGE, "finish_reason": "stop"}],
        "usage": USAGE,
    }
).encode()
EVENTS = (
    _event(_choice({"role": "assistant", "content": ""})),
    *(_event(_choice({"content": word})) for word in WORDS),
    _event(_choice({}, "stop")),
    _event(usage=USAGE),
    b"data: [DONE]\n\n",
)
