"""Run apt with a temporary state, to resolve packages and check archive signatures.

The host's apt state is neither read nor written: lists, status, preferences and trust are in a temporary directory,
with one keyring. apt itself comes from the tools tree. To create the first tools tree, or one whose lock is lost, the
host's apt with the host's archive keyring is the declared starting point.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from privml.base.causes import HostCause
from privml.base.errors import HostError, InputsError
from privml.base.run import Completed, run
from privml.base.steps import say
from privml.base.wayout import host_way_out
from privml.lock.aptstate import KEPT, apt_configuration, blamed, conclusion, preferences, write_kept
from privml.lock.debian import PackagesIndex, dependency_names, parse_inrelease
from privml.lock.models import Archive, Package, format_time
from privml.lock.states import judge
from privml.lock.wanted import Resolution, Wanted, check_suites, in_order
from privml.recipe.distributions import Distribution, Suite
from privml.store.mirrors import Mirrors, configured_addresses

# Runs a program of a tree with argv and the host directories to bind (host path -> path inside).
# Raises HostError with the program's output if it fails.
AptRun = Callable[[list[str], Mapping[str, str]], Completed]

# Checks the signed state of a suite (the bytes of its InRelease); InputsError if it is not acceptable.
Accept = Callable[["Suite", bytes], Archive]

_TARGET_FORMAT = "$(FILENAME)|$(BASE_URI)|$(REPO_URI)|$(RELEASE)|$(COMPONENT)"
# Messages of sqv, gpgv and apt about a signature from the future.
_TOO_EARLY = ("Not live until", "from the future", "is not valid yet")
LISTS_NEED = 192 * 1024 * 1024
"""Room for the package lists and apt's cache of them; 150 MiB were seen for Debian forky."""
_PRINTED = re.compile(r"\A'(?P<uri>[^']+)' (?P<file>\S+) (?P<size>\d+)")


@dataclass(frozen=True)
class AptTools:
    """An apt for one distribution: how to run it, and the path of the archive keyring inside its root."""

    run: AptRun
    keyring: str
    described: str


def host_tools(distribution: Distribution, root: Path = Path("/")) -> AptTools:
    """The host's apt and keyring; ``HostError`` if the host lacks one of them."""
    keyring = keyring_in(root, distribution)
    missing = [name for name in ("apt-get", "gpgv") if shutil.which(name, path="/usr/bin:/bin") is None]
    if keyring is None:
        missing.append(distribution.keyring_package)
    if missing or keyring is None:
        raise HostError(
            f"no verified tools tree, and the host lacks {', '.join(missing)}",
            hint="archive signatures are always checked: install what is missing, or use a built tools tree",
        )
    return AptTools(
        lambda argv, _: run(argv, timeout=600, what=described(argv)),
        str(root / keyring),
        "the host's apt and archive keyring",
    )


def keyring_in(root: Path, distribution: Distribution) -> str | None:
    """The path below ``root`` of the distribution's archive keyring, if it exists."""
    return next((name for name in distribution.keyrings if (root / name).is_file()), None)


def described(argv: Sequence[str]) -> str:
    """argv of ``apt-get update``."""
    return " ".join(argv[2:4])


def resolve(
    tools: AptTools,
    mirrors: Mirrors,
    wanted: Wanted,
    *,
    before: Sequence[Archive] = (),
    allow_expired: bool = False,
    now: datetime | None = None,
) -> Resolution:
    """Update the package lists (checking signatures), refuse old or expired ones, and resolve with apt.

    Pins are kept unless apt finds no solution; then those named in apt's error are released, with a message.
    """
    moment = now or datetime.now(UTC)

    def accept(suite: Suite, inrelease: bytes) -> Archive:
        digest = hashlib.sha256(inrelease).hexdigest()
        release = parse_inrelease(inrelease)
        return judge(suite, release, digest, before, allow_expired, moment, wanted.base.distribution.origin_of(suite))

    with Session.opened(tools, mirrors, wanted, accept) as session:
        archives, inreleases = session.archives, session.inreleases
        indexes = session.indexes()
        requested = tuple(part for each in wanted.install for part in session.kernel_parts(each.name, indexes))
        packages = session.solve_keeping(requested, indexes)
        alone = tuple(session.candidate(each.name, indexes) for each in wanted.alone)
        check_suites(wanted, (*packages, *alone))
        return Resolution(archives, inreleases, requested, in_order(packages), alone)


class Session:
    """A temporary apt state with updated package lists. ``archives`` are its signed states."""

    def __init__(self, tools: AptTools, folder: Path, wanted: Wanted) -> None:
        self._tools = tools
        self._folder = folder
        self._wanted = wanted
        self.archives: tuple[Archive, ...] = ()
        self.inreleases: tuple[bytes, ...] = ()

    @classmethod
    @contextmanager
    def opened(cls, tools: AptTools, mirrors: Mirrors, wanted: Wanted, accept: Accept) -> Iterator[Session]:
        """A state in a temporary directory, which is removed afterwards."""
        _require_room()
        with tempfile.TemporaryDirectory(prefix="privml-apt.") as name:
            session = cls(tools, Path(name), wanted)
            session.update(mirrors, accept)
            yield session

    def update(self, mirrors: Mirrors, accept: Accept) -> None:
        """Fetch the lists from the first combination of mirrors that serves all suites in acceptable states.

        A mirror that lags behind is skipped if another one is up to date. If all mirrors have unacceptable signed
        states, the ``InputsError`` of the first one is raised.
        """
        labels = sorted({suite.archive for suite in self._wanted.suites})
        for label in labels:
            if not mirrors.get(label):
                raise InputsError(
                    f"no mirror of the archive `{label}` is configured on this host",
                    hint="name one in mirrors.yaml (see `privml-build lock --help`)",
                )
        tried: list[str] = []
        refused: list[InputsError] = []
        turns = max(len(mirrors[label]) for label in labels)
        for turn in range(turns):
            chosen = {label: mirrors[label][min(turn, len(mirrors[label]) - 1)] for label in labels}
            self._write(chosen)
            try:
                self._apt("update", "--error-on=any", "-qq")
                self.inreleases = tuple(self._signed_states())
                self.archives = tuple(map(accept, self._wanted.suites, self.inreleases))
            except HostCause:
                raise  # another mirror would not help
            except HostError as error:
                tried.append(error.message)
                continue
            except InputsError as error:
                refused.append(error)
                if turn + 1 < turns:
                    say(f"{error.message}; trying the next mirror")
                continue
            return
        if refused:
            raise InputsError("\n".join([refused[0].message, *tried]), hint=refused[0].hint)
        early = any(words in message for message in tried for words in _TOO_EARLY)
        raise InputsError(
            "could not fetch the package lists:\n" + "\n".join(tried),
            hint=f"set the clock: it says {format_time(datetime.now(UTC))}, before these lists were signed"
            if early
            else "name reachable mirrors in mirrors.yaml (`privml-build doctor` tests each of them)",
        )

    def _write(self, chosen: Mapping[str, str]) -> None:
        for name in ("lists/partial", "state", "cache/archives/partial", "log"):
            path = self._folder / name
            shutil.rmtree(path, ignore_errors=True)
            path.mkdir(parents=True)
        (self._folder / "status").write_bytes(b"")
        keyring = self._tools.keyring
        sources = "".join(
            f"deb [signed-by={keyring}] {chosen[suite.archive]} {suite.name} {' '.join(suite.components)}\n"
            for suite in self._wanted.suites
        )
        sources += write_kept(self._folder, self._wanted.kept)
        (self._folder / "sources.list").write_text(sources, encoding="utf-8")
        self.pin(self._wanted.pins)
        way = host_way_out(configured_addresses())
        logins = self._folder / "auth.conf"
        logins.touch(0o600)
        logins.write_text(way.apt_logins(), encoding="utf-8")
        configuration = apt_configuration(self._folder, way, chosen.values())
        (self._folder / "apt.conf").write_text(configuration, encoding="utf-8")

    def pin(self, pins: Mapping[str, str]) -> None:
        """Pin these versions."""
        base = self._wanted.base.release.suites
        others = [suite.name for suite in self._wanted.suites if suite not in base]
        text = preferences(pins, self._wanted.named, others)
        (self._folder / "preferences").write_text(text, encoding="utf-8")

    def _apt(self, *words: str, program: str = "apt-get") -> str:
        # APT_CONFIG, because only this file is read before the configuration of the tree that apt comes from.
        argv = ["/usr/bin/env", f"APT_CONFIG={self._folder}/apt.conf", program, *words]
        return self._tools.run(argv, {str(self._folder): str(self._folder)}).stdout.decode("utf-8")

    def _targets(self) -> list[list[str]]:
        listing = self._apt("indextargets", "--format", _TARGET_FORMAT, "Created-By: Packages")
        targets = [line.split("|") for line in listing.splitlines() if line and f"|file:{self._folder}/" not in line]
        found = {(target[3], target[4]) for target in targets}
        for suite in self._wanted.suites:
            for component in suite.components:
                if (suite.name, component) not in found:
                    raise InputsError(f"{suite.archive}: the suite `{suite.name}` has no component `{component}`")
        return targets

    def _signed_states(self) -> Iterator[bytes]:
        """The InRelease files verified by apt, in the order of the suites."""
        files = {}
        for filename, _, _, release, component in self._targets():
            escaped = component.replace("/", "_")
            files[release] = Path(re.sub(rf"_{re.escape(escaped)}_binary-amd64_Packages\Z", "_InRelease", filename))
        for suite in self._wanted.suites:
            yield files[suite.name].read_bytes()

    def indexes(self) -> list[PackagesIndex]:
        """The package lists verified by apt against the signed states."""
        archives = {suite.name: suite.archive for suite in self._wanted.suites}
        order = list(archives)
        return [
            PackagesIndex.read(
                Path(filename), archive=archives[release], suite=release, component=component, base=repository
            )
            for filename, _, repository, release, component in sorted(
                self._targets(), key=lambda target: order.index(target[3])
            )
        ]

    def kernel_parts(self, name: str, indexes: Sequence[PackagesIndex]) -> list[str]:
        """Replace a kernel metapackage by the packages with its files; other names are unchanged."""
        kernel = self._wanted.base.distribution.kernel
        if not kernel.is_image(name):
            return [name]
        if self._wanted.kernel:
            return list(self._wanted.kernel)
        fields = self._candidate_fields(name, indexes)
        related = kernel.related(dependency_names(fields.get("Depends", "")))
        inner = kernel.chosen(related)
        if not inner:
            return [name]
        return self.kernel_parts(inner[0], indexes) if kernel.is_image(inner[0]) else sorted(inner)

    def solve(self, names: Sequence[str], indexes: Sequence[PackagesIndex]) -> list[Package]:
        """apt's solution for installing ``names`` into an empty system."""
        try:
            printed = self._apt("install", "--print-uris", "-y", "-q", "--no-install-recommends", *names)
        except HostCause:
            raise
        except HostError as error:
            raise InputsError(f"apt finds no solution for the requested packages\n{error.message}") from error
        return [self._found(uri, indexes) for uri in printed_uris(printed)]

    def solve_keeping(self, names: Sequence[str], indexes: Sequence[PackagesIndex]) -> list[Package]:
        """``solve``, releasing pins that prevent a solution until there is one."""
        pins = dict(self._wanted.pins)
        while True:
            try:
                return self.solve(names, indexes)
            except InputsError as error:
                forced = blamed(error.message, pins)
                if not forced:
                    raise InputsError(conclusion(error.message)) from error
                say("these packages must also change: " + ", ".join(forced))
                pins = {name: version for name, version in pins.items() if name not in forced}
                self.pin(pins)

    def candidate(self, name: str, indexes: Sequence[PackagesIndex]) -> Package:
        """The version of ``name`` that apt would choose, without dependencies."""
        return self._found(self._candidate_uri(name), indexes)

    def _candidate_fields(self, name: str, indexes: Sequence[PackagesIndex]) -> dict[str, str]:
        index, path = _locate(self._candidate_uri(name), indexes)[0]
        return index.fields(path)

    def _candidate_uri(self, name: str) -> str:
        try:
            uris = printed_uris(self._apt("download", "--print-uris", "-qq", name))
        except HostCause:
            raise
        except HostError as error:
            raise InputsError(f"no suite has the package `{name}`\n{error.message}") from error
        if len(uris) != 1:
            raise InputsError(f"`{name}`: apt names {len(uris)} files, expected one")
        return uris[0]

    def _found(self, uri: str, indexes: Sequence[PackagesIndex]) -> Package:
        held = f"file:{self._folder}/{KEPT}/"
        if uri.startswith(held):
            digest = uri.removeprefix(held).removeprefix("./").removesuffix(".deb")
            return next(kept.package for kept in self._wanted.kept if kept.package.sha256 == digest)
        places = [index.package(path) for index, path in _locate(uri, indexes)]
        # Suites of one archive share files: prefer the required suite if it lists the file too.
        suite = self._wanted.suite_of(places[0].name)
        listed = next((package for package in places if package.suite == suite), places[0])
        # Keep the previous record, so that an unchanged package does not show up in a diff.
        same = (kept.package for kept in self._wanted.kept if kept.package.sha256 == listed.sha256)
        return next(same, listed)


def _require_room() -> None:
    folder = Path(tempfile.gettempdir())
    free = shutil.disk_usage(folder).free
    if free < LISTS_NEED:
        raise HostError(
            f"no room in {folder} (TMPDIR): {free >> 20} MiB free, the package lists need {LISTS_NEED >> 20}",
            hint="make room there, or set TMPDIR to another disk",
        )


def printed_uris(text: str) -> list[str]:
    """Parse the addresses in the output of ``--print-uris``."""
    return [match["uri"] for line in text.splitlines() if (match := _PRINTED.match(line))]


def _locate(uri: str, indexes: Sequence[PackagesIndex]) -> list[tuple[PackagesIndex, str]]:
    """The package lists with the file at an address, and its path in their archive."""
    found = []
    for index in indexes:
        if uri.startswith(index.base + "/"):
            path = urllib.parse.unquote(uri.removeprefix(index.base + "/"))
            if index.has(path):
                found.append((index, path))
    if not found:
        raise InputsError(f"apt names {uri}, which is not in any package list")
    return found
