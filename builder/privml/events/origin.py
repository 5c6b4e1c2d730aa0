"""The origin of a predicted event as people read it: what is measured, and the line of the recipe that chose it."""

from __future__ import annotations

import re

_LINE_OF_A_RECIPE = re.compile(r" \(([^()]+:[0-9]+ [^()]+)\)$")
_NAME = " (its name)"
_SHORT = (
    ("firmware.fd variable ", ""),
    ("firmware.fd CFV", "variables' volume (CFV)"),
    ("firmware: separator after the Secure Boot variables", "separator"),
    ("firmware: separator before the boot option starts", "separator"),
    ("firmware: boot option starts", "Calling EFI Application"),
    ("firmware: Exit Boot Services Returned with Success", "Exit Boot Services: success"),
    ("firmware: Exit Boot Services Invocation", "Exit Boot Services: called"),
    ("uki.efi .cmdline as the kernel's LoadOptions", "command line (LoadOptions)"),
    ("uki.efi .initrd with the stub's additions", "initrd as handed over"),
    ("etc/smbios/smbios-tables type 1", "SMBIOS type 1, by the stub"),
    ("etc/smbios/smbios-tables", "SMBIOS tables"),
)


def split(origin: str) -> tuple[str, str]:
    """``uki.efi .osrel (recipes/demo-cpu.yaml:4 name)`` as (``uki.efi .osrel``, ``recipes/demo-cpu.yaml:4 name``).

    The second part is empty where no line of a recipe chose the input.
    """
    found = _LINE_OF_A_RECIPE.search(origin)
    return (origin, "") if found is None else (origin[: found.start()], found[1])


def short(what: str) -> str:
    """A shorter name of an input, for a narrow column."""
    for long, shorter in _SHORT:
        if what.startswith(long):
            return shorter + what[len(long) :]
    return what


def is_name(origin: str) -> bool:
    """True if the name of a part is measured, and not the part itself."""
    return origin.endswith(_NAME)
