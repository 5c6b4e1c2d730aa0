"""Paths that are wrong, missing, empty or too long, given to each verb: the message says what is there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from privml.cli.main import main

VECTORS = Path(__file__).resolve().parents[1] / "vectors"


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["measure", "/dev/null"], 2, "`/dev/null` is a device, not a file or directory"),
        (["measure", "./nosuch.bin"], 2, "there is no file or directory `./nosuch.bin`"),
        (["measure", "nosuch"], 3, "there is no recipe `nosuch`, and no file or directory of that name"),
        (["measure", ""], 2, "invalid value for 'TARGET': it is empty, expected a recipe's name, a file or"),
        (["diff", "nosuch/a", ""], 2, "invalid value for 'B': it is empty"),
        (["lint", ""], 2, "it is empty, expected a recipe's name"),
        (["explain", "directory"], 2, "`directory` is a directory, expected a file"),
        (["explain", "nosuch"], 2, "`nosuch` does not exist"),
        (["explain", "/dev/null"], 2, "`/dev/null` is a device or socket, expected a file"),
        (["diff", "file", "file"], 2, "privml-build: file: not recognised\n"),
        (["verify", "URL", "--expect", "file"], 2, "`file` is not a directory, expected the directory of a built"),
        (["verify", "URL", "--expect", "nosuch"], 2, "`nosuch` does not exist, expected the directory of a built"),
        (["verify", "URL", "--expect", ""], 2, "it is empty, expected the directory of a built image"),
        (["lint", "directory/large.yaml"], 3, "directory/large.yaml has 70000 bytes, expected at most"),
        (["measure", "out/demo-cpu"], 2, "hint: build it with `privml-build image demo-cpu`"),
        (["measure", "out/mistyped"], 2, "hint: give a recipe's name, or a path that exists"),
        (["measure", "cut.ccel"], 9, "privml-build: cut.ccel: event log: cut off at byte"),
        (
            ["inspect", "damaged"],
            9,
            "damaged/manifest.json is malformed: manifest.agent_events: missing\nhint: build the",
        ),
        (["lint", "directory"], 3, "`directory` is a directory, expected a recipe's name or file"),
        (["lint", "./pipe"], 3, "`./pipe` is not a regular file, expected a recipe's name or file"),
        (["lint", "directory/list.yaml"], 3, "list.yaml:1: expected fields, such as `schema: 2`"),
        (["store", "gc", "nosuch"], 2, "`nosuch` does not exist, expected a lock file"),
        (["store", "import", "file"], 2, "`file` is not a directory, expected the folder of a pool"),
        (["run", "demo-cpu", "--prompt"], 2, "hint: `privml-build run --help` explains the verb"),
        (["run", "-q", "demo-cpu"], 2, "hint: for example `privml-build -q run`"),
        (["lint", "n" * 300], 2, "`" + "n" * 40 + "...` (305 bytes) is longer than a name or path may be"),
        (["measure", "n" * 300], 2, "...` (300 bytes) is longer than a name or path may be"),
        (["explain", "n" * 300], 2, "...` (300 bytes) is longer than a name or path may be"),
    ],
)
def test_a_wrong_path_is_named_with_what_is_there(
    words: list[str],
    code: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("x")
    os.mkfifo("pipe")
    Path("directory").mkdir()
    Path("directory/large.yaml").write_text("#" * 70000)
    Path("directory/list.yaml").write_text("- a\n")
    Path("cut.ccel").write_bytes((VECTORS / "cases/diff-same-words/a.ccel").read_bytes()[:60])
    Path("damaged").mkdir()
    Path("damaged/manifest.json").write_text('{"format": "privml-manifest/v2"}')
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == code
    assert message in capsys.readouterr().err
