"""A KubeVirt VirtualMachine, and the container image that it takes its files from.

Its firmware and its machine are KubeVirt's own, so MRTD and RTMR0 are not those of an image's platforms.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Any

import yaml

from privml.base.errors import UsageError
from privml.deploy.deployment import STOPPING, Deployment, Written
from privml.events.registers import MRTD, RTMR0
from privml.machine.platform import MEMORY

LAYOUT = "#| "
"""Begins each line of the Containerfile in the manifest."""
# The user of KubeVirt's QEMU.
_OWNER = "107:107"
_REFERENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,254}")
_PORT_NAME = "attested"


def write(deployment: Deployment) -> Written:
    """A VirtualMachine with containerDisk volumes, and kernelBoot unless it boots from the first of them.

    The Containerfile of its files is in comments.
    """
    if deployment.container is None or not _REFERENCE.fullmatch(deployment.container):
        raise UsageError(
            f"--container {deployment.container or 'is missing'}: expected the name of an image of your registry",
            hint="such as registry.example/demo-cpu:1; best by digest, NAME@sha256:...",
        )
    if any(device.kind == MEMORY for device in deployment.launch.platform.devices):
        raise UsageError(
            f"platform {deployment.launch.platform.name} has GPUs, whose resource names are those of the cluster",
            hint="name a platform without them, and add them to `gpus` of the manifest's devices",
        )
    manifest = yaml.safe_dump(_machine(deployment), sort_keys=False, allow_unicode=False, width=110)
    return Written(
        "".join(f"{line}\n" for line in _head(deployment)) + manifest,
        unknown=(MRTD, RTMR0),
        notes=(
            "MRTD is that of the firmware in KubeVirt's launcher: `privml-build measure FIRMWARE` says it",
            "RTMR0 is that of KubeVirt's machine. `platform learn --xml` reads its domain (`virsh dumpxml` in the "
            "launcher), and names what makes it unpredictable: today KubeVirt's own text in SMBIOS",
            "so no verifier accepts this guest yet; it was never tried on KubeVirt",
            "the cluster needs the feature gate WorkloadEncryptionTDX",
        ),
    )


def _disks(deployment: Deployment) -> list[str]:
    """The names of the disks' files, the one that it boots from first."""
    return [PurePosixPath(path).name for path in deployment.disks]


def _head(deployment: Deployment) -> list[str]:
    disks = " ".join(_disks(deployment))
    kernel = [f"{LAYOUT}COPY --chown={_OWNER} uki.efi /boot/"] if deployment.launch.boot_disk is None else []
    return [
        f"# {deployment.name}: {deployment.launch.size}. Written by `privml-build deploy`.",
        "# MRTD and RTMR0 are those of KubeVirt's firmware and machine: they are not predicted.",
        "#",
        "# Build the container image in the folder of the image, with the lines below as its Containerfile:",
        f"#   sed -n 's/^{LAYOUT}//p' THIS-FILE | podman build --tag {deployment.container} --file - FOLDER",
        f"{LAYOUT}FROM scratch",
        f"{LAYOUT}COPY --chown={_OWNER} {disks} /disk/",
        *kernel,
    ]


def _disk(name: str, *, first: bool) -> dict[str, Any]:
    order = {"bootOrder": 1} if first else {}
    return {"name": name, **order, "disk": {"bus": "virtio", "readonly": True}}


def _machine(deployment: Deployment) -> dict[str, Any]:
    launch, image = deployment.launch, deployment.container
    files = _disks(deployment)
    disks = [name.removesuffix(".raw") for name in files]
    firmware: dict[str, Any] = {"bootloader": {"efi": {"secureBoot": False}}}
    from_disk = launch.boot_disk is not None
    if not from_disk:
        firmware["kernelBoot"] = {"container": {"image": image, "kernelPath": "/boot/uki.efi"}}
    interface: dict[str, Any] = {"name": "default", "masquerade": {}, "model": "virtio"}
    guest: dict[str, Any] = {
        "terminationGracePeriodSeconds": STOPPING,
        "domain": {
            "machine": {"type": "q35"},
            "cpu": {"model": "host-passthrough", "sockets": 1, "cores": launch.size.vcpus, "threads": 1},
            "memory": {"guest": f"{launch.size.memory >> 20}Mi"},
            "features": {"acpi": {}, "smm": {"enabled": False}},
            "clock": {"utc": {}, "timer": {"hpet": {"present": False}}},
            "launchSecurity": {"tdx": {}},
            "firmware": firmware,
            "devices": {
                "autoattachGraphicsDevice": False,
                "autoattachInputDevice": False,
                "autoattachMemBalloon": False,
                "autoattachSerialConsole": True,
                "disks": [_disk(disk, first=from_disk and disk == disks[0]) for disk in disks],
                "interfaces": [interface],
            },
        },
        "networks": [{"name": "default", "pod": {}}],
        "volumes": [
            {"name": disk, "containerDisk": {"image": image, "path": f"/disk/{file}"}}
            for disk, file in zip(disks, files, strict=True)
        ],
    }
    if launch.forward is not None:
        interface["ports"] = [{"name": _PORT_NAME, "port": launch.forward, "protocol": "TCP"}]
        guest["readinessProbe"] = {
            "httpGet": {"scheme": "HTTPS", "path": "/readyz", "port": launch.forward},
            "periodSeconds": 10,
            "failureThreshold": 3,
        }
    labels = {"app.kubernetes.io/name": deployment.name}
    return {
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachine",
        "metadata": {"name": deployment.name, "labels": dict(labels)},
        "spec": {
            "runStrategy": "Always",
            "template": {
                "metadata": {
                    "labels": labels,
                    # Without it each device is behind a root port of its own, as nowhere else.
                    "annotations": {"kubevirt.io/placePCIDevicesOnRootComplex": "true"},
                },
                "spec": guest,
            },
        },
    }
