"""The options of the verbs that use a key broker's store: where it is, and the key that opens it."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from privml.base.errors import HostError
from privml.cli.output import ask_secret

if TYPE_CHECKING:
    from privml.keybroker.store import Store

STORE = Path("broker.store")
_PR_SET_DUMPABLE = 4
KEK_HELP = "file:PATH, passphrase (asked for), passphrase:PATH, or pkcs11:..."


def store_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--store`, `--kek` and `--head`; the command gets them as one argument, ``words``."""

    @functools.wraps(command)
    def collected(*positional: Any, **given: Any) -> Any:
        words = StoreWords(given.pop("store"), given.pop("kek"), given.pop("head"))
        return command(*positional, words=words, **given)

    made = click.option(
        "--head",
        metavar="FILE",
        type=click.Path(dir_okay=False, path_type=Path),
        help="Where the newest state is pinned, best on another disk [the store's path with `.head`].",
    )(collected)
    made = click.option(
        "--kek",
        metavar="URI",
        help=f"The key that wraps the store: {KEK_HELP} [file: with the store's path and `.kek`].",
    )(made)
    return click.option(
        "--store",
        metavar="FILE",
        type=click.Path(dir_okay=False, path_type=Path),
        default=STORE,
        show_default=True,
        help="The broker's store, one file.",
    )(made)


@dataclass(frozen=True)
class StoreWords:
    """The options about a store, as they were given."""

    store: Path
    kek: str | None
    head: Path | None

    @property
    def kek_uri(self) -> str:
        """The URI of the key that wraps the store."""
        return f"file:{self.store}.kek" if self.kek is None else self.kek

    @contextlib.contextmanager
    def opened(self, *, pinned: bool = True) -> Iterator[Store]:
        """The store, held by this process alone; errors as of `keybroker.store.opened`."""
        from privml.keybroker import store  # Linux only, and needed by no other verb

        no_core_dump()
        with store.opened(self.store, self.kek_uri, ask=ask_of("store"), head=self.head, pinned=pinned) as found:
            yield found


def ask_of(what: str) -> Callable[[str], str]:
    """Asks for a secret on the terminal, and says of what it is: the store, or a backup."""
    return lambda text: ask_secret(f"{text} ({what})")


def no_core_dump() -> None:
    """Let this process leave no core dump, which would have keys in it, and let no other of its user read its memory.

    ``HostError`` if the kernel does not allow that.
    """
    import ctypes  # as `resource`, not needed by other verbs, nor on every system there
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Where `core_pattern` is a pipe, its program gets dumps whatever the limit is, unless the process is undumpable.
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise HostError(f"prctl(PR_SET_DUMPABLE): {os.strerror(ctypes.get_errno())}")
