"""Learn a platform from a QEMU and a command line: its file, and the tables that this QEMU generates for it.

The machine is read twice at the command line's own size: once by its own words, with stand-ins for what the host
gives, and once by the arguments that the platform's file makes. Only equal tables are learnt.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from privml.base.errors import MeasurementError, UsageError
from privml.base.sizes import MAX_VCPUS, PLAIN_VCPUS
from privml.base.steps import progress
from privml.image.tools import ToolsTree
from privml.machine.commandline import CommandLine
from privml.machine.platform import MEMORY, Device, PageOrder, Platform, Size
from privml.machine.qemu import KVM_OPTIONS
from privml.machine.qemuopts import pairs
from privml.machine.spellings import IDENTITY
from privml.measure import acpi
from privml.measure.tables import MAX_SIZE, LearntTables, measured_files
from privml.recipe import document
from privml.recipe.document import is_plain
from privml.recipe.platform import CARD, IRQCHIP, PlatformFile
from privml.recipe.validation import validate
from privml.vm.foreign import ForeignQemu
from privml.vm.platforms import record
from privml.vm.qtest import Qemu, read_of

CPU_MODEL = "SapphireRapids"
"""The CPU model with which QEMU is asked: a TD has the host's, with the same identity."""
THREADS = 4
_ADDS_ALL_FIRST = "8.2."
"""Versions of QEMU for TDX that add all pages of a section before they measure any (docs/measurement.md)."""


@dataclass(frozen=True)
class Learnt:
    """A platform's file as ``text``, the object with its ``tables``, and what holds only under a condition."""

    file: PlatformFile
    text: str
    tables: bytes
    notes: tuple[str, ...]


def page_order(version: str) -> PageOrder:
    """The order in which a QEMU of this version adds and measures pages."""
    return "two-pass" if version.startswith(_ADDS_ALL_FIRST) else "single-pass"


def identity(text: str) -> dict[str, str]:
    """The value of ``--cpu`` as properties; ``UsageError`` for anything but the five of `IDENTITY`."""
    try:
        found = dict(pairs(text, "")) if text else {}
    except ValueError as error:
        raise UsageError(f"--cpu: {error}") from error
    if found and set(found) != set(IDENTITY):
        raise UsageError(f"--cpu: got {', '.join(found)}, expected {', '.join(f'{name}=N' for name in IDENTITY)}")
    return found


def learn(
    name: str,
    tools: ToolsTree,
    found: ForeignQemu,
    line: CommandLine,
    sizes: tuple[Iterable[int], Iterable[int]],
    order: PageOrder | None = None,
) -> Learnt:
    """Learn ``line`` for all of these vCPU counts and memory sizes, and for its own.

    ``MeasurementError`` if this QEMU does not generate for the platform what it does for the line.
    """
    limit = MAX_VCPUS if dict(line.options).get(IRQCHIP) == "split" else PLAIN_VCPUS
    whole = sorted({line.size.vcpus, *sizes[0]}), sorted({line.size.memory, *sizes[1]})
    counts = whole[0]
    if counts[-1] > limit:
        raise UsageError(f"{counts[-1]} vCPUs: expected at most {limit} without kernel_irqchip=split")
    fields = _fields(name, found, line, order or page_order(found.version), counts[-1])
    platform = record(_checked(_text(fields), name))
    ask = partial(_read, tools, found.qemu, platform)
    with ThreadPoolExecutor(THREADS) as pool:
        own = pool.submit(ask, line.size, _own_words(platform, line))
        by_vcpus = _all(pool, lambda count: ask(Size(count, line.size.memory)), counts)
        by_memory = _all(pool, lambda memory: ask(Size(line.size.vcpus, memory)), whole[1])
        _compare(platform, own.result(), by_vcpus[line.size.vcpus], "by its own words")
        tables = LearntTables(found.version, line.size, by_vcpus, by_memory)
        far = {Size(count, memory) for count in (counts[0], counts[-1]) for memory in (whole[1][0], whole[1][-1])}
        for size, files in _all(pool, ask, sorted(far, key=str)).items():
            _compare(platform, files, tables.files(size), f"at {size}")
    data = tables.encoded()
    if len(data) > MAX_SIZE:
        raise UsageError(
            f"the tables of {len(counts)} + {len(whole[1])} sizes have {len(data)} bytes", hint="learn fewer"
        )
    fields["tables"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    text = _text(fields)
    return Learnt(_checked(text, name), text, data, line.notes)


def _all(pool: ThreadPoolExecutor, ask: Callable[[Any], dict[str, bytes]], keys: Sequence[Any]) -> dict[Any, Any]:
    futures = {key: pool.submit(ask, key) for key in keys}
    found = {}
    for number, (key, future) in enumerate(futures.items(), 1):
        found[key] = future.result()
        progress(f"{number} of {len(keys)} machines read")
    return found


def _read(
    tools: ToolsTree, qemu: Qemu, platform: Platform, size: Size, words: Sequence[str] | None = None
) -> dict[str, bytes]:
    return measured_files(read_of(qemu, tools, platform, size, words=words))


def _own_words(platform: Platform, line: CommandLine) -> list[str]:
    options = [f"{key}={value}" for key, value in platform.options if key not in KVM_OPTIONS]
    machine = ",".join([platform.machine, *options])
    return [
        *("-machine", machine, "-cpu", platform.cpu, "-m", f"{line.size.memory >> 20}M"),
        *line.words,
    ]


def _compare(platform: Platform, got: Mapping[str, bytes], expected: Mapping[str, bytes], where: str) -> None:
    for name in sorted(got.keys() | expected.keys(), key=lambda one: (one != acpi.TABLES, one)):
        if got.get(name) == expected.get(name):
            continue
        detail = ""
        if name == acpi.TABLES and name in got and name in expected:
            bodies = [
                {one.name: blob[one.start :][: one.length] for one in acpi.tables(blob)}
                for blob in (got[name], expected[name])
            ]
            differing = [table for table in bodies[0] if bodies[0][table] != bodies[1].get(table)]
            detail = f" ({', '.join(differing)})" if differing else ""
        raise MeasurementError(
            f"platform {platform.name}: {name}{detail} is not the same {where}",
            hint="this machine has something that a platform's file cannot say: nothing was learnt",
        )


def _fields(name: str, found: ForeignQemu, line: CommandLine, order: PageOrder, most: int) -> dict[str, Any]:
    machine = found.machine(line.machine)
    options = dict(line.options)
    vmm = {"kind": "qemu", "version": found.version, "binary": found.binary, "page_order": order}
    if found.package is not None:
        vmm["package"] = found.package
    numbers = {key: _number(line.identity[key], key) for key in ("family", "model", "stepping", "phys-bits")}
    fields: dict[str, Any] = {
        "schema": 2,
        "name": name,
        "description": f"QEMU {found.version} with {machine} as a TDX guest, learnt from a command line.",
        "tee": "tdx",
        "vmm": vmm,
        "machine": {"type": machine, "options": options},
        "firmware": "image",
        "registers": {"mrtd": "firmware", "rtmr0": "tables"},
        "identity": {
            "model_name": CPU_MODEL,
            "vendor": line.identity["vendor"],
            "family": numbers["family"],
            "model": numbers["model"],
            "stepping": numbers["stepping"],
            "phys_bits": numbers["phys-bits"],
        },
        "devices": [_device(device) for device in line.devices],
        "max_vcpus": most,
        "tpm": False,
    }
    extra = {
        "cpus": "sockets" if line.sockets else None,
        "serial": None if line.serial else False,
        "uuid": line.uuid,
        "boot": dict(line.boot),
        "globals": dict(line.globals),
    }
    return fields | {key: value for key, value in extra.items() if value not in (None, {})}


def _number(text: str, key: str) -> int:
    try:
        return int(text, 0)
    except ValueError as error:
        raise UsageError(f"-cpu {key}={text[:40]}: expected a number") from error


def _device(device: Device) -> dict[str, Any]:
    found: dict[str, Any] = {
        "kind": CARD if device.kind == MEMORY else device.kind,
        "slot": f"{device.slot:02x}.0",
    }
    if device.bars:
        found["bars"] = list(device.bars)
    if device.rom:
        found["rom"] = True
    if device.bootindex is not None:
        found["bootindex"] = device.bootindex
    return found


def _text(fields: Mapping[str, Any]) -> str:
    lines = ["# Learnt by `privml-build platform learn`: its tables are next to it, in the store and in pools."]
    for key, value in fields.items():
        if key == "devices":
            lines.append("devices:")
            lines += [f"  - {_flow(device)}" for device in value]
        elif isinstance(value, dict) and len(value) > 3:
            lines.append(f"{key}:")
            lines += [f"  {inner}: {_flow(one)}" for inner, one in value.items()]
        else:
            lines.append(f"{key}: {_flow(value)}")
    return "\n".join(lines) + "\n"


def _flow(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if isinstance(value, str):
        plain = is_plain(value) and value[:1].isalpha() and value.replace("-", "").replace(".", "").isalnum()
        return value if plain else json.dumps(value)
    return json.dumps(value)


def _checked(text: str, name: str) -> PlatformFile:
    return validate(document.parse(text.encode(), f"{name}.yaml"), PlatformFile)


def bars_below(root: Path, address: str) -> tuple[int, ...]:
    """The sizes of the 64-bit prefetchable BARs of a PCI device below ``root``; empty if it is not there."""
    full = address if address.count(":") == 2 else f"0000:{address}"
    try:
        rows = (root / "sys/bus/pci/devices" / full / "resource").read_text(encoding="ascii").splitlines()[:6]
        found = [tuple(int(word, 16) for word in row.split()) for row in rows]
    except (OSError, ValueError):
        return ()
    wanted = _PREFETCH | _MEM_64
    return tuple(end - start + 1 for start, end, flags in found if flags & wanted == wanted and end > start)


# Linux include/linux/ioport.h: IORESOURCE_PREFETCH, IORESOURCE_MEM_64.
_PREFETCH, _MEM_64 = 0x2000, 0x100000
