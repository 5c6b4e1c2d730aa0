"""`doctor --tdx`: each rung on a recorded tree of a host, and what mends it."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from privml.base.errors import HostError, UsageError
from privml.cli import doctor as verb
from privml.evidence.quotefault import FAULTS, REFUSED
from privml.host import qemu, tdx
from privml.host.ladder import TdxFacts, ladder
from privml.host.line import Line
from privml.host.tdx import Outside, look
from privml.recipe import drivers, referencevalues
from privml.recipe.loader import load_platform, shipped

CPU = """processor\t: 0
vendor_id\t: GenuineIntel
cpu family\t: 6
model\t\t: 207
model name\t: INTEL(R) XEON(R) PLATINUM 8580
stepping\t: 2
flags\t\t: fpu vme de pse tsc msr pae tme smx
address sizes\t: 46 bits physical, 57 bits virtual

processor\t: 1
vendor_id\t: GenuineIntel
"""
LOG = """\
[    1.824045] virt/tdx: BIOS enabled: private KeyID range [64, 128)
[    1.824049] virt/tdx: Disable ACPI S3. Turn off TDX in the BIOS to use ACPI S3.
[   20.408972] virt/tdx: TDX module: attributes 0x0, vendor_id 0x8086, major_version 1, minor_version 5, \
build_date 20240725, build_num 784
[   24.195089] virt/tdx: 1050644 KB allocated for PAMT
[   24.195098] virt/tdx: module initialized
"""
QCNL = """{
  // *** ATTENTION : This file is in JSON format ***
  //"pccs_url": "https://old.invalid/"
  "pccs_url": "https://localhost:8081/sgx/certification/v4/"
  ,"use_secure_cert": false
}
"""
REGISTERED = """[04-06-2024 03:05:53] INFO: SGX Registration Agent version: 1.20.100.2
[04-06-2024 03:05:54] INFO: Registration Flow - PLATFORM_ESTABLISHMENT or TCB_RECOVERY passed successfully.
[04-06-2024 03:05:54] INFO: Finished Registration Agent Flow.
"""
GPU = "0000:18:00.0"
SWITCH = "0000:05:00.0"
QEMU = b"#!a QEMU\n"
FILES = {
    "proc/cpuinfo": CPU,
    "proc/sys/kernel/osrelease": "6.19.0-3-generic\n",
    "proc/cmdline": "BOOT_IMAGE=/boot/vmlinuz root=UUID=f5 ro nohibernate kvm_intel.tdx=1\n",
    "sys/module/kvm_intel/parameters/tdx": "Y\n",
    "sys/module/vfio_iommu_type1/parameters/dma_entry_limit": "65535\n",
    "dev/sgx_enclave": "",
    "dev/sgx_provision": "",
    "dev/iommu": "",
    "etc/qgs.conf": "port = 4050\nnumber_threads = 4\n",
    "etc/sgx_default_qcnl.conf": QCNL,
    "var/log/mpa_registration.log": REGISTERED,
    "usr/bin/qemu-system-x86_64": QEMU.decode(),
    f"sys/bus/pci/devices/{GPU}/vendor": "0x10de\n",
    f"sys/bus/pci/devices/{GPU}/device": "0x2331\n",
    f"sys/bus/pci/devices/{GPU}/class": "0x030200\n",
    "sys/bus/pci/devices/0000:00:1f.0/vendor": "0x8086\n",
    "sys/bus/pci/drivers/vfio-pci/bind": "",
    "sys/bus/pci/drivers/nvidia/bind": "",
    "sys/kernel/iommu_groups/42/type": "DMA-FQ\n",
}
ROOT_FOLDERS = 3


class Host:
    """A recorded host: its files, and what answers outside of them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.log: str | None = LOG
        self.programs = {"--version": "QEMU emulator version 10.1.2 (Ubuntu 1:10.1.2)\n", "-object": "tdx-guest\n"}
        self.dialled: list[object] = []
        self.asked: list[str] = []
        self.quote = self.pccs = self.collateral = ""
        for name, text in FILES.items():
            self.write(name, text)
        (root / "usr/bin/qemu-system-x86_64").chmod(0o755)
        self.link(f"sys/bus/pci/devices/{GPU}/driver", "sys/bus/pci/drivers/vfio-pci")
        self.link(f"sys/bus/pci/devices/{GPU}/iommu_group", "sys/kernel/iommu_groups/42")
        self.mode(1)

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def remove(self, name: str) -> None:
        (self.root / name).unlink()

    def link(self, name: str, target: str) -> None:
        path = self.root / name
        path.unlink(missing_ok=True)
        path.symlink_to(self.root / target)

    def mode(self, value: int) -> None:
        """Record the register of the GPU's mode in its BAR."""
        self.register(GPU, 0x1182CC, value)

    def register(self, address: str, at: int, value: int) -> None:
        """Record a register in a device's BAR, a sparse file."""
        with (self.root / f"sys/bus/pci/devices/{address}/resource0").open("wb") as file:
            file.seek(at)
            file.write(value.to_bytes(4, "little"))
            file.truncate(16 << 20)

    def switch(self, value: int | None) -> None:
        """Add an NVSwitch with this register; None: without a BAR that can be read."""
        place = f"sys/bus/pci/devices/{SWITCH}"
        for name, text in (("vendor", "0x10de\n"), ("class", "0x068000\n"), ("device", "0x22a3\n")):
            self.write(f"{place}/{name}", text)
        if value is not None:
            self.register(SWITCH, 0x28C50, value)

    def program(self, argv: Sequence[str]) -> str:
        return self.programs[argv[1]]

    def dial(self, address: object) -> str:
        self.dialled.append(address)
        return self.quote

    def get(self, url: str) -> str:
        self.asked.append(url)
        return self.collateral if "/tcb?" in url else self.pccs

    def facts(self, *, gpus: bool = True, fmspc: str = "") -> TdxFacts:
        known = load_platform("qemu-11-q35", shipped())
        fits = known.model_copy(update={"name": "mine"})
        binary = hashlib.sha256(QEMU).hexdigest()
        fits = fits.model_copy(update={"vmm": known.vmm.model_copy(update={"binary": binary})})
        outside = Outside(lambda: self.log, self.program, self.dial, self.get)
        return look([known, fits], gpus=gpus, fmspc=fmspc, root=self.root, outside=outside)

    def line(self, name: str) -> Line:
        (found,) = [line for line in ladder(self.facts()) if line.name == name]
        return found


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def tree(root: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.lstat().st_mtime_ns, path.lstat().st_size) for path in sorted(root.rglob("*"))}


def test_a_host_that_is_ready_has_no_failing_rung(host: Host) -> None:
    before = tree(host.root)
    lines = ladder(host.facts())
    assert [str(line) for line in lines if line.status == "fail"] == []
    assert [line.name for line in lines] == [
        "cpu", "tme", "key-ids", "kvm-tdx", "tdx-module", "qemu", "platform", "sgx", "quote-service", "pccs",
        "pccs-collateral", "registration", f"gpu {GPU} mode", f"gpu {GPU} driver", f"gpu {GPU} iommu",
        f"gpu {GPU} vbios", "gpu-image-driver", "gpu-dma", "gpu-ppcie",
    ]  # fmt: skip
    assert tree(host.root) == before, "looking changed something"
    assert host.dialled[0] == (1, 4050)
    assert host.asked[0] == "https://localhost:8081/sgx/certification/v4/rootcacrl"
    assert [line.name for line in ladder(host.facts(gpus=False))][-1] == "registration"


def test_the_rungs_that_a_guest_names_are_rungs_of_the_ladder(host: Host) -> None:
    rungs = {line.name for line in ladder(host.facts())}
    assert {fault.rung for fault in FAULTS.values() if fault.rung} <= rungs
    assert {"pccs", "registration"} <= rungs
    assert "(pccs, registration)" in REFUSED.text


FOUND = [
    ("cpu", "Emerald Rapids (GenuineIntel family 6 model 207)"),
    ("key-ids", "64 private key ids from 64"),
    ("kvm-tdx", "kvm_intel.tdx is Y, Linux 6.19.0-3-generic"),
    ("tdx-module", "initialized, 1.5.784"),
    ("qemu", "qemu-system-x86_64 10.1.2 (Ubuntu 1:10.1.2) has tdx-guest"),
    ("platform", "mine fits it"),
    ("quote-service", "answers at vsock:2:4050: `run --tdx --quote-socket vsock:2:4050`"),
    ("pccs", "https://localhost:8081/sgx/certification/v4/ answers"),
    ("registration", "only a quote that verifies shows it"),
    (f"gpu {GPU} mode", "confidential computing is on"),
    (f"gpu {GPU} iommu", "in IOMMU group 42"),
    ("gpu-image-driver", "for the drivers of images: 550.163.01, 595.71.05"),
    ("gpu-ppcie", "no NVSwitch"),
]


@pytest.mark.parametrize(("name", "words"), FOUND, ids=[name for name, _ in FOUND])
def test_a_rung_says_what_was_found(host: Host, name: str, words: str) -> None:
    found = host.line(name)
    assert (found.status, words in str(found), found.remedy) == ("ok", True, ""), str(found)


def _log(text: str | None) -> Callable[[Host], None]:
    return lambda host: setattr(host, "log", text)


def _file(name: str, text: str) -> Callable[[Host], None]:
    return lambda host: host.write(name, text)


def _vbios(version: str) -> Callable[[Host], None]:
    information = f"Model: \t NVIDIA H100\nVideo BIOS: \t {version}\n"
    return _file(f"proc/driver/nvidia/gpus/{GPU}/information", information)


def _gone(name: str) -> Callable[[Host], None]:
    return lambda host: host.remove(name)


def _all(*changes: Callable[[Host], None]) -> Callable[[Host], None]:
    return lambda host: [change(host) for change in changes] and None


READY = "virt/tdx: module initialized"
KEYS = "virt/tdx: BIOS enabled: private KeyID range [64, 128)\n"
BROKEN: list[tuple[str, Callable[[Host], None], str, str, str]] = [
    ("cpu", _file("proc/cpuinfo", CPU.replace("GenuineIntel", "AuthenticAMD")), "fail", "AuthenticAMD", "4th gen"),
    ("cpu", _file("proc/cpuinfo", CPU.replace("207", "106")), "fail", "model 106", "4th generation"),
    ("cpu", _gone("proc/cpuinfo"), "fail", "unknown family -1", "4th generation"),
    ("tme", _file("proc/cpuinfo", CPU.replace(" tme ", " ")), "fail", "no tme", "enable Memory Encryption"),
    ("key-ids", _log(""), "fail", "no private key ids", "key split a value above 0"),
    ("key-ids", _log(None), "warn", "may not be read", "run it as root"),
    ("key-ids", _log(KEYS.replace("128", "65")), "fail", "1 private key ids", "give TDX more"),
    ("kvm-tdx", _file("sys/module/kvm_intel/parameters/tdx", "N\n"), "fail", "is N", "options kvm_intel tdx=1"),
    ("kvm-tdx", _gone("sys/module/kvm_intel/parameters/tdx"), "fail", "no parameter tdx", "Linux 6.16 or newer"),
    ("tdx-module", _log(None), "warn", "may not be read", "run it as root"),
    ("tdx-module", _log(KEYS), "fail", "not initialized", "load kvm_intel with tdx=1"),
    ("tdx-module", _log("virt/tdx: module not loaded\n"), "fail", "module not loaded", "update the BIOS"),
    (
        "tdx-module",
        _all(
            _log("virt/tdx: initialization failed: Hibernation support is enabled\n"),
            _file("proc/cmdline", "ro kvm_intel.tdx=1\n"),
        ),
        "fail",
        "Hibernation support is enabled",
        "add `nohibernate`",
    ),
    ("qemu", _gone("usr/bin/qemu-system-x86_64"), "warn", "no qemu-system-x86_64", "has its own"),
    ("qemu", lambda host: host.programs.update({"-object": "iothread\n"}), "warn", "no tdx-guest", "10.1 or newer"),
    (
        "platform",
        _all(
            _file("usr/bin/qemu-system-x86_64", "another\n"),
            lambda host: (host.root / "usr/bin/qemu-system-x86_64").chmod(0o755),
        ),
        "warn",
        "no platform here is of it",
        "privml-build platform learn NAME --qemu ",
    ),
    ("sgx", _gone("dev/sgx_provision"), "fail", "is missing", "enable SGX"),
    ("quote-service", lambda host: setattr(host, "quote", "connection refused"), "fail", "refused", "start qgsd"),
    (
        "quote-service",
        _all(_file("etc/qgs.conf", "#port = 4050\n"), lambda host: setattr(host, "quote", "no such file")),
        "fail",
        "/var/run/tdx-qgs/qgs.socket: no such file",
        "port = 4050",
    ),
    ("pccs", _gone("etc/sgx_default_qcnl.conf"), "fail", "names none", "name a PCCS"),
    ("pccs", lambda host: setattr(host, "pccs", "status 503"), "fail", "status 503", "start the PCCS"),
    (
        "pccs",
        _all(
            lambda host: setattr(host, "pccs", "certificate verify failed"),
            _file("etc/sgx_default_qcnl.conf", QCNL.replace("false", "true")),
        ),
        "fail",
        "certificate verify failed",
        "use_secure_cert: false",
    ),
    ("registration", _gone("var/log/mpa_registration.log"), "warn", "left no log", "mpa_registration_tool"),
    (
        "registration",
        _file("var/log/mpa_registration.log", "[x] INFO: Starts.\n[x] ERROR: SGX is not enabled.\n[x] INFO: Ends.\n"),
        "warn",
        "ERROR: SGX is not enabled.",
        "Auto MP Registration",
    ),
    (f"gpu {GPU} mode", lambda host: host.mode(0), "fail", "computing is off", "--set-cc-mode=on"),
    (f"gpu {GPU} mode", lambda host: host.mode(3), "fail", "computing is devtools", "--set-cc-mode=on"),
    (f"gpu {GPU} mode", lambda host: host.mode(0xFFFFFFFF), "warn", "cannot be read here", "--query-cc-mode"),
    (f"gpu {GPU} mode", lambda host: host.mode(0xBADF5040), "warn", "cannot be read here", "--query-cc-mode"),
    (
        f"gpu {GPU} mode",
        lambda host: host.mode(0x20),
        "warn",
        "protected PCIe is on",
        "for one GPU: --set-ppcie-mode=off",
    ),
    (
        f"gpu {GPU} mode",
        _file(f"sys/bus/pci/devices/{GPU}/device", "0x2684\n"),
        "warn",
        "device 0x2684",
        "--query-cc-mode",
    ),
    (
        f"gpu {GPU} mode",
        _all(
            _file(f"sys/bus/pci/devices/{GPU}/device", "0x2901\n"),
            lambda host: host.register(GPU, 0x590, 3),
        ),
        "fail",
        "computing is devtools",
        "--set-cc-mode=on",
    ),
    (
        f"gpu {GPU} driver",
        lambda host: host.link(f"sys/bus/pci/devices/{GPU}/driver", "sys/bus/pci/drivers/nvidia"),
        "fail",
        "bound to nvidia",
        "set-override 0000:18:00.0 vfio-pci",
    ),
    (f"gpu {GPU} driver", _gone(f"sys/bus/pci/devices/{GPU}/driver"), "fail", "no driver", "bind it"),
    (f"gpu {GPU} iommu", _gone(f"sys/bus/pci/devices/{GPU}/iommu_group"), "fail", "no IOMMU group", "VT-d"),
    (
        f"gpu {GPU} vbios",
        _vbios("96.00.5e.00.07"),
        "warn",
        "VBIOS 96.00.5e.00.07: no reference values on 2026-02-01",
        "look for 96005E0007 in https://rim.attestation.nvidia.com/v1/rim/ids",
    ),
    (
        f"gpu {GPU} vbios",
        _vbios("??.??.??.??.??"),
        "warn",
        "not readable while vfio-pci has",
        "nvidia-smi --query-gpu",
    ),
    (
        f"gpu {GPU} vbios",
        _gone(f"sys/bus/pci/devices/{GPU}/driver"),
        "warn",
        "not readable without a driver",
        "in the guest's evidence",
    ),
    (
        "gpu-image-driver",
        _file(f"sys/bus/pci/devices/{GPU}/device", "0x2901\n"),
        "warn",
        f"{GPU} (0x2901)",
        "no driver",
    ),
    ("gpu-dma", _gone("dev/iommu"), "fail", "dma_entry_limit is 65535", "dma_entry_limit=4194304"),
    ("gpu-ppcie", lambda host: host.switch(None), "warn", "1 GPUs and 1 NVSwitches: not all", "--query-ppcie-mode"),
    ("gpu-ppcie", lambda host: host.switch(1), "fail", "on at 1 of 1 GPUs and 1 NVSwitches", "--set-ppcie-mode=off"),
    ("gpu-ppcie", lambda host: host.mode(0x20), "fail", "on at 1 of 1 GPUs and 0 NVSwitches", "--set-ppcie-mode=off"),
    ("gpu", _file(f"sys/bus/pci/devices/{GPU}/vendor", "0x1002\n"), "fail", "no NVIDIA GPU", "slot"),
]


@pytest.mark.parametrize(
    ("name", "change", "status", "words", "remedy"),
    BROKEN,
    ids=[f"{name}-{words}" for name, _, _, words, _ in BROKEN],
)
def test_a_broken_rung_is_named_with_its_remedy(
    host: Host, name: str, change: Callable[[Host], None], status: str, words: str, remedy: str
) -> None:
    change(host)
    found = host.line(name)
    assert (found.status, words in found.found, remedy in found.remedy) == (status, True, True), str(found)


def test_a_pccs_with_a_certificate_of_its_own_is_fine_where_that_is_allowed(host: Host) -> None:
    host.pccs = "certificate verify failed: self-signed certificate"
    assert host.line("pccs").status == "ok"


@pytest.mark.parametrize(("gpu", "switch", "mode"), [(0x1, 0x0, "off"), (0x20, 0x1, "on")])
def test_protected_pcie_is_fine_in_one_mode(host: Host, gpu: int, switch: int, mode: str) -> None:
    host.mode(gpu)
    host.switch(switch)
    found = host.line("gpu-ppcie")
    assert (found.status, found.found) == ("ok", f"protected PCIe is {mode} at 1 GPUs and 1 NVSwitches")


def test_a_platform_without_a_binary_fits_the_package_that_it_names(host: Host) -> None:
    assert "mine fits it" in str(host.line("platform"))
    known = load_platform("qemu-11-q35", shipped())
    unnamed = known.model_copy(update={"vmm": known.vmm.model_copy(update={"binary": None})})
    for package, fits in (("Debian 1:11.1.2+ds-3", ("qemu-11-q35",)), ("Debian 1:11.1.2+ds-4", ())):
        host.programs["--version"] = f"QEMU emulator version 11.1.2 ({package})\n"
        found = qemu.look(host.root, [known, unnamed], host.program)
        assert found is not None
        assert found.platforms == fits


def test_all_platforms_of_the_binary_fit_but_those_for_development(host: Host) -> None:
    binary = hashlib.sha256(QEMU).hexdigest()
    known = [load_platform(name, shipped()) for name in ("qemu-11-q35-tpm", "qemu-11-q35-one-disk", "qemu-11-q35")]
    of_it = [one.model_copy(update={"vmm": one.vmm.model_copy(update={"binary": binary})}) for one in known]
    found = qemu.look(host.root, of_it, host.program)
    assert found is not None
    assert found.platforms == ("qemu-11-q35", "qemu-11-q35-one-disk")


def test_an_empty_machine_is_read(tmp_path: Path) -> None:
    outside = Outside(lambda: None, lambda _: "", lambda _: "no such file", lambda _: "unreachable")
    facts = look([], gpus=True, root=tmp_path, outside=outside)
    assert {line.status for line in ladder(facts)} == {"fail", "warn"}
    assert list(tmp_path.iterdir()) == []


def test_the_module_names_its_version_in_two_ways(host: Host) -> None:
    host.log = KEYS + "virt/tdx: TDX module version: 1.5.24\n" + READY + "\n"
    assert "initialized, 1.5.24" in str(host.line("tdx-module"))


def test_every_fact_of_a_host_is_read_from_its_tree(host: Host, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    outside = Outside(lambda: None, lambda _: "", lambda _: "x", lambda _: "x")
    empty = look([], gpus=False, root=tmp_path / "none", outside=outside)
    whole = host.facts()
    same = {field.name for field in fields(TdxFacts) if getattr(empty, field.name) == getattr(whole, field.name)}
    assert same == {"pccs_problem", "collateral_problem", "switches"}


def test_the_verb_ends_in_exit_5_and_names_the_lowest_rung(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = host.facts()
    monkeypatch.setattr(
        verb, "tdx_look", lambda platforms, *, gpus, fmspc: replace(facts, gpus=facts.gpus if gpus else None)
    )
    done = CliRunner().invoke(verb.doctor, ["--tdx", "--gpu"])
    assert (done.exit_code, "ok   cpu: Emerald Rapids" in done.stdout) == (0, True)
    facts = replace(facts, kvm_tdx="N", sgx=False)
    done = CliRunner().invoke(verb.doctor, ["--tdx", "--json"])
    assert isinstance(done.exception, HostError)
    assert done.exception.message == "a TD needs: kvm-tdx, sgx"
    assert done.exception.hint == "mend `kvm-tdx` first: the others stand on it"
    told = json.loads(done.stdout)
    assert (told["ok"], [line["name"] for line in told["lines"] if line["status"] == "fail"]) == (
        False,
        ["kvm-tdx", "sgx"],
    )
    assert isinstance(CliRunner().invoke(verb.doctor, ["--gpu"]).exception, UsageError)


def test_a_socket_that_nothing_listens_at_is_said_to_refuse(tmp_path: Path) -> None:
    assert "no such file" in tdx._dial(str(tmp_path / "none.sock"))
    assert tdx._dial((1, 1)) != ""
    assert tdx._get("http://127.0.0.1:1/rootcacrl") != ""
    assert qemu.program([str(tmp_path / "none")]) == ""
    assert os.listdir(tmp_path) == []


def test_a_vbios_with_reference_values_is_named(host: Host) -> None:
    _vbios("96.00.5e.00.01")(host)
    found = host.line(f"gpu {GPU} vbios")
    assert (found.status, found.remedy) == ("ok", "")
    assert "reference values are published (NV_GPU_VBIOS_1010_0200_882_96005E0001)" in str(found)


def test_a_driver_of_images_without_reference_values_is_named(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drivers, "_REFERENCE_VALUES", {drivers.NVIDIA: {"550.163.01"}})
    found = host.line("gpu-image-driver")
    assert (found.status, found.found) == ("warn", "no reference values of driver 595.71.05")


def test_reference_values_are_found_by_vbios() -> None:
    assert referencevalues.of_vbios("97.00.d9.00.35") == "NV_GPU_VBIOS_G525_0220_886_9700D90035"
    assert referencevalues.of_vbios("96.00.A5.00.01") == "NV_GPU_VBIOS_G520_0200_885_9600A50001"
    assert referencevalues.of_vbios("G520.0200.885") is None
    assert referencevalues.of_vbios("") is None
    assert all(re.fullmatch(r"[0-9A-F]{10}", one) for one in referencevalues._BOARD_OF)


def test_the_pccs_is_asked_for_the_collateral_of_the_named_platform(host: Host) -> None:
    def line(fmspc: str) -> Line:
        (found,) = [one for one in ladder(host.facts(fmspc=fmspc)) if one.name == "pccs-collateral"]
        return found

    assert (line("").status, "give it by --fmspc" in line("").remedy) == ("warn", True)
    assert line("90C06F000000") == Line("ok", "pccs-collateral", "it has the TCB levels of this platform")
    assert host.asked[-1] == "https://localhost:8081/tdx/certification/v4/tcb?fmspc=90C06F000000"
    host.collateral = "status 404"
    assert (line("90C06F000000").status, "status 404" in line("90C06F000000").found) == ("fail", True)
    host.write("etc/sgx_default_qcnl.conf", '{"pccs_url": "https://pccs.invalid/v4/", "use_secure_cert": false}')
    assert "its address has no `/sgx/certification/`" in line("90C06F000000").found


@pytest.mark.parametrize(
    ("words", "said"),
    [(("--fmspc", "90C06F000000"), "--fmspc needs --tdx"), (("--tdx", "--fmspc", "x&y"), "expected 12 hex digits")],
)
def test_a_wrong_fmspc_is_refused(words: tuple[str, ...], said: str) -> None:
    done = CliRunner().invoke(verb.doctor, words)
    assert isinstance(done.exception, UsageError) and said in done.exception.message
