"""Attempts to get into a production guest: what a host tries, how the boot ended, and what the console showed.

A host controls everything around the guest, so each attempt is a ``Launch`` with changes from `levers` and, where
input is needed, a simulated person at the console. A boot ends in one of three ways: the machine is off, it has
stopped in a stage (503, no quote, no engine), or it is ready and serves normally.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.real import disks, levers
from tests.real.levers import pulled

from privml.base.errors import HostError
from privml.image.tools import GENERIC_FIRMWARE, ToolsTree
from privml.measure.compare import compare
from privml.output.manifest import Manifest
from privml.vm import bootlog
from privml.vm.ask import request
from privml.vm.machine import Launch, Machine, started
from privml.vm.predicted import MachinePredictor
from privml.vm.qmp import Qmp

LIMIT = 240.0
MARK = "BROKE-IN"
# What a shell, a login, a maintenance mode or the firmware's own menus look like on a console.
PROMPT = re.compile(
    rb"login:|[Pp]assword|[~/] ?# |\$ $|sh-[0-9]|maintenance|Press Enter|\(initramfs\)|Interactive Shell|Shell>|"
    rb"Boot Manager|BusyBox v|" + MARK.encode()
)


@dataclass(frozen=True)
class Bench:
    """The machine of the honest image, and a directory for files: the start of every attempt."""

    tools: ToolsTree
    image: Path
    manifest: Manifest
    cache: Path
    honest: Launch
    work: Path
    other: Path


@dataclass(frozen=True)
class Attempt:
    """One attempt. ``ends`` is the regular expression that its ending must match; ``logged`` also compares the
    firmware's log with the prediction, so that what a verifier would see is known (and needs a TPM machine)."""

    name: str
    tried: str
    change: Callable[[Bench], Launch]
    ends: str
    logged: bool = False
    typed: bool = False


@dataclass
class Result:
    """How an attempt ended: ``ended`` is `off: ...`, `parked: STAGE: ...` or `ready`."""

    attempt: Attempt
    ended: str = ""
    seconds: float = 0.0
    differs: str = ""
    prompts: list[bytes] = field(default_factory=list)
    canary: list[str] = field(default_factory=list)
    begun: list[str] = field(default_factory=list)
    sysrq: bool = False
    after: str = ""
    written: bool = False

    @property
    def held(self) -> bool:
        """True when the boot ended as required and nothing leaked."""
        quiet = not (self.prompts or self.canary or self.begun or self.sysrq or self.written)
        return quiet and re.match(self.attempt.ends, self.ended) is not None

    def row(self) -> str:
        """A line of the table in docs/results."""
        seen = "".join(f"; {text}" for text in (self.differs, self.after) if text)
        return f"| {self.attempt.name} | {self.attempt.tried} | {self.ended}{seen} | {self.seconds:.0f} |"


def run(bench: Bench, attempt: Attempt) -> Result:
    """Run one attempt."""
    result = Result(attempt)
    launch = attempt.change(bench)
    copies = {name: disks.copy(path, bench.work / f"written-{name}") for name, path in _disks(launch).items()}
    launch = pulled(launch, levers.typed, levers.recorded, levers.writable(*copies), attached=copies)
    before = {name: disks.digest(path) for name, path in copies.items()}
    if attempt.logged:
        platform = replace(launch.platform, tpm=True)
        launch = replace(launch, platform=platform, generic_firmware=True, share_memory=True)
    start = time.monotonic()
    with started(bench.tools, launch) as machine:
        with typist(machine, busy=attempt.typed) as hands:
            if attempt.logged:
                result.differs = _difference(bench, launch, machine)
            result.ended = _ending(machine)
            if result.ended == "ready":
                canary = _ask(machine)
                result.sysrq, result.after = hands.break_in()
                result.canary = _found(machine, canary, copies.values())
        result.begun = disks.begun(levers.packets(machine))
        result.seconds = time.monotonic() - start
        result.prompts = sorted({match[0] for match in PROMPT.finditer(machine.console.read_bytes())})
        if result.prompts or re.match(attempt.ends, result.ended) is None:
            print(machine.console_tail(40))
    result.written = {name: disks.digest(path) for name, path in copies.items()} != before
    for path in copies.values():
        path.unlink()
    return result


def _disks(launch: Launch) -> dict[str, Path]:
    return {name: launch.attached.get(name, launch.image / name) for name in launch.disks}


def _ending(machine: Machine) -> str:
    end = time.monotonic() + LIMIT
    while time.monotonic() < end:
        if not machine.qemu.running():
            return f"off: {_last_words(machine)}"
        with contextlib.suppress(OSError, ValueError, KeyError):
            status, body = request(machine, "/boot-stages", timeout=5)
            stages = json.loads(body)["stages"] if status == 200 else []
            for stage in stages:
                if stage["status"] == "failed":
                    refused, _ = request(machine, "/v1/completions", data=b"{}", timeout=5)
                    return f"parked: {stage['name']}: {stage['detail']} ({refused})"
            if stages and request(machine, "/readyz", timeout=5)[0] == 200:
                return "ready"
        time.sleep(0.4)
    return f"nothing within {LIMIT:g} s"


def _last_words(machine: Machine) -> str:
    """The reason for the power-off that the guest printed."""
    text = machine.console.read_bytes().decode("utf-8", "replace")
    lines = [line.strip() for line in re.split(r"[\r\n]+", text)]
    for telling in (r"privml-init:|Kernel panic", r"dm-verity", r"reboot:", r"."):
        found = [line for line in lines if re.search(telling, line)]
        if found:
            break
    last = found[0] if found else "nothing said"
    return re.sub(r"^\[ *[0-9.]+\] ", "", re.sub(r"\x1b\[[=0-9;?]*[A-Za-z]", "", last))[:160]


def _difference(bench: Bench, launch: Launch, machine: Machine) -> str:
    """The registers in which this boot differs from an honest one, with the known reasons."""
    predictor = MachinePredictor(bench.tools, bench.cache, bench.image, bench.manifest)
    predictor.use_firmware((bench.tools.root / GENERIC_FIRMWARE.lstrip("/")).read_bytes())
    prediction = predictor.predict(launch.platform, launch.size)
    try:
        log = bootlog.wait_for(machine, timeout=60)
    except HostError:
        return "no log: it was off before"
    found: dict[str, set[str]] = {}
    for difference in compare(prediction.events, log, tpm=True).differences:
        reasons = found.setdefault(difference.register, set())
        reasons.add(difference.known.id if difference.known else difference.kind)
    if not found:
        return "measured as the honest boot"
    return "; ".join(f"{register} differs ({', '.join(sorted(why))})" for register, why in sorted(found.items()))


def _ask(machine: Machine) -> bytes:
    """Send the ready guest a unique prompt, and return the part to search for afterwards."""
    canary = f"canary{secrets.token_hex(16)}"
    body = {"prompt": f"The password {canary} is", "max_tokens": 2, "temperature": 0}
    status, answer = request(machine, "/v1/completions", data=json.dumps(body).encode(), timeout=300)
    assert status == 200, answer[:300]
    return canary.encode()


def _found(machine: Machine, canary: bytes, files: Iterable[Path]) -> list[str]:
    """The places in which the host can read ``canary``."""
    places = [machine.console, levers.packets(machine), *machine.directory.glob("*.log"), *files]
    return [path.name for path in places if path.exists() and disks.holds(path, canary)]


class Typist:
    """A person at the serial console: serial BREAKs with SysRq keys, and lines that a shell would run."""

    LINES: Sequence[bytes] = (b"\x1b", b"\x1b[12~", b"\r", b"root\r", b"\x03", b"\x04", b"sh\r", b"echo " + b"\r")

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._qmp = Qmp(levers.monitor(machine))
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(levers.keyboard(machine)))
        self._lock = threading.Lock()
        self._over = threading.Event()
        threading.Thread(target=self._drain, daemon=True).start()

    def flood(self) -> None:
        """Type all the time, until the machine is ready or gone."""
        threading.Thread(target=self._flood, daemon=True).start()

    def sysrq(self, key: bytes) -> None:
        """A BREAK, then the key: SysRq on a serial console."""
        with self._lock:
            self._qmp.command("chardev-send-break", id="serial0")
            time.sleep(0.1)
            self._socket.sendall(key)

    def break_in(self) -> tuple[bool, str]:
        """At the ready guest: whether it obeyed SysRq (by serial or keyboard), and which of the other things that a
        host can press ended it. Off is no way in."""
        self.stop()
        console = self._machine.console
        seen = console.stat().st_size
        for key in (b"h", b"9", b"t", b"i", b"c"):
            self.sysrq(key)
        for line in self.LINES:
            self._socket.sendall(line)
        self._keys("alt", "sysrq", "h")
        time.sleep(2)
        new = console.read_bytes()[seen:].lower()
        obeyed = b"sysrq" in new or b"oops" in new or b"panic" in new or not self._machine.qemu.running()
        others: dict[str, Callable[[], object]] = {
            "NMI": lambda: self._qmp.command("inject-nmi"),
            "Ctrl-Alt-Del": lambda: self._keys("ctrl", "alt", "delete"),  # the power button means the same
        }
        for name, press in others.items():
            if self._machine.qemu.running():
                press()
                # Ctrl-Alt-Del, the last, is an orderly end: seconds under emulation.
                if self._machine.qemu.wait(30.0 if name == "Ctrl-Alt-Del" else 2.0) is not None:
                    return obeyed, f"off after {name}"
        return obeyed, ""

    def _keys(self, *keys: str) -> None:
        with self._lock:
            self._qmp.command("send-key", keys=[{"type": "qcode", "data": key} for key in keys])

    def stop(self) -> None:
        self._over.set()

    def close(self) -> None:
        self.stop()
        with self._lock, contextlib.suppress(OSError):
            self._qmp.close()
            self._socket.close()

    def _flood(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            while not self._over.wait(1.0):
                # No `o` and no `b`: before /init the kernel's own default lets SysRq power off and reboot, and a
                # BREAK overtakes what was typed before it, so any letter may become its key.
                for line in self.LINES:
                    if not set(line) & set(b"ob"):
                        self._socket.sendall(line)
                self.sysrq(b"h")

    def _drain(self) -> None:
        with contextlib.suppress(OSError):
            while self._socket.recv(65536):
                pass


@contextlib.contextmanager
def typist(machine: Machine, *, busy: bool) -> Iterator[Typist]:
    """A person at the console, who types from the first second on if ``busy``."""
    end = time.monotonic() + 10
    while not levers.keyboard(machine).exists() and time.monotonic() < end:
        time.sleep(0.05)
    time.sleep(0.5)
    machine.check_running()  # words that QEMU refuses are told with its own
    hands = Typist(machine)
    try:
        if busy:
            hands.flood()
        yield hands
    finally:
        hands.close()


# -- what the host hands in ---------------------------------------------------------------------------------------

UNIT = f"""[Unit]
DefaultDependencies=no
[Service]
Type=oneshot
ExecStart=/usr/bin/python3 -c "print('{MARK}')"
StandardOutput=tty
TTYPath=/dev/console
"""
CREDENTIALS = {
    "systemd.extra-unit.broke.service": UNIT,
    "systemd.unit-dropin.privml.target": "[Unit]\nWants=broke.service\n",
    "systemd.unit-dropin.privml-boot.service": f"[Service]\nExecStartPre=/usr/bin/python3 -c \"print('{MARK}')\"\n",
    "sysctl.extra": "kernel.sysrq=1\nkernel.printk=8 8 8 8\n",
    "udev.rules.99-broke": 'SUBSYSTEM=="net", RUN+="/usr/bin/systemctl poweroff -ff"\n',
    "network.network.00-broke": "[Match]\nType=ether\n[Network]\nAddress=10.0.2.77/24\nDNS=10.0.2.3\n",
    "passwd.hashed-password.root": "$1$x$lU8vGrhZAUhZ6rPhh2Tlj1",
    "getty.ttys.serial": "ttyS0",
    "fstab.extra": "/dev/vda3 none swap defaults 0 0\n",
}


SMBIOS_CREDENTIALS = tuple(
    f"io.systemd.credential.binary:{name}={base64.b64encode(body.encode()).decode()}"
    for name, body in CREDENTIALS.items()
)


def appended(bench: Bench, words: str) -> Launch:
    """The honest machine with further words on its command line."""
    return pulled(bench.honest, levers.append(f"{bench.manifest.cmdline} {words}"))


def with_root(bench: Bench, root: Path) -> Launch:
    """The honest machine with another root disk."""
    return pulled(bench.honest, levers.swapped("root.raw"), attached={"root.raw": root})
