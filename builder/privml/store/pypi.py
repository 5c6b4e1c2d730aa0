"""Fetch wheels with the host's pip and its configuration (index, mirrors, certificates, proxy).

Requirements are resolved by uv, which gets the indexes of that configuration: a host has one place for them.
"""

from __future__ import annotations

import ast
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

# Where a setting may be in pip's configuration; a later one counts.
_SECTIONS = {"global": 1, "download": 2, ":env:": 3}


def download_wheel(
    store: Store, name: str, version: str, *, sha256: str | None = None, file: str | None = None
) -> tuple[str, str, int]:
    """Fetch one wheel into the store; returns its file name, SHA-256 and size.

    With ``file``, a wheel of this name is accepted even if it is for another machine or Python than this one.

    With ``sha256`` pip refuses different bytes (``--require-hashes``). Without it, any file of the configured index
    for exactly that version is accepted, which only ``lock`` may do.
    """
    requirement = f"{name}=={version}"
    words = ["download", "--no-deps", "--only-binary=:all:", "--quiet", "--no-cache-dir"]
    words += [] if file is None else _accepting(file)
    with tempfile.TemporaryDirectory(prefix="privml-pip.") as folder:
        place = Path(folder) / "wheels"
        place.mkdir()
        if sha256 is None:
            words += ["--dest", str(place), requirement]
        else:
            listing = Path(folder) / "requirements.txt"
            listing.write_text(f"{requirement} --hash=sha256:{sha256}\n", encoding="utf-8")
            words += ["--dest", str(place), "--require-hashes", "--requirement", str(listing)]
        _pip(words, requirement)
        files = sorted(place.iterdir())
        if len(files) != 1 or files[0].suffix != ".whl":
            got = ", ".join(file.name for file in files) or "nothing"
            raise InputsError(f"{requirement}: pip gave {got}, expected one wheel")
        wheel = files[0]
        digest = store.add_file(wheel, expect=sha256)
        return wheel.name, digest, wheel.stat().st_size


def ensure_wheel(store: Store, name: str, version: str, sha256: str, file: str | None = None) -> None:
    """Fetch a locked wheel if it is missing from the store."""
    if not store.has(sha256):
        download_wheel(store, name, version, sha256=sha256, file=file)


def _accepting(file: str) -> list[str]:
    """The options by which pip takes a wheel of this name, whatever machine and Python it runs on."""
    pythons, abis, platforms = (part.split(".") for part in file.removesuffix(".whl").split("-")[-3:])
    version = max(
        (re.sub(r"\D", "", each) for each in pythons), key=lambda digits: (digits[:1], int(digits[1:] or 0))
    )
    words = ["--ignore-requires-python", "--implementation", "cp", "--python-version", version]
    for option, values in (("--abi", abis), ("--platform", platforms)):
        for value in values:
            words += [option, value]
    return words


def pip_settings() -> dict[str, list[str]]:
    """The host's pip configuration: the values of each setting, from its files and the environment."""
    done = _pip(["config", "list"], "config list", what="pip config list")
    found: dict[str, tuple[int, list[str]]] = {}
    for line in done.decode("utf-8", "replace").splitlines():
        key, equals, value = line.partition("=")
        section, _, name = key.rpartition(".")
        rank = _SECTIONS.get(section)
        if equals and rank is not None and rank >= found.get(name, (0, []))[0]:
            found[name] = (rank, str(ast.literal_eval(value)).split())
    return {name: values for name, (_, values) in found.items()}


def resolve(requirements: Sequence[str], *, before: str, python: str, platform: str) -> tuple[bytes, str]:
    """Let uv choose the wheels for ``requirements``: its pylock.toml (PEP 751), and what it says next to it.

    ``before`` is the first moment whose files do not count. ``InputsError`` has uv's reason if there is no choice.
    """
    from uv import find_uv_bin

    settings = pip_settings()
    words = [
        find_uv_bin(), "pip", "compile", "-", "--format", "pylock.toml", "--no-header", "--no-config", "--no-cache",
        "--only-binary", ":all:", "--python", sys.executable, "--no-python-downloads", "--python-version", python,
        "--python-platform", platform, "--exclude-newer", before,
        # pip takes the best version of all indexes.
        "--index-strategy", "unsafe-best-match",
    ]  # fmt: skip
    words += ["--no-index"] if settings.get("no-index", ["0"])[0].lower() in ("1", "true", "yes", "on") else []
    for name in ("find-links", "constraint"):
        for value in settings.get(name, ()):
            words += [f"--{name}", value]
    for host in settings.get("trusted-host", ()):
        words += ["--allow-insecure-host", host]
    environment = _environment()
    if "cert" in settings:
        environment["SSL_CERT_FILE"] = settings["cert"][0]
    elif "PIP_CERT" in environment:
        environment["SSL_CERT_FILE"] = environment["PIP_CERT"]
    for variable, name in (("UV_DEFAULT_INDEX", "index-url"), ("UV_INDEX", "extra-index-url")):
        if name in settings:
            environment[variable] = " ".join(settings[name])
    done = run(
        words,
        env=environment,
        stdin="".join(f"{line}\n" for line in requirements).encode(),
        timeout=1800,
        what="uv pip compile",
        error=InputsError,
        hint="indexes are set in the host's pip configuration; `pip config list` shows them",
    )
    return done.stdout, done.stderr.decode("utf-8", "replace")


def _pip_program() -> list[str]:
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    # Some virtual environments have no pip; every pip on the host uses the same configuration.
    found = shutil.which("pip3") or shutil.which("pip")
    if found is None:
        raise HostError("wheels are fetched by pip, and this host has none", hint="install pip (python3-pip)")
    return [found]


def _environment() -> dict[str, str]:
    environment = {name: value for name, value in os.environ.items() if _PASSED_ON.match(name)}
    if (certificates := given_certificates()) is not None:
        environment.setdefault("PIP_CERT", str(certificates))
    return environment


def _pip(words: Sequence[str], requirement: str, *, what: str = "") -> bytes:
    done = run(
        [*_pip_program(), *words],
        env=_environment(),
        timeout=1800,
        what=what or f"pip download {requirement}",
        error=InputsError,
        hint="the source of wheels is set in the host's pip configuration; `pip config list` shows it",
    )
    return done.stdout
