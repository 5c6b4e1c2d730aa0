"""Sessions with a hardware token, by a PKCS #11 URI (RFC 7512).

``pkcs11:token=LABEL;object=LABEL?module-path=/usr/lib/.../module.so``, with ``&pin-source=file:PATH`` where nobody
can be asked for the PIN. A PIN in the URI is refused: any user of the machine can read it in a command line. The
Python package comes with the extra ``privml-build[hsm]``.
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from privml.base import extras
from privml.base.errors import HostError, UsageError
from privml.base.files import read_start

SCHEME = "pkcs11"
_PATH = ("token", "object")
_QUERY = ("module-path", "pin-source")
_SHAPE = "pkcs11:token=LABEL;object=LABEL?module-path=/usr/lib/.../module.so"
_MAX_PIN = 256
Made = TypeVar("Made")


@dataclass(frozen=True)
class TokenUri:
    """The parts of a URI: labels of token and key, the PKCS #11 module, and the file of the PIN or None."""

    token: str
    key: str
    module: str
    pin_source: Path | None

    @classmethod
    def parse(cls, uri: str, option: str = "--key") -> TokenUri:
        """Read a URI; ``UsageError`` for one with a PIN, with an unknown part or without a needed one.

        ``option`` is named in messages.
        """
        path, _, query = uri.partition(":")[2].partition("?")
        found: dict[str, str] = {}
        for text, separator, known in ((path, ";", _PATH), (query, "&", _QUERY)):
            for part in filter(None, text.split(separator)):
                name, _, value = part.partition("=")
                if name == "pin-value":
                    raise UsageError(
                        f"{option}: a PIN in the address can be read by every user of this machine",
                        hint="leave it out to be asked, or name a file with pin-source=file:PATH",
                    )
                if name not in known or name in found:
                    raise UsageError(f"{option}: `{name[:40]}` is not expected there once, expected {_SHAPE}")
                found[name] = urllib.parse.unquote(value)
        if missing := [name for name in (*_PATH, "module-path") if not found.get(name)]:
            raise UsageError(f"{option}: `{missing[0]}` is missing, expected {_SHAPE}")
        source = found.get("pin-source")
        if source is not None and not source.removeprefix("file:").startswith("/"):
            raise UsageError(f"{option}: pin-source got `{source[:80]}`, expected file:/PATH")
        pin = None if source is None else Path(source.removeprefix("file:"))
        return cls(found["token"], found["object"], found["module-path"], pin)


def _pin(wanted: TokenUri, ask: Callable[[str], str] | None) -> str:
    if wanted.pin_source is not None:
        try:
            data = read_start(wanted.pin_source, _MAX_PIN)
        except OSError as error:
            raise HostError(f"{wanted.pin_source} cannot be read: {error.strerror or error}") from error
        return data.decode("utf-8", "replace").rstrip("\r\n")
    if ask is None:
        raise HostError(f"token `{wanted.token}` has a PIN, and there is nobody to ask for it")
    return ask(f"PIN of token {wanted.token}")


class Token:
    """A token with its PIN. Each use has a session of its own, because a login is the whole program's.

    ``pkcs11`` is the Python package, for its names of mechanisms and attributes.
    """

    def __init__(self, wanted: TokenUri, ask: Callable[[str], str] | None) -> None:
        """Load the Python package, and read or ask for the PIN; ``HostError`` if either cannot be."""
        self.pkcs11 = extras.load("pkcs11")
        self.wanted = wanted
        self._pin = _pin(wanted, ask)

    def use(self, work: Callable[..., Made], *words: object) -> Made:
        """What ``work`` makes in a session; ``HostError`` if the token does not let it."""
        wanted = self.wanted
        try:
            token = self.pkcs11.lib(wanted.module).get_token(token_label=wanted.token)
            with token.open(user_pin=self._pin) as session:
                return work(session, *words)
        except self.pkcs11.exceptions.PKCS11Error as error:
            said = str(error) or type(error).__name__
            raise HostError(
                f"token `{wanted.token}`, key `{wanted.key}` cannot be used: {said}",
                hint="check that the token is plugged in, its labels, and the PIN",
            ) from error
        except (OSError, RuntimeError) as error:
            raise HostError(f"{wanted.module} cannot be loaded: {error}") from error
