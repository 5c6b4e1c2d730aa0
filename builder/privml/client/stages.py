"""The boot stages that a guest shows at ``/boot-stages``, and what to do when one failed."""

from __future__ import annotations

import http.client
from typing import Any

from privml.base.errors import HostError, printable
from privml.client.connection import Endpoint, GuestConnection, reason
from privml.events.stagetable import MAX_TABLE, Row, StageTable, decode

PATH = "/boot-stages"
TIMEOUT = 10.0


def fetch(where: Endpoint, timeout: float = TIMEOUT) -> StageTable:
    """The table of the guest at ``where``; ``HostError`` without an answer within ``timeout`` seconds."""
    connection = GuestConnection(where, timeout=timeout)
    try:
        status, body = connection.get(PATH, MAX_TABLE)
    except (OSError, http.client.HTTPException) as error:
        raise HostError(f"{where.url}: no boot stages: {printable(reason(error))[:300]}") from error
    finally:
        connection.abort()
    if status != 200:
        raise HostError(f"{where.url}: status {status} for {PATH}, expected 200")
    return decode(body)


def remedy(row: Row) -> str:
    """What the operator can do about a failed stage; empty if it has not failed."""
    if row.status != "failed":
        return ""
    cause = row.detail.removeprefix(f"{row.name}: ").removeprefix("data: ")  # stage `model` opens data volumes too
    known = next((text for start, text in _REMEDIES if cause.startswith(start)), "")
    return known or _OF_STAGES.get(row.name, _AGAIN)


def table_json(found: StageTable) -> dict[str, Any]:
    """The table in `status --json`."""
    parked = found.parked
    return {
        "ready": found.ready,
        "parked": None if parked is None else parked.name,
        "seconds": found.seconds,
        "stages": [as_json(row) for row in found.rows],
    }


def as_json(row: Row) -> dict[str, Any]:
    """A stage in `status --json`."""
    return {
        "name": row.name,
        "status": row.status,
        "detail": row.detail,
        "seconds": row.seconds,
        "restarts": row.restarts,
        "remedy": remedy(row),
    }


_GPU_MODE = "set the GPU's mode on the host, then start the guest again: `privml-build doctor --tdx --gpu` shows it"
_GENUINE = "this GPU does not prove that it is genuine: try another one, and tell its vendor"
_ENGINE_ENDED = (
    "give the machine more memory, or the image a smaller model; a guest shows nothing that its engine prints but the"
    " last line before any request, so try the engine with this model outside a guest"
)
_VOLUME = (
    "build the image again, with the right volume and its own key: the guest has the disks that were measured, and "
    "cannot use what is in them"
)
_REMEDIES = (
    ("no partition is named", "attach the volume's disk, as `privml-build run NAME --print-command` shows"),
    ("the measured volume has no erofs", _VOLUME),
    ("the last sector of the measured volume", _VOLUME),
    ("the volume has no file", _VOLUME),
    ("engine-answers-wrong", "model, driver and GPU do not compute right together: see `privml-build lint`"),
    ("not ready after", "give the machine more memory and vCPUs, or the image a smaller model"),
    ("exited", _ENGINE_ENDED),
    ("the engine exited", _ENGINE_ENDED),
    ("recipe declares", "give the guest the GPUs of its recipe: `privml-build run NAME --tdx --gpu PCI-ADDRESS`"),
    ("gpu-count", "give the guest the GPUs of its recipe: `privml-build run NAME --tdx --gpu PCI-ADDRESS`"),
    ("gpu-cc-off", _GPU_MODE),
    ("gpu-devtools", _GPU_MODE),
    ("gpu-not-allowed", "update the GPU's firmware, or name the pair in `gpu.allowed` of the recipe"),
    ("gpu-driver", "reset the GPU on the host, then start the guest again"),
    ("gpu-persistence", "reset the GPU on the host, then start the guest again"),
    ("gpu-ready", "reset the GPU on the host, then start the guest again"),
    ("gpu-fabric", "reset all GPUs and switches of the board on the host, then start the guest again"),
    ("gpu-topology", "give the guest all GPUs and switches of one board, each in protected PCIe mode"),
    ("gpu-", _GENUINE),
    ("no-tee", "start it as a TD: `privml-build run NAME --tdx`, on a host that `privml-build doctor --tdx` accepts"),
)
"""How a failed stage's detail begins, without the name before it, and what to do; the first that fits counts."""
_OF_STAGES = {
    "devices": "give the guest the devices of its platform and no other: `privml-build run NAME --print-command`",
    "services": "try the service outside a guest, which keeps nothing that it prints; then start the guest again",
    "model": "attach the disks of the build that the guest runs, unchanged, then start the guest again",
}
"""What to do when a stage failed for a reason that is not in `_REMEDIES`."""
_AGAIN = "stop the guest and start it again: nothing else does, and its console has what was said before"
