"""A shell script that starts the guest with QEMU."""

from __future__ import annotations

import shlex

from privml.deploy.deployment import Deployment, Written

_OTHER_QEMU = 5


def write(deployment: Deployment) -> Written:
    """A POSIX shell script with exactly the arguments of `run --tdx`."""
    platform = deployment.launch.platform
    lines = [
        "#!/bin/sh",
        f"# Start {deployment.title}.",
        "# The arguments decide RTMR0: another QEMU, size, device or slot moves it.",
        "set -eu",
        f"qemu={shlex.quote(deployment.qemu)}",
        'found=$("$qemu" --version)',
        "case $found in",
        f'"QEMU emulator version {platform.qemu}"[!0-9.]*) ;;',
        f'*) echo "$qemu is not QEMU {platform.qemu}, whose tables are predicted" >&2; exit {_OTHER_QEMU} ;;',
        "esac",
    ]
    if platform.tables is not None:
        lines += [
            'found=$(sha256sum < "$qemu")',
            f'if [ "${{found%% *}}" != {platform.binary} ]; then',
            f'    echo "$qemu is not the binary that {platform.name} was learnt from" >&2; exit {_OTHER_QEMU}',
            "fi",
        ]
    lines += [
        f"mkdir -p -m 0700 {shlex.quote(str(deployment.state))}",
        'exec "$qemu" \\',
        *_words(deployment.arguments()),
    ]
    return Written("\n".join(lines) + "\n")


def _words(argv: list[str]) -> list[str]:
    """An option and its value on each line."""
    lines: list[list[str]] = []
    for word in argv:
        if word.startswith("-") or not lines:
            lines.append([])
        lines[-1].append(shlex.quote(word))
    return [f"    {' '.join(line)} \\" for line in lines[:-1]] + [f"    {' '.join(lines[-1])}"]
