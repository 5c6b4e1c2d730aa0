"""Attempts to get into the production image: each ends with the machine off, stopped in a stage, or unaffected."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.real import disks, tamper
from tests.real.break_in import (
    CREDENTIALS,
    MARK,
    SMBIOS_CREDENTIALS,
    Attempt,
    Bench,
    Result,
    appended,
    run,
    with_root,
)
from tests.real.conftest import ROOT
from tests.real.levers import more, oem_strings, packets, pulled, recorded, swapped

from privml.image.render import ROOT_LABEL
from privml.image.target import recipes_directory, resolve
from privml.image.tools import Bind
from privml.image.workplace import Workplace
from privml.vm.ask import await_ready
from privml.vm.launch import launch_of
from privml.vm.machine import started

pytestmark = pytest.mark.real

TABLE = ROOT / "docs/results/break-in.md"
OFF, READY = r"off: ", r"ready$"
PARKED = r"parked: devices: .*not declared.*\(503\)"
# A subnet of its own: with two cards on one, the guest's answers take either.
NETWORK = ("-netdev", "user,id=net1,net=10.0.3.0/24,restrict=on")
NULL_DISK = ("-blockdev", "driver=null-co,node-name=extra,size=1048576,read-only=on")

# Each kind by the name that the guest must give it; a machine holds a whole group, and every name must be said.
DEVICES: dict[str, dict[str, tuple[str, ...]]] = {
    "e1000": {"pci-8086:100e": (*NETWORK, "-device", "e1000,netdev=net1,romfile=")},
    "virtio": {
        "virtio-rng": ("-device", "virtio-rng-pci"),
        "virtio-balloon": ("-device", "virtio-balloon-pci"),
        "virtio-serial": ("-device", "virtio-serial-pci", "-chardev", "null,id=c",
                          "-device", "virtconsole,chardev=c"),
        "virtio-9p": ("-fsdev", "local,id=f,path=/attached,security_model=none,readonly=on",
                      "-device", "virtio-9p-pci,fsdev=f,mount_tag=root"),
        "virtio-scsi": ("-device", "virtio-scsi-pci"),
        "virtio-gpu": ("-device", "virtio-gpu-pci"),
        "virtio-input": ("-device", "virtio-keyboard-pci"),
        "virtio-net": (*NETWORK, "-device", "virtio-net-pci,netdev=net1,romfile="),
        "virtio-blk": (*NULL_DISK, "-device", "virtio-blk-pci,drive=extra"),
    },
    "emulated": {
        "pci-1b36:0010": (*NULL_DISK, "-device", "nvme,serial=x,drive=extra"),
        "pci-1b36:000d": ("-device", "qemu-xhci", "-device", "usb-kbd"),
        "pci-1af4:1110": ("-object", "memory-backend-ram,id=m,size=1M,share=on", "-device", "ivshmem-plain,memdev=m"),
        "pci-1234:1111": ("-device", "VGA,romfile="),
        "pci-8086:2668": ("-device", "intel-hda"),
        "pci-1b36:0005": ("-device", "pci-testdev"),
        "pcie-root-port": ("-device", "pcie-root-port,chassis=1,slot=9"),
    },
}  # fmt: skip
WORDS = {
    "all that wait": "init=/bin/sh rd.break rd.shell systemd.debug_shell=1 systemd.crash_shell=1 "
    "systemd.gpt_auto=yes "
    "systemd.default_debug_tty=ttyS0 systemd.run=/usr/bin/python3 systemd.wants=debug-shell.service root=/dev/vda1 "
    "systemd.swap=yes systemd.import_credentials=yes systemd.set_credential=sysctl.extra:kernel.sysrq=1",
    "rescue": "systemd.unit=rescue.target",
    "emergency": "emergency",
    "two roots": "privml.root=" + "0" * 64 + ":" + "0" * 64 + ":1:0",
}
WORD_ENDS = {"rescue": OFF, "emergency": OFF, "two roots": r"off: .*2 times, expected once"}
EXTRA = "systemd.unit=rescue.target systemd.debug_shell=1"


def _partitions(bench: Bench) -> Path:
    """The honest root disk, with swap, /var and /home as systemd would mount them."""
    mount = bench.work / "mount"
    (mount / "tree").mkdir(parents=True, exist_ok=True)
    (mount / "tree" / MARK).write_text(MARK)
    bench.tools.run(["mkfs.erofs", "/work/erofs", "/work/tree"], binds=[Bind(mount, "/work", writable=True)])
    body = (mount / "erofs").read_bytes()
    more = [(disks.SWAP, "swap", disks.swap()), (disks.VAR, "var", body), (disks.HOME, "home", body)]
    return disks.with_partitions(bench.image / "root.raw", bench.work / "more.raw", more)


def _twice(bench: Bench) -> Path:
    more = [(disks.ROOT, ROOT_LABEL, b"x")]
    return disks.with_partitions(bench.image / "root.raw", bench.work / "twice.raw", more)


def _esp(bench: Bench) -> Path:
    """A disk whose one partition is an ESP with an addon that adds words to the command line."""
    place = bench.work / "esp"
    place.mkdir(exist_ok=True)
    (place / "fat").write_bytes(bytes(8 << 20))
    script = (
        'ukify build --cmdline="$0" --stub=/usr/lib/systemd/boot/efi/addonx64.efi.stub --output=/work/x.addon.efi && '
        "mkfs.fat -i 1 /work/fat && mmd -i /work/fat ::loader ::loader/addons && "
        "mcopy -i /work/fat /work/x.addon.efi ::loader/addons/x.addon.efi"
    )
    bench.tools.run(["sh", "-euc", script, EXTRA], binds=[Bind(place, "/work", writable=True)])
    return disks.with_partitions(None, bench.work / "esp.raw", [(disks.ESP, "esp", (place / "fat").read_bytes())])


def _corrupted(bench: Bench, *blocks: range) -> Path:
    numbers = [number for part in blocks for number in part]
    return disks.corrupted(bench.image / "root.raw", bench.work / "corrupted.raw", ROOT_LABEL, numbers)


ATTEMPTS = (
    Attempt("nothing", "the honest machine, to compare with", lambda b: b.honest, READY, logged=True),
    Attempt("no root disk", "an empty disk in the root's slot", lambda b: with_root(b, disks.empty(b.work / "empty")),
            r"off: .*no partition is named privml-root"),
    Attempt("wrong root disk", "the root of the development image", lambda b: with_root(b, b.other / "root.raw"),
            r"off: .*dm-verity"),
    Attempt("corrupted first block", "one bit of the root's first block flipped",
            lambda b: with_root(b, _corrupted(b, range(1))), r"off: .*dm-verity"),
    Attempt("corrupted blocks", "one bit in every 16th block of the root flipped, but not in the first 256",
            lambda b: with_root(b, _corrupted(b, range(256, 1 << 20, 16))), r"off: .*dm-verity"),
    Attempt("root partition twice", "a second partition that is named privml-root",
            lambda b: with_root(b, _twice(b)), r"off: .*more than one partition is named privml-root"),
    Attempt("console", "serial BREAK with SysRq keys, Escape, F2, Ctrl-C, Ctrl-D and shell lines from the first "
            "second on; when ready also SysRq `c` and `i`, Ctrl-Alt-Del and an NMI",
            lambda b: b.honest, READY, typed=True),
    Attempt("partitions", "swap, /var and /home partitions on the root's disk",
            lambda b: with_root(b, _partitions(b)), READY),
    Attempt("disk on the chipset's SATA", "an ESP with a command-line addon, on a disk of the built-in controller",
            lambda b: pulled(b.honest, more(
                "-drive", "if=none,id=esp,format=raw,snapshot=on,file=/attached/esp",
                "-device", "ide-hd,drive=esp,bus=ide.0"), attached={"esp": _esp(b)}), READY, logged=True),
    Attempt("ESP with an addon", "the same on a virtio disk more",
            lambda b: pulled(b.honest, more(
                "-blockdev", "driver=raw,node-name=esp,read-only=on,file.driver=file,file.filename=/attached/esp",
                "-device", "virtio-blk-pci,drive=esp,bootindex=1"), attached={"esp": _esp(b)}), PARKED),
    Attempt("SMBIOS credentials", "units, drop-ins, sysctl, network, fstab and a root password by SMBIOS type 11",
            lambda b: pulled(b.honest, oem_strings(*SMBIOS_CREDENTIALS)), READY, logged=True),
    Attempt("fw_cfg credentials", "the same by fw_cfg files, as far as their names fit",
            lambda b: replace(b.honest, fw_cfg={f"opt/io.systemd.credentials/{name}": body.encode()
                                                for name, body in CREDENTIALS.items() if len(name) <= 28}), READY),
    Attempt("SMBIOS stub words", f"io.systemd.stub.kernel-cmdline-extra={EXTRA}",
            lambda b: pulled(b.honest, oem_strings(f"io.systemd.stub.kernel-cmdline-extra={EXTRA}")),
            f"{OFF}|{READY}", logged=True),
    Attempt("SMBIOS boot words", f"io.systemd.boot.kernel-cmdline-extra={EXTRA}",
            lambda b: pulled(b.honest, oem_strings(f"io.systemd.boot.kernel-cmdline-extra={EXTRA}")),
            READY, logged=True),
    *(Attempt(f"word: {name}", f"`-append` with `{words if name != 'two roots' else 'privml.root=0..'}`",
              lambda b, words=words: appended(b, words), WORD_ENDS.get(name, READY), logged=True)  # type: ignore[misc]
      for name, words in WORDS.items()),
    *(Attempt(f"devices: {name}", ", ".join(words[-1] if len(kinds) == 1 else kind for kind, words in kinds.items()),
              lambda b, kinds=kinds: pulled(b.honest, more(*(  # type: ignore[misc]
                  word for words in kinds.values() for word in words)), attached={"nothing": b.work}),
              "".join(f"(?=.*{kind} not declared)" for kind in kinds) + PARKED)
      for name, kinds in DEVICES.items()),
)  # fmt: skip
ALWAYS = ("corrupted first block", "console")


HEAD = """# Attempts to get in

Written by `make check-full` (tests/real/test_break_in.py). Each attempt is a boot of the production image in QEMU,
under emulation; where a log is compared, with generic firmware and a software TPM. "Differs" names the registers by
which a verifier tells that boot from an honest one. At every ready guest SysRq was tried and a canary asked; console,
packets, logs and disks were searched for it, the console for prompts and shells, the packets for connections that the
guest began. All disks could be written to, and were not.

{held} of {count} held.

| attempt | what was tried | how it ended | seconds |
|---|---|---|---|
"""


@pytest.fixture(scope="module")
def bench(demo_cpu: Path, demo_cpu_dev: Path, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    place = Workplace()
    target = resolve("demo-cpu", demo_cpu)
    manifest = target.manifest()
    honest = launch_of(demo_cpu, manifest, recipes_directory(target))
    work = tmp_path_factory.mktemp("break-in")
    return Bench(place.tools(target.recipe), demo_cpu, manifest, place.store.root, honest, work, demo_cpu_dev)


@pytest.fixture(scope="module")
def results(full: bool) -> Iterator[list[Result]]:
    """Collects results; a complete matrix becomes the table in docs/results."""
    found: list[Result] = []
    yield found
    if full and len(found) == len(ATTEMPTS):
        TABLE.parent.mkdir(exist_ok=True)
        TABLE.write_text(table(found))


def table(found: list[Result]) -> str:
    held = sum(result.held for result in found)
    return HEAD.format(held=held, count=len(found)) + "".join(f"{result.row()}\n" for result in found)


@pytest.mark.parametrize("attempt", ATTEMPTS, ids=[attempt.name for attempt in ATTEMPTS])
def test_every_attempt_to_get_in_fails(attempt: Attempt, bench: Bench, results: list[Result], full: bool) -> None:
    if not full and attempt.name not in ALWAYS and not os.environ.get("PRIVML_ATTEMPT"):
        pytest.skip("the whole matrix is run by `make check-full`")
    result = run(bench, attempt)
    results.append(result)
    print(result.row())
    if attempt.logged and attempt.name == "nothing":
        assert result.differs == "measured as the honest boot"
    elif attempt.logged and attempt.name != "disk on the chipset's SATA":
        assert "differs" in result.differs
    assert not result.begun, f"the guest began to speak: {result.begun}"
    assert not result.prompts, f"on the console: {result.prompts}"
    assert result.held, result


def test_a_compromised_server_process_opens_no_connection(bench: Bench, full: bool) -> None:
    """With an attacker's code in the server process, every way to open a connection fails with EPERM."""
    if not full:
        pytest.skip("`make check-full` builds this image")
    taken = tamper.root_with(bench.tools, bench.image, bench.manifest, bench.work / "taken", tamper.CALLER)
    with started(bench.tools, pulled(bench.honest, swapped(*taken), recorded, attached=taken)) as machine:
        await_ready(machine, 240)
        said = dict(re.findall(r"PROBE (\S+) (\S+)", machine.console.read_text(errors="replace")))
        refused = ("tcp", "udp", "fastopen", "again", "loopback")
        assert {name: said[name] for name in refused} == dict.fromkeys(refused, "EPERM")
        assert said["mapped"] in ("EPERM", "EAFNOSUPPORT")
        assert said["mptcp"] in ("EPERM", "ENOPROTOOPT", "EPROTONOSUPPORT")
        assert disks.begun(packets(machine)) == []
