"""A systemd unit that starts the guest with QEMU, in a sandbox."""

from __future__ import annotations

import re

from privml.base.errors import UsageError
from privml.deploy.deployment import STOPPING, Deployment, Written
from privml.machine.platform import MEMORY, Platform

_DIRECTORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_NOTHING_ELSE = """\
NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
UMask=0077
ProtectSystem=strict
ProtectHome=read-only
PrivateTmp=yes
PrivateMounts=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectProc=invisible
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
KeyringMode=private
SystemCallArchitectures=native
SystemCallFilter=@system-service
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_VSOCK
IPAddressDeny=any
IPAddressAllow=localhost
DevicePolicy=closed
DeviceAllow=/dev/kvm rw"""
POWER_BUTTON = (
    "import socket, sys; monitor = socket.socket(socket.AF_UNIX); monitor.connect_ex(sys.argv[1]) or "
    '(monitor.sendall(b\'{"execute":"qmp_capabilities"}{"execute":"system_powerdown"}\'), '
    "all(iter(lambda: monitor.recv(65536), b'')))"
)
"""Python that presses the power button at QEMU's monitor and waits for QEMU's end; does nothing if that has come."""
_VSOCK = "DeviceAllow=/dev/vhost-vsock rw"
_CARDS = "DeviceAllow=char-vfio rw\nDeviceAllow=/dev/iommu rw\nDeviceAllow=/dev/vfio/vfio rw\nLimitMEMLOCK=infinity"


def write(deployment: Deployment) -> Written:
    """A service with exactly the arguments of `run --tdx`, which may use the image, KVM and the loopback."""
    place = deployment.state
    if place.parent.as_posix() != "/run" or not _DIRECTORY.fullmatch(place.name):
        raise UsageError(
            f"--state {place}: expected a folder of /run, such as /run/privml-{deployment.name}",
            hint="systemd makes and removes it with the unit",
        )
    if ":" in str(deployment.launch.image):
        raise UsageError(f"--folder {deployment.launch.image}: expected a path without a colon, for a unit")
    platform, folder = deployment.launch.platform, str(deployment.launch.image)
    # A colon before the program: nothing is substituted in its words, so that `$` is itself.
    argv = " \\\n    ".join(map(_word, [deployment.qemu, *deployment.arguments()]))
    # Without Python there, the minus lets systemd go on to SIGTERM, which ends QEMU at once.
    stop = " ".join(map(_word, ["/usr/bin/python3", "-c", POWER_BUTTON, f"{place}/qmp.sock"]))
    text = f"""\
# Start {deployment.title}.
# The arguments decide RTMR0: another QEMU than {platform.qemu}, or another size, device or slot, moves it.
[Unit]
Description={deployment.name} as a TD
ConditionPathExists=/dev/kvm
After=network.target

[Service]
Type=exec
ExecStart=:{argv}
Restart=always
RestartSec=10
ExecStop=-:{stop}
TimeoutStopSec={STOPPING}
RuntimeDirectory={_word(place.name)}
RuntimeDirectoryMode=0700
BindReadOnlyPaths={_word(folder)}
{_user(platform)}
{_NOTHING_ELSE}
{_devices(platform)}
[Install]
WantedBy=multi-user.target
"""
    return Written(text, notes=(f"the unit's user must be allowed to read {folder}",))


def _has(platform: Platform, kind: str) -> bool:
    return any(device.kind == kind for device in platform.devices)


def _user(platform: Platform) -> str:
    # The nodes of VFIO are root's.
    return "User=root" if _has(platform, MEMORY) else "DynamicUser=yes\nSupplementaryGroups=kvm"


def _devices(platform: Platform) -> str:
    lines = [text for kind, text in (("vsock", _VSOCK), (MEMORY, _CARDS)) if _has(platform, kind)]
    return "".join(f"{line}\n" for line in lines)


def _word(word: str) -> str:
    """A word of a unit file, quoted: specifiers and escapes are itself."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'
