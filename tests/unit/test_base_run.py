"""run(): programs get nothing from the caller's environment, and a failure is reported completely."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from pathlib import Path

import pytest

from privml.base.errors import BuildError, HostError
from privml.base.run import BASE_ENVIRONMENT, run

SHOW = "import json, os, sys; print(json.dumps(dict(os.environ)))"


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_the_environment_is_from_scratch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1")
    monkeypatch.setenv("LANG", "de_DE.UTF-8")
    monkeypatch.setenv("PYTHONSTARTUP", "/x")
    seen = json.loads(run(python(SHOW), env={"MINE": "1", "TZ": "CET"}).stdout)
    seen.pop("LC_CTYPE", None)  # Python's own, see PEP 538
    assert seen == {**BASE_ENVIRONMENT, "MINE": "1", "TZ": "CET"}
    assert BASE_ENVIRONMENT["TZ"] == "UTC"


def test_standard_input_is_empty_unless_given() -> None:
    assert run(python("import sys; print(repr(sys.stdin.read()))")).stdout == b"''\n"
    assert run(python("import sys; print(sys.stdin.read())"), stdin=b"hello").stdout == b"hello\n"


def test_the_umask_is_fixed(tmp_path: Path) -> None:
    old = os.umask(0o077)
    try:
        run(python("open('a', 'w').close()"), cwd=tmp_path)
    finally:
        os.umask(old)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o644


def test_a_failure_shows_both_outputs_the_status_and_the_hint() -> None:
    code = "import sys; print('out'); print('err', file=sys.stderr); sys.exit(7)"
    with pytest.raises(BuildError) as caught:
        run(python(code), what="the tool", error=BuildError, hint="do this")
    assert caught.value.message == "the tool failed with status 7\n  | out\n  | err"
    assert caught.value.hint == "do this"


def test_death_by_signal_is_reported() -> None:
    with pytest.raises(HostError, match="failed with signal 9"):
        run(python("import os; os.kill(os.getpid(), 9)"))


def test_long_output_is_cut_at_its_start() -> None:
    with pytest.raises(HostError) as caught:
        run(python("for n in range(1000): print('line', n)\nraise SystemExit(1)"))
    lines = caught.value.message.splitlines()
    assert lines[1] == "  | [800 lines left out]"
    assert (lines[2], lines[-1]) == ("  | line 800", "  | line 999")


def test_binary_output_is_shown_escaped() -> None:
    with pytest.raises(HostError, match="\N{REPLACEMENT CHARACTER}"):
        run(python("import os; os.write(2, b'\\xff'); raise SystemExit(1)"))


def test_an_unchecked_failure_returns_its_status() -> None:
    done = run(python("raise SystemExit(3)"), check=False)
    assert done.returncode == 3


def test_a_timed_out_program_is_killed_and_its_output_shown() -> None:
    start = time.monotonic()
    with pytest.raises(HostError) as caught:
        run(python("import time; print('started', flush=True); time.sleep(60)"), timeout=0.5, what="slow")
    assert time.monotonic() - start < 10
    assert caught.value.message == "slow: timed out after 0.5 s\n  | started"


@pytest.mark.parametrize("kind", ["missing", "not executable", "no program", "below a file", "directory"])
def test_a_program_that_cannot_be_run_is_an_error(tmp_path: Path, kind: str) -> None:
    program = tmp_path / "tool"
    if kind in ("not executable", "no program", "below a file"):
        program.write_bytes(b"\x00\x01")
        program.chmod(0o755 if kind == "no program" else 0o644)
    elif kind == "directory":
        program.mkdir()
    if kind == "below a file":
        program = program / "tool"
    with pytest.raises(BuildError) as caught:
        run([program], error=BuildError, hint="install it")
    assert str(tmp_path / "tool") in caught.value.message
    assert caught.value.message.startswith("tool: ")
    assert caught.value.hint == "install it"


def test_a_missing_working_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="nowhere` not found"):
        run(python("pass"), cwd=tmp_path / "nowhere")


def test_arguments_are_never_expanded_by_a_shell(tmp_path: Path) -> None:
    words = ["$HOME", "a b", ";", "`id`", tmp_path]
    code = "import json, sys; print(json.dumps(sys.argv[1:]))"
    assert json.loads(run([*python(code), *words]).stdout) == ["$HOME", "a b", ";", "`id`", str(tmp_path)]


def test_output_is_shown_only_when_verbose(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    talk = python("import sys; print('talk', file=sys.stderr)")
    run(talk)
    assert capfd.readouterr().err == ""
    with caplog.at_level(logging.DEBUG, logger="privml"):
        run(talk)
    assert "talk" in caplog.text
    assert f"run: {sys.executable} -c" in caplog.text
