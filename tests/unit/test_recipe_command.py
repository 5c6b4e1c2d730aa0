"""The verb `lint`."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from privml.base.errors import RecipeError
from privml.cli.lint import lint
from privml.recipe.loader import shipped


def test_lint_says_ok_for_each_shipped_recipe() -> None:
    result = CliRunner().invoke(lint, [])
    assert result.exit_code == 0
    assert {"ok demo-cpu", "ok demo-cpu-dev"} <= set(result.stdout.splitlines())


def test_lint_reports_every_problem_of_every_recipe(tmp_path: Path) -> None:
    demo = (shipped() / "demo-cpu.yaml").read_text()
    (tmp_path / "a.yaml").write_text(demo.replace("engine:", "engin:"))
    (tmp_path / "b.yaml").write_text(demo + "devices: [virtio-blk: 2, virtio-net: 3]\n")
    result = CliRunner().invoke(lint, [str(tmp_path / "a.yaml"), "demo-cpu", str(tmp_path / "b.yaml")])
    assert isinstance(result.exception, RecipeError)
    assert result.stdout == "ok demo-cpu\n"
    assert result.exception.exit_code == 3
    message = result.exception.message
    assert "a.yaml:7: inference.engin: unknown field; did you mean `engine`?" in message
    assert "b.yaml:13: devices: 3 virtio-net, but `qemu-11-q35` has 1" in message


def test_lint_of_an_unknown_recipe_is_an_error() -> None:
    result = CliRunner().invoke(lint, ["demo-gpu"])
    assert isinstance(result.exception, RecipeError)
    with pytest.raises(RecipeError, match="there is no recipe"):
        raise result.exception
