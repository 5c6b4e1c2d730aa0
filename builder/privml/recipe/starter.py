"""Files written by `init`: a recipe with a comment for each field, and a CI workflow that checks and builds it.

Comments come from the models (``fields``), so every field is described in one place.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from privml.base.sizes import size_text
from privml.recipe.document import is_plain
from privml.recipe.fields import Fact, facts
from privml.recipe.models import Content
from privml.recipe.section import MEMORY_UNITS

SCHEMA = "schemas/recipe.schema.json"
WORKFLOW_PATH = ".github/workflows/image.yml"

_HEAD = """\
# yaml-language-server: $schema={schema}
# From {origin}, by `privml-build init`. More about a field: `privml-build lint --explain FIELD`.
"""

_WORKFLOW = """\
# Checks the recipes and their locks, and builds the images. Made by `privml-build init`; it is yours to change.
#
# Two variables of the repository say where things come from, since privml-build names no package host. Without the
# first, nothing is checked, and a warning says so.
#   PRIVML_BUILD    what pip installs: best `privml-build[build] @ ADDRESS-OF-A-WHEEL#sha256=...`
#   PRIVML_MIRRORS  the lines of mirrors.yaml, where the runner's own apt knows no Debian archive
name: image
on: [push, pull_request]
permissions: {{contents: read}}
env:
  RECIPES: {name}
jobs:
  image:
    runs-on: ubuntu-24.04
    timeout-minutes: 60
    steps:
      - uses: actions/checkout@08c6903cd8c0fde910a37f88322edcfb5dd907a8 # v5.0.0
        with: {{persist-credentials: false}}
      - name: privml-build
        id: privml-build
        env:
          PRIVML_BUILD: ${{{{ vars.PRIVML_BUILD }}}}
          PRIVML_MIRRORS: ${{{{ vars.PRIVML_MIRRORS }}}}
        run: |
          if [ -z "$PRIVML_BUILD" ]; then
            echo "::warning title=nothing was checked::set the variable PRIVML_BUILD of this repository"
            exit 0
          fi
          python3 -m venv "$HOME/privml"
          "$HOME/privml/bin/pip" install "$PRIVML_BUILD"
          echo "$HOME/privml/bin" >> "$GITHUB_PATH"
          if [ -n "$PRIVML_MIRRORS" ]; then
            mkdir -p "$HOME/.config/privml-build"
            printf '%s\\n' "$PRIVML_MIRRORS" > "$HOME/.config/privml-build/mirrors.yaml"
          fi
          echo "installed=yes" >> "$GITHUB_OUTPUT"
      - name: user namespaces
        if: steps.privml-build.outputs.installed
        run: |
          sudo apt-get install --yes --no-install-recommends uidmap
          sudo sysctl --write kernel.apparmor_restrict_unprivileged_userns=0
      - name: lint
        if: steps.privml-build.outputs.installed
        run: privml-build lint $RECIPES
      - name: lock
        if: steps.privml-build.outputs.installed
        run: privml-build lock --check $RECIPES
      - name: image
        if: steps.privml-build.outputs.installed
        run: for recipe in $RECIPES; do privml-build image "$recipe"; done
"""


def workflow(name: str) -> str:
    """The CI workflow for the recipe ``name``."""
    return _WORKFLOW.format(name=name)


def commented(content: Content, origin: str) -> str:
    """Encode ``content`` as a recipe file, with a comment line for each field."""
    known = facts()
    lines = _HEAD.format(schema=SCHEMA, origin=origin).splitlines()
    written = _written(content)
    for name, value in written.items():
        lines += ["", *_field(known, name, value, "", "")]
    lines += ["", *_left_out(known, written, "", "")]
    return "\n".join(lines) + "\n"


def _written(content: Content) -> dict[str, Any]:
    """The fields in their written form, which differs from the model for devices and sizes."""
    value: dict[str, Any] = _without_empty(content.model_dump(mode="json", by_alias=True, exclude_none=True))
    value["devices"] = [{device.kind: device.count} for device in content.devices]
    value["shapes"] = [
        {"vcpus": shape.vcpus, "memory": size_text(shape.memory, MEMORY_UNITS)} for shape in content.shapes
    ]
    for name, service in content.services.items():
        for size in ("memory", "scratch"):
            if (given := getattr(service, size)) is not None:
                value["services"][name][size] = size_text(given, MEMORY_UNITS)
    return value


def _without_empty(value: dict[str, Any]) -> dict[str, Any]:
    """Remove empty mappings and lists, which stand for omitted fields."""
    inner = {key: _without_empty(item) if isinstance(item, dict) else item for key, item in value.items()}
    return {key: item for key, item in inner.items() if item not in ({}, [])}


def _field(known: Mapping[str, Fact], name: str, value: Any, path: str, indent: str) -> list[str]:
    fact = known[path + name]
    lines = [f"{indent}# {fact.meaning}"]
    if isinstance(value, dict) and not any(f"{path}{name}.{inner}" in known for inner in value):
        lines.append(f"{indent}{name}:")
        lines += [f"{indent}  {scalar(inner)}: {_flow(item)}" for inner, item in value.items()]
    elif isinstance(value, dict):
        lines.append(f"{indent}{name}:")
        for inner, item in value.items():
            lines += _field(known, inner, item, f"{path}{name}.", f"{indent}  ")
        lines += _left_out(known, value, f"{path}{name}.", f"{indent}  ")
    elif isinstance(value, list):
        lines.append(f"{indent}{name}:")
        for number, item in enumerate(value):
            lines += _item(known, item, f"{path}{name}.", f"{indent}  ", fact.model if number == 0 else None)
    else:
        lines.append(f"{indent}{name}: {scalar(value)}")
    return lines


def _flow(value: Any) -> str:
    """A value on one line, with text quoted where a list or mapping in brackets could not hold it."""
    if isinstance(value, list):
        return f"[{', '.join(map(_flow, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {_flow(item)}" for name, item in value.items()) + "}"
    text = scalar(value)
    return f'"{text}"' if re.search(r"[,{}\[\]]", text) and not text.startswith('"') else text


def _item(
    known: Mapping[str, Fact], item: Any, path: str, indent: str, described: type[BaseModel] | None
) -> list[str]:
    """One item of a list; the fields of the first are described."""
    if not isinstance(item, dict):
        return [f"{indent}- {scalar(item)}"]
    lines = []
    for number, (name, value) in enumerate(item.items()):
        if described:
            lines.append(f"{indent}{'' if number == 0 else '  '}# {known[path + name].meaning}")
        lines.append(f"{indent}{'- ' if number == 0 else '  '}{name}: {_flow(value)}")
    return [*lines, *_left_out(known, item, path, f"{indent}  ")] if described else lines


def _left_out(known: Mapping[str, Fact], given: dict[str, Any], path: str, indent: str) -> list[str]:
    """The omitted fields below ``path``, each as a comment with its example."""
    lines = []
    for fact in known.values():
        name = fact.path.removeprefix(path)
        if fact.path.startswith(path) and "." not in name and name not in given and fact.example:
            lines += [f"{indent}# {fact.meaning}", f"{indent}# {name}: {fact.example}"]
    return lines


def scalar(value: str | int | bool) -> str:
    """One YAML value, quoted if it would otherwise be read as a different type."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if re.fullmatch(r"[A-Za-z0-9](?:[\w .,;()/=+-]|:(?! ))*[\w.)]|[A-Za-z]", value, re.ASCII) and is_plain(value):
        return value
    return '"' + "".join(_quoted(character) for character in value) + '"'


def _quoted(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    return character if character.isprintable() else f"\\U{ord(character):08x}"
