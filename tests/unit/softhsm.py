"""A token of Debian's SoftHSM in a folder of its own, for tests of keys in hardware tokens."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

LIBRARY = Path("/usr/lib/softhsm/libsofthsm2.so")
PIN = "123456"
installed = pytest.mark.skipif(
    shutil.which("softhsm2-util") is None or not LIBRARY.exists(), reason="softhsm2 is not installed"
)


@contextmanager
def token(folder: Path, label: str) -> Iterator[Any]:
    """An open session of the new token ``label``; ``folder`` gets the file `pin`. The token is there in the block."""
    (folder / "tokens").mkdir()
    (folder / "conf").write_text(
        f"directories.tokendir = {folder}/tokens\nobjectstore.backend = file\nlog.level = ERROR\n"
    )
    (folder / "pin").write_text(PIN + "\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOFTHSM2_CONF", str(folder / "conf"))
        words = ["--init-token", "--free", "--label", label, "--pin", PIN, "--so-pin", "87654321"]
        subprocess.run(["softhsm2-util", *words], check=True, capture_output=True)
        pkcs11 = pytest.importorskip("pkcs11")
        library = pkcs11.lib(str(LIBRARY))
        library.reinitialize()  # another module's tests may have loaded it with tokens of their own
        session = library.get_token(token_label=label).open(rw=True, user_pin=PIN)
        yield session
