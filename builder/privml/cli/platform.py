"""`platform`: learn the machine that a QEMU makes of a command line or of a libvirt domain, or a cloud's machines."""

from __future__ import annotations

import re
import time
from pathlib import Path

import click
from click.core import ParameterSource

from privml.base.errors import EvidenceError, UsageError
from privml.base.files import read_start, write_atomic
from privml.base.steps import step
from privml.cli import paths
from privml.cli.output import show
from privml.cli.usage import Verb
from privml.evidence import capture as captures
from privml.evidence import gce
from privml.evidence.gceformat import MAX_SIZE
from privml.image.workplace import Workplace
from privml.lock.tables import pack, packed_path
from privml.machine import commandline
from privml.machine.matrix import memory_sizes, vcpu_counts
from privml.machine.platform import PageOrder
from privml.store.objects import Store
from privml.vm import foreign, gcecapture, gcelearn, libvirt
from privml.vm.learn import bars_below, identity
from privml.vm.learn import learn as learn_platform

_NAME = re.compile(r"[a-z0-9]+(?:[.-][a-z0-9]+)*")
_MAX_XML = 1 << 20
KIB = 1 << 10


@click.group(cls=Verb, subcommand_metavar="VERB ...")
def platform() -> None:
    """Learn the machines of your own hosts, or of Google Compute Engine. They are predicted without their QEMU.

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
@click.option(
    "--gcp-endorsement",
    "endorsement",
    type=paths.Existing("an endorsement"),
    help="Google's launch endorsement of the firmware, with --capture instead of a QEMU.",
)
@click.option(
    "--capture",
    "archives",
    type=paths.Existing("a capture"),
    multiple=True,
    help="A `capture` of a machine of Google; two or more, each of another machine.",
)
@click.option(
    "--collateral",
    "collateral_file",
    type=paths.Existing("collateral"),
    help="Intel's collateral for the quotes in the captures (nine fields), if it is not in the cache.",
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
    endorsement: Path | None,
    archives: tuple[Path, ...],
    collateral_file: Path | None,
) -> None:
    """Write recipes/platforms/NAME.yaml for the machine that ARGS make, without starting it.

    ARGS are the arguments with which QEMU starts a guest, with its TDX object. The machine is made by this QEMU, and
    its ACPI and SMBIOS tables are read for each number of vCPUs and each memory size; they go into the store as one
    object, whose SHA-256 is in the file, and compressed into NAME.tables.xz next to it. Whatever cannot be predicted
    is named, with the change that would make it predictable. Nothing is written then.

    Machines of Google Compute Engine have no such arguments: MRTD is what Google signed for its firmware, and RTMR0
    what captures of two or more machines show. Every event of them must be explained; the evidence is `learnt`.

    \b
    Examples:
      privml-build platform learn my-host --qemu /usr/bin/kvm -- -smp 4 ...
      privml-build platform learn my-domain --xml domain.xml --cpu vendor=...
      privml-build platform learn my-gce --gcp-endorsement MRTD.binarypb \\
        --capture one.tar --capture two.tar
    """
    if not _NAME.fullmatch(name) or len(name) > 64:
        raise UsageError(
            f"`{name}` is not a valid name of a platform",
            hint="use at most 64 lower-case letters and digits, with `-` or `.` between them",
        )
    path = Path("recipes/platforms") / f"{name}.yaml"
    if endorsement is not None or archives or collateral_file is not None:
        if endorsement is None or arguments or any(one is not None for one in (qemu, xml, page_order)) or cpu:
            raise UsageError("--capture and --collateral need --gcp-endorsement, and no QEMU or its arguments")
        context = click.get_current_context()
        if any(context.get_parameter_source(one) is not ParameterSource.DEFAULT for one in ("vcpus", "memory")):
            raise UsageError("--vcpus and --memory are for a QEMU: captures have the sizes of their machines")
        _unused(path)
        _learn_gce(name, path, endorsement, archives, collateral_file)
        return
    if bool(arguments) == (xml is not None):
        raise UsageError(
            "expected a machine: QEMU's arguments after `--`, or a libvirt domain with --xml",
            hint="ARGS: `ps -ww -o args= -p PID` prints those of a running guest",
        )
    counts, sizes, own_cpu = vcpu_counts(vcpus), memory_sizes(memory), identity(cpu)
    _unused(path)
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


def _unused(path: Path) -> None:
    if path.exists():
        raise UsageError(f"{path} already exists", hint="choose another name, or remove that file")


def _learn_gce(
    name: str, path: Path, endorsement: Path, archives: tuple[Path, ...], collateral_file: Path | None
) -> None:
    now = int(time.time())
    try:
        endorsed = gce.read(read_start(endorsement, MAX_SIZE), now=now)
    except EvidenceError as error:
        raise EvidenceError(f"{endorsement}: {error.message}", hint=error.hint) from error
    read = [(str(one), read_start(one, captures.MAX_SIZE)) for one in archives]
    try:
        found = gcelearn.learn(name, endorsed, read)
    except gcecapture.NotLearntError as error:
        show(*error.shown)
        raise
    signed = _signed(read, collateral_file, now)
    Store().add_bytes(found.machines)
    packed = pack(found.machines)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(packed_path(path), packed)
    write_atomic(path, found.text.encode())
    show(
        f"wrote {path}: firmware sha384:{endorsed.firmware_sha384.hex()}, signed by Google "
        f"({endorsed.signer}, until {found.file.firmware.endorsed_until})",
        found.file.description,
        f"wrote {packed_path(path)}: the endorsement and the machines, serial numbers too, to be kept next to it",
    )
    for note in (*signed, *found.notes):
        show(f"note: {note}")
    show("next: name it in `platforms` of a recipe with `boot: disk`, then `privml-build lock` and `image`", err=True)


def _signed(archives: list[tuple[str, bytes]], collateral_file: Path | None, now: int) -> tuple[str, ...]:
    """Whose word the captured quotes are, as notes; ``EvidenceError`` for one that Intel does not vouch for."""
    # A platform of a QEMU needs nothing of what checks quotes.
    from privml.cli.anchor import collateral_in
    from privml.client import bare
    from privml.client.supply import supply
    from privml.evidence.tdx import claims as tdx
    from privml.verify.bare import Origin
    from privml.verify.policy import Policy

    given, policy = collateral_in(collateral_file), Policy()
    notes = []
    for name, data in archives:
        quote = captures.decode(data).files[captures.QUOTE]
        collateral = given or supply(None, offline=True, policy=policy).for_quote(quote, own=False)
        finding = bare.judge(bare.Evidence(tdx.TEE, quote), (), policy, now=now, collateral=collateral)
        if finding.origin is Origin.UNPROVEN:
            notes.append(f"{name}: no collateral, so its quote's signature was not checked: it is its maker's word")
        elif finding.origin is Origin.GENUINE:
            codes = ", ".join(one.code for one in finding.refusals)
            notes.append(
                f"{name}: Intel vouches for its quote{f', which `verify` would refuse: {codes}' if codes else ''}"
            )
        else:
            why = "; ".join(f"{one.code}: got {one.got}, expected {one.expected}" for one in finding.refusals[:4])
            raise EvidenceError(
                f"{name}: capture-signature: {why}",
                hint="`privml-build inspect` shows all of it; fetch new collateral",
            )
    return tuple(notes)
