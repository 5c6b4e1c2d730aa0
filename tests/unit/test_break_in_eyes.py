"""The probes of the break-in tests find connections, partition tables and login prompts."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from tests.real import disks
from tests.real.break_in import PROMPT

from privml.measure import gpt

GUEST, HOST = bytes.fromhex("525400123456"), bytes.fromhex("525600000002")


def frame(source: bytes, protocol: int, ports: tuple[int, int], flags: int = 0) -> bytes:
    head = struct.pack(
        ">BBHHHBBH4s4s", 0x45, 0, 40, 0, 0, 64, protocol, 0, bytes([10, 0, 2, 15]), bytes([10, 0, 2, 2])
    )
    return HOST + source + b"\x08\x00" + head + struct.pack(">HHIIBB", *ports, 0, 0, 0x50, flags) + bytes(6)


@pytest.mark.parametrize(
    ("data", "seen"),
    [
        (frame(GUEST, 6, (40000, 9), 0x02), ["protocol 6 to 10.0.2.2:9"]),  # SYN
        (frame(GUEST, 6, (8443, 5000), 0x12), []),  # SYN and ACK: an answer
        (frame(HOST, 6, (5000, 8443), 0x02), []),
        (frame(GUEST, 17, (68, 67)), []),
        (frame(GUEST, 17, (40000, 67)), ["protocol 17 to 10.0.2.2:67"]),
        (HOST + GUEST + b"\x08\x06" + bytes(28), []),
        (HOST + GUEST + b"\x86\xdd" + bytes(40), ["ethertype 86dd"]),
    ],
)
def test_connections_started_by_the_guest_are_found(tmp_path: Path, data: bytes, seen: list[str]) -> None:
    path = tmp_path / "pcap"
    path.write_bytes(bytes(24) + struct.pack("<IIII", 0, 0, len(data), len(data)) + data)
    assert disks.begun(path) == seen


def test_a_disk_made_by_the_tests_has_its_partitions(tmp_path: Path) -> None:
    first = disks.with_partitions(None, tmp_path / "one", [(disks.SWAP, "swap", disks.swap())])
    second = disks.with_partitions(first, tmp_path / "two", [(disks.VAR, "var", b"x" * 100)])
    assert [(part.name, part.size >> 20) for part in gpt.read(second).partitions] == [("swap", 4), ("var", 1)]
    bent = disks.corrupted(second, tmp_path / "bent", "swap", range(0, 10**6, 512))
    assert [a == b for a, b in zip(second.read_bytes(), bent.read_bytes(), strict=True)].count(False) == 2
    assert disks.holds(second, b"SWAPSPACE2")
    assert not disks.holds(second, b"SWAPSPACE3")


@pytest.mark.parametrize(
    "text", [b"privml login: ", b"Password: ", b"/ # ", b"sh-5.2$ ", b"UEFI Interactive Shell v2.2", b"x\n$ "]
)
def test_a_login_prompt_is_found(text: bytes) -> None:
    assert PROMPT.search(text + b"\n")


def test_an_honest_console_has_no_login_prompt() -> None:
    assert not PROMPT.search(b"privml: stage identity: ok: TLS key sha256 00\nprivml: ready\n[    1.0] reboot: off\n")
