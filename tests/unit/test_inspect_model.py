"""`inspect FILE` of a model: what it holds, or why it is not whole."""

from __future__ import annotations

import json
from pathlib import Path

import gguf_file as g
import pytest
import safetensors_file as s
from test_cli_main import Outcome, as_found  # noqa: F401 - fixture
from test_lock_modelsources import LICENSED
from test_lock_safetensors import FILES, INDEX, KINDS, PARTS, REAL

Capture = pytest.CaptureFixture[str]


def test_a_file_of_safetensors_is_described(tmp_path: Path, capsys: Capture) -> None:
    data = (REAL / "model.safetensors").read_bytes()
    for name in ("model.safetensors", "anything"):
        (tmp_path / name).write_bytes(data)
        outcome = Outcome(capsys, "inspect", str(tmp_path / name))
        assert (outcome.code, outcome.stderr) == (0, "")
        first, tensors, elements, engine = outcome.stdout.splitlines()
        assert first == f"{tmp_path / name}: a whole file of safetensors, 0.0 MB"
        assert tensors.startswith(f"  tensors: {len(KINDS)} (") and "1 F32" in tensors
        assert (elements, engine) == ("  elements: 24", "  read by: vllm")


def test_an_index_is_read_with_the_files_next_to_it(tmp_path: Path, capsys: Capture) -> None:
    for name, data in FILES.items():
        (tmp_path / name).write_bytes(data)
    outcome = Outcome(capsys, "inspect", "--json", str(tmp_path / INDEX))
    assert outcome.code == 0
    assert json.loads(outcome.stdout) == {
        "file": str(tmp_path / INDEX),
        "kind": "safetensors",
        "title": "an index of 2 whole files of safetensors",
        "size": sum(len(FILES[name]) for name in PARTS),
        "facts": {"tensors": "3 (3 U8)", "elements": "5"},
        "engines": ["vllm"],
    }
    (tmp_path / PARTS[1]).write_bytes(s.SMALL)
    outcome = Outcome(capsys, "inspect", str(tmp_path / INDEX))
    assert outcome.code == 4
    assert f"not one model: its index says that tensor `c` is in {PARTS[1]}, which has none" in outcome.stderr
    (tmp_path / PARTS[1]).unlink()
    outcome = Outcome(capsys, "inspect", str(tmp_path / INDEX))
    assert (outcome.code, f"it names {PARTS[1]}, which is not next to it" in outcome.stderr) == (4, True)


def test_a_gguf_file_is_described_with_the_engine_that_reads_it(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "m").write_bytes(LICENSED)
    outcome = Outcome(capsys, "inspect", str(tmp_path / "m"))
    assert outcome.stdout.splitlines() == [
        f"{tmp_path / 'm'}: a whole GGUF file, 0.0 MB",
        "  tensors: 1",
        "  licence: apache-2.0",
        "  read by: llama-server",
    ]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("m.gguf", g.SMALL[:-1], "is not a whole GGUF model: it has"),
        ("m.safetensors", s.SMALL[:-1], "is not a whole SAFETENSORS model: it has"),
        ("m.safetensors", b"<html>", "it is an HTML page"),
        ("m", s.SMALL + b"x", "is not a whole SAFETENSORS model: it has"),
    ],
)
def test_a_model_that_is_not_whole_is_an_error(
    tmp_path: Path, capsys: Capture, name: str, data: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(data)
    outcome = Outcome(capsys, "inspect", str(tmp_path / name))
    assert outcome.code == 4 and message in outcome.stderr


def test_options_of_quotes_are_refused_for_a_model(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "m.gguf").write_bytes(g.SMALL)
    for words in (["--at", "2026-11-29T04:00:00Z"], ["--report-data", "00" * 32]):
        outcome = Outcome(capsys, "inspect", str(tmp_path / "m.gguf"), *words)
        assert outcome.code == 2 and f"{words[0]} is for a file with a quote, and" in outcome.stderr
