"""`inspect`: show what an image (`inspect_image`) or a model file (`inspect_model`) is, or judge bare evidence."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click

from privml.base.errors import UsageError
from privml.cli.completion import TARGET
from privml.lock.modelfacts import kind_of
from privml.readers import source
from privml.recipe.names import is_file_name


@click.command()
@click.argument("target", type=TARGET)
@click.option("--packages", is_flag=True, help="List every package of an image.")
@click.option(
    "--expect",
    metavar="DIRECTORY",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Compare FILE's registers with the prediction of this image, which you built.",
)
@click.option(
    "--registers",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Compare FILE's registers with those in this file: JSON, a prediction, a log, another quote.",
)
@click.option(
    "--report-data", metavar="HEX", help="Compare FILE's report data: 64 bytes, or 32 that are followed by zeros."
)
@click.option(
    "--collateral",
    "collateral_files",
    metavar="PATH",
    multiple=True,
    type=click.Path(exists=True, path_type=Path),
    help="What to check a signature with. For a quote a file with the nine fields of Intel's QVL; for a report files "
    "of AMD's service, or a folder of them: certificates and revocation list in DER or PEM, or JSON.",
)
@click.option(
    "--policy",
    "policy_file",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Your policy in TOML or JSON (docs/schemas/policy.schema.json). The default is strict.",
)
@click.option(
    "--allow-simulated",
    "simulated_root",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Also check against this root certificate of a simulated platform.",
)
@click.option("--at", metavar="TIME", help="Check as of this time (like 2026-11-29T04:00:00Z) instead of now.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@click.pass_context
def inspect(
    context: click.Context,
    target: str,
    *,
    packages: bool,
    expect: Path | None,
    registers: Path | None,
    report_data: str | None,
    collateral_files: tuple[Path, ...],
    policy_file: Path | None,
    simulated_root: Path | None,
    at: str | None,
    as_json: bool,
) -> None:
    """Show what an image or a model file contains, or judge a bare quote.

    TARGET is a recipe's name or the directory of a built image: artefacts, root hash, kernel options, UKI sections,
    partitions and packages are shown. The artefacts are compared with the manifest first; a damaged image is an
    error.

    Or it is a FILE with a TDX quote, an SEV-SNP report, a TDREPORT or a token that holds register values: whether the
    platform's signature is genuine, whether its values are the expected ones. That proves no key and no freshness:
    only `verify` accepts a guest. A report is refused without a policy that names the lowest TCB versions. Exit
    status for a file: 0 genuine and equal, 1 genuine and different, 8 not proven by a genuine signature, 10 equal but
    only a simulation.

    Or FILE is a model: GGUF, safetensors, or an index of safetensors with its files next to it. Headers are read and
    compared with the file's size; exit status 4 if it is not whole.

    \b
    Examples:
      privml-build inspect demo-cpu
      privml-build inspect out/demo-cpu --packages
      privml-build inspect quote.bin --collateral collateral.json
      privml-build inspect quote.bin --collateral collateral.json \\
        --expect out/demo-cpu --report-data HEX
      privml-build inspect report.bin --collateral vcek.der \\
        --collateral cert_chain.pem --collateral crl.der --policy policy.toml
      privml-build inspect models/model.safetensors
    """
    options = {
        "--expect": expect,
        "--registers": registers,
        "--report-data": report_data,
        "--collateral": collateral_files or None,
        "--policy": policy_file,
        "--allow-simulated": simulated_root,
        "--at": at,
    }
    if not source.is_readable(Path(target)) or is_file_name(target):
        _only_for_quotes(options, f"{target} is not a file")
        # What an image needs takes longer to load than a quote takes to judge.
        from privml.cli.inspect_image import inspect_image

        inspect_image(target, packages=packages, as_json=as_json)
        return
    if packages:
        raise UsageError(f"--packages is for an image, and {target} is a file")
    kind = kind_of(Path(target)) if Path(target).is_file() else None
    if kind is not None:
        _only_for_quotes(options, f"{target} is a model")
        from privml.cli.inspect_model import inspect_model

        inspect_model(Path(target), kind, as_json=as_json)
        return
    if expect is not None and registers is not None:
        raise UsageError("give --expect or --registers, not both")
    from privml.cli.inspect_file import inspect_file

    context.exit(
        inspect_file(
            Path(target),
            expect=expect,
            registers=registers,
            report_data=report_data,
            collateral_files=collateral_files,
            simulated_root=simulated_root,
            policy_file=policy_file,
            at=at,
            as_json=as_json,
        )
    )


def _only_for_quotes(options: Mapping[str, object], instead: str) -> None:
    given = [option for option, value in options.items() if value is not None]
    if given:
        raise UsageError(f"{given[0]} is for a file with a quote, and {instead}")
