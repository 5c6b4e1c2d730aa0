"""What the guest carries and what judges needs no package but Python's own; verifying loads no builder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import privml

SOURCE = Path(privml.__file__).parent
# Those that check certificates and signatures, and those that import them. The guest carries none (test_layers).
WITH_CRYPTOGRAPHY = {
    "privml.evidence.certificates",
    "privml.evidence.gce",
    *(f"privml.evidence.tdx.{name}" for name in ("signature", "chain", "contents", "platform")),
    *(f"privml.evidence.nvidia.{name}" for name in ("chain", "ocsp", "rim", "roles", "signature")),
    "privml.evidence.cca.signature",
    "privml.evidence.snp.chain",
    "privml.statement.keys",
}
THEIR_USERS = {
    "privml.evidence.snp.signature",
    *(
        f"privml.statement.{name}"
        for name in (
            *("tufkeys", "signed", "metadata", "update", "follow", "rebuilders", "image", "lookup"),
            *("tlog", "logentry", "logpolicy"),
        )
    ),
}
MODULES = sorted(
    {
        ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts).removesuffix(".__init__")
        for room in ("evidence", "statement", "verify")
        for path in (SOURCE / room).rglob("*.py")
    }
    - WITH_CRYPTOGRAPHY
    - THEIR_USERS
)


def test_pure_rooms_need_only_the_standard_library() -> None:
    assert len(MODULES) > 12
    assert "privml.evidence.tdx" in MODULES
    code = f"import {', '.join(MODULES)}"
    done = subprocess.run(
        [sys.executable, "-S", "-B", "-c", code],
        env={"PYTHONPATH": str(SOURCE.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("module", ["privml.sim.quote", "privml.evidence.facts"])
def test_the_guest_never_loads_the_qvl(module: str) -> None:
    code = f"import sys, {module}; print([name for name in sys.modules if 'dcap' in name or 'x509' in name])"
    path = ":".join([str(SOURCE.parent), *(entry for entry in sys.path if entry)])
    done = subprocess.run(
        [sys.executable, "-B", "-c", code],
        env={"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("module", sorted(WITH_CRYPTOGRAPHY))
def test_only_modules_that_exist_are_left_out(module: str) -> None:
    text = (SOURCE.parent / module.replace(".", "/")).with_suffix(".py").read_text()
    assert "from cryptography" in text


@pytest.mark.parametrize(
    "module",
    ["privml.cli.verify", "privml.cli.proxy", "privml.cli.lookup", "privml.cli.export", "privml.client.anchors"],
)
def test_verifying_loads_no_builder(module: str) -> None:
    """Rooms that build, and the model library that only they need, cost a caller time and trust."""
    code = f"import sys, {module}; print(*sys.modules)"
    path = ":".join([str(SOURCE.parent), *(entry for entry in sys.path if entry)])
    done = subprocess.run(
        [sys.executable, "-B", "-c", code], env={"PYTHONPATH": path}, capture_output=True, text=True, check=True
    )
    loaded = done.stdout.split()
    assert "privml.verify.check" in loaded or module in ("privml.client.anchors", "privml.cli.lookup")
    rooms = {name.split(".")[1] for name in loaded if name.startswith("privml.")}
    needed = {"base", "channel", "events", "machine", "evidence", "statement", "output", "verify", "client", "cli"}
    # The proxy takes bodies up to the bound of the engines' records.
    assert rooms <= (needed | {"engines"} if module == "privml.cli.proxy" else needed)
    assert not [name for name in loaded if name.partition(".")[0] in ("pydantic", "yaml")]
