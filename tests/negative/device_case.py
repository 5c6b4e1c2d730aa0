"""The shapes that most cases of GPUs and switches have, and published evidence of real devices."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tests.negative import devices, forge
from tests.negative.case import HONEST, REFUSED, SIMULATED, Case
from tests.negative.devicepki import P384, Answer, Rim
from tests.negative.devices import Device, Evidence
from tests.negative.forge import EVENTS, NOW, Event, Guest, b64, jcs
from tests.published import read

Board = tuple[Device | Evidence, ...]
Collateral = dict[str, list[str]]

ONE = devices.gpus(1)
TWO = devices.gpus(2)
GROUP = devices.group()
PAIR = devices.group(2, 2)  # a smaller group, which is judged faster
GPU = ONE[0]
SDK = "attestation/NVIDIA_attestation-sdk"
NVTRUST = "attestation/NVIDIA_nvtrust"
NOTHING: Collateral = {"ocsp": [], "rims": []}
RELAXED = {"require_rims": False, "require_revocation": False}


def log(gpus: int, switches: int, **modes: str) -> tuple[Event, ...]:
    """The agent's events of a boot with so many devices."""
    ready = jcs({"gpus": gpus, "switches": switches, "cc": "on", "devtools": "off", **modes})
    return (EVENTS[0], ("gpu-ready", ready), *EVENTS[1:])


def needs(gpus: int, switches: int = 0, architecture: str = "hopper", **modes: str) -> dict[str, Any]:
    """The statement of an image that needs so many devices."""
    events = log(gpus, switches, **modes)
    value = {"accepted": [forge.rtmr3(events).hex()], "evidence": "tpm-boot"}
    return forge.statement(
        agent_events=[{"name": name, "payload": b64(payload)} for name, payload in events],
        purposes={"serve": len(events), "key-release": 1},
        gpus={"architecture": architecture, "count": gpus, "switches": switches},
        launches=[forge.launch(*shape, rtmr3=value) for shape in forge.SHAPES],
    )


def written(answers: tuple[Answer, ...], rims: tuple[Rim, ...]) -> Collateral:
    """NVIDIA's collateral as in a document."""
    return {"ocsp": [b64(each.der) for each in answers], "rims": [b64(each.text.encode()) for each in rims]}


def collateral(*board: Device, time: int = NOW) -> Collateral:
    """All collateral that these devices need."""
    rims = devices.rims(board)
    return written(devices.answers(board, rims, time), rims)


def machine(
    about: str,
    *codes: str,
    board: Board = ONE,
    needed: tuple[int, int] | None = None,
    given: Collateral | None = None,
    nvidia: dict[str, Any] | None = None,
    guest: dict[str, Any] | None = None,
    **fields: Any,
) -> Case:
    """A guest with this board, whose image needs as many devices, or ``needed``.

    The collateral is that of so many honest devices unless ``given``; ``nvidia`` is a part of the policy, ``guest``
    has other fields of the guest, and ``fields`` are others of the case.
    """
    kinds = [each.kind if isinstance(each, Evidence) else each.family.kind for each in board]
    gpus, switches = needed or (kinds.count("gpu"), kinds.count("switch"))
    honest = devices.group(gpus, switches) if switches else devices.gpus(gpus)
    made = HONEST.with_(**{"events": log(gpus, switches), "equipment": board, **(guest or {})})
    return Case(
        **{
            "about": about,
            "document": made.document(),
            "outcome": REFUSED if codes else SIMULATED,
            "codes": codes,
            "statement": needs(gpus, switches),
            "policy": {"nvidia": nvidia} if nvidia else {},
            "device_collateral": collateral(*honest) if given is None else given,
            "devices_allowed": True,
            **fields,
        }
    )


def says(about: str, *codes: str, device: Device = GPU, **changes: Any) -> Case:
    """A GPU that says something else, under its own signature."""
    return machine(about, *codes, board=(device.with_(**changes),))


def bent(about: str, *codes: str, place: int, **changes: Any) -> Case:
    """A group of 2 GPUs and 2 switches, one of which says something else."""
    return machine(about, *codes, board=swapped(place, PAIR[place].with_(**changes)))


def swapped(place: int, device: Device | Evidence) -> Board:
    return (*PAIR[:place], device, *PAIR[place + 1 :])


def answered(device: Device = GPU, guest: Guest = HONEST) -> Evidence:
    """A device's evidence for a guest. The nonce does not depend on which devices the guest has."""
    return device.evidence(guest.device_nonce)


def altered(**changes: Callable[[bytes], bytes]) -> tuple[Evidence]:
    """The honest GPU's evidence with its report or certificates changed after it was signed."""
    honest = answered()
    return (replace(honest, **{name: change(getattr(honest, name)) for name, change in changes.items()}),)


def twin(report: bytes) -> bytes:
    """The other signature (r, n - s) of the same key."""
    return report[:-48] + (P384 - int.from_bytes(report[-48:])).to_bytes(48)


def published(name: str) -> tuple[Evidence, ...]:
    """The devices of a published list of evidence."""
    return tuple(
        Evidence(
            "switch" if item["arch"] == "LS10" else "gpu",
            base64.b64decode(item["evidence"]),
            base64.b64decode(item["certificate"]),
        )
        for item in json.loads(read(name))
    )


def published_gpu(folder: str) -> Evidence:
    """The GPU whose report and chain were published in a folder."""
    report = bytes.fromhex(read(f"{folder}/hopperAttestationReport.txt").decode())
    return Evidence("gpu", report, read(f"{folder}/hopperCertChain.txt"))
