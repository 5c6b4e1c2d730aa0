"""Sources that are not regular files, and files that are wrapped: compressed, dumped, in PEM or in a token."""

from __future__ import annotations

import base64
import bz2
import gzip
import json
import lzma
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from privml.base.errors import EvidenceError, MeasurementError, UsageError
from privml.readers import aael, envelope, files, source, wrapped

LOG = (Path(__file__).resolve().parents[1] / "vectors/cases/tag-words/loaderconf.ccel").read_bytes()


def read(path: Path) -> bytes:
    with source.opened(path) as view:
        return view[:]


def test_a_pipe_is_read_to_its_end(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(LOG * 200,))
    writer.start()
    assert read(pipe) == LOG * 200
    writer.join()


def test_standard_input_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(LOG)
    with (tmp_path / "log").open("rb") as file:
        monkeypatch.setattr(sys, "stdin", file)
        assert read(Path("-")) == LOG


def test_a_kernel_file_without_a_size_is_read() -> None:
    assert os.stat("/proc/version").st_size == 0
    assert read(Path("/proc/version")).startswith(b"Linux")


@pytest.mark.parametrize(("name", "message"), [("", "is a directory, expected a file"), ("nosuch", "does not exist")])
def test_a_directory_and_a_missing_file_are_usage_errors(name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        read(tmp_path / name)


def test_an_endless_device_and_an_empty_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a device or socket"):
        read(Path("/dev/zero"))
    (tmp_path / "empty").touch()
    with pytest.raises(MeasurementError, match="is empty"):
        read(tmp_path / "empty")


def test_a_stream_without_end_is_bounded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(source, "_MAX_STREAM", 100)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(bytes(200),))
    writer.start()
    with pytest.raises(MeasurementError, match="more than"):
        read(pipe)
    writer.join()


# --- compression ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress, bz2.compress])
def test_compressed_files_are_unpacked(pack: object, tmp_path: Path) -> None:
    assert callable(pack)
    for data in (pack(LOG), pack(LOG[:100]) + pack(LOG[100:]), pack(LOG) + bytes(512)):
        (tmp_path / "log").write_bytes(data)
        found = files.read(tmp_path / "log").description
        assert found.kind == "ccel" and " out of " in found.title
    (tmp_path / "log").write_bytes(pack(LOG)[:-20])
    with pytest.raises(MeasurementError, match="damaged"):
        files.read(tmp_path / "log")


def test_a_decompression_bomb_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wrapped, "MAX_UNPACKED", 1 << 20)
    compression = wrapped.compression(b"\x1f\x8b\x08")
    assert compression is not None
    assert wrapped.unpack(gzip.compress(bytes(1 << 20)), compression) == bytes(1 << 20)
    assert wrapped.unpack(gzip.compress(bytes((1 << 20) + 1)), compression) is None


def test_nested_wrappings_are_bounded(tmp_path: Path) -> None:
    data = LOG
    for _ in range(5):
        data = gzip.compress(data)
    (tmp_path / "log").write_bytes(data)
    with pytest.raises(MeasurementError, match="not recognised"):
        files.read(tmp_path / "log")


@pytest.mark.parametrize("one", wrapped.CONTAINERS, ids=lambda one: one.name)
def test_a_container_is_named(one: wrapped.Container, tmp_path: Path) -> None:
    data = (bytes(one.offset) if one.offset != 257 else b"x" * 257) + one.magic + bytes(2000)
    (tmp_path / "file").write_bytes(data)
    with pytest.raises(MeasurementError, match="cannot be read directly") as caught:
        files.read(tmp_path / "file")
    assert one.name in caught.value.message and "{}" not in (caught.value.hint or "")


# --- text -----------------------------------------------------------------------------------------------------------

DUMPS = (
    ("xxd",),
    ("xxd", "-u", "-c", "32", "-g", "1"),
    ("xxd", "-i"),
    ("hexdump", "-C"),
    ("hexdump",),
    ("od", "-A", "x", "-t", "x1z"),
    ("od", "-t", "x1"),
    ("od", "-A", "d", "-t", "x1"),
)


@pytest.mark.parametrize("command", DUMPS, ids=" ".join)
@pytest.mark.parametrize("data", [LOG, LOG + bytes(4096), b"| > 00  |" * 9], ids=["log", "padded", "text"])
def test_a_dump_is_read_back(command: tuple[str, ...], data: bytes) -> None:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    if len(data) % 2 and command == ("hexdump",):
        data += b"\0"
    text = subprocess.run(command, input=data, capture_output=True, check=True).stdout
    assert wrapped.dumped(text) == data


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"no dump",
        b"00000000  01 02 03",  # too short to tell
        b"00000000: 0102 0304 0506 0708 090a 0b0c 0d0e 0f10  ................\n00000020: 0102  ..",  # a gap
        b"00000000: 0102 0304 0506 0708 090a 0b0c 0d0e 0f1x  ................",
        b"0" * 64,
        b"00000000  " + b"00 " * 16 + b"\n*\nffffffffffff\n",
    ],
)
def test_other_text_is_not_a_hex_dump(text: bytes) -> None:
    assert wrapped.dumped(text) is None


def test_pem_and_the_claims_of_a_token_are_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"-----BEGIN CCEL-----\n" + base64.encodebytes(LOG) + b"-----END CCEL-----\n")
    assert "out of PEM (CCEL)" in files.read(path).description.title
    claims = {"tdx": {"tdx_mrtd": "00" * 48, **{f"tdx_rtmr{number}": "11" * 48 for number in range(4)}}}
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in ({"alg": "RS256"}, claims)]
    path.write_bytes(b".".join((*parts, b"c2ln")))
    found = files.read(path).description
    assert found.kind == "registers" and "signature was not checked" in found.title
    path.write_bytes(b"---\nversion: 1\nevents:\n")
    with pytest.raises(MeasurementError, match="tpm2_eventlog"):
        files.read(path)


def test_json_lines_a_byte_order_mark_and_a_key_given_twice() -> None:
    assert envelope.loads(b'{"a":1}\n{"b":2}\n', "x") == [{"a": 1}, {"b": 2}]
    assert envelope.loads(b"\xef\xbb\xbf{}", "x") == {}
    for bad in (b'{"a":1,"a":2}', b"{", b"[" * 100_000, b"\xff{"):
        with pytest.raises(EvidenceError):
            envelope.loads(bad, "x")


def test_a_search_through_json_is_bounded() -> None:
    found = envelope.look([[] for _ in range(300_000)])
    assert not found.binary and not found.logs


# --- the attestation agent's log ------------------------------------------------------------------------------------


def test_an_agent_log_without_its_beginning_is_not_compared(tmp_path: Path) -> None:
    path = tmp_path / "aael"
    path.write_text(f"INIT sha384/{'11' * 48}\na b c\n")
    found = files.read(path)
    assert found.log is None and any("does not begin at zeros" in note for note in found.description.notes)
    path.write_text(f"INIT sha256/{'00' * 32}\na b c\n")
    found = files.read(path)
    assert found.log is None and not found.description.registers


@pytest.mark.parametrize(
    "text", ["INIT sha384/" + "00" * 32 + "\na b c\n", "INIT md5/" + "00" * 20, "INIT sha384/" + "00" * 48 + "\nab\n"]
)
def test_a_malformed_agent_s_log_is_refused(text: str) -> None:
    with pytest.raises(EvidenceError, match="attestation agent's log"):
        aael.parse(text.encode())
