"""`collateral`: fetch, show and serve the data from Intel and AMD that quotes and reports are checked with."""

from __future__ import annotations

import dataclasses
import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import click

from privml.base.errors import HostError, PrivmlError, UsageError
from privml.base.files import write_atomic
from privml.base.steps import complain
from privml.base.strictjson import pretty
from privml.cli import collateral_amd as amd
from privml.cli.output import print_json, show
from privml.cli.paths import listen_address
from privml.cli.usage import Verb
from privml.client import attested, kds, kdsfiles, nvidia, pcs, subject
from privml.client import collateral as cached
from privml.client.collateral import Cache, Entry
from privml.client.kdsfiles import Files
from privml.client.supply import SERVICE
from privml.evidence import document, facts
from privml.evidence.document import Document
from privml.evidence.facts import Facts
from privml.evidence.sections import Header
from privml.evidence.snp import claims as snp
from privml.evidence.snp.report import is_report
from privml.evidence.tdx.contents import date
from privml.evidence.tdx.platform import CAS, Platform

_MAX_SOURCE = subject.MAX_FILE


@click.group(cls=Verb, subcommand_metavar="VERB ...")
def collateral() -> None:
    """Fetch, show and serve the collateral that quotes and reports are checked with.

    Intel's is TCB info, QE identity, revocation lists and certificates for one kind of platform; AMD's is the
    certificate of a chip, its issuers and a revocation list. `verify` and `proxy` fetch what they need by themselves;
    these verbs are for machines without a network, and for a look at it. The cache is in
    $XDG_CACHE_HOME/privml-build/collateral. Everything is checked against the vendor's root.

    \b
    Examples:
      privml-build collateral fetch https://HOST:8443
      privml-build collateral show
      privml-build collateral serve --listen 127.0.0.1:8081
    """


@collateral.command()
@click.argument("sources", metavar="[URL|FILE|QUOTE]...", nargs=-1)
@click.option("--fmspc", metavar="HEX", help="The kind of platform (12 hex digits), instead of a source; with --ca.")
@click.option("--ca", type=click.Choice(list(CAS.values())), help="The authority of the platform's PCK certificates.")
@click.option(
    "--service",
    metavar="URL",
    envvar=SERVICE,
    help=f"Fetch from this PCCS instead of Intel's service [${SERVICE}].",
)
@click.option(
    "--from",
    "folder",
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Take it from the files of this directory instead of a service.",
)
@click.option(
    "--update",
    type=click.Choice(pcs.UPDATES),
    default=pcs.UPDATES[0],
    show_default=True,
    help="Fetch what Intel knows now, or the older `standard` release (only with --out).",
)
@click.option(
    "--out",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the fields to this file, for --collateral, instead of the cache.",
)
@click.option("--json", "as_json", is_flag=True, help="Print what was fetched as JSON.")
def fetch(
    sources: tuple[str, ...],
    *,
    fmspc: str | None,
    ca: str | None,
    service: str | None,
    folder: Path | None,
    update: str,
    out: Path | None,
    as_json: bool,
) -> None:
    """Fetch collateral into the cache.

    A source is the address of a guest, a bundle or document of one, a quote, or an SNP report. Intel's service is
    sent only the kind of its platform, AMD's (or the one in $PRIVML_KDS_SERVICE) the chip and its TCB version. For a
    document with GPUs, NVIDIA's reference values and revocation answers are fetched too: NVIDIA sees versions of
    firmware and numbers of certificates. Without any source, everything in the cache is fetched again, or with --from
    everything in DIR is taken. DIR has what `--out` wrote, or is a copy of another machine's cache, or has files of
    AMD's service, by any name: certificates and revocation lists in DER or PEM. Exit status: 5 the service has none,
    8 it is not what the vendor signed or not valid now, 9 it is malformed.

    \b
    Examples:
      privml-build collateral fetch https://HOST:8443
      privml-build collateral fetch quote.bin --service https://PCCS:8081
      privml-build collateral fetch --fmspc 90C06F000000 --ca platform --out collateral.json
      privml-build collateral fetch --from /media/collateral
    """
    if folder is not None and (service_given(service) or update != pcs.UPDATES[0]):
        raise UsageError("--service and --update are for fetching; --from takes what is in a directory")
    if update != pcs.UPDATES[0] and out is None:
        raise UsageError(f"--update {update} needs --out FILE: the cache holds only what Intel knows now")
    where = pcs.service(service or pcs.INTEL_PCS)
    now, cache = int(time.time()), Cache()
    read = [_read(source) for source in sources]
    wanted = _platforms(read, fmspc, ca)
    failures: list[PrivmlError] = []
    reports = [source.report for source in read if source.report is not None]
    if reports and out is not None and len(read) > 1:
        raise UsageError("--out is for one source")
    of_amd = Files() if folder is None else amd.read_folder(folder)
    for report in reports:
        fields = amd.fetch_report(report) if folder is None else amd.report_from(of_amd, folder, report, now)
        if out is not None:
            write_atomic(out, pretty(fields))
    kept = folder is not None and out is None and amd.keep(of_amd, folder, now)
    if reports and not wanted:
        found: list[Entry] = []
    elif folder is not None:
        found = _from_directory(folder, wanted, now, without=of_amd.paths, optional=kept)
    else:
        wanted = wanted or [entry.platform for entry in cache.entries(cached.anchors())]
        if not wanted:
            raise UsageError(
                "nothing to fetch: the cache is empty, expected a URL, FILE or QUOTE",
                hint="or name the kind of platform with --fmspc and --ca",
            )
        found = []
        for each in wanted:
            try:
                found.append(cached.fetch(where, each, cached.INTEL, now=now, update=update))
            except PrivmlError as error:
                failures.append(error)
    if out is not None and not reports and len(wanted or found) != 1:
        raise UsageError(f"--out {out}: {len(wanted or found)} kinds of platforms, expected one")
    if out is not None and found:
        write_atomic(out, pretty(dict(found[0].fields)))
    else:
        found = [cache.newest(entry, cached.INTEL, now=now) for entry in found]
        for entry in found:
            cache.put(entry)
    for source in read:
        if source.devices is not None and folder is None and out is None:
            try:
                _fetch_devices(source.devices)
            except PrivmlError as error:
                failures.append(error)
    if found or not failures:
        _print(found, now, [*kds.kept(kds.cache_directory())] if reports or kept else [], as_json=as_json)
        show(f"written to {out or cache.directory}", err=True)
    for failure in failures[1:]:
        complain(failure.message)
    if failures:
        raise failures[0]


@collateral.command("show")
@click.argument("file", required=False, type=click.Path(path_type=Path, dir_okay=False))
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON; times are Unix seconds.")
def show_(file: Path | None, *, as_json: bool) -> None:
    """Show what is cached, or the collateral in FILE: its platform, evaluation number, issuers and dates.

    FILE is JSON that `fetch --out` wrote, or has certificates of AMD's.

    \b
    Examples:
      privml-build collateral show
      privml-build collateral show collateral.json --json
    """
    now, kept, found = int(time.time()), list[dict[str, object]](), list[Entry]()
    if file is not None:
        of_amd, _ = kdsfiles.read((file,))
        if of_amd.paths:
            kept = list(kdsfiles.rows(of_amd, str(file)))
        else:
            found = [cached.read_file(file, cached.anchors())]
    else:
        found = list(Cache().entries(cached.anchors()))
        kept = [*kds.kept(kds.cache_directory()), *nvidia.kept(nvidia.cache_directory(), now=now)]
    _print(found, now, kept, as_json=as_json)
    if not found and not kept:
        show("nothing is cached; `privml-build collateral fetch --help` says how to fetch", err=True)


@collateral.command()
@click.option(
    "--listen", metavar="HOST:PORT", default="127.0.0.1:8081", show_default=True, help="The address to listen on."
)
def serve(listen: str) -> None:
    """Serve the cache on the routes of Intel's PCCS, for callers that cannot reach Intel.

    It is read-only and fetches nothing: run `collateral fetch` once a day beside it. Callers check what they get, so
    it needs no TLS.

    \b
    Examples:
      privml-build collateral serve --listen 127.0.0.1:8081
      privml-build verify https://HOST:8443 --expect out/demo-cpu --collateral-service http://127.0.0.1:8081
    """
    from privml.client import pccs  # its server is needed by no other verb

    host, port = listen_address(listen)
    logging.getLogger("privml").setLevel(logging.INFO)
    cache = Cache()
    pccs.serve(
        (host, port),
        cache,
        cached.anchors(),
        lambda port: show(f"serving {cache.directory} on {host}:{port}", err=True),
    )


def service_given(service: str | None) -> bool:
    """True if ``--service`` stands on the command line; the environment's does not count."""
    source = click.get_current_context().get_parameter_source("service")
    return service is not None and source is click.core.ParameterSource.COMMANDLINE


def _platforms(sources: list[_Source], fmspc: str | None, ca: str | None) -> list[Platform]:
    """The platforms that the command line names, each once."""
    if (fmspc is None) != (ca is None):
        raise UsageError("--fmspc and --ca belong together", hint="a quote names both: give it instead")
    found = [source.platform for source in sources if source.platform is not None]
    if fmspc is not None and ca is not None:
        try:
            found.append(Platform.of(fmspc, ca))
        except PrivmlError as error:
            raise UsageError(f"--fmspc: {error.message}") from error
    return list(dict.fromkeys(found))


class _Source(NamedTuple):
    """What a guest, a document or evidence says of its machine; ``devices`` None: nothing of GPUs.

    ``platform`` is that of a quote; ``report`` is the document, or an SNP report in the form of one.
    """

    platform: Platform | None
    devices: Facts | None
    report: Document | None = None


def _read(source: str) -> _Source:
    if source.startswith("https://"):
        data = attested.fetch(source, attested.new_nonce()).document
    else:
        try:
            with Path(source).open("rb") as file:
                data = file.read(_MAX_SOURCE + 1)
        except OSError as error:
            raise UsageError(f"`{source}` cannot be read: {error.strerror or error}") from error
    try:
        if is_report(data):
            return _Source(None, None, Document(b"", b"", (), b"", b"", b"", b"", data))
        if data.lstrip()[:1] != b"{":
            return _Source(cached.locate(data, cached.anchors())[0], None)
        parsed = document.parse(subject.read(data).document)
        devices = facts.collect(parsed) if parsed.device_evidence else None
        if Header.decode(parsed.header).tee == snp.TEE:
            return _Source(None, devices, parsed)
        return _Source(cached.locate(parsed.evidence, cached.anchors())[0], devices)
    except PrivmlError as error:
        raise type(error)(f"{source}: {error.message}", hint=error.hint) from error


def _fetch_devices(found: Facts) -> None:
    """Fetch NVIDIA's part into the cache; ``HostError`` if something is missing, which the log names."""
    where = nvidia.services(os.environ.get(nvidia.RIM_SERVICE), os.environ.get(nvidia.OCSP_SERVICE))
    if nvidia.Supply(where)(found, own=True) is None:
        raise HostError(
            "NVIDIA's collateral of the document's devices is not complete",
            hint="the warnings above say what is missing, and why",
        )


def _from_directory(
    folder: Path, wanted: list[Platform], now: int, *, without: Sequence[Path], optional: bool
) -> list[Entry]:
    """Intel's valid collateral in ``folder``, of the wanted platforms or all; complains about the rest.

    Files ``without`` are AMD's. There may be none of Intel's if that is ``optional`` and no platform is wanted.
    """
    found, errors = cached.read_directory(folder, cached.anchors(), without)
    chosen: dict[Platform, Entry] = {}
    for entry in found:
        try:
            entry.contents.check_time(now)
        except PrivmlError as error:
            errors.append(type(error)(f"{entry.source}: {error.message}"))
            continue
        other = chosen.get(entry.platform)
        if (not wanted or entry.platform in wanted) and (other is None or other.contents.older_than(entry.contents)):
            chosen[entry.platform] = entry if entry.fetched else dataclasses.replace(entry, fetched=now)
    missing = [str(each) for each in wanted if each not in chosen]
    if missing or (not chosen and not optional):
        if errors:
            raise errors[0]
        raise UsageError(f"{folder}: no collateral{f' of {missing[0]}' if missing else ''} in its files")
    for each in errors:
        complain(f"skipped {each.message}")
    return list(chosen.values())


def _print(entries: list[Entry], now: int, kept: Sequence[dict[str, object]] = (), *, as_json: bool) -> None:
    if as_json:
        of_amd = [row for row in kept if row["kind"] in kds.KINDS]
        of_nvidia = [row for row in kept if row["kind"] not in kds.KINDS]
        print_json({"tdx": [entry.to_dict(now) for entry in entries], "snp": of_amd, "nvidia": of_nvidia})
        return
    for entry in entries:
        first = entry.contents.expires_first
        said = "EXPIRED" if entry.expired(now) else "expires"
        known = f"fetched {date(entry.fetched)}" if entry.fetched else "read"
        show(
            f"{entry.platform}: evaluation {entry.contents.evaluation_number}, "
            f"{said} {date(first.expires)} ({first.name})",
            f"  {known} from {entry.source}",
        )
        for part in entry.contents.parts:
            show(f"  {part.name}: {date(part.issued)} to {date(part.expires)}, by {part.issuer}")
    for row in kept:
        if row["kind"] == kds.CERTIFICATE:
            show(f"AMD certificate of a {row['product']} chip: {row['file']}")
        elif row["kind"] == kds.REVOCATIONS:
            times = [date(each) for each in (row["issued"], row["expires"]) if isinstance(each, int)]
            show(f"AMD revocations of ARK-{row['product']} ({row['role']}): {' to '.join(times)}")
        elif row["kind"] == "rim":
            show(f"NVIDIA reference values {row['id']}: {row['firmware']}")
        else:
            times = [date(each) for each in (row["issued"], row["expires"]) if isinstance(each, int)]
            show(f"NVIDIA certificate {row['certificate']}: {row['status']}, answered for {' to '.join(times)}")
