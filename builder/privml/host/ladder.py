"""What a machine needs to run a TD, rung by rung: facts, and what each means. Reading them is in `tdx`.

A rung stands on those before it; the first that fails is the one to mend.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from privml.base.errors import HostError
from privml.host.line import Line
from privml.host.qemu import QemuFact, fitting
from privml.recipe import drivers, referencevalues

# Intel's CPUs with TDX: family 6, Sapphire Rapids, Emerald Rapids, Granite Rapids (two), Sierra Forest.
MODELS = {
    143: "Sapphire Rapids",
    207: "Emerald Rapids",
    173: "Granite Rapids",
    174: "Granite Rapids",
    175: "Sierra Forest",
}
PARAMETER = "sys/module/kvm_intel/parameters/tdx"
_KEYS = re.compile(r"virt/tdx: BIOS enabled: private KeyID range:? \[(\d+), ?(\d+)\)")
_VERSIONS = (
    re.compile(r"virt/tdx: TDX module version: ([0-9.]+)"),
    re.compile(r"virt/tdx: TDX module: .*major_version (\d+), minor_version (\d+), .*build_num (\d+)"),
)
_READY = "virt/tdx: module initialized"
_FAILED = re.compile(r"virt/tdx: (.*(?:failed|not loaded|[Nn]ot supported).*)")
HOPPER = "0x23"
"""The start of the device ids of Hopper's GPUs."""
_NEEDED_BY_GPU = 65536
"""Mappings of the legacy VFIO container that a TD with a card soon exceeds; 65535 is Linux's default."""


@dataclass(frozen=True)
class GpuFact:
    """One NVIDIA GPU: PCI address, its confidential computing mode (empty: not readable), driver, IOMMU group.

    ``ppcie`` says whether protected PCIe is on; it is empty if that is not readable.
    """

    address: str
    device: str
    mode: str
    ppcie: str
    driver: str
    group: str
    vbios: str


@dataclass(frozen=True)
class TdxFacts:
    """Facts about a TDX host. ``log`` is None if the kernel's log may not be read.

    ``..._problem`` are empty if there is none, and None if nobody asked; ``gpus`` is None if they were not asked
    for. ``switches`` says of each NVSwitch whether protected PCIe is on, as `GpuFact` does.
    """

    vendor: str
    family: int
    model: int
    flags: frozenset[str]
    log: tuple[str, ...] | None
    kernel: str
    kvm_tdx: str
    cmdline: tuple[str, ...]
    sgx: bool
    qemu: QemuFact | None
    quote: str
    quote_problem: str
    pccs: str
    pccs_problem: str
    collateral_problem: str | None
    registration: str
    gpus: tuple[GpuFact, ...] | None
    iommufd: bool
    dma_entries: int | None
    switches: tuple[str, ...]


def ladder(facts: TdxFacts) -> list[Line]:
    """All rungs in order; a failing one says how to mend it."""
    lines = [*_processor(facts), *_kernel(facts), *_qemu(facts), *_quotes(facts)]
    if facts.gpus is not None:
        lines += _gpus(facts, facts.gpus)
    return lines


def require_tdx(root: Path) -> None:
    """``HostError`` on a machine whose KVM starts no TD."""
    try:
        value = (root / PARAMETER).read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        value = ""
    if value == "Y" and os.access(root / "dev/kvm", os.R_OK | os.W_OK):
        return
    found = "it may not use /dev/kvm" if value == "Y" else f"kvm_intel.tdx is `{value or 'not there'}`"
    raise HostError(
        f"this machine cannot run a TD: {found}",
        hint="`privml-build doctor --tdx` says what is missing, rung by rung",
    )


def _processor(facts: TdxFacts) -> Iterator[Line]:
    known = MODELS.get(facts.model) if (facts.vendor, facts.family) == ("GenuineIntel", 6) else None
    name = f"{facts.vendor or 'unknown'} family {facts.family} model {facts.model}"
    if known is None:
        yield Line("fail", "cpu", name, "TDX needs an Intel Xeon of the 4th generation or later")
    else:
        yield Line("ok", "cpu", f"{known} ({name})")
    if "tme" in facts.flags:
        yield Line("ok", "tme", "memory encryption is in the CPU's flags")
    else:
        yield Line(
            "fail", "tme", "the CPU's flags have no tme", "in the BIOS: enable Memory Encryption (TME) and TME-MT"
        )
    keys = _found(facts.log, _KEYS)
    if facts.log is None:
        yield Line("warn", "key-ids", "the kernel's log may not be read", "run it as root")
    elif keys is None:
        yield Line(
            "fail",
            "key-ids",
            "the kernel found no private key ids",
            "in the BIOS: enable TDX and the SEAM loader, and give the TME-MT/TDX key split a value above 0",
        )
    else:
        low, high = int(keys[1]), int(keys[2])
        status = "ok" if high - low >= 2 else "fail"
        remedy = "" if status == "ok" else "in the BIOS: give TDX more key ids"
        yield Line("ok" if status == "ok" else "fail", "key-ids", f"{high - low} private key ids from {low}", remedy)


def _found(log: tuple[str, ...] | None, pattern: re.Pattern[str]) -> re.Match[str] | None:
    return next((match for line in log or () if (match := pattern.search(line))), None)


def _kernel(facts: TdxFacts) -> Iterator[Line]:
    if facts.kvm_tdx == "Y":
        yield Line("ok", "kvm-tdx", f"kvm_intel.tdx is Y, Linux {facts.kernel or 'unknown'}")
    elif facts.kvm_tdx:
        remedy = "`options kvm_intel tdx=1` in /etc/modprobe.d, then load kvm_intel again"
        yield Line("fail", "kvm-tdx", f"kvm_intel.tdx is {facts.kvm_tdx}", remedy)
    else:
        yield Line(
            "fail",
            "kvm-tdx",
            f"kvm_intel has no parameter tdx, Linux {facts.kernel or 'unknown'}",
            "use Linux 6.16 or newer",
        )
    version = next((match for pattern in _VERSIONS if (match := _found(facts.log, pattern))), None)
    said = ".".join(version.groups()) if version is not None else "of unknown version"
    failed = _found(facts.log, _FAILED)
    if facts.log is None:
        yield Line("warn", "tdx-module", "the kernel's log may not be read", "run it as root")
    elif any(_READY in line for line in facts.log):
        yield Line("ok", "tdx-module", f"initialized, {said}")
    elif failed is not None:
        hibernates = "nohibernate" not in facts.cmdline and "ibernat" in failed[1]
        remedy = (
            "add `nohibernate` to the kernel's command line" if hibernates else "update the BIOS, or its TDX module"
        )
        yield Line("fail", "tdx-module", failed[1], remedy)
    else:
        yield Line("fail", "tdx-module", "not initialized", "load kvm_intel with tdx=1, then read the kernel's log")


def _qemu(facts: TdxFacts) -> Iterator[Line]:
    qemu = facts.qemu
    if qemu is None:
        yield Line(
            "warn", "qemu", "no qemu-system-x86_64 in the PATH", "not needed by `run --tdx`, which has its own"
        )
        return
    if qemu.tdx_guest:
        yield Line("ok", "qemu", f"{qemu.name} has tdx-guest")
    else:
        yield Line("warn", "qemu", f"{qemu.name} has no tdx-guest", "use QEMU 10.1 or newer; `run --tdx` has its own")
    yield from fitting(qemu)


def _quotes(facts: TdxFacts) -> Iterator[Line]:
    if facts.sgx:
        yield Line("ok", "sgx", "/dev/sgx_enclave and /dev/sgx_provision are there")
    else:
        remedy = "in the BIOS: enable SGX, which signs quotes"
        yield Line("fail", "sgx", "/dev/sgx_enclave or /dev/sgx_provision is missing", remedy)
    if facts.quote_problem:
        remedy = "start qgsd; `port = 4050` in /etc/qgs.conf makes it listen on vsock"
        yield Line("fail", "quote-service", f"{facts.quote}: {facts.quote_problem}", remedy)
    else:
        yield Line("ok", "quote-service", f"answers at {facts.quote}: `run --tdx --quote-socket {facts.quote}`")
    if not facts.pccs:
        remedy = "install libsgx-dcap-default-qpl, and name a PCCS in /etc/sgx_default_qcnl.conf"
        yield Line("fail", "pccs", "/etc/sgx_default_qcnl.conf names none", remedy)
    elif facts.pccs_problem:
        remedy = "start the PCCS; `use_secure_cert: false` allows its own certificate"
        yield Line("fail", "pccs", f"{facts.pccs}: {facts.pccs_problem}", remedy)
    else:
        yield Line("ok", "pccs", f"{facts.pccs} answers")
        yield _collateral(facts.collateral_problem)
    if facts.registration == "passed":
        yield Line(
            "ok", "registration", "the registration agent says that it passed; only a quote that verifies shows it"
        )
    else:
        remedy = "run mpa_registration_tool, or in the BIOS: SGX Auto MP Registration"
        yield Line("warn", "registration", facts.registration or "the registration agent left no log", remedy)


def _collateral(problem: str | None) -> Line:
    """Whether the PCCS has collateral of this platform, which only its FMSPC names."""
    name = "pccs-collateral"
    if problem is None:
        ask = "`verify` of a guest and `collateral fetch QUOTE` print it: give it by --fmspc"
        return Line("warn", name, "not asked for, because nothing here says the FMSPC of this platform", ask)
    if problem:
        remedy = "it has no subscription key for Intel's service, or no way there: see its log, then ask it again"
        return Line("fail", name, f"no TCB levels of this platform: {problem}", remedy)
    return Line("ok", name, "it has the TCB levels of this platform")


def _gpus(facts: TdxFacts, gpus: tuple[GpuFact, ...]) -> Iterator[Line]:
    if not gpus:
        yield Line("fail", "gpu", "no NVIDIA GPU on the PCI bus", "check the slot and the BIOS")
        return
    for gpu in gpus:
        yield from _gpu(gpu)
    yield _image_drivers(gpus)
    if facts.iommufd:
        yield Line("ok", "gpu-dma", "/dev/iommu is there")
    else:
        limit = facts.dma_entries
        found = "no /dev/iommu" if limit is None else f"no /dev/iommu, and dma_entry_limit is {limit}"
        few = limit is None or limit < _NEEDED_BY_GPU
        more = "; another VMM needs vfio_iommu_type1.dma_entry_limit=4194304" if few else ""
        yield Line("fail", "gpu-dma", found, f"modprobe iommufd, which `run --tdx` uses{more}")
    yield _protected(gpus, facts.switches)


def _protected(gpus: tuple[GpuFact, ...], switches: tuple[str, ...]) -> Line:
    """Protected PCIe is for a guest with all GPUs and NVSwitches of a board, which must all be in one mode."""
    name, modes = "gpu-ppcie", [gpu.ppcie for gpu in gpus] + list(switches)
    whole = f"{len(gpus)} GPUs and {len(switches)} NVSwitches"
    if "" in modes and (switches or "on" in modes):
        found = f"{whole}: not all modes can be read here, and all must be in one"
        return Line("warn", name, found, "ask `nvidia_gpu_tools.py --query-ppcie-mode` for each")
    if "on" not in modes:
        return Line(
            "ok", name, f"protected PCIe is off at {whole}" if switches else "no NVSwitch, so no protected PCIe"
        )
    if "off" in modes or not switches:
        found = f"protected PCIe is on at {modes.count('on')} of {whole}, expected all or none, with NVSwitches"
        remedy = "nvidia_gpu_tools.py --set-ppcie-mode=off --reset-after-ppcie-mode-switch for each"
        return Line("fail", name, found, remedy)
    return Line("ok", name, f"protected PCIe is on at {whole}")


def _gpu(gpu: GpuFact) -> Iterator[Line]:
    name = f"gpu {gpu.address}"
    remedy = f"nvidia_gpu_tools.py --gpu-bdf={gpu.address} --set-cc-mode=on --reset-after-cc-mode-switch"
    if gpu.mode == "on":
        yield Line("ok", f"{name} mode", "confidential computing is on")
    elif gpu.ppcie == "on":
        found = "protected PCIe is on, which is for a guest with all GPUs and NVSwitches"
        yield Line("warn", f"{name} mode", found, f"for one GPU: --set-ppcie-mode=off, then {remedy}")
    elif gpu.mode:
        yield Line("fail", f"{name} mode", f"confidential computing is {gpu.mode}", remedy)
    else:
        ask = f"ask `nvidia_gpu_tools.py --gpu-bdf={gpu.address} --query-cc-mode` as root"
        yield Line("warn", f"{name} mode", f"device {gpu.device}: the mode cannot be read here", ask)
    if gpu.driver == "vfio-pci":
        yield Line("ok", f"{name} driver", "bound to vfio-pci")
    else:
        bind = f"bind it: driverctl set-override {gpu.address} vfio-pci"
        yield Line("fail", f"{name} driver", f"bound to {gpu.driver or 'no driver'}, expected vfio-pci", bind)
    if gpu.group:
        yield Line("ok", f"{name} iommu", f"in IOMMU group {gpu.group}")
    else:
        yield Line("fail", f"{name} iommu", "in no IOMMU group", "in the BIOS: enable VT-d; boot with intel_iommu=on")
    yield _vbios(gpu)


def _vbios(gpu: GpuFact) -> Line:
    """Whether NVIDIA publishes reference values of its VBIOS, which only its driver can read.

    No register of a card is known that has the version, and its ROM is readable only after writing to its settings.
    """
    name = f"gpu {gpu.address} vbios"
    if not gpu.vbios:
        ask = "`nvidia-smi --query-gpu=vbios_version --format=csv` with the card at NVIDIA's driver"
        holder = f"while {gpu.driver} has the card" if gpu.driver else "without a driver"
        return Line("warn", name, f"not readable {holder}", f"{ask}, or see it in the guest's evidence")
    known = referencevalues.of_vbios(gpu.vbios)
    if known is not None:
        return Line("ok", name, f"VBIOS {gpu.vbios}: reference values are published ({known})")
    digits = gpu.vbios.replace(".", "").upper()
    ask = f"look for {digits} in {referencevalues.SERVICE}; if it is not there, callers refuse the GPU: update it"
    return Line("warn", name, f"VBIOS {gpu.vbios}: no reference values on {referencevalues.LISTED}", ask)


def _image_drivers(gpus: tuple[GpuFact, ...]) -> Line:
    """Whether NVIDIA publishes reference values of the drivers that an image may have: the host's is not measured."""
    name, found = "gpu-image-driver", [version for vendor, version in drivers.DRIVERS if vendor == drivers.NVIDIA]
    other = [f"{gpu.address} ({gpu.device})" for gpu in gpus if not gpu.device.startswith(HOPPER)]
    if other:
        return Line(
            "warn",
            name,
            f"{', '.join(other)}: not of Hopper, expected an H100 or H200",
            "images have no driver for it",
        )
    lacking = [version for version in found if drivers.known_of(drivers.NVIDIA, version)]
    if lacking:
        return Line("warn", name, f"no reference values of driver {', '.join(lacking)}", "use another `gpu.driver`")
    return Line("ok", name, f"reference values of GH100 are published for the drivers of images: {', '.join(found)}")
