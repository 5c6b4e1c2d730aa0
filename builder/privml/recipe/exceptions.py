"""What weakens the guest: which fields of a recipe need an entry in its `exceptions`, and for what none exists."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from privml.recipe import kernelsettings, programs
from privml.recipe.document import Path
from privml.recipe.kernelsettings import MODULE, MODULES, OPTION, OPTIONS, SYSCTL, SYSCTLS, never
from privml.recipe.programs import PROGRAM

if TYPE_CHECKING:
    from privml.recipe.models import Content

KINDS = {
    OPTION: "a word of the kernel command line that is not on the list",
    MODULE: "a kernel module that is not on the list",
    SYSCTL: "a sysctl that is not on the list, as NAME=VALUE",
    PROGRAM: "a program that can run others",
}
"""Kinds of exceptions and what their subjects are."""

NO_KIND = {
    "outbound": "no connection begins in the guest, so that who takes a process in it cannot send prompts away "
    "(ADR 0012)",
    "shell": "there is no shell in the guest that an attack could start (ADR 0011)",
    "root": "only the boot agent and the attestor run as root",
    "set-id": "no program in the guest has a set-id bit",
    "attestor": "only the server may ask the attestor for quotes",
    "tee-device": "only the attestor may ask the TEE for quotes",
    "gpu-device": "only the engine may use a GPU",
    "keys": "only the server has the attested keys, and only the boot process those that volume keys are sealed to",
    "engine": "only the server may enter the directory of the engine's socket",
}
"""Weakenings for which no exception exists, and why."""


@dataclass(frozen=True)
class Need:
    """Something that needs an exception, and ``why``. ``never`` says why none exists, and is else empty."""

    kind: str
    subject: str
    path: Path
    why: str
    never: str


def needs(content: Content) -> Iterator[Need]:
    """Everything in ``content`` that is not on an allow-list."""
    for name, value in content.sysctl.items():
        allowed = SYSCTLS.get(name)
        if allowed is None or not allowed.fits(str(value)):
            why = _off(SYSCTLS if allowed is None else [f"{name} as {allowed}"])
            yield Need(SYSCTL, f"{name}={value}", ("sysctl", name), why, never(SYSCTL, name) or "")
    for index, word in enumerate(content.kernel.options):
        name, _, text = word.partition("=")
        type_ = OPTIONS.get(name)
        if type_ is None or not type_.fits(text):
            why = _off(OPTIONS if type_ is None else [f"{name} as {type_}"])
            yield Need(OPTION, word, ("kernel", "options", index), why, never(OPTION, name) or "")
    for index, module in enumerate(map(kernelsettings.module_name, content.kernel.modules)):
        if module not in MODULES:
            yield Need(MODULE, module, ("kernel", "modules", index), _off(MODULES), never(MODULE, module) or "")
    for index, name in enumerate(content.programs):
        why_never = programs.never(name) or ""
        if why_never or programs.runs_others(name):
            yield Need(PROGRAM, name, ("programs", index), "can run other programs", why_never)


def _off(listed: Iterable[str]) -> str:
    return f"is not on the list ({', '.join(listed)})"


def problems(content: Content) -> Iterator[tuple[Path, str, str]]:
    """(field, rule, text) for each need without an exception, and each exception without a need."""
    given = {(each.kind, each.subject): index for index, each in enumerate(content.exceptions)}
    for need in needs(content):
        excepted = given.pop((need.kind, need.subject), None) is not None
        if need.never:
            yield need.path, "exception-never", f"`{need.subject}` is not allowed: {need.never}"
        elif not excepted:
            text = (
                f"`{need.subject}` {need.why}; it needs "
                f'`exceptions: [{{kind: {need.kind}, subject: "{need.subject}", reason: ...}}]`'
            )
            yield need.path, "exception-missing", text
    for (kind, subject), index in given.items():
        text = f"no field of this recipe needs the exception {kind} `{subject}`"
        yield ("exceptions", index), "exception-unused", text
