"""A software TPM with a SHA-384 bank, for boots whose registers are to be looked at."""

from __future__ import annotations

from pathlib import Path

from privml.image.tools import Bind, ToolsTree
from privml.vm.process import Child

SOCKET = "tpm.sock"


def start(tools: ToolsTree, directory: Path) -> Child:
    """Start a fresh TPM 2.0 in ``directory``; its control socket is ``directory/tpm.sock``."""
    state = directory / "tpm"
    state.mkdir()
    binds = [Bind(directory, "/vm", writable=True)]
    tools.run(
        ["swtpm_setup", "--tpm2", "--tpm-state", "/vm/tpm", "--pcr-banks", "sha256,sha384", "--overwrite"],
        binds=binds,
        what="swtpm_setup",
    )
    child = Child(
        tools,
        [
            "swtpm", "socket", "--tpm2", "--tpmstate", "dir=/vm/tpm", "--ctrl", f"type=unixio,path=/vm/{SOCKET}",
            "--terminate",
        ],
        directory / "swtpm.log",
        binds=binds,
    )  # fmt: skip
    child.await_path(directory / SOCKET)
    return child
