"""`python -m tests.negative.vectors`: write ``tests/vectors/negative`` from `cases`.

``index.json`` has what each case expects and the names of its inputs, which are in ``inputs.tar.xz``.
"""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import tarfile
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from tests.negative import devicepki, pki
from tests.negative.case import Case
from tests.negative.cases import all_cases
from tests.negative.forge import b64, jcs

FOLDER = Path(__file__).resolve().parents[1] / "vectors" / "negative"
ARCHIVE = "inputs.tar.xz"
ROOT_FILE = "simulated-root.der"
DEVICE_ROOTS_FILE = "simulated-device-roots.json"


def content() -> tuple[bytes, dict[str, bytes]]:
    """The index, and each document, collateral and statement once, by name."""
    device_roots = {"devices": devicepki.ROOT.der, "rims": devicepki.RIM_ROOT.der}
    made = {
        ROOT_FILE: x509.load_pem_x509_certificate(pki.ROOT_PEM).public_bytes(Encoding.DER),
        DEVICE_ROOTS_FILE: jcs({name: b64(root) for name, root in device_roots.items()}),
    }

    def kept(kind: str, data: bytes, suffix: str = "json") -> str:
        name = f"{kind}/{hashlib.sha256(data).hexdigest()[:16]}.{suffix}"
        made[name] = data
        return name

    def row(name: str, case: Case) -> dict[str, Any]:
        statement = json.dumps(case.statement, sort_keys=True, indent=1).encode() + b"\n"
        collateral = None if case.collateral is None else json.dumps(case.collateral, indent=1).encode() + b"\n"
        given = case.device_collateral
        of_devices = None if given is None else json.dumps(given, indent=1).encode() + b"\n"
        return {
            "name": name,
            "about": case.about,
            "document": kept("documents", case.document, "bin"),
            "statement": kept("statements", statement),
            "collateral": None if collateral is None else kept("collateral", collateral),
            "simulated_root": ROOT_FILE if case.allowed else None,
            "device_collateral": None if of_devices is None else kept("device-collateral", of_devices),
            "simulated_device_roots": DEVICE_ROOTS_FILE if case.devices_allowed else None,
            "purpose": case.purpose,
            "policy": case.policy,
            "nonce": None if case.nonce is None else case.nonce.hex(),
            "tls_spki_sha256": None if case.spki is None else case.spki.hex(),
            "time": case.time,
            "outcome": case.outcome,
            "codes": sorted(case.codes),
            "also": sorted(case.also),
        }

    rows = [row(name, case) for name, case in all_cases().items()]
    index = {"format": "privml-negative/v1", "cases": rows}
    return json.dumps(index, indent=1).encode() + b"\n", made


def archive(made: dict[str, bytes]) -> bytes:
    """The inputs as one compressed archive, in which all parts that they share count once."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in sorted(made.items()):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return lzma.compress(buffer.getvalue(), preset=9)


def main() -> None:
    index, made = content()
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / "index.json").write_bytes(index)
    (FOLDER / ARCHIVE).write_bytes(archive(made))
    print(f"{FOLDER}: {len(made)} inputs")


if __name__ == "__main__":
    main()
