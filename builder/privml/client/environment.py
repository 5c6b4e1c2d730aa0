"""Environment variables of client programs: those that select the local proxy, and those that bypass it.

OpenAI's client uses ``HTTP_PROXY`` and ``ALL_PROXY`` even for local addresses: with one of them set, it sends prompts
in plain text to that proxy unless ``NO_PROXY`` covers the address. Names may be upper or lower case. If both are set,
lower case wins, so ``NO_PROXY`` alone may have no effect.
"""

from __future__ import annotations

from collections.abc import Mapping

_PROXIES = ("http_proxy", "https_proxy", "all_proxy")
_NO_PROXY = "no_proxy"


def client_variables(host: str, port: int) -> dict[str, str]:
    """Variables for client programs to reach a proxy that listens on ``host`` and ``port``."""
    here = f"{host if ':' in host else '127.0.0.1'},localhost"
    return {
        "NO_PROXY": here,
        "no_proxy": here,
        "OPENAI_BASE_URL": f"http://{_authority(host)}:{port}/v1",
        "OPENAI_API_KEY": "none",
    }


def detour_warning(environment: Mapping[str, str], host: str, port: int) -> str | None:
    """A warning if a client in ``environment`` may send requests for ``host`` and ``port`` to another proxy.

    Values are not shown: a proxy's address may contain a password.
    """
    effective = _effective(environment)
    proxies = [effective[name][0] for name in _PROXIES if name in effective]
    no_proxy, value = effective.get(_NO_PROXY, ("NO_PROXY", ""))
    if not proxies or _covers(value, host, port):
        return None
    return (
        f"{', '.join(proxies)} is set, and {no_proxy} does not cover {host}: a client in this environment may send "
        "its prompts in plain text to that proxy instead of this one; start it with NO_PROXY and no_proxy as above"
    )


def _effective(environment: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Lower-case name -> (name as it stands, value), as Python's urllib reads it: lower case wins, and unsets."""
    found = {name.lower(): (name, value) for name, value in environment.items() if value}
    for name, value in environment.items():
        if name.endswith("_proxy"):
            found.pop(name.lower(), None)
            if value:
                found[name.lower()] = (name, value)
    return found


def _covers(no_proxy: str, host: str, port: int) -> bool:
    """True if all known clients bypass their proxy for the address.

    urllib accepts ``*`` only on its own; httpx accepts ``.localhost`` only for names below it; neither accepts a
    final dot, and only some accept networks. IPv6 addresses are bare for httpx and in brackets for urllib.
    """
    if no_proxy == "*":
        return True
    entries = {entry.strip().lower() for entry in no_proxy.split(",")}
    return not entries.isdisjoint({host, _authority(host), f"{_authority(host)}:{port}"})


def _authority(host: str) -> str:
    return f"[{host}]" if ":" in host else host
