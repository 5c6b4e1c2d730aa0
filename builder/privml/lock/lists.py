"""Package lists of an archive's suites in a temporary apt state, which checks their signatures.

The host's apt state is neither read nor written: lists, status, preferences and trust are in a temporary directory,
with one keyring.
"""

from __future__ import annotations

import re
import shutil
import tempfile
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from privml.base.causes import HostCause
from privml.base.errors import HostError, InputsError
from privml.base.steps import say
from privml.base.wayout import host_way_out
from privml.lock.aptstate import apt_configuration
from privml.lock.apttools import AptTools
from privml.lock.archiverecord import Archive
from privml.lock.debian import PackagesIndex
from privml.lock.record import format_time
from privml.recipe.distributions import Suite
from privml.store.mirrors import Mirrors, configured_addresses

# Checks the signed state of a suite (the bytes of its InRelease); InputsError if it is not acceptable.
Accept = Callable[[Suite, bytes], Archive]

LISTS_NEED = 192 * 1024 * 1024
"""Room for the package lists and apt's cache of them; 150 MiB were seen for Debian forky."""
MAX_LIST = 512 * 1024 * 1024
"""Largest package list of a component."""
_TARGET_FORMAT = "$(FILENAME)|$(BASE_URI)|$(REPO_URI)|$(RELEASE)|$(COMPONENT)"
# Messages of sqv, gpgv and apt about a signature from the future.
_TOO_EARLY = ("Not live until", "from the future", "is not valid yet")


class Lists:
    """A temporary apt state with updated package lists. ``archives`` are its signed states."""

    def __init__(self, tools: AptTools, folder: Path, suites: Sequence[Suite], keyring: str) -> None:
        self._tools = tools
        self._folder = folder
        self._suites = tuple(suites)
        self._keyring = keyring
        self._known: list[list[str]] = []
        self.archives: tuple[Archive, ...] = ()
        self.inreleases: tuple[bytes, ...] = ()

    @classmethod
    @contextmanager
    def with_keyring(
        cls, tools: AptTools, mirrors: Mirrors, suites: Sequence[Suite], keyring: bytes, accept: Accept
    ) -> Iterator[Self]:
        """The lists of ``suites`` that a key of this binary keyring has signed, in a temporary directory."""
        with temporary() as folder:
            place = folder / "keyring.gpg"
            place.write_bytes(keyring)
            lists = cls(tools, folder, suites, str(place))
            lists.update(mirrors, accept)
            yield lists

    def update(self, mirrors: Mirrors, accept: Accept) -> None:
        """Fetch the lists from the first combination of mirrors that serves all suites in acceptable states.

        A mirror that lags behind is skipped if another one is up to date. If all mirrors have unacceptable signed
        states, the ``InputsError`` of the first one is raised.
        """
        labels = sorted({suite.archive for suite in self._suites})
        for label in labels:
            if not mirrors.get(label):
                raise InputsError(
                    f"no mirror of the archive `{label}` is configured on this host",
                    hint="name one in mirrors.yaml (see `privml-build lock --help`)",
                )
        tried: list[tuple[str, HostError]] = []
        refused: list[InputsError] = []
        turns = max(len(mirrors[label]) for label in labels)
        for turn in range(turns):
            chosen = {label: mirrors[label][min(turn, len(mirrors[label]) - 1)] for label in labels}
            self._write(chosen)
            try:
                self._apt("update", "--error-on=any", "-qq")
                self.inreleases = tuple(self._signed_states())
                self.archives = tuple(map(accept, self._suites, self.inreleases))
            except HostCause:
                raise  # another mirror would not help
            except HostError as error:
                hosts = (urllib.parse.urlsplit(chosen[label]).hostname for label in labels)
                tried.append((", ".join(map("{} at {}".format, labels, hosts)), error))
                continue
            except InputsError as error:
                refused.append(error)
                if turn + 1 < turns:
                    say(f"{error.message}; trying the next mirror")
                continue
            return
        messages = [f"{where}: {error.message}" for where, error in tried]
        if refused:
            raise InputsError("\n".join([refused[0].message, *messages]), hint=refused[0].hint)
        early = any(words in message for message in messages for words in _TOO_EARLY)
        other = next((error.hint for _, error in tried if error.hint), None)
        raise InputsError(
            "could not fetch the package lists:\n" + "\n".join(messages),
            hint=f"set the clock: it says {format_time(datetime.now(UTC))}, before these lists were signed"
            if early
            else other or "name reachable mirrors in mirrors.yaml (`privml-build doctor` tests each of them)",
        )

    def indexes(self) -> list[PackagesIndex]:
        """The package lists verified by apt against the signed states."""
        archives = {suite.name: suite.archive for suite in self._suites}
        order = list(archives)
        found = []
        for filename, _, repository, release, component in sorted(
            self._targets(), key=lambda target: order.index(target[3])
        ):
            path, archive = Path(filename), archives[release]
            if path.stat().st_size > MAX_LIST:
                raise InputsError(f"{archive}/{release}/{component}: its list has more than {MAX_LIST >> 20} MiB")
            found.append(
                PackagesIndex.read(path, archive=archive, suite=release, component=component, base=repository)
            )
        return found

    def _write(self, chosen: Mapping[str, str]) -> None:
        self._known = []
        for name in ("lists/partial", "state", "cache/archives/partial", "log"):
            path = self._folder / name
            shutil.rmtree(path, ignore_errors=True)
            path.mkdir(parents=True)
        (self._folder / "status").write_bytes(b"")
        sources = "".join(
            f"deb [signed-by={self._keyring}] {chosen[suite.archive]} {suite.name} {' '.join(suite.components)}\n"
            for suite in self._suites
        )
        (self._folder / "sources.list").write_text(sources + self._own_sources(), encoding="utf-8")
        (self._folder / "preferences").write_text(self._preferences(), encoding="utf-8")
        way = host_way_out(configured_addresses())
        logins = self._folder / "auth.conf"
        logins.touch(0o600)
        logins.write_text(way.apt_logins(), encoding="utf-8")
        configuration = apt_configuration(self._folder, way, chosen.values())
        (self._folder / "apt.conf").write_text(configuration, encoding="utf-8")

    def _own_sources(self) -> str:
        """Further lines of sources.list, of repositories in the state's directory."""
        return ""

    def _preferences(self) -> str:
        return ""

    def _apt(self, *words: str, program: str = "apt-get") -> str:
        # APT_CONFIG, because only this file is read before the configuration of the tree that apt comes from.
        argv = ["/usr/bin/env", f"APT_CONFIG={self._folder}/apt.conf", program, *words]
        return self._tools.run(argv, {str(self._folder): str(self._folder)}).stdout.decode("utf-8")

    def _targets(self) -> list[list[str]]:
        """The lists that apt has of the suites; the same after each update."""
        if not self._known:
            self._known = self._listed()
        return self._known

    def _listed(self) -> list[list[str]]:
        listing = self._apt("indextargets", "--format", _TARGET_FORMAT, "Created-By: Packages")
        targets = [line.split("|") for line in listing.splitlines() if line and f"|file:{self._folder}/" not in line]
        found = {(target[3], target[4]) for target in targets}
        for suite in self._suites:
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
        for suite in self._suites:
            yield files[suite.name].read_bytes()


@contextmanager
def temporary() -> Iterator[Path]:
    """A directory for an apt state; ``HostError`` if there is no room for it."""
    place = Path(tempfile.gettempdir())
    free = shutil.disk_usage(place).free
    if free < LISTS_NEED:
        raise HostError(
            f"no room in {place} (TMPDIR): {free >> 20} MiB free, the package lists need {LISTS_NEED >> 20}",
            hint="make room there, or set TMPDIR to another disk",
        )
    with tempfile.TemporaryDirectory(prefix="privml-apt.") as name:
        yield Path(name)
