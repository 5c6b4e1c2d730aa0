"""`capture`: record a real TD's quote, event log and measured data in one file."""

from __future__ import annotations

import hashlib
from pathlib import Path

import click

from privml.base.errors import UsageError
from privml.base.files import write_atomic
from privml.cli.output import show
from privml.evidence.capture import NAMES
from privml.readers import captured


@click.command()
@click.argument("archive", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--qemu-cmdline",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="A file with QEMU's command line, from the host.",
)
@click.option(
    "--uki", metavar="FILE", type=click.Path(path_type=Path), help="The UKI that was booted; its SHA-256 is recorded."
)
@click.option("--no-quote", is_flag=True, help="Request no quote. The log is then not authenticated.")
@click.option(
    "--leave-out", metavar="PART", multiple=True, type=click.Choice(NAMES), help="Leave a part out; repeatable."
)
@click.option(
    "--root",
    type=click.Path(path_type=Path),
    default=Path("/"),
    metavar="DIR",
    help="Read /sys and /proc below this directory.",
)
def capture(
    archive: Path,
    *,
    qemu_cmdline: Path | None,
    uki: Path | None,
    no_quote: bool,
    leave_out: tuple[str, ...],
    root: Path,
) -> None:
    """Inside a TD, as root: write quote, event log and measured data into ARCHIVE, to test predictions with.

    ARCHIVE holds the quote (which identifies the machine), the firmware's log and CCEL table, the fw_cfg files that
    firmware measures, the SMBIOS tables (with serial number and UUID), the list of PCI devices, the kernel's version
    and its COMMAND LINE. It contains no data from disks, memory or processes. List it with `tar -tvf`;
    --leave-out drops a part.

    \b
    Examples:
      privml-build capture my-td.tar
      privml-build measure out/demo-cpu --replay my-td.tar
    """
    for path in (qemu_cmdline, uki):
        if path is not None and not path.is_file():
            raise UsageError(f"`{path}` is not a file")
    if not archive.absolute().parent.is_dir():
        raise UsageError(f"{archive}: there is no directory {archive.absolute().parent}")
    found = captured.read(
        root,
        None if no_quote else captured.tee_under(root),
        qemu=None if qemu_cmdline is None else qemu_cmdline.read_bytes(),
        uki="" if uki is None else hashlib.sha256(uki.read_bytes()).hexdigest(),
        leave_out=frozenset(leave_out),
    )
    write_atomic(archive, found.encode(), mode=0o600)
    for name, data in sorted(found.files.items()):
        show(f"  {name}  {len(data)} bytes")
    for name, why in sorted(found.missing.items()):
        show(f"  {name}  missing: {why}")
    show(f"wrote {archive}")
