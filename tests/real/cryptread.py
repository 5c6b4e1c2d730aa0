"""How fast a guest's kernel reads an encrypted volume, compared with its dm-verity device alone.

    python -m tests.real.cryptread IMAGE KEY [RECIPES]

Boots the kernel of IMAGE, whose first model is encrypted with the key in the file KEY, with an init of its own in the
initrd: it sets up the two devices as the agent does, and reads each several times, in turns and past the page cache.
RECIPES is the folder with the image's platform, if it is not a shipped one. Prints JSON with MB/s of both and the
median ratio of pairs. Of an emulated machine (TCG) the rates are those of an emulated processor.
"""

from __future__ import annotations

import json
import lzma
import re
import stat
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

from tests.real.levers import pulled, swapped
from tests.real.tamper import extract

from privml.agent.volume import crypt_table, table
from privml.events.crypt import KEY_SIZE
from privml.image import uki
from privml.image.render import ROOT_LABEL
from privml.image.target import recipes_directory, resolve
from privml.image.tools import ToolsTree
from privml.image.workplace import Workplace
from privml.measure import cpio, pe
from privml.output.volumekey import read as read_key
from privml.vm import accelerator
from privml.vm.launch import launch_of
from privml.vm.machine import Machine, started

MODULES = ("gf128mul", "aesni-intel", "dm-crypt")
ROUNDS = 5
PATIENCE = 600.0
INIT = """\
#!/bin/busybox sh
b=busybox
say() { $b echo "cryptread: $*" >/dev/console; }
stop() { say "$*"; $b poweroff -f; while :; do $b sleep 60; done; }
$b mkdir -p /dev /proc /sys /mnt
$b mount -t devtmpfs devtmpfs /dev
$b mount -t proc proc /proc
$b mount -t sysfs sysfs /sys
for module in /modules/*.ko; do $b insmod "$module" || stop "failed: $module"; done
part() {
    while :; do
        for entry in /sys/class/block/*/uevent; do
            $b grep -q "^PARTNAME=$1$" "$entry" && $b sed -n 's/^DEVNAME=//p' "$entry" && return
        done
        $b sleep 0.2
    done
}
data=/dev/$(part privml-model)
tree=/dev/$(part privml-model-verity)
create() {
    line=$($b sed "s|DATA|$data|;s|TREE|$tree|" /table/$1)
    /sbin/dmsetup create $1 --readonly --noudevsync --noudevrules --table "$line" >/dev/null || stop "failed: $1"
}
create verity
create crypt
$b mount -t erofs -o ro /dev/dm-1 /mnt || stop "failed: no erofs"
$b umount /mnt
for round in 0 ROUNDS; do
    for device in 0 1; do
        $b sync
        $b echo 3 >/proc/sys/vm/drop_caches
        read -r begun _ </proc/uptime
        $b dd if=/dev/dm-$device of=/dev/null bs=1M 2>/dev/null || stop "failed: read $device"
        read -r ended _ </proc/uptime
        say "read $device $begun $ended"
    done
done
stop done
"""


@dataclass(frozen=True)
class Reads:
    """Bytes of the volume, and the seconds of each whole read: of dm-verity alone, and of dm-crypt over it."""

    size: int
    verity: list[float]
    crypt: list[float]

    @property
    def ratio(self) -> float:
        """The median rate of dm-crypt over dm-verity, of dm-verity's, of pairs."""
        return statistics.median(alone / both for alone, both in zip(self.verity, self.crypt, strict=True))


def measured(tools: ToolsTree, image: Path, key: bytes, recipes: Path | None = None) -> Reads:
    """Boot and read; ``AssertionError`` with the console if the guest does not get to the end."""
    target = resolve(str(image))
    manifest = target.manifest()
    (model, *_) = manifest.models
    with tempfile.TemporaryDirectory(prefix="privml-read.") as name:
        made = _uki(tools, image, key, Path(name))
        honest = launch_of(image, manifest, recipes or recipes_directory(target))
        launch = replace(pulled(honest, swapped("uki.efi"), attached={"uki.efi": made}), forward=None)
        with started(tools, launch) as machine:
            seconds = _seconds(machine)
    size = model.verity.data_blocks * 4096
    return Reads(size, seconds[0][1:], seconds[1][1:])  # the first pass fills dm-verity's cache of hashes


def _seconds(machine: Machine) -> tuple[list[float], list[float]]:
    end = time.monotonic() + PATIENCE
    text = ""
    while "cryptread: done" not in text:
        machine.check_running()
        time.sleep(0.5)
        text = machine.console.read_text(errors="replace")
        assert "cryptread: failed" not in text and time.monotonic() < end, text[-3000:]
    found = re.findall(r"cryptread: read ([01]) ([0-9.]+) ([0-9.]+)", text)
    times = [(int(device), float(ended) - float(begun)) for device, begun, ended in found]
    return [each for device, each in times if device == 0], [each for device, each in times if device == 1]


def _uki(tools: ToolsTree, image: Path, key: bytes, work: Path) -> Path:
    """The image's UKI with `INIT`, and the modules and tables that it needs."""
    manifest = resolve(str(image)).manifest()
    data = (image / "uki.efi").read_bytes()
    sections = {section.name: pe.in_memory(data, section) for section in pe.headers(data).sections}
    files = [entry for entry in cpio.entries(sections[".initrd"]) if stat.S_ISREG(entry.mode)]
    members = {entry.name: cpio.Member(entry.data, executable=bool(entry.mode & 0o100)) for entry in files}
    members["init"] = cpio.Member(
        INIT.replace("ROUNDS", " ".join(map(str, range(1, ROUNDS + 1)))).encode(), executable=True
    )
    extract(tools, image / "root.raw", ROOT_LABEL, work)
    for number, module in enumerate(MODULES):
        (path,) = (work / "tree/usr/lib/modules").rglob(f"{module}.ko*")
        plain = lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()
        members[f"modules/{50 + number}-{module}.ko"] = cpio.Member(plain)
    verity = manifest.models[0].verity
    crypt = crypt_table(verity, Path("/dev/dm-0"), "none").replace(f":{KEY_SIZE}:logon:none", key.hex())
    members["table/verity"] = cpio.Member(table(verity, Path("DATA"), Path("TREE")).encode())
    members["table/crypt"] = cpio.Member(crypt.encode())
    (work / "vmlinuz").write_bytes(sections[".linux"])
    return uki.build(
        tools,
        work,
        kernel=work / "vmlinuz",
        initrd=cpio.archive(members, mtime=1),
        cmdline="console=ttyS0 quiet loglevel=4 panic=-1",
        release=manifest.kernel,
        name=manifest.name,
    )


def main(image: Path, key: Path, recipes: Path | None = None) -> None:
    """Measure, and print JSON."""
    tools = Workplace().tools()
    found = measured(tools, image, read_key(key).key, recipes)
    print(
        json.dumps(
            {
                "accelerator": accelerator.choose(tools),
                "bytes": found.size,
                "verity_mb_s": round(found.size / statistics.median(found.verity) / 1e6, 1),
                "crypt_over_verity_mb_s": round(found.size / statistics.median(found.crypt) / 1e6, 1),
                "ratio": round(found.ratio, 3),
            }
        )
    )


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
