"""Check the guest's own files (overlays, scripts, mkosi configuration) before the long build.

``lint_guest`` is pure. Each finding names a rule of ``rules`` and the line.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from privml.engines.registry import ENGINES
from privml.recipe import guestroot, removals
from privml.recipe.distributions import DISTRIBUTIONS
from privml.recipe.finding import Finding
from privml.recipe.rules import RULES

CONFIGURATION = "mkosi/mkosi.conf.j2"
# Settings allowed in our mkosi configuration. mkosi only warns about unknown settings, which would lose a pin.
SETTINGS = frozenset({
    "BaseTrees", "Bootable", "CacheOnly", "CleanPackageMetadata", "Distribution", "ElTorito", "Environment",
    "EnvironmentFiles", "ExtraTrees", "Format", "History", "Hostname", "Incremental", "Locale", "MakeInitrd",
    "MinimumVersion", "Output", "PackageDirectories", "Packages", "Release", "SandboxTrees",
    "Seed", "SourceDateEpoch", "SplitArtifacts", "Timezone", "ToolsTree", "WithDocs", "WithNetwork",
    "WithRecommends",
})  # fmt: skip
_MUST = {
    "Seed": re.compile(r"\{\{ *seed *\}\}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE),
    "SourceDateEpoch": re.compile(r"\{\{ *source_date_epoch *\}\}|[1-9][0-9]+"),
}
_CACHES = (
    "*/__pycache__/*", "*.pyc", "*/.cache/*", "*/.triton/*", "*/.nv/*", "*/torchinductor_*", "*/huggingface/*",
    "*/var/cache/*", "*/ld.so.cache", "*/aux-cache",
)  # fmt: skip
_KEY_NAMES = ("*/ssh_host_*", "*/dropbear/*_key", "*.key", "*/random-seed", "*/credential.secret", "*/dkms/*")
_KEYS = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----")
_KEY_MAKERS = re.compile(
    r"\b(?:ssh-keygen|uuidgen|mcookie|dkms|make-ssl-cert|openssl\s+(?:genrsa|genpkey|req|rand|ecparam|dhparam)"
    r"|systemd-machine-id-setup|urandom|token_(?:bytes|hex)|uuid4)\b"
)
_NETWORK = re.compile(
    r"\b(?:curl|wget|git\s+(?:clone|fetch|pull)|(?:apt|apt-get|aptitude)\s+(?:-\S+\s+)*(?:update|install|upgrade)"
    r"|pip3?\s+(?:download|install)|npm\s+(?:ci|install)|cargo\s+(?:fetch|install)|urllib\.request|http\.client)\b"
    r"|https?://[a-z0-9]"
)
_LATEST = re.compile(r"[:@=/](?:latest|nightly)\b|\b(?:latest|nightly)/", re.IGNORECASE)
_MOVING = frozenset({"latest", "stable", "testing", "unstable", "sid", "rolling", "oldstable"})
_PLAIN = (".service", ".socket", ".target", ".mount", ".network", ".conf", ".preset", ".j2", ".json", ".rules")

_PROGRAMS = frozenset({
    *guestroot.PROGRAMS,
    *(release.python for one in DISTRIBUTIONS.values() for release in one.releases.values()),
    *(program for engine in ENGINES.values() for program in engine.programs),
})  # fmt: skip
"""Programs that some recipe keeps; which of them an image has is known when it is built."""


@dataclass(frozen=True)
class GuestFile:
    """One file: its bytes (a link's target), its mode bits, and whether it is a link."""

    data: bytes
    mode: int = 0o644
    link: bool = False


def read_guest(images: Path) -> dict[str, GuestFile]:
    """The guest's own files below ``images``, as ``lint_guest`` takes them."""
    found = {}
    for path in sorted(images.rglob("*")):
        name = path.relative_to(images).as_posix()
        if path.is_symlink():
            found[name] = GuestFile(os.fsencode(path.readlink()), link=True)
        elif path.is_file() and "__pycache__" not in path.relative_to(images).parts[:-1]:
            found[name] = GuestFile(path.read_bytes(), path.stat().st_mode & 0o7777)
    return found


def lint_guest(files: Mapping[str, GuestFile]) -> list[Finding]:
    """Problems of the files below ``images``, by path and line."""
    found: list[Finding] = []
    for path, file in sorted(files.items()):
        found += _of_path(path, file)
        if not file.link:
            found += _of_content(path, file.data)
    if CONFIGURATION in files:
        found += _of_configuration(files[CONFIGURATION].data.decode("utf-8", "replace"))
    else:
        found.append(_finding("missing-seed", f"there is no {CONFIGURATION}", CONFIGURATION, 0))
    return found


def unwanted(path: str, file: GuestFile) -> Iterator[tuple[str, str]]:
    """Rule and text for what no file of an image may be: a cache, a key, a seed."""
    if any(fnmatchcase(f"/{path}", glob) for glob in _CACHES):
        yield "baked-cache", "caches are not allowed in an image"
    if any(fnmatchcase(f"/{path}", glob) for glob in _KEY_NAMES) and file.data:
        yield "generated-keys", "keys and seeds are not allowed in an image"
    if not file.link and _KEYS.search(file.data):
        yield "generated-keys", "contains a private key"


def _of_path(path: str, file: GuestFile) -> Iterator[Finding]:
    for rule, text in unwanted(path, file):
        yield _finding(rule, text, path, 0)
    if path.endswith("etc/machine-id") and file.data.strip():
        yield _finding("generated-keys", "got an id, expected an empty file", path, 0)
    area, _, inside = path.partition("/")
    if area == "guest" and (why := removals.lost(inside.partition("/")[2], _PROGRAMS)) is not None:
        yield _finding("overlay-lost", f"it would not be in the image: {why}", path, 0)
    if file.link:
        return
    if file.mode & 0o6000:
        yield _finding("overlay-modes", f"mode {file.mode & 0o7777:04o} has a set-id bit", path, 0)
    elif file.mode & 0o111 and path.endswith(_PLAIN):
        yield _finding("overlay-modes", f"mode {file.mode & 0o7777:04o}, expected it not to be executable", path, 0)


def _of_content(path: str, data: bytes) -> Iterator[Finding]:
    script = data.startswith(b"#!") or path.startswith("mkosi/")
    if b"\0" in data or not script:
        return
    for number, line in enumerate(data.decode("utf-8", "replace").splitlines(), 1):
        if line.lstrip().startswith("#"):
            continue
        for rule, pattern, text in (
            ("script-network", _NETWORK, "a script that needs a network"),
            ("generated-keys", _KEY_MAKERS, "a script that generates random values"),
            ("latest", _LATEST, "a name that changes its meaning over time"),
        ):
            if match := pattern.search(line):
                yield _finding(rule, f"`{match[0].strip()}`: {text}", path, number)


def _of_configuration(text: str) -> Iterator[Finding]:
    seen: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        key, equals, value = line.partition("=")
        if not equals or line[:1].isspace() or line.startswith("#"):
            continue
        if key not in SETTINGS:
            yield _finding("unknown-setting", f"`{key}` is not a known setting", CONFIGURATION, number)
        if key in seen:
            yield _finding("unknown-setting", f"`{key}` is already set in line {seen[key]}", CONFIGURATION, number)
        seen[key] = number
        if key == "WithNetwork" and value.strip().lower() not in ("no", "false", "0", "never"):
            yield _finding("script-network", f"got WithNetwork={value}, expected no", CONFIGURATION, number)
        if key == "Release" and value.strip().lower() in _MOVING:
            text_ = f"got `{value.strip()}`, which will mean a different release later; expected a code name"
            yield _finding("latest", text_, CONFIGURATION, number)
        if key in _MUST and not _MUST[key].fullmatch(value.strip()):
            yield _finding("missing-seed", f"got {key}={value}, expected a fixed value", CONFIGURATION, number)
    for key in _MUST:
        if key not in seen:
            yield _finding("missing-seed", f"{key}= is not set", CONFIGURATION, 0)


def _finding(rule: str, text: str, path: str, line: int) -> Finding:
    return Finding(text, rule, RULES[rule].severity, f"images/{path}", line)


def errors(findings: Iterable[Finding]) -> list[Finding]:
    """The findings that stop a build."""
    return [finding for finding in findings if finding.severity == "error"]
