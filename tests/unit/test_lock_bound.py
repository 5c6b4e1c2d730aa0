"""The bound of apt's run: a mirror that accepts and never answers ends it, and the error names the option."""

from __future__ import annotations

import shutil
import socketserver
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import fake_archive
import pytest
from click.testing import CliRunner
from test_lock_archive import EARLY, FORKY, needs_apt
from tests.unit.server_thread import in_thread

from privml.base.errors import HostError, InputsError
from privml.cli import lock as lock_command
from privml.image import bootstrap
from privml.image.relock import Relocking
from privml.image.tools import ToolsTree
from privml.lock.apt import resolve
from privml.lock.apttools import OPTION, SECONDS, host_tools
from privml.lock.wanted import Wanted
from privml.recipe.distributions import DEBIAN
from privml.recipe.packages import Request
from privml.store.mirrors import Mirrors


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a server that accepts connections and sends nothing."""
    ended = threading.Event()

    class Silent(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            ended.wait(60)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    server = Server(("127.0.0.1", 0), Silent)
    with in_thread(server):
        yield f"http://127.0.0.1:{server.server_address[1]}"
        ended.set()


@needs_apt
@pytest.mark.usefixtures("no_proxy")
def test_a_mirror_that_never_answers_ends_at_the_bound_which_names_the_option(
    tmp_path: Path, silent: str, mirrors: Mirrors
) -> None:
    keyring = tmp_path / "root" / DEBIAN.keyrings[0]
    keyring.parent.mkdir(parents=True)
    shutil.copyfile(fake_archive.KEYRING, keyring)
    tools = host_tools(DEBIAN, tmp_path / "root", seconds=0.5)
    wanted = Wanted(FORKY, (Request("app"),))
    start = time.monotonic()
    with pytest.raises(InputsError) as caught:
        resolve(tools, {"debian": (silent,)}, wanted, now=EARLY)
    assert time.monotonic() - start < 20
    assert caught.value.message == (
        "could not fetch the package lists:\n"
        "debian at 127.0.0.1: apt-get update: not done after 0.5 s, expected at most that (`--timeout`)"
    )
    assert (caught.value.hint or "").startswith("give it more time with `--timeout SECONDS`, or name another mirror")
    generous = host_tools(DEBIAN, tmp_path / "root", seconds=60)
    found = resolve(generous, mirrors, wanted, now=EARLY)
    assert [str(package) for package in found.packages] == ["app 1", "common 1", "lib 1"]


def test_the_tree_s_apt_has_the_same_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keyring = tmp_path / DEBIAN.keyrings[0]
    keyring.parent.mkdir(parents=True)
    keyring.touch()
    monkeypatch.setattr(ToolsTree, "command", lambda *_, **__: ["/bin/sleep", "30"])
    tools = bootstrap.tree_apt(ToolsTree(tmp_path, "0"), DEBIAN, seconds=0.1)
    start = time.monotonic()
    with pytest.raises(
        HostError, match=r"apt-get update: not done after 0\.1 s, expected at most that \(`--timeout`\)"
    ):
        tools.run(["/usr/bin/env", "APT_CONFIG=x", "apt-get", "update"], {})
    assert time.monotonic() - start < 10
    monkeypatch.setattr(ToolsTree, "command", lambda *_, **__: ["/bin/false"])
    with pytest.raises(HostError, match="apt-get update failed with status 1"):
        tools.run(["/usr/bin/env", "APT_CONFIG=x", "apt-get", "update"], {})


@pytest.mark.parametrize(("words", "seconds"), [((), SECONDS), ((OPTION, "7"), 7)])
def test_the_option_moves_the_bound(monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], seconds: float) -> None:
    made: list[Relocking] = []
    monkeypatch.setattr(Relocking, "lock", lambda self, _: bool(made.append(self)))
    done = CliRunner().invoke(lock_command.lock, ["tdx-min", *words])
    assert done.exit_code == 0, done.output
    assert [each.seconds for each in made] == [seconds]
    given: list[float] = []
    for chosen in ("host", "tree"):
        monkeypatch.setattr("privml.image.relock.host_tools", lambda _, *, seconds: given.append(seconds))
        monkeypatch.setattr("privml.image.relock.tools_tree", lambda *_: None)
        monkeypatch.setattr("privml.image.relock.tree_apt", lambda *_, seconds: given.append(seconds))
        Relocking(made[0].store, (), made[0].tools_lock, chosen, seconds=seconds).solver().tools(DEBIAN)  # type: ignore[arg-type]
    assert given == [seconds, seconds]


def test_a_bound_of_nothing_is_refused() -> None:
    done = CliRunner().invoke(lock_command.lock, ["tdx-min", OPTION, "0"])
    assert done.exit_code == 2
    assert "0 is not in the range 1<=x<=86400" in done.output
