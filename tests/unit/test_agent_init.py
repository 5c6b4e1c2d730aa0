"""The initrd's `/init`, run by a shell in a directory: it accepts one command line and powers off for any other."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

INIT = Path(__file__).parents[2] / "images" / "initrd" / "init"
ROOT_HASH, SALT = "ab" * 32, "cd" * 32
WORD = f"privml.root={ROOT_HASH}:{SALT}:100:1"

BUSYBOX = """#!/bin/sh
echo "$@" >>TOP/calls
case "$1" in
    poweroff) kill -9 "$PPID" ;;
    echo) shift; echo "$@" ;;
    mkdir | cat) exec "$@" ;;
    insmod) [ ! -e TOP/bad-module ] ;;
    sleep | mount | sync | switch_root) ;;
    *) exit 9 ;;
esac
"""
DMSETUP = """#!/bin/sh
for word in "$@"; do echo "$word" >>TOP/table; done
[ ! -e TOP/bad-table ]
"""


class Initrd:
    """The script with its absolute paths moved under ``top``; block devices are plain files."""

    def __init__(self, top: Path) -> None:
        self.top = top
        text = INIT.read_text()
        for name in ("dev", "proc", "sys", "modules"):
            text = text.replace(f"/{name}/", f"{top}/{name}/")
        text = text.replace("PATH=/bin:/sbin", f"PATH={top}/bin:/usr/bin:/bin")
        text = text.replace("/sbin/dmsetup", f"{top}/bin/dmsetup").replace("/sysroot", f"{top}/sysroot")
        text = (
            text.replace('[ "$$" -eq 1 ]', "true").replace('[ -b "$2" ]', '[ -f "$2" ]').replace("-gt 600", "-gt 3")
        )
        for directory in ("bin", "dev", "proc", "modules", "sys/class/block", "sysroot/usr/lib/systemd"):
            (top / directory).mkdir(parents=True)
        self.script = top / "init"
        for path, content in (
            (self.script, text),
            (top / "bin/busybox", BUSYBOX.replace("TOP", str(top))),
            (top / "bin/dmsetup", DMSETUP.replace("TOP", str(top))),
            (top / "sysroot/usr/lib/systemd/systemd", ""),
        ):
            path.write_text(content)
            path.chmod(0o755)
        (top / "modules/00-dm_mod.ko").touch()
        (top / "modules/01-erofs.ko").touch()
        self.partition("vda1", "privml-root")
        self.partition("vda2", "privml-root-verity")
        self.partition("vdb1", "privml-model")

    def partition(self, node: str, name: str) -> None:
        entry = self.top / "sys/class/block" / node
        entry.mkdir()
        (entry / "uevent").write_text(f"MAJOR=254\nMINOR=1\nDEVNAME={node}\nPARTNAME={name}\n")
        (self.top / "dev" / node).touch()

    def run(self, cmdline: str) -> str:
        """Run the script and return the console's output."""
        (self.top / "proc/cmdline").write_text(cmdline)
        (self.top / "dev/console").touch()
        subprocess.run(
            ["sh", str(self.script)], stdin=subprocess.DEVNULL, capture_output=True, timeout=20, check=False
        )
        return (self.top / "dev/console").read_text()

    @property
    def calls(self) -> list[str]:
        return (self.top / "calls").read_text().splitlines()


@pytest.fixture
def initrd(tmp_path: Path) -> Initrd:
    return Initrd(tmp_path)


def test_shell_accepts_the_script() -> None:
    assert subprocess.run(["sh", "-n", str(INIT)], check=False).returncode == 0
    assert INIT.stat().st_mode & 0o111


def test_good_command_line_hands_over(initrd: Initrd) -> None:
    assert initrd.run(f"console=ttyS0 {WORD} quiet\n") == ""
    assert initrd.calls[-1] == f"switch_root {initrd.top}/sysroot /usr/lib/systemd/systemd"
    assert "poweroff -f" not in initrd.calls
    words = (initrd.top / "table").read_text().splitlines()
    data, tree = initrd.top / "dev/vda1", initrd.top / "dev/vda2"
    assert words[-1] == (
        f"0 800 verity 1 {data} {tree} 4096 4096 100 1 sha256 {ROOT_HASH} {SALT} 2 panic_on_corruption panic_on_error"
    )
    assert "--readonly" in words
    loaded = [call.rsplit("/", 1)[1] for call in initrd.calls if call.startswith("insmod")]
    assert loaded == ["00-dm_mod.ko", "01-erofs.ko"]


@pytest.mark.parametrize(
    ("cmdline", "why"),
    [
        ("", "0 times"),
        ("quiet", "0 times"),
        (f"{WORD} {WORD}", "2 times"),
        (f"{WORD} rd.{WORD}", "another way"),
        (f"{WORD} privml.root", "another way"),
        (f'{WORD} "{WORD}"', "another way"),
        ("privml.root=", "not ROOTHASH"),
        (f"privml.root={ROOT_HASH}:{SALT}:100", "not ROOTHASH"),
        (f"{WORD}:9", "start of the hash tree"),
        (f"privml.root={ROOT_HASH.upper()}:{SALT}:100:1", "root hash"),
        (f"privml.root={ROOT_HASH[:-1]}:{SALT}:100:1", "root hash"),
        (f"privml.root={ROOT_HASH}:{SALT}ff:100:1", "salt"),
        (f"privml.root={ROOT_HASH}:-:100:1", "salt"),
        (f"privml.root={ROOT_HASH}:{SALT}:0:1", "number of data blocks"),
        (f"privml.root={ROOT_HASH}:{SALT}:0x10:1", "number of data blocks"),
        (f"privml.root={ROOT_HASH}:{SALT}:010:1", "number of data blocks"),
        (f"privml.root={ROOT_HASH}:{SALT}:1*9:1", "number of data blocks"),
        (f"privml.root={ROOT_HASH}:{SALT}:100:", "start of the hash tree"),
    ],
)
def test_an_unexpected_command_line_powers_off(initrd: Initrd, cmdline: str, why: str) -> None:
    said = initrd.run(cmdline + "\n")
    assert said.startswith("privml-init: "), said
    assert why in said
    assert initrd.calls[-1] == "poweroff -f"
    assert not (initrd.top / "table").exists()


def test_missing_partition_powers_off(initrd: Initrd) -> None:
    (initrd.top / "sys/class/block/vda2/uevent").unlink()
    assert "no partition is named privml-root-verity" in initrd.run(WORD)
    assert initrd.calls[-1] == "poweroff -f"


def test_two_partitions_with_the_same_name_power_off(initrd: Initrd) -> None:
    initrd.partition("vdc1", "privml-root")
    assert "more than one partition is named privml-root" in initrd.run(WORD)
    assert initrd.calls[-1] == "poweroff -f"


@pytest.mark.parametrize(("flag", "why"), [("bad-module", "cannot load 00-dm_mod.ko"), ("bad-table", "dm-verity")])
def test_tool_that_fails_powers_off(initrd: Initrd, flag: str, why: str) -> None:
    (initrd.top / flag).touch()
    assert why in initrd.run(WORD)
    assert initrd.calls[-1] == "poweroff -f"


def test_script_starts_no_shell() -> None:
    lines = [line.split("#")[0] for line in INIT.read_text().splitlines()[1:]]
    assert not any(word in ("sh", "ash", "bash", "setsid", "getty") for line in lines for word in line.split())
