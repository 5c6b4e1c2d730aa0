"""Read a foreign QEMU command line: the machine that it makes, and what of it cannot be predicted.

Everything that is not known is refused by name, with the change that makes the machine predictable. The words of
8.2 with TDX patches are understood too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from privml.base.errors import UsageError
from privml.base.sizes import MAX_VCPUS
from privml.machine import spellings as known
from privml.machine.platform import Device, Size
from privml.machine.qemuopts import MAX_WORD, pairs
from privml.machine.rootbus import BarsOf, Gathered, RootBus, shown

_MAX_WORDS = 1024
_TDX = "tdx-guest"
_MIB = 1 << 20

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_ON = ("on", "true", "yes")


@dataclass(frozen=True)
class CommandLine:
    """The machine of a command line.

    ``machine`` is the type as written, perhaps an alias. ``words`` are its own words that decide what is measured,
    with stand-ins for the host's resources; `arguments` of the platform must make the same machine. ``notes`` say
    what holds only under a condition.
    """

    machine: str
    options: tuple[tuple[str, str], ...]
    identity: Mapping[str, str]
    size: Size
    devices: tuple[Device, ...]
    sockets: bool
    serial: bool
    uuid: str | None
    boot: tuple[tuple[str, str], ...]
    globals: tuple[tuple[str, str], ...]
    words: tuple[str, ...]
    notes: tuple[str, ...]


def read(
    words: Sequence[str], identity: Mapping[str, str], bars_of: BarsOf = lambda _: (), *, from_disk: bool = False
) -> CommandLine:
    """The machine of QEMU's arguments without the program; ``UsageError`` names everything that cannot be predicted.

    ``identity`` is that of the host's CPU, as properties of ``-cpu``, for a machine that has it. ``from_disk``: it
    boots from its first disk, and not the UKI of ``-kernel``.
    """
    gathered = Gathered()
    reader = _Reader(gathered, RootBus(gathered, bars_of), dict(identity), from_disk)
    reader.read(words)
    if gathered.problems:
        lines = "\n".join(f"  {problem}" for problem in gathered.problems)
        raise UsageError(
            f"this machine cannot be predicted:\n{lines}", hint="change the command line and learn it again"
        )
    return reader.found()


@dataclass
class _Reader:
    gathered: Gathered
    bus: RootBus
    identity: dict[str, str]
    from_disk: bool = False
    options: dict[str, str] = field(default_factory=dict)
    boot: dict[str, str] = field(default_factory=dict)
    globals: dict[str, str] = field(default_factory=dict)
    machine: str = ""
    vcpus: int = 0
    memory: int = 0
    sockets: bool = False
    serials: int = 0
    uuid: str | None = None
    guest: str | None = None
    supported_by: str | None = None
    defaults: bool = True
    kernel: bool = False
    bios: bool = False
    cpu: bool = False

    def problem(self, what: str, why: str) -> None:
        self.gathered.problem(what, why)

    def read(self, words: Sequence[str]) -> None:
        if len(words) > _MAX_WORDS or any(len(word) > MAX_WORD for word in words):
            raise UsageError(f"{len(words)} words, expected at most {_MAX_WORDS} of at most {MAX_WORD} characters")
        rest = iter(words)
        for word in rest:
            option = "-" + word.lstrip("-") if word.startswith("-") else word
            if not word.startswith("-"):
                self.problem(word, "a word that belongs to no option; name disks with -blockdev and -device")
            elif option in known.FLAGS:
                self.defaults &= option != "-nodefaults"
            elif option == "-no-hpet":
                self.options["hpet"] = "off"
            else:
                value = next(rest, None)
                if value is None:
                    self.problem(word, "its value is missing")
                    return
                self.option(option, value)
        self.whole()

    def option(self, option: str, value: str) -> None:
        what = f"{option} {value}"
        self.bios |= option == "-bios"
        self.kernel |= option == "-kernel"
        if option in known.REFUSED:
            self.problem(what, known.REFUSED[option])
        elif option in known.NONE_ONLY:
            if value != "none":
                self.problem(what, f"expected `{option} none`")
        elif option in known.OF_THE_HOST:
            return
        elif option in _OPTIONS:
            try:
                _OPTIONS[option](self, what, value)
            except ValueError as error:
                self.problem(what, f"malformed: {error}")
        else:
            self.problem(what, "an option whose effect on the tables is not known: leave it out")

    def on_machine(self, what: str, value: str) -> None:
        for key, text in pairs(value, "type"):
            name = key.replace("kernel-irqchip", "kernel_irqchip")
            if name == "type":
                self.machine = text
            elif name in known.GUEST_SUPPORT:
                self.supported_by = text
            elif name == "kvm-type":
                if text != "tdx":
                    self.problem(what, f"kvm-type={shown(text)}, expected a TD")
            elif (name, text) in (("usb", "off"), ("acpi", "on")):
                continue
            elif name in known.MACHINE_OPTIONS:
                self.options[name] = "on" if text in _ON else "off" if text in ("no", "false") else text
            elif name not in known.MACHINE_HOST:
                self.problem(what, f"the machine option {shown(name)} is not known: leave it out")

    def on_cpu(self, what: str, value: str) -> None:
        self.cpu = True
        (_, model), *rest = pairs(value, "model")
        for key, text in rest:
            name = key.lstrip("+-").replace("_", "-")
            if name in known.IDENTITY:
                self.identity[name] = text
            elif name == "host-phys-bits":
                self.problem(what, "the address bits are the host's: write phys-bits=N instead")
            elif name == "pdpe1gb" and text in _ON and not key.startswith("-"):
                continue
            elif name not in known.CPU_HOST and not name.startswith("kvm-"):
                self.problem(what, f"the CPU property {shown(name)} is not known: leave it out")
        left = [name for name in known.IDENTITY if name not in self.identity]
        if left:
            of = "the host's CPU" if model in ("host", "max") else f"the model {shown(model)} of one QEMU version"
            self.problem(what, f"{', '.join(left)} are those of {of}, and in the tables: name them with --cpu")

    def on_smp(self, what: str, value: str) -> None:
        found = {key: int(text) for key, text in pairs(value, "cpus")}
        topology = {
            key: found.pop(key, None) for key in ("sockets", "cores", "threads", "dies", "clusters", "modules")
        }
        self.vcpus = found.pop("cpus", 0) or found.get("maxcpus", 0)
        if found.pop("maxcpus", self.vcpus) != self.vcpus:
            self.problem(what, "vCPUs that can be added later are in the tables: leave out maxcpus")
        if found or not 1 <= self.vcpus <= MAX_VCPUS:
            self.problem(what, f"expected 1 to {MAX_VCPUS} vCPUs")
        sockets, cores = topology.pop("sockets"), topology.pop("cores")
        self.sockets = sockets == self.vcpus and self.vcpus > 1 and cores in (None, 1)
        plain = sockets in (None, 1) and cores in (None, self.vcpus)
        if any(one not in (None, 1) for one in topology.values()) or not (plain or self.sockets):
            self.problem(what, "expected one socket with all cores, or a socket for each vCPU")

    def on_memory(self, what: str, value: str) -> None:
        found = dict(pairs(value, "size"))
        match = re.fullmatch(r"([1-9][0-9]{0,12})([KMGT]?)i?B?", found.pop("size", ""), re.IGNORECASE)
        if found:
            self.problem(what, "memory that can be added later is in the tables: leave out slots and maxmem")
        if match is None:
            raise ValueError("expected a size such as 4G")
        self.memory = int(match[1]) << {"K": 10, "M": 20, "G": 30, "T": 40}[match[2].upper() or "M"]
        if self.memory % _MIB:
            raise ValueError("expected whole MiB")

    def on_object(self, what: str, value: str) -> None:
        found = dict(pairs(value, "qom-type"))
        kind = found.get("qom-type", "")
        if kind != _TDX:
            if kind not in known.OBJECTS:
                self.problem(what, f"the object {shown(kind)} is not known: leave it out")
            return
        self.guest = found.get("id", "")
        if found.pop("debug", "off") in _ON:
            self.problem(what, "a TD with debug=on is refused by every verifier: leave it out")
        unknown = sorted(set(found) - known.GUEST)
        if unknown:
            self.problem(what, f"the property {shown(unknown[0])} of a TD is not known: leave it out")

    def on_drive(self, what: str, value: str) -> None:
        kind = dict(pairs(value, "file")).get("if", "")
        if kind == "pflash":
            self.problem(what, known.REFUSED["-pflash"])
        elif kind != "none":
            self.problem(
                what, "it adds a device at a place that QEMU chooses: use if=none and -device virtio-blk-pci"
            )

    def on_serial(self, _: str, value: str) -> None:
        self.serials += value != "none"

    def on_uuid(self, what: str, value: str) -> None:
        self.uuid = value.lower()
        if not _UUID.fullmatch(self.uuid):
            self.problem(what, "expected a UUID")
        self.gathered.notes.append(f"the UUID {shown(value)} is measured into RTMR0: this platform is of one machine")
        self.gathered.words += ["-uuid", self.uuid]

    def on_boot(self, what: str, value: str) -> None:
        for key, text in pairs(value, "order"):
            if key not in ("strict", "menu") or text not in ("on", "off"):
                self.problem(what, "expected strict=on|off or menu=on|off; an order is given by bootindex")
            self.boot[key] = text

    def on_global(self, what: str, value: str) -> None:
        for key, text in pairs(value, ""):
            if key in known.GLOBALS:
                self.globals[key] = text
            elif key not in known.GLOBALS_HOST:
                self.problem(what, f"the effect of {shown(key)} on the tables is not known: leave it out")

    def on_fw_cfg(self, what: str, value: str) -> None:
        name = dict(pairs(value, "name")).get("name", "")
        if not name.startswith("opt/") or name.startswith(("opt/ovmf/", "opt/org.tianocore/")):
            self.problem(what, f"{shown(name)} changes what firmware does or measures: leave it out")

    def on_device(self, what: str, value: str) -> None:
        found = dict(pairs(value, "driver"))
        driver = found.pop("driver", "")
        if driver == "isa-serial":
            self.serials += 1
            if int(found.get("index", "0")) != 0:
                self.problem(what, "expected the first serial port, index=0")
        else:
            self.bus.add(what, driver, found)

    def whole(self) -> None:
        """What must be there, once all words are read."""
        needs = {
            "-nodefaults": (not self.defaults, "without it QEMU adds devices of its own: add it"),
            "-machine": (re.fullmatch(r"(pc-|ubuntu-)?q35(-.*)?", self.machine) is not None, "expected q35"),
            "-cpu": (self.cpu, "QEMU's default CPU is none of a TD: add `-cpu host` with the CPU's identity"),
            "-smp": (self.vcpus > 0, "the number of vCPUs is missing"),
            "-m": (self.memory > 0, "the memory size is missing"),
            "-bios": (self.bios, "a TD starts with -bios and a whole firmware file"),
            "-kernel": (
                self.kernel is not self.from_disk,
                "leave it out: the machine boots from its disk"
                if self.from_disk
                else "expected `-kernel uki.efi`: a boot from a disk is not predicted for it",
            ),
            f"-object {_TDX}": (
                self.guest is not None and self.supported_by == self.guest,
                f"expected a TD: -object {_TDX},id=ID and -machine confidential-guest-support=ID",
            ),
        }
        self.gathered.problems += [f"`{what}`: {why}" for what, (there, why) in needs.items() if not there]
        if self.serials > 1:
            self.problem("-serial", f"got {self.serials} serial ports, expected at most one")
        self.bus.whole()

    def found(self) -> CommandLine:
        options = {"hpet": "on", **known.TD_DEFAULTS, **self.options}
        left = [f"{key}={value}" for key, value in known.TD_DEFAULTS.items() if key not in self.options]
        if left:
            self.gathered.notes.append(f"QEMU sets {', '.join(left)} in a TD: written out in the platform")
        own = ["-nodefaults", "-no-user-config", "-display", "none", "-smp"]
        own += [f"{self.vcpus},sockets={self.vcpus},cores=1,threads=1" if self.sockets else str(self.vcpus)]
        if self.serials:
            own += ["-serial", "null"]
        if self.boot:
            own += ["-boot", ",".join(f"{key}={value}" for key, value in self.boot.items())]
        for key, value in self.globals.items():
            own += ["-global", f"{key}={value}"]
        return CommandLine(
            machine=self.machine,
            options=tuple(sorted(options.items())),
            identity=dict(self.identity),
            size=Size(self.vcpus, self.memory),
            devices=tuple(sorted(self.bus.devices, key=lambda one: one.slot)),
            sockets=self.sockets,
            serial=self.serials > 0,
            uuid=self.uuid,
            boot=tuple(sorted(self.boot.items())),
            globals=tuple(sorted(self.globals.items())),
            words=(*own, *self.gathered.words),
            notes=tuple(self.gathered.notes),
        )


_OPTIONS: Mapping[str, Callable[[_Reader, str, str], None]] = {
    "-machine": _Reader.on_machine,
    "-M": _Reader.on_machine,
    "-cpu": _Reader.on_cpu,
    "-smp": _Reader.on_smp,
    "-m": _Reader.on_memory,
    "-object": _Reader.on_object,
    "-drive": _Reader.on_drive,
    "-serial": _Reader.on_serial,
    "-uuid": _Reader.on_uuid,
    "-boot": _Reader.on_boot,
    "-global": _Reader.on_global,
    "-fw_cfg": _Reader.on_fw_cfg,
    "-device": _Reader.on_device,
}
