"""Fetch wheels with the host's pip and its configuration (index, mirrors, certificates, proxy)."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from privml.base.errors import HostError, InputsError
from privml.base.run import run
from privml.base.wayout import given_certificates
from privml.store.objects import Store

_PASSED_ON = re.compile(
    r"\A(PIP_.*|(?:https?|no|all)_proxy|SSL_CERT_(?:FILE|DIR)|REQUESTS_CA_BUNDLE|HOME|XDG_CONFIG_(?:HOME|DIRS))\Z",
    re.I,
)


def download_wheel(store: Store, name: str, version: str, *, sha256: str | None = None) -> tuple[str, str, int]:
    """Fetch one wheel into the store; returns its file name, SHA-256 and size.

    With ``sha256`` pip refuses different bytes (``--require-hashes``). Without it, any file of the configured index
    for exactly that version is accepted, which only ``lock`` may do.
    """
    requirement = f"{name}=={version}"
    words = ["download", "--no-deps", "--only-binary=:all:", "--quiet", "--no-cache-dir"]
    with tempfile.TemporaryDirectory(prefix="privml-pip.") as folder:
        target = Path(folder) / "wheels"
        target.mkdir()
        if sha256 is None:
            words += ["--dest", str(target), requirement]
        else:
            listing = Path(folder) / "requirements.txt"
            listing.write_text(f"{requirement} --hash=sha256:{sha256}\n", encoding="utf-8")
            words += ["--dest", str(target), "--require-hashes", "--requirement", str(listing)]
        _pip(words, requirement)
        files = sorted(target.iterdir())
        if len(files) != 1 or files[0].suffix != ".whl":
            got = ", ".join(file.name for file in files) or "nothing"
            raise InputsError(f"{requirement}: pip gave {got}, expected one wheel")
        wheel = files[0]
        digest = store.add_file(wheel, expect=sha256)
        return wheel.name, digest, wheel.stat().st_size


def ensure_wheel(store: Store, name: str, version: str, sha256: str) -> None:
    """Fetch a locked wheel if it is missing from the store."""
    if not store.has(sha256):
        download_wheel(store, name, version, sha256=sha256)


def _pip_program() -> list[str]:
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    # Some virtual environments have no pip; every pip on the host uses the same configuration.
    found = shutil.which("pip3") or shutil.which("pip")
    if found is None:
        raise HostError("wheels are fetched by pip, and this host has none", hint="install pip (python3-pip)")
    return [found]


def _pip(words: Sequence[str], requirement: str) -> None:
    environment = {name: value for name, value in os.environ.items() if _PASSED_ON.match(name)}
    if (certificates := given_certificates()) is not None:
        environment.setdefault("PIP_CERT", str(certificates))
    run(
        [*_pip_program(), *words],
        env=environment,
        timeout=1800,
        what=f"pip download {requirement}",
        error=InputsError,
        hint="the source of wheels is set in the host's pip configuration; `pip config list` shows it",
    )
