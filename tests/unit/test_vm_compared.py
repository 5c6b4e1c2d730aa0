"""The TPM's registers after QEMU has ended: read over swtpm's control socket and compared with the log."""

from __future__ import annotations

import socket
import struct
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from privml.base.errors import HostError
from privml.events.replay import replay_digests
from privml.events.tcg import LogEntry
from privml.machine.platform import Device, Platform, Size
from privml.measure.compare import Comparison, Difference
from privml.measure.tdtpm import Explanation
from privml.vm import swtpm
from privml.vm.compared import ComparedBoot, disagreeing, situations
from privml.vm.machine import Launch

VALUES = {pcr: bytes([pcr]) * 48 for pcr in range(24)}


def serve(listener: socket.socket, code: int) -> None:
    """A TPM with `VALUES`, for one client that takes over its data channel."""
    connection, _ = listener.accept()
    with connection:
        _, descriptors, _, _ = socket.recv_fds(connection, 4, 1)
        connection.sendall(bytes(4))
        with socket.socket(fileno=descriptors[0]) as data:
            while request := data.recv(64):
                first = 8 * request[17:20].index(0xFF)
                body = struct.pack(">IIHB", 1, 1, 12, 3) + request[17:20] + struct.pack(">I", 8)
                body += b"".join(b"\0\x30" + VALUES[pcr] for pcr in range(first, first + 8))
                body = b"" if code else body
                data.sendall(struct.pack(">HII", 0x8001, 10 + len(body), code) + body)


@pytest.mark.parametrize("code", [0, 0x101])
def test_registers_of_a_tpm_are_read(code: int, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "tpm.sock"))
        listener.listen()
        thread = threading.Thread(target=serve, args=(listener, code))
        thread.start()
        if code:
            with pytest.raises(HostError, match="0x101"):
                swtpm.read_pcrs(tmp_path / "tpm.sock")
        else:
            assert swtpm.read_pcrs(tmp_path / "tpm.sock") == VALUES
        thread.join()


def test_a_tpm_that_does_not_answer_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="swtpm"):
        swtpm.read_pcrs(tmp_path / "tpm.sock")
    with pytest.raises(HostError, match="got 0 registers, expected 8"):
        swtpm.pcr_values(bytes(40))


def test_a_register_that_is_not_the_log_s_replay_is_named() -> None:
    log = [LogEntry(7, 4, {0x0C: b"a" * 48}, b""), LogEntry(4, 4, {0x0C: b"b" * 48}, b""), LogEntry(7, 3, {}, b"")]
    values = {pcr: bytes(48) for pcr in range(24)}
    values[7], values[4] = replay_digests([b"a" * 48]), replay_digests([b"b" * 48])
    assert disagreeing(log, values) == ()
    assert disagreeing(log[1:], values) == (7,)
    assert disagreeing(log, {**values, 9: b"x" * 48}) == (9,)
    assert disagreeing(log, {**values, 0: b"x" * 48, 16: b"x" * 48}) == ()


EXTRA = Difference("extra", "rtmr1", 3, None, LogEntry(4, 4, {0x0C: b"b" * 48}, b""), None)
CONFIRMED = ComparedBoot((), Comparison({"rtmr0": 2}, ()), (), Explanation({"stub": 1}, (), ()))


def test_a_boot_that_confirms_the_prediction_has_no_problems() -> None:
    assert CONFIRMED.problems() == []
    assert CONFIRMED.to_dict() == {
        "equal": True, "tpm_disagrees": [], "td_rules": {"stub": 1}, "td_unexplained": [], "td_unused": [],
        "matched": {"rtmr0": 2}, "differences": [],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("booted", "problem"),
    [
        (replace(CONFIRMED, disagreeing=(4, 9)), "the TPM's registers are not the replay of the log (PCR 4, 9)"),
        (replace(CONFIRMED, comparison=Comparison({}, (EXTRA,))), "the log differs from the prediction in 1 events"),
        (
            replace(CONFIRMED, explanation=Explanation({}, (EXTRA,), ())),
            "no rule explains 1 differences from the prediction for a TD",
        ),
        (
            replace(CONFIRMED, explanation=Explanation({}, (), ("stub",))),
            "expected differences from a TD that this boot lacks",
        ),
    ],
)
def test_each_kind_of_disagreement_is_one_problem(booted: ComparedBoot, problem: str) -> None:
    assert not booted.equal
    assert [line[: len(problem)] for line in booted.problems()] == [problem]
    assert booted.to_dict()["equal"] is False


@pytest.mark.parametrize(
    ("disk", "devices", "expected"),
    [
        (None, (Device("virtio-net", 4),), {"direct"}),
        (None, (Device("virtio-net", 4, rom=True),), {"direct", "rom"}),
        (Path("boot.raw"), (Device("virtio-blk", 1),), {"disk"}),
        (Path("boot.raw"), (Device("virtio-blk", 1), Device("virtio-net", 4)), {"disk", "network"}),
    ],
)
def test_the_rules_of_a_boot_follow_its_situation(
    disk: Path | None, devices: tuple[Device, ...], expected: set[str]
) -> None:
    platform = Platform("p", "11.1.2", "pc-q35-11.1", (), "max", "GenuineIntel", 46, devices, tpm=True)
    assert situations(Launch(Path("out"), platform, Size(1, 2 << 30), (), "firmware.fd", boot_disk=disk)) == expected
