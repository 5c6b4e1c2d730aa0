"""privml-build: images whose measurements are known before they boot.

The library is three calls. They are imported when first used, so that ``import privml`` costs nothing.

Check the guest at an address, or a captured document, against an image that you built::

    import privml

    judgement = privml.verify("https://HOST:8443", expect="out/demo-cpu")
    print(judgement.verdict.outcome.value)
    for refusal in judgement.verdict.refusals:
        print(refusal.code, refusal.got, refusal.expected)
    if judgement.keys is not None:
        print("the guest's TLS key is", judgement.keys.tls_spki_sha256.hex())

Send prompts to a guest only while it passes verification::

    import privml

    with privml.openai_client("https://HOST:8443", expect="out/demo-cpu") as client:
        answer = client.chat.completions.create(
            model="smollm2",
            messages=[{"role": "user", "content": "The capital of France is"}],
            max_tokens=8,
        )
    print(answer.choices[0].message.content)

Say what a file is and what it measures to: firmware, a kernel or UKI, a disk, an event log, a quote::

    import privml

    found = privml.measure("ccel.bin")
    print(found.title)
    for register, value in found.registers.items():
        print(register, value.hex())
    for event in found.events:
        print(event.register, event.digest.hex(), event.origin)

The rooms of this package, bottom first, and what each may import are in ``docs/ARCHITECTURE.md``; the
contract is checked by ``tests/unit/test_layers.py``.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

# `verify` and `measure` are rooms that can be called: see `base.callables`.
_LIBRARY = {"verify": "verify", "measure": "measure", "openai_client": "client.calls"}


def __getattr__(name: str) -> Any:
    """Import one of the library's calls."""
    if name not in _LIBRARY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_LIBRARY[name]}")
    return getattr(module, name) if name == "openai_client" else module
