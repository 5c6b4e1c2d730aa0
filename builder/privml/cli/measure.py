"""`measure`: identify and measure a file; images are in `measure_image`."""

from __future__ import annotations

from pathlib import Path

import click

from privml.base.errors import UsageError
from privml.cli import paths
from privml.cli.completion import TARGET
from privml.cli.described import print_description
from privml.readers import files, source
from privml.recipe.names import is_file_name
from privml.recipe.tees import BUILT

EVERY = "all"


@click.command()
@click.argument("target", type=TARGET)
@click.option(
    "--vcpus",
    metavar="N",
    help="Predict for these numbers of vCPUs instead of the recipe's sizes: 2 or 1,2,4 or 1..64. Of SNP guests that "
    "is the whole size; others need --memory too.",
)
@click.option(
    "--memory",
    metavar="SIZE",
    help="With --vcpus: these memory sizes, 4GiB or 2GiB,2815MiB or 2GiB..512GiB (doubling).",
)
@click.option(
    "--boot", is_flag=True, help="Boot the image with generic OVMF and a software TPM, and compare event by event."
)
@click.option("--disk", is_flag=True, help="With --boot: start the UKI from a disk.")
@click.option(
    "--platform", metavar="NAME", help="Predict for this platform, such as a learnt one, instead of the recipe's."
)
@click.option(
    "--tee",
    type=click.Choice([*BUILT, EVERY]),
    default=EVERY,
    show_default=True,
    help="Predict for the platforms of this TEE only; prediction.json has those of all.",
)
@click.option(
    "--disk-file",
    type=paths.Existing("a disk"),
    help="With a --platform of Google Compute Engine: the disk that starts the image there.",
)
@click.option(
    "--qemu", type=paths.Existing("a QEMU"), help="With --boot: the QEMU that the platform was learnt from."
)
@click.option(
    "--replay",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Compare the prediction with this `capture` of a real TD.",
)
@click.option(
    "--cross-check", is_flag=True, help="Compare with `tdx-measure`, a third-party program that must be on PATH."
)
@click.option("--events", is_flag=True, help="List every event with its origin and how its rule is known.")
@click.option("--json", "as_json", is_flag=True, help="Print the prediction, description or comparison as JSON.")
def measure(
    target: str,
    *,
    vcpus: str | None,
    memory: str | None,
    boot: bool,
    disk: bool,
    platform: str | None,
    tee: str,
    disk_file: Path | None,
    qemu: Path | None,
    replay: Path | None,
    cross_check: bool,
    events: bool,
    as_json: bool,
) -> None:
    """Predict the registers of an image, or say what a file is and what it measures to.

    TARGET is a recipe's name or the directory of a built image. MRTD and RTMR0..3 of a TD, and the launch digest of
    an SEV-SNP guest, are predicted for each of its platforms and machine sizes, and written to its prediction.json.
    A launch digest depends on the number of vCPUs, but not on memory.

    Or TARGET is a file (`-`: standard input), which is described: TDX or SEV-SNP firmware, a PE image, kernel or UKI,
    a GPT disk, a CCEL or TPM event log, a TDX quote or TDREPORT, an SEV-SNP report, JSON that holds one of these, or
    ACPI and SMBIOS blobs from fw_cfg; compressed or as text too.

    Each predicted event says how its rule is known: `hardware` (seen in the log or quote of a real TD), `tpm-boot`
    (seen in a boot of real firmware with a software TPM), `source` (read in source code only). A register shows the
    weakest level of its events. Values without a rule are `endorsed` (signed by the firmware's vendor) or `learnt`
    (shown by captures of machines).

    \b
    Examples:
      privml-build measure demo-cpu
      privml-build measure demo-cpu --events
      privml-build measure demo-cpu --tee snp --vcpus 1..64 --json
      privml-build measure demo-cpu --boot
      privml-build measure demo-cpu --boot --disk --vcpus 1,4 --memory 2815MiB
      privml-build measure demo-cpu --vcpus 1..64 --memory 2GiB..64GiB --json
      privml-build measure demo-cpu --platform my-host
      privml-build measure demo-cpu --platform my-gce --disk-file disk.raw
      privml-build measure out/demo-cpu --replay my-td.tar
      privml-build measure OVMF.fd
    """
    is_file = source.is_readable(Path(target))
    if disk and not boot:
        raise UsageError("--disk needs --boot")
    if qemu is not None and not boot:
        raise UsageError("--qemu needs --boot")
    if tee != EVERY and (boot or replay is not None or cross_check or platform is not None):
        raise UsageError("--tee needs neither --boot, --replay, --cross-check nor --platform, which name a machine")
    if platform is not None and (replay is not None or cross_check):
        raise UsageError("--platform needs neither --replay nor --cross-check")
    if disk_file is not None and (platform is None or boot):
        raise UsageError("--disk-file needs --platform, and no --boot")
    if cross_check and (boot or replay is not None or is_file):
        raise UsageError("--cross-check needs an image, and neither --boot nor --replay")
    if replay is not None and (boot or vcpus is not None or memory is not None):
        raise UsageError("--replay takes the machine from the capture; leave out --boot, --vcpus and --memory")
    if is_file and not is_file_name(target):
        if boot or tee != EVERY or any(one is not None for one in (vcpus, memory, replay, platform)):
            raise UsageError(
                f"{target} is a file; --boot, --replay, --platform, --tee, --vcpus and --memory need an image"
            )
        print_description(files.read(Path(target)).description, events=events, as_json=as_json)
        return
    # What an image needs (locks, QEMU) takes longer to load than a file takes to read.
    from privml.cli import measure_image

    measure_image.measure_image(
        target,
        vcpus=vcpus,
        memory=memory,
        boot=boot,
        disk=disk,
        platform=platform,
        tee=None if tee == EVERY else tee,
        disk_file=disk_file,
        qemu=qemu,
        replay=replay,
        cross_check=cross_check,
        events=events,
        as_json=as_json,
    )
