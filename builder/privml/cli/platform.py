"""`platform`: learn the machine that a QEMU makes of a command line or of a libvirt domain."""

from __future__ import annotations

import re
from pathlib import Path

import click

from privml.base.errors import UsageError
from privml.base.files import read_start, write_atomic
from privml.base.steps import step
from privml.cli import paths
from privml.cli.output import show
from privml.cli.usage import Verb
from privml.image.workplace import Workplace
from privml.lock.tables import pack, packed_path
from privml.machine import commandline
from privml.machine.matrix import memory_sizes, vcpu_counts
from privml.machine.platform import PageOrder
from privml.vm import foreign, libvirt
from privml.vm.learn import bars_below, identity
from privml.vm.learn import learn as learn_platform

_NAME = re.compile(r"[a-z0-9]+(?:[.-][a-z0-9]+)*")
_MAX_XML = 1 << 20
KIB = 1 << 10


@click.group(cls=Verb, subcommand_metavar="VERB ...")
def platform() -> None:
    """Learn the machines of your own hosts. Their platforms are predicted without their QEMU.

    \b
    Examples:
      privml-build platform learn my-host --qemu /usr/bin/kvm -- -smp 4 ...
    """


@platform.command(short_help="Write a platform from a QEMU and its command line.")
@click.argument("name")
@click.argument("arguments", metavar="[-- ARGS...]", nargs=-1, type=click.UNPROCESSED)
@click.option("--qemu", type=paths.Existing("a QEMU"), help="The QEMU that starts the guests.")
@click.option("--xml", type=paths.Existing("a libvirt domain"), help="A libvirt domain, instead of ARGS.")
@click.option(
    "--cpu",
    metavar="vendor=V,family=N,model=N,stepping=N,phys-bits=N",
    default="",
    help="The CPU of the hosts, for `-cpu host`.",
)
@click.option("--vcpus", default="1..32", show_default=True, help="The numbers of vCPUs to learn.")
@click.option("--memory", default="2GiB..512GiB", show_default=True, help="The memory sizes to learn (doubling).")
@click.option(
    "--page-order",
    type=click.Choice(["single-pass", "two-pass"]),
    help="How this QEMU adds and measures pages.  [default: two-pass for 8.2, else single-pass]",
)
def learn(
    name: str,
    arguments: tuple[str, ...],
    *,
    qemu: Path | None,
    xml: Path | None,
    cpu: str,
    vcpus: str,
    memory: str,
    page_order: PageOrder | None,
) -> None:
    """Write recipes/platforms/NAME.yaml for the machine that ARGS make, without starting it.

    ARGS are the arguments with which QEMU starts a guest, with its TDX object. The machine is made by this QEMU, and
    its ACPI and SMBIOS tables are read for each number of vCPUs and each memory size; they go into the store as one
    object, whose SHA-256 is in the file, and compressed into NAME.tables.xz next to it. Whatever cannot be predicted
    is named, with the change that would make it predictable. Nothing is written then.

    \b
    Examples:
      privml-build platform learn my-host --qemu /usr/bin/kvm -- -smp 4 ...
      privml-build platform learn my-domain --xml domain.xml --cpu vendor=...
    """
    if not _NAME.fullmatch(name) or len(name) > 64:
        raise UsageError(
            f"`{name}` is not a valid name of a platform",
            hint="use at most 64 lower-case letters and digits, with `-` or `.` between them",
        )
    if bool(arguments) == (xml is not None):
        raise UsageError(
            "expected a machine: QEMU's arguments after `--`, or a libvirt domain with --xml",
            hint="ARGS: `ps -ww -o args= -p PID` prints those of a running guest",
        )
    counts, sizes, own_cpu = vcpu_counts(vcpus), memory_sizes(memory), identity(cpu)
    path = Path("recipes/platforms") / f"{name}.yaml"
    if path.exists():
        raise UsageError(f"{path} already exists", hint="choose another name, or remove that file")
    words: tuple[str, ...] = arguments
    if xml is not None:
        domain = libvirt.read(read_start(xml, _MAX_XML))
        words, qemu = domain.words, qemu or (Path(domain.emulator) if domain.emulator else None)
    if qemu is None:
        raise UsageError("no QEMU is named", hint="give its path with --qemu")
    line = commandline.read(words, own_cpu, lambda address: bars_below(Path("/"), address))
    place = Workplace()
    tools = place.tools()
    with step(f"Reading the tables of {len(counts)} numbers of vCPUs and {len(sizes)} memory sizes"):
        found = learn_platform(name, tools, foreign.find(tools, qemu), line, (counts, sizes), page_order)
    place.store.add_bytes(found.tables)
    path.parent.mkdir(parents=True, exist_ok=True)
    packed = pack(found.tables)
    write_atomic(packed_path(path), packed)
    write_atomic(path, found.text.encode())
    vmm, tables = found.file.vmm, len(found.tables) / KIB
    show(f"wrote {path}: QEMU {vmm.version}, {found.file.machine.type}, {vmm.page_order}, tables of {tables:.0f} KiB")
    show(f"wrote {packed_path(path)}: these tables, {len(packed) / KIB:.0f} KiB, to be kept next to it")
    for note in found.notes:
        show(f"note: {note}")
    show("next: name it in `platforms` of a recipe, then `privml-build lock` and `image`", err=True)
