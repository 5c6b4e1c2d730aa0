"""Everything that the documents name exists: files, symbols in them, links, verbs and their options."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
import pytest

from privml.cli.main import cli
from privml.recipe.rules import RULES

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("builder", "docs", "examples", "images", "recipes", "tests", "benchmarks", "measurements")
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
# Files of other places: placeholders, outputs, a user's own files, and mkosi's own in the tools tree.
ELSEWHERE = re.compile(r"NAME|^out/|^\.github/|^mkosi/sandbox\.py$|^mirrors\.yaml$|^[^/]*\.(json|toml|pem)$")
_FILE = re.compile(r"`([\w.-]+(?:/[\w.-]+)*\.(?:py|md|ya?ml|json|toml|pem))`")
_SYMBOL_IN = re.compile(r"`(\w+)` (?:of|in) `([\w/]+\.py)`")
_IN_SYMBOL = re.compile(r"`([\w/]+\.py)` `(\w+)`")
_LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
_COMMAND = re.compile(r"^[^`]*?(?:\.venv/bin/)?privml-build (?:-[qv] )?([a-z]+)\b([^|;#]*)")


@cache
def files() -> tuple[str, ...]:
    found = [path.relative_to(ROOT).as_posix() for path in ROOT.iterdir() if path.is_file()]
    for folder in FOLDERS:
        found += [path.relative_to(ROOT).as_posix() for path in (ROOT / folder).rglob("*") if path.is_file()]
    return tuple(found)


def named(path: str) -> list[str]:
    """The files that a document may mean by ``path``: whole paths, or the end of one."""
    return [file for file in files() if file == path or file.endswith(f"/{path}")]


def lines(page: Path) -> Iterator[tuple[int, str]]:
    yield from enumerate(page.read_text().splitlines(), 1)


def commands(page: Path) -> Iterator[tuple[int, str, list[str]]]:
    """Every command in code blocks and backticks: line, verb, options."""
    block = False
    for number, line in lines(page):
        if line.startswith("```"):
            block = not block
            continue
        for text in [line] if block else re.findall(r"`([^`]+)`", line):
            if match := _COMMAND.match(text):
                yield number, match[1], re.findall(r"(?<![\w-])--[a-z-]+", match[2])


def leaves(command: click.Command) -> Iterator[click.Command]:
    """The commands that a group or its groups have; of a command itself, that one."""
    if not isinstance(command, click.Group):
        yield command
        return
    for each in command.commands.values():
        yield from leaves(each)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_a_page_names_only_files_symbols_and_links_that_exist(page: Path) -> None:
    wrong = []
    # Results and the changelog describe earlier states.
    told_then = page.parent.name == "results" or page.name == "CHANGELOG.md"
    for number, line in lines(page):
        wrong += [
            (number, link) for link in _LINK.findall(line) if "://" not in link and not (page.parent / link).exists()
        ]
        if told_then:
            continue
        wrong += [(number, file) for file in _FILE.findall(line) if not ELSEWHERE.search(file) and not named(file)]
        pairs = [*_SYMBOL_IN.findall(line), *((symbol, file) for file, symbol in _IN_SYMBOL.findall(line))]
        for symbol, file in pairs:
            found = [one for one in named(file) if not one.startswith("tests/")]
            if found and not any(re.search(rf"\b{symbol}\b", (ROOT / one).read_text()) for one in found):
                wrong.append((number, f"{symbol} in {file}"))
    assert wrong == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_a_page_shows_only_verbs_and_options_that_exist(page: Path) -> None:
    context = click.Context(cli)
    wrong = []
    for number, verb, options in commands(page):
        command = cli.get_command(context, verb)
        if command is None:
            wrong.append((number, verb))
            continue
        known = {
            option for one in leaves(command) for item in one.params for option in (*item.opts, *item.secondary_opts)
        }
        wrong += [(number, f"{verb} {option}") for option in options if option not in known | {"--help"}]
    assert wrong == []


def test_the_documents_show_commands() -> None:
    assert {verb for page in PAGES for _, verb, _ in commands(page)} >= {
        "image",
        "lock",
        "measure",
        "proxy",
        "verify",
    }


def test_the_index_of_decisions_has_a_row_for_each_page() -> None:
    folder = ROOT / "docs" / "adr"
    pages = {path.name: path.read_text().splitlines()[0] for path in folder.glob("[0-9]*.md")}
    rows = re.findall(r"^\| \[(\d+)\]\(([^)]+)\) \| (.+?) \| ", (folder / "README.md").read_text(), re.MULTILINE)
    assert {name: f"# {number}: {title}" for number, name, title in rows} == pages
    assert [name for _, name, _ in rows] == sorted(pages), "one row each, in their order"


def test_a_decision_is_cited_by_a_number_that_exists() -> None:
    numbers = {path.name[:4] for path in (ROOT / "docs" / "adr").glob("[0-9]*.md")}
    wrong = []
    for path in [*PAGES, *sorted((ROOT / "builder" / "privml").rglob("*.py"))]:
        cited = re.findall(r"ADR (\d{4})(?:(?: and|,) (\d{4}))?", path.read_text())
        missing = {number for pair in cited for number in pair if number} - numbers
        if "was ADR" not in path.read_text() and path.name not in ("README.md", "CHANGELOG.md"):
            wrong += [(path.name, number) for number in missing]
    assert wrong == []


def test_building_lists_each_rule_of_lint() -> None:
    text = (ROOT / "docs/BUILDING.md").read_text().partition("## What lint demands")[2].partition("\n## ")[0]
    assert [rule for rule in RULES if f"`{rule}`" not in text] == []


def test_the_nginx_that_ends_tls_is_the_one_that_the_real_test_runs() -> None:
    shown = (ROOT / "tests/real/nginx.conf").read_text()
    assert f"```nginx\n{shown}```\n" in (ROOT / "docs/OPERATING.md").read_text()
