"""The environment of a client program: the variables that lead it to the local proxy, and those that lead it past.

OpenAI's client obeys ``HTTP_PROXY`` and ``ALL_PROXY``, for addresses of this machine too: with one of them set, it
sends prompts in clear to that proxy unless ``NO_PROXY`` covers the address. The names may be of either case. Where
both are set the lower case counts, so ``NO_PROXY`` alone may do nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

_PROXIES = ("http_proxy", "https_proxy", "all_proxy")
_NO_PROXY = "no_proxy"


def client_variables(host: str, port: int) -> dict[str, str]:
    """What a client program's environment must hold to reach a proxy that listens on ``host`` and ``port``."""
    here = f"{host if ':' in host else '127.0.0.1'},localhost"
    return {
        "NO_PROXY": here,
        "no_proxy": here,
        "OPENAI_BASE_URL": f"http://{_authority(host)}:{port}/v1",
        "OPENAI_API_KEY": "none",
    }


def detour_warning(environment: Mapping[str, str], host: str, port: int) -> str | None:
    """A warning when a client in ``environment`` may send what is meant for ``host`` and ``port`` to another proxy.

    The values are not part of it: a proxy's address may hold a password.
    """
    effective = _effective(environment)
    proxies = [effective[name][0] for name in _PROXIES if name in effective]
    no_proxy, value = effective.get(_NO_PROXY, ("NO_PROXY", ""))
    if not proxies or _covers(value, host, port):
        return None
    return (
        f"{', '.join(proxies)} is set, and {no_proxy} does not cover {host}: a client in this environment may send "
        "its prompts in clear to that proxy instead of this one; start it with NO_PROXY and no_proxy as above"
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
    """True when every client that we know leaves its proxy out.

    urllib takes ``*`` only when nothing else is there; httpx takes ``.localhost`` only for names below it; neither
    takes a final dot, and only some take networks. An IPv6 address stands bare for httpx and in brackets for urllib.
    """
    if no_proxy == "*":
        return True
    entries = {entry.strip().lower() for entry in no_proxy.split(",")}
    return not entries.isdisjoint({host, _authority(host), f"{_authority(host)}:{port}"})


def _authority(host: str) -> str:
    return f"[{host}]" if ":" in host else host
