"""Read the facts about a TDX host. Nothing is changed: files are read, services are only connected to."""

from __future__ import annotations

import http.client
import mmap
import re
import socket
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from privml.base.errors import HostError, PrivmlError
from privml.base.http import Connections
from privml.base.run import run
from privml.base.wayout import WayOut
from privml.host.ladder import HOPPER, PARAMETER, GpuFact, TdxFacts
from privml.host.qemu import look as qemu_look
from privml.host.qemu import program
from privml.recipe.platform import PlatformFile
from privml.vm.unixsocket import connected

_SECONDS = 5.0
_NVIDIA = "0x10de"
_DISPLAY, _SWITCH = ("0x0300", "0x0302"), "0x0680"
# NVIDIA gpu-admin-tools, query_cc_mode_hopper, ..._blackwell, query_ppcie_mode: registers in BAR 0, by the start of
# the device id. A GPU's two low bits are its mode; Hopper's and an NVSwitch's also say whether protected PCIe is on.
_MODE_REGISTER = {HOPPER: 0x1182CC, "0x29": 0x590}
_MODES = {0: "off", 1: "on", 3: "devtools"}
_PPCIE = 0x20
_SWITCH_REGISTER, _SWITCH_PPCIE = {"0x22": 0x28C50}, 0x1
_ASLEEP, _REFUSED = 0xFFFFFFFF, 0xBADF
_QGS_SOCKET = "/var/run/tdx-qgs/qgs.socket"
_LOCAL_CID = 1  # VMADDR_CID_LOCAL: this machine, as seen from itself
_MAX = 4 << 20
_OF_SGX, _OF_TDX = "/sgx/certification/", "/tdx/certification/"


@dataclass(frozen=True)
class Outside:
    """What is not a file: the kernel's log (None: not readable), a program's output, and two ways to connect."""

    kernel_log: Callable[[], str | None]
    program: Callable[[Sequence[str]], str]
    dial: Callable[[tuple[int, int] | str], str]
    get: Callable[[str], str]


def _kernel_log() -> str | None:
    try:
        return run(["dmesg"], timeout=_SECONDS, what="dmesg").stdout.decode("utf-8", "replace")
    except HostError:
        return None


def _dial(address: tuple[int, int] | str) -> str:
    """Why nothing answers at a vsock or Unix socket; empty if something does."""
    try:
        if isinstance(address, str):
            connected(Path(address), _SECONDS).close()
        else:
            with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as connection:
                connection.settimeout(_SECONDS)
                connection.connect(address)
    except OSError as error:
        return (error.strerror or str(error)).lower()
    return ""


def _get(url: str) -> str:
    """Why a PCCS does not answer with its list; empty if it does."""
    try:
        with Connections(WayOut(), timeout=_SECONDS) as connections, connections.get(url) as response:
            response.read(_MAX)
            return "" if response.status == 200 else f"status {response.status}"
    except (OSError, ValueError, http.client.HTTPException, PrivmlError) as error:
        return str(error) or type(error).__name__


LIVE = Outside(_kernel_log, program, _dial, _get)


def look(
    platforms: Iterable[PlatformFile],
    *,
    gpus: bool,
    fmspc: str = "",
    root: Path = Path("/"),
    outside: Outside = LIVE,
) -> TdxFacts:
    """The facts of this machine, with its files below ``root``; ``gpus``: also those of its GPUs.

    ``fmspc`` is the kind of its platform, for whose collateral the PCCS is asked; nothing on a host says it.
    """
    cpu = _cpu(_text(root / "proc/cpuinfo"))
    quote: tuple[int, int] | str = _quote_service(root)
    settings = _uncommented(_text(root / "etc/sgx_default_qcnl.conf"))
    url = _pccs(settings)
    log = outside.kernel_log()
    devices = sorted((root / "sys/bus/pci/devices").glob("*"))
    nvidia = [device for device in devices if _word(device / "vendor") == _NVIDIA]
    limit = _word(root / "sys/module/vfio_iommu_type1/parameters/dma_entry_limit")
    return TdxFacts(
        vendor=cpu.get("vendor_id", ""),
        family=_number(cpu.get("cpu family", "")),
        model=_number(cpu.get("model", "")),
        flags=frozenset(cpu.get("flags", "").split()),
        log=None if log is None else tuple(log.splitlines()),
        kernel=_word(root / "proc/sys/kernel/osrelease"),
        kvm_tdx=_word(root / PARAMETER),
        cmdline=tuple(_word(root / "proc/cmdline").split()),
        sgx=all((root / "dev" / name).exists() for name in ("sgx_enclave", "sgx_provision")),
        qemu=qemu_look(root, platforms, outside.program),
        quote=quote if isinstance(quote, str) else f"vsock:2:{quote[1]}",
        quote_problem=outside.dial(quote),
        pccs=url,
        pccs_problem=_pccs_problem(f"{url.rstrip('/')}/rootcacrl", settings, outside) if url else "",
        collateral_problem=_collateral_problem(url, fmspc, settings, outside) if url and fmspc else None,
        registration=_registration(_text(root / "var/log/mpa_registration.log")),
        gpus=tuple(_gpu(one, root) for one in nvidia if _class(one) in _DISPLAY) if gpus else None,
        iommufd=(root / "dev/iommu").exists(),
        dma_entries=_number(limit) if limit.isdecimal() else None,
        switches=tuple(_switch(one) for one in nvidia if gpus and _class(one) == _SWITCH),
    )


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_MAX).decode("utf-8", "replace")
    except OSError:
        return ""


def _word(path: Path) -> str:
    return _text(path).strip()


def _number(text: str) -> int:
    return int(text) if text.isdecimal() else -1


def _cpu(text: str) -> dict[str, str]:
    """The fields of the first CPU in /proc/cpuinfo."""
    rows = (line.partition(":") for line in text.partition("\n\n")[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in rows}


def _quote_service(root: Path) -> tuple[int, int] | str:
    """Where qgsd listens: on vsock if its configuration names a port, else at its Unix socket."""
    match = re.search(r"^\s*port\s*=\s*([0-9]{1,10})\s*$", _text(root / "etc/qgs.conf"), re.MULTILINE)
    return _QGS_SOCKET if match is None else (_LOCAL_CID, int(match[1]))


def _uncommented(text: str) -> str:
    """DCAP's configuration, which is JSON with comments."""
    return "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("//"))


def _pccs(settings: str) -> str:
    match = re.search(r'"pccs_url"\s*:\s*"(https?://[^"\s]{1,500})"', settings)
    return "" if match is None else match[1]


def _pccs_problem(url: str, settings: str, outside: Outside) -> str:
    """Why the PCCS does not answer. A certificate of its own is no problem where the configuration allows it."""
    problem = outside.get(url)
    allowed = re.search(r'"use_secure_cert"\s*:\s*false', settings, re.IGNORECASE) is not None
    return "" if allowed and "certificate" in problem.lower() else problem


def _collateral_problem(url: str, fmspc: str, settings: str, outside: Outside) -> str:
    """Why the PCCS does not give the TCB levels of a platform; empty if it does."""
    of_tdx = url.rstrip("/").replace(_OF_SGX, _OF_TDX)
    if of_tdx == url.rstrip("/"):
        return f"its address has no `{_OF_SGX}`"
    return _pccs_problem(f"{of_tdx}/tcb?fmspc={fmspc}", settings, outside)


def _registration(log: str) -> str:
    lines = [line.partition("] ")[2] or line for line in log.splitlines() if line.strip()]
    if any("passed successfully" in line or "completed successfully" in line for line in lines):
        return "passed"
    return next((line[:200] for line in reversed(lines) if "ERROR" in line), lines[-1][:200] if lines else "")


def _class(device: Path) -> str:
    return _word(device / "class")[:6]


def _gpu(device: Path, root: Path) -> GpuFact:
    identity = _word(device / "device")
    value = _register(device / "resource0", _MODE_REGISTER.get(identity[:4]))
    information = _text(root / "proc/driver/nvidia/gpus" / device.name / "information")
    match = re.search(r"^Video BIOS:\s*(\S+)", information, re.MULTILINE)
    return GpuFact(
        address=device.name,
        device=identity,
        mode="" if value is None else _MODES.get(value & 3, ""),
        ppcie=_bit(value, _PPCIE) if identity.startswith(HOPPER) else "off",
        driver=_linked(device / "driver"),
        group=_linked(device / "iommu_group"),
        vbios="" if match is None or "?" in match[1] else match[1],
    )


def _switch(device: Path) -> str:
    """Whether protected PCIe is on at an NVSwitch; empty if it cannot be read."""
    register = _SWITCH_REGISTER.get(_word(device / "device")[:4])
    return _bit(_register(device / "resource0", register), _SWITCH_PPCIE)


def _linked(path: Path) -> str:
    return path.resolve().name if path.exists() else ""


def _register(resource: Path, register: int | None) -> int | None:
    """A register of a device in its BAR 0; None if it cannot be read, as when the device sleeps."""
    if register is None:
        return None
    page = register & ~(mmap.ALLOCATIONGRANULARITY - 1)
    try:
        with resource.open("rb") as file:
            access = mmap.mmap(file.fileno(), mmap.ALLOCATIONGRANULARITY, prot=mmap.PROT_READ, offset=page)
            with access:
                at = register - page
                value = int.from_bytes(access[at : at + 4], "little")
    except (OSError, ValueError):
        return None
    return None if value == _ASLEEP or value >> 16 == _REFUSED else value


def _bit(value: int | None, bit: int) -> str:
    return "" if value is None else "on" if value & bit else "off"
