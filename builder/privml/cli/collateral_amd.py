"""AMD's part of `collateral`: fetched for a report, or taken from files that somebody downloaded."""

from __future__ import annotations

import os
from pathlib import Path

from privml.base.errors import HostError, Refused, UsageError
from privml.base.steps import complain
from privml.client import kds, kdsfiles
from privml.client.kdsfiles import Files
from privml.evidence.claims import SignatureFailure
from privml.evidence.document import Document
from privml.evidence.snp import signature
from privml.evidence.snp.collateral import CERTIFICATES, CRL, FIELDS

_MISSING = {CERTIFICATES: "chain of the key that signed it", CRL: "revocation list of AMD's root"}


def fetch_report(report: Document) -> dict[str, str]:
    """Fetch the collateral of a report into the cache; ``HostError`` if something is missing, which the log names."""
    found = kds.Supply(kds.service(os.environ.get(kds.SERVICE)))(report)
    if found is None or set(found) != set(FIELDS):
        raise HostError(
            "AMD's collateral of the report is not complete", hint="the warnings above say what is missing, and why"
        )
    return found


def read_folder(folder: Path) -> Files:
    """The files of AMD's in ``folder``, or in the part of a copied cache that has them."""
    found, errors = kdsfiles.read((folder, folder / kds.FOLDER) if (folder / kds.FOLDER).is_dir() else (folder,))
    for error in errors:
        # What is in a .json file that has none of AMD's is said where Intel's is read.
        if ".json: " not in error.message:
            complain(f"skipped {error.message}")
    return found


def report_from(found: Files, folder: Path, report: Document, now: int) -> dict[str, str]:
    """The collateral of a report out of the files in ``folder``.

    ``UsageError`` if a part is not there, ``Refused`` if what is there does not vouch for the report at ``now``.
    """
    fields = found.fields(report.evidence, report.certificates)
    missing = [words for name, words in _MISSING.items() if name not in fields]
    if missing:
        raise UsageError(f"{folder}: no {' and no '.join(missing)} for the report")
    checked = signature.check(report.evidence, (), fields, now=now)
    if isinstance(checked, SignatureFailure):
        raise Refused(f"{folder}: {checked.code}: got {checked.reason}, expected {checked.expected}")
    return fields


def keep(found: Files, folder: Path, now: int) -> bool:
    """Put what ``folder`` has of AMD's into the cache; False if nothing in it is."""
    kept = found.keep(kds.cache_directory(), now=now)
    rootless = found.rootless(kds.cache_directory())
    for name in rootless:
        complain(
            f"{folder}: the revocation list of {name} needs its certificate: no file here, nor the cache, has it"
        )
    if len(rootless) < len(found.lists) and not any(name.endswith(".crl") for name in kept):
        complain(
            f"{folder}: no revocation list of a root of AMD's that is valid now and not older than the cached one"
        )
    if found.certificates and not kept:
        complain(f"{folder}: no certificate that leads to a root of AMD's")
    return bool(kept)
