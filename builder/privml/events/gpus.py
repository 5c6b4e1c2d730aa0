"""The GPUs of a guest in the measured configuration: which ones, on which firmware, and the switches that link them.

The list of devices in the same file has an entry for each GPU and each switch; the numbers here agree with it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from privml.base.errors import EvidenceError
from privml.base.strictjson import Fields

MAX_GPUS = 16
"""The most GPUs that one guest can have."""
MAX_SWITCHES = 8
"""The most NVSwitches that one guest can have."""
MAX_ALLOWED = 64
"""The most firmwares that a configuration allows."""
_DRIVER = re.compile(r"\A[0-9]{1,4}(?:\.[0-9]{1,4}){1,3}\Z")
_VBIOS = re.compile(r"\A[0-9A-F]{2}(?:\.[0-9A-F]{2}){4}\Z")
_LIKE = {"driver": "550.163.01", "vbios": "96.00.A5.00.01"}


@dataclass(frozen=True, order=True)
class GpuFirmware:
    """A pair of driver and VBIOS versions."""

    driver: str
    vbios: str

    def __post_init__(self) -> None:
        for name, text, pattern in (("driver", self.driver, _DRIVER), ("vbios", self.vbios, _VBIOS)):
            if not pattern.match(text):
                raise EvidenceError(f"allowed firmware: {name} `{text[:40]}`, expected a version like {_LIKE[name]}")


@dataclass(frozen=True)
class Gpu:
    """The GPUs: vendor, architecture, number, and the version of their driver.

    ``allowed`` are the firmwares that a GPU may have, sorted; empty: the guest accepts any VBIOS. ``switches`` is the
    number of switches that link the GPUs in protected PCIe mode; 0 in other modes.
    """

    vendor: str
    architecture: str
    count: int
    driver: str
    allowed: tuple[GpuFirmware, ...] = ()
    switches: int = 0

    def to_dict(self) -> dict[str, object]:
        """The field ``gpu`` of the configuration; empty ``allowed`` and ``switches`` are left out."""
        return {
            "vendor": self.vendor,
            "architecture": self.architecture,
            "count": self.count,
            "driver": self.driver,
            **({"allowed": [vars(each) for each in self.allowed]} if self.allowed else {}),
            **({"switches": self.switches} if self.switches else {}),
        }

    @classmethod
    def from_fields(cls, fields: Fields, devices: tuple[str, ...]) -> Gpu:
        """Read ``gpu``; ``EvidenceError`` if it is malformed, or its numbers are not those of ``devices``."""
        gpu = cls(
            fields.text("vendor", limit=32),
            fields.text("architecture", limit=32),
            fields.integer("count", low=1, high=MAX_GPUS),
            fields.text("driver", limit=32),
            _allowed(fields),
            fields.integer("switches", low=1, high=MAX_SWITCHES) if fields.has("switches") else 0,
        )
        fields.end()
        for name, device, count in (
            ("count", gpu_device(gpu.vendor), gpu.count),
            ("switches", switch_device(gpu.vendor), gpu.switches),
        ):
            if (listed := devices.count(device)) != count:
                raise EvidenceError(f"config.gpu.{name}: got {count}, expected {listed}, as in config.devices")
        return gpu


def gpu_device(vendor: str) -> str:
    """The name of one of the vendor's GPUs in the list of devices."""
    return f"{vendor}-gpu"


def switch_device(vendor: str) -> str:
    """The name of one of the vendor's switches in the list of devices."""
    return f"{vendor}-nvswitch"


def _allowed(fields: Fields) -> tuple[GpuFirmware, ...]:
    if not fields.has("allowed"):
        return ()
    found = []
    for index, item in enumerate(fields.array("allowed", limit=MAX_ALLOWED)):
        entry = Fields(item, f"config.gpu.allowed[{index}]")
        found.append(GpuFirmware(entry.text("driver", limit=32), entry.text("vbios", limit=32)))
        entry.end()
    if not found or found != sorted(set(found)):
        raise EvidenceError("config.gpu.allowed: expected at least one firmware, sorted, each once")
    return tuple(found)
