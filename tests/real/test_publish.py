"""Publish, rely on it without building, fetch, endorse, revoke: tdx-min, with throw-away keys and two built legs.

The guest is simulated: a document with the registers predicted for the first machine, signed by the simulated
platform. No production image holds a simulation, so the test makes it.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.real.conftest import ROOT, privml, succeeded
from tests.unit import attestation_samples as samples
from tests.unit.pool_server import serving

from privml.events import agent
from privml.evidence import merkle, report_data, sections
from privml.evidence.document import Document, listed
from privml.output import manifest as manifests
from privml.output.prediction import read_prediction
from privml.publish import legs
from privml.publish.signer import load_public
from privml.repro import rebuilt
from privml.repro.current import DOCUMENTS
from privml.repro.legs import Inputs, Legs
from privml.sim import quote as sim
from privml.statement.rebuilders import Rebuilder, encode
from privml.store.pools import relative

pytestmark = pytest.mark.real

NAME = "tdx-min"
ROLES = """format = "privml-roles/v1"
[root]
threshold = 2
keys = ["root-1.pub", "root-2.pub", "root-3.pub"]
[online]
threshold = 1
keys = ["online.pub"]
[images.tdx-min]
threshold = 2
keys = ["ann.pub", "ben.pub", "carl.pub"]
"""
KEYS = {
    **dict.fromkeys(("root-1", "root-2", "root-3", "online", "zoe"), ("-algorithm", "ed25519")),
    "ann": ("-algorithm", "ed25519"),
    "ben": ("-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"),
    "carl": ("-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"),
}
NONCE = hashlib.sha256(b"a nonce of this test").digest()
SPKI = hashlib.sha256(b"a TLS key of this test").digest()


def guest(image: Path) -> bytes:
    """The document of a simulated guest that runs the image on the first predicted machine."""
    predicate = read_prediction(image, manifests.read(image))
    launch = predicate.launches[0]
    events = predicate.events_of("serve")
    assert events is not None
    registers = {name: launch.accepted(name)[0] for name in launch.registers}
    registers["rtmr3"] = predicate.runtime_of(launch, "serve")
    tree = merkle.build([NONCE, bytes(32)])
    parts = {
        "header": sections.Header("production", "tdx").encode(),
        "keys": samples.tls_keys(SPKI).encode(),
        "devices": listed(()).encode(),
        "eventlog": agent.encode_log(events),
    }
    quote = sim.make_quote(registers, report_data.compute(root=tree.root, **parts))
    return Document(
        nonce=NONCE, path=tree.paths[0], bootlog=samples.boot_log([]), evidence=quote,
        collateral={"tdx": sim.collateral()}, device_evidence=(), **parts,
    ).encode()  # fmt: skip


def verdict(place: Path, wanted: str, code: int, *more: str) -> dict[str, Any]:
    """The verdict of a caller who has nothing but a root, a name and the repository."""
    done = privml(
        "verify", str(place / "guest.json"), "--nonce", NONCE.hex(), "--spki", SPKI.hex(), "--json",
        "--allow-simulated", str(place / "sim.pem"), "--trust", str(place / "trusted.json"), wanted,
        "--index", str(place / "measurements"), "--trust-state", str(place / "state"), *more,
    )  # fmt: skip
    told: dict[str, Any] = json.loads(succeeded(done, code).stdout)
    return told


def test_an_image_is_published_relied_on_without_building_endorsed_and_revoked(
    reports: Callable[[str], dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if reports(NAME)["refreshed"]:
        pytest.skip(f"inputs-gone: {NAME} is refreshed, and no refreshed image is published")
    kept = ROOT / "out/legs" / NAME
    for name, words in KEYS.items():
        private, public = str(tmp_path / f"{name}.pem"), str(tmp_path / f"{name}.pub")
        subprocess.run(["openssl", "genpkey", *words, "-out", private], check=True, capture_output=True)
        subprocess.run(["openssl", "pkey", "-in", private, "-pubout", "-out", public], check=True)
    (tmp_path / "roles.toml").write_text(ROLES)
    (tmp_path / "sim.pem").write_bytes(sim.root_pem())
    (tmp_path / "state").mkdir()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "guest.json").write_bytes(guest(kept / "a"))
    folder = ("--in", str(tmp_path / "measurements"))

    def keys(*names: str) -> list[str]:
        return [word for name in names for word in ("--key", str(tmp_path / f"{name}.pem"))]

    succeeded(privml("publish", "root", str(tmp_path / "roles.toml"), *folder, *keys("root-1", "root-2", "online")))
    (tmp_path / "trusted.json").write_bytes((tmp_path / "measurements/root.json").read_bytes())
    assert [row["code"] for row in verdict(tmp_path, NAME, 8)["refusals"]] == ["version-unknown"]

    pool = ("--artefacts", str(tmp_path / "pool"))
    in_process(monkeypatch, kept, "publish", NAME, "--version", "1.0", *folder, *pool, *keys("ann", "ben", "online"))
    told = verdict(tmp_path, NAME, 10)
    assert told["anchor"].startswith("version 1.0 (serial 1), signed by 2 of 3 publishers (")
    assert told["shape"] == verdict(tmp_path, f"{NAME}@1.0", 10)["shape"] != ""
    succeeded(privml("publish", "check", str(tmp_path / "measurements")))

    fetched_elsewhere(tmp_path, kept / "a", monkeypatch)

    endorsed = ("endorse", f"{NAME}@1.0", "--as", "zoe", "--key", str(tmp_path / "zoe.pem"), *folder)
    in_process(monkeypatch, kept, *endorsed)
    people = [Rebuilder("zoe", load_public(tmp_path / "zoe.pub"))]
    (tmp_path / "people.json").write_bytes(encode(people))
    told = verdict(tmp_path, NAME, 10, "--rebuilders", f"{tmp_path}/people.json:1")
    assert told["published"]["rebuilders"] == ["zoe"]
    succeeded(privml("publish", "check", str(tmp_path / "measurements")))

    reason = ("--reason", "a test", *folder, *keys("ben", "carl", "online"))
    succeeded(privml("publish", "state", f"{NAME}@1.0", "revoked", *reason))
    for wanted in (NAME, f"{NAME}@1.0"):
        assert [row["code"] for row in verdict(tmp_path, wanted, 8)["refusals"]] == ["version-revoked"]
    succeeded(privml("publish", "check", str(tmp_path / "measurements")))


def fetched_elsewhere(place: Path, built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody with a home and a store of their own fetches the image: all its bytes are those of the build."""
    with monkeypatch.context() as patch:
        for name in ("HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
            (place / "elsewhere" / name).mkdir(parents=True)
            patch.setenv(name, str(place / "elsewhere" / name))
        patch.setenv("PRIVML_STORE", str(place / "elsewhere/store"))
        fetched = place / "elsewhere/image"
        with serving(place / "pool") as (address, asked):
            succeeded(
                privml(
                    "image", f"{NAME}@1.0", "--trust", str(place / "trusted.json"), "--index",
                    str(place / "measurements"), "--pool", address, "--output", str(fetched),
                )
            )  # fmt: skip
        artefacts = manifests.read(built).artefacts
        assert sorted(asked) == sorted(f"/{relative(each.sha256)}" for each in artefacts.values())
        for name in (*artefacts, *DOCUMENTS):
            assert (fetched / name).read_bytes() == (built / name).read_bytes(), name
        shown = succeeded(privml("inspect", str(fetched))).stdout
        assert "fetched, not built: version 1.0 (serial 1), signed by " in shown
        told = privml(
            "verify", str(place / "guest.json"), "--nonce", NONCE.hex(), "--spki", SPKI.hex(),
            "--allow-simulated", str(place / "sim.pem"), "--expect", str(fetched),
        )  # fmt: skip
        assert "fetched as version 1.0 (serial 1) and not built" in succeeded(told, 10).stdout.splitlines()[0]


def in_process(monkeypatch: pytest.MonkeyPatch, kept: Path, *words: str) -> None:
    """A command in this process, with the two legs that `repro` has just built in place of two more."""
    from privml.cli.main import main

    @contextmanager
    def two_legs(
        inputs: Inputs, store: Path, name: str, *, keep: Path | None = None, needed: int = 0
    ) -> Iterator[Legs]:
        assert (name, inputs.refreshed) == (NAME, False)
        yield Legs(kept / "a", kept / "b", (), {})

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(rebuilt, "two_legs", two_legs)
    changed = subprocess.check_output(
        ["git", "status", "--porcelain", "--", ".", ":(exclude)measurements"], text=True
    )
    if changed and legs.committed.__name__ == "committed":
        # A developer's checkout: publishing it is refused, and the rest is tried all the same.
        with pytest.raises(SystemExit) as refused:
            main(list(words))
        assert refused.value.code == 8
        monkeypatch.setattr(legs, "committed", lambda *_: "0" * 40)
    with pytest.raises(SystemExit) as done:
        main(list(words))
    assert done.value.code == 0
