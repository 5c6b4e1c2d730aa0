"""Every kind of deployment: one record each."""

from __future__ import annotations

from collections.abc import Mapping

from privml.deploy import domain, script, unit, virtualmachine
from privml.deploy.deployment import Kind

QUOTE_PATH = "/var/run/tdx-qgs/qgs.socket"
"""Where Intel's quote generation service listens without a port, and libvirt looks for it."""
_QEMU = frozenset({"folder", "qemu", "gpu", "quote-socket", "port"})

KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("libvirt", domain.write, takes=_QEMU, quote_socket=QUOTE_PATH),
        Kind("kubevirt", virtualmachine.write, takes=frozenset({"container"})),
        Kind("qemu", script.write, takes=_QEMU | {"state"}, mode=0o755),
        Kind("systemd", unit.write, takes=_QEMU | {"state"}),
    )
}
