"""Choose the apt that resolves packages, and create the tools tree that carries it.

There are three cases. All locked tools packages can be fetched: they are fetched by hash and unpacked. A locked tools
package is no longer available: the host's apt, with its gpgv and the archive's keyring, replaces only the missing
packages, with a warning. The host has no gpgv or no keyring: nothing can be verified, so the tree is not created.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from privml.base.errors import HostError
from privml.base.run import Completed
from privml.base.steps import say, step
from privml.image import namespaces
from privml.image import tools as tree_of_tools
from privml.image.tools import Bind, ToolsTree
from privml.lock.apttools import SECONDS, AptTools, bounded, described, host_tools, keyring_in
from privml.lock.make import bring
from privml.lock.models import ToolsLock
from privml.lock.refresh import refresh_tools
from privml.lock.solver import Solver
from privml.recipe.distributions import Distribution
from privml.store.mirrors import Mirrors, host_mirrors
from privml.store.objects import Store
from privml.store.pools import Pool


def tools_tree(
    store: Store,
    lock: ToolsLock,
    pools: Sequence[Pool] = (),
    *,
    mirrors: Callable[[], Mirrors] = host_mirrors,
) -> ToolsTree:
    """The tree of ``lock``, fetched and unpacked if needed; ``GoneError`` when a package is no longer available.

    ``HostError`` at once if this process cannot make the namespaces that the tree's programs run in.
    """
    namespaces.require()
    if not tree_of_tools.is_there(store, lock) and any(not store.has(each.sha256) for each in lock.packages):
        with step(f"Fetching the tools ({len(lock.packages)} packages)"):
            bring(store, lock.packages, pools=pools, mirrors=mirrors)
    return tree_of_tools.ensure(store, lock)


def tree_apt(tools: ToolsTree, distribution: Distribution, *, seconds: float = SECONDS) -> AptTools:
    """The tree's own apt, which may run so long; ``HostError`` when the tree has no keyring of the archive."""
    keyring = keyring_in(tools.root, distribution)
    if keyring is None:
        raise HostError(
            f"the tools tree has no {distribution.keyring_package}, so archive signatures cannot be checked",
            hint="renew the tools with `privml-build lock --tools`",
        )
    names = Bind(Path("/etc/resolv.conf"), "/etc/resolv.conf")

    def run(argv: list[str], binds: Mapping[str, str]) -> Completed:
        folders = [Bind(Path(outside), inside, writable=True) for outside, inside in binds.items()]
        what = described(argv)
        return bounded(
            lambda: tools.run(argv, binds=[*folders, names], network=True, timeout=seconds, what=what), what, seconds
        )

    return AptTools(run, f"/{keyring}", "the tools tree's apt")


def mended(
    store: Store,
    lock: ToolsLock,
    solver: Solver,
    pools: Sequence[Pool] = (),
    *,
    host: Callable[[Distribution], AptTools] = host_tools,
) -> ToolsLock:
    """``lock``, or a copy in which the host's apt replaced the packages that are no longer available.

    ``HostError`` when packages are missing and the host has no supported apt, gpgv and keyring.
    """
    if tree_of_tools.is_there(store, lock):
        return lock

    def chosen(distribution: Distribution) -> AptTools:
        tools = host(distribution)
        say(f"packages of the tools lock are no longer available: resolving replacements with {tools.described}")
        return tools

    return refresh_tools(
        lock,
        store,
        replace(solver, tools=chosen),
        lambda packages: bring(store, packages, pools=pools, mirrors=solver.mirrors),
    )
