"""`deploy`: write the file that starts an image on another host."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import click

from privml.base.errors import MeasurementError, UsageError
from privml.base.files import write_atomic
from privml.cli.completion import TARGET
from privml.cli.output import print_json, show, show_text
from privml.deploy.deployment import Deployment, Kind, Written, plain
from privml.deploy.kinds import KINDS
from privml.events.registers import RTMR0
from privml.events.variants import DEVELOPMENT
from privml.image.target import Target, recipes_directory, resolve
from privml.machine.matrix import asked_shapes
from privml.machine.platform import Size
from privml.output.manifest import Manifest
from privml.output.prediction import read_prediction
from privml.statement.launch import TdMachine
from privml.vm import td
from privml.vm.launch import launch_of
from privml.vm.platforms import td_platform

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_QEMU = "/usr/bin/qemu-system-x86_64"


@click.command()
@click.argument("target", type=TARGET)
@click.option("--for", "kind_name", type=click.Choice(list(KINDS)), required=True, help="What starts the guest.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="Write to this file.  [default: print it]"
)
@click.option("--platform", metavar="NAME", help="This platform, instead of the image's first.")
@click.option("--vcpus", metavar="N", help="This number of vCPUs, with --memory.  [default: the image's first size]")
@click.option("--memory", metavar="SIZE", help="This memory size, such as 4GiB, with --vcpus.")
@click.option("--name", metavar="NAME", help="The guest's name on that host.  [default: the image's]")
@click.option("--folder", metavar="PATH", help="The image's folder on that host.  [default: as on this one]")
@click.option("--qemu", metavar="PATH", help=f"That host's QEMU.  [default: {_QEMU}]")
@click.option("--gpu", "gpus", multiple=True, metavar="PCI-ADDRESS", help="Give the TD this card; repeatable.")
@click.option(
    "--quote-socket",
    metavar="SOCKET",
    help="Where that host's quote generation service listens, vsock:CID:PORT or a path.",
)
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    metavar="PORT",
    help="The port of 127.0.0.1 that leads to the guest.  [default: the guest's]",
)
@click.option(
    "--state",
    metavar="PATH",
    help="The folder of console and monitor on that host.  [default: /run/privml-NAME]",
)
@click.option("--container", metavar="REFERENCE", help="For kubevirt: the container image that holds the files.")
@click.option("--json", "as_json", is_flag=True, help="Print what was written, registers and notes as JSON.")
def deploy(
    target: str,
    *,
    kind_name: str,
    output: Path | None,
    platform: str | None,
    vcpus: str | None,
    memory: str | None,
    name: str | None,
    folder: str | None,
    qemu: str | None,
    gpus: tuple[str, ...],
    quote_socket: str | None,
    port: int | None,
    state: str | None,
    container: str | None,
    as_json: bool,
) -> None:
    """Write the file that starts TARGET as a TD elsewhere: libvirt, KubeVirt, a QEMU script, a systemd unit.

    TARGET is a recipe's name or the directory of an image, built or fetched. The machine is the one that `measure`
    predicts. Whatever a kind cannot say is named, with the register that differs and how to learn that machine.
    Nothing is started.

    \b
    Examples:
      privml-build deploy demo-cpu --for qemu -o demo-cpu.sh
      privml-build deploy demo-cpu --for systemd --folder /srv/demo-cpu
      privml-build deploy demo-cpu --for libvirt -o demo-cpu.xml
      privml-build deploy demo-cpu --for kubevirt --container REGISTRY/demo-cpu:1
    """
    kind = KINDS[kind_name]
    given = {
        "folder": folder,
        "qemu": qemu,
        "gpu": gpus or None,
        "quote-socket": quote_socket,
        "port": port,
        "state": state,
        "container": container,
    }
    _check_options(kind, given)
    if output is not None and (output.exists() or output.is_symlink()):
        raise UsageError(f"{output} already exists", hint="choose another name, or remove that file")
    found = resolve(target)
    manifest = found.manifest()
    own = name or manifest.name
    if not _NAME.fullmatch(own):
        raise UsageError(f"--name {own[:80]}: expected at most 63 lower-case letters, digits and `-`")
    recipes = recipes_directory(found)
    chosen, size = td_platform(platform, recipes, manifest), _size(manifest, vcpus, memory)
    launch = launch_of(found.directory, manifest, recipes, platform=chosen, size=size)
    place = folder or str(found.directory.resolve())
    there = Path(plain("--folder", place))
    disk = None if launch.boot_disk is None else there / launch.boot_disk.name
    launch = replace(launch, image=there, boot_disk=disk, fw_cfg={})
    parts = td.HostParts(
        _quote_socket(quote_socket or kind.quote_socket),
        td.cards(gpus, chosen) if "gpu" in kind.takes else (),
    )
    deployment = Deployment(
        name=own,
        launch=launch,
        parts=parts,
        qemu=plain("--qemu", qemu or _QEMU),
        port=port or manifest.listen,
        state=Path(plain("--state", state or f"/run/privml-{own}")),
        container=container,
    )
    written = kind.write(deployment)
    notes = [*_warnings(found, manifest, deployment, written), *written.notes]
    if output is not None:
        write_atomic(output, written.text.encode(), mode=kind.mode)
    if as_json:
        print_json(_document(kind, deployment, written, output, notes))
        return
    if output is None:
        show_text(written.text)
    else:
        show(f"wrote {output}: {deployment.title}")
    err = output is None
    registers = written.registers
    for register in written.unknown:
        show(f"{register}: not predicted", err=err)
    if written.differences:
        show(f"{RTMR0}: {registers[RTMR0]}, as the machine differs from {chosen.name} in:", err=err)
        show(*(f"  {one}" for one in written.differences), err=err)
    if written.learn is not None and written.differences:
        learn = written.learn.replace("FILE", shlex.quote(str(output))) if output is not None else written.learn
        show(f"to predict that machine, on its host: {learn}", err=err)
    for note in notes:
        show(f"note: {note}", err=err)


def _check_options(kind: Kind, given: Mapping[str, object]) -> None:
    """``UsageError`` for an option that this kind has no use for."""
    for option, value in given.items():
        if value is not None and option not in kind.takes:
            raise UsageError(f"--for {kind.name} takes no --{option}")


def _quote_socket(text: str) -> tuple[int, int] | str:
    found = td.quote_socket(text)
    return plain("--quote-socket", found) if isinstance(found, str) else found


def _size(manifest: Manifest, vcpus: str | None, memory: str | None) -> Size:
    sizes = asked_shapes(vcpus, memory) or manifest.shapes[:1]
    if len(sizes) != 1:
        raise UsageError(f"--vcpus and --memory name {len(sizes)} sizes, expected one")
    return sizes[0]


def _warnings(found: Target, manifest: Manifest, deployment: Deployment, written: Written) -> list[str]:
    """What a caller of this guest would stumble over."""
    notes = []
    if manifest.variant == DEVELOPMENT:
        notes.append(
            f"{manifest.name} is a development image: it simulates its evidence, so no caller accepts it from a TD"
        )
    platform, size = deployment.launch.platform, deployment.launch.size
    try:
        launches = read_prediction(found.directory, manifest).launches
    except MeasurementError:
        launches = ()
    there = any(
        (one.platform, one.machine) == (platform.name, TdMachine(size.vcpus, size.memory)) for one in launches
    )
    if not there and not written.unknown:
        notes.append(
            f"the image's prediction has no {size} on {platform.name}: add it to the recipe, or callers refuse it"
        )
    return notes


def _document(
    kind: Kind, deployment: Deployment, written: Written, output: Path | None, notes: list[str]
) -> dict[str, object]:
    launch = deployment.launch
    return {
        "kind": kind.name,
        "file": None if output is None else str(output),
        "text": written.text if output is None else None,
        "name": deployment.name,
        "platform": launch.platform.name,
        "vcpus": launch.size.vcpus,
        "memory": launch.size.memory,
        "registers": written.registers,
        "differences": [one.to_dict() for one in written.differences],
        "learn": written.learn if written.differences else None,
        "notes": notes,
    }
