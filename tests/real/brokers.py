"""Key brokers as owners run them, an image whose volumes they encrypt, and the courier between both.

Everything goes by the command line, as in docs/KEYS.md. The brokers' stores are made anew for each image.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from tests.real.conftest import privml, succeeded
from tests.real.leaks import core_allowed
from tests.real.serviceprogram import command
from tests.real.simulation import TDX, Simulation

from privml.recipe.loader import shipped

NAME = "demo-keys"
MODEL = "model/smollm2"
LATER = "2099-01-01T00:00:00Z"
PATIENCE = 60.0


@dataclass(frozen=True)
class Owner:
    """An owner of one resource with a broker of its own; all its files are in ``folder``. Guests are simulated."""

    name: str
    resource: str
    folder: Path
    simulation: Simulation = TDX

    @property
    def store(self) -> tuple[str, ...]:
        """The options that name the store."""
        return ("--store", str(self.folder / "store"))

    @property
    def key(self) -> Path:
        """The file of the resource's key, for `image --key`."""
        return self.folder / "volume.key"

    def keys(self, *words: str, code: int = 0) -> str:
        """Run `keys`, which must exit with ``code``; gives its output."""
        return succeeded(privml("keys", *words), code).stdout

    def begin(self) -> str:
        """Make owner's key, store and the resource's key; gives the broker's public key for recipes."""
        self.folder.mkdir(parents=True)
        self._make_key("owner")
        made = json.loads(self.keys("init", *self.store, "--development", "--json"))
        owner = ("--owner", str(self.folder / "owner.pub"))
        self.keys("add", self.resource, *self.store, *owner, "--out", str(self.key))
        return str(made["ed25519"])

    def _make_key(self, name: str) -> None:
        private = Ed25519PrivateKey.generate()
        pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (self.folder / f"{name}.pem").write_bytes(pem)
        public = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        (self.folder / f"{name}.pub").write_bytes(public)

    def rotate(self, serial: int) -> None:
        """Rotate everything that can be: the store's root, the resource's key, and the owner's key."""
        self.keys("rotate", *self.store)
        self.keys("rotate", self.resource, *self.store, "--out", str(self.folder / "next.key"))
        self._make_key("next")
        change, signed = self.folder / "owners.json", self.folder / "owners.dsse"
        words = ("--resource", self.resource, "--broker", self.public, "--serial", str(serial))
        self.keys("policy", "owners", *words, "--owner", str(self.folder / "next.pub"), "-o", str(change))
        for name in ("owner", "next"):
            self.keys("policy", "sign", str(change), "--key", str(self.folder / f"{name}.pem"))
        self.keys("policy", "add", str(signed), *self.store)
        (self.folder / "next.pem").replace(self.folder / "owner.pem")

    @property
    def public(self) -> str:
        """The broker's public key, in hex."""
        return str(json.loads(self.keys("show", *self.store, "--json"))["ed25519"])

    def allow(self, serial: int, *images: Path, until: str = LATER, more: tuple[str, ...] = ()) -> Path:
        """Sign and add a policy for guests of ``images``, with ``more`` options; the signed policy."""
        policy, signed = self.folder / f"policy-{serial}.json", self.folder / f"policy-{serial}.dsse"
        named = [word for image in images for word in ("--image", str(image))]
        words = ("--resource", self.resource, "--broker", self.public, "--serial", str(serial))
        words += ("--not-after", until, "--simulated", *self.simulation.release, *more)
        self.keys("policy", "new", *words, *named, "-o", str(policy))
        self.keys("policy", "sign", str(policy), "--key", str(self.folder / "owner.pem"))
        self.keys("policy", "add", str(signed), *self.store)
        return signed

    @contextlib.contextmanager
    def serving(self, image: Path, ended_by: signal.Signals = signal.SIGINT) -> Iterator[str]:
        """`keys serve` for guests of ``image``; gives its address. It could leave a core dump in ``folder``."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = [
            str(Path(sys.executable).with_name("privml-build")), "keys", "serve", *self.store,
            "--expect", str(image.resolve()), *self.simulation.accept, "--listen", f"127.0.0.1:{port}",
        ]  # fmt: skip
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=os.environ,
            cwd=self.folder,
            preexec_fn=core_allowed,
        )
        try:
            _await(port, process)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.send_signal(ended_by)
            process.communicate(timeout=20)

    def log(self) -> list[dict[str, Any]]:
        """The entries of the broker's log, once it was verified."""
        self.keys("log", "verify", *self.store)
        entries: list[dict[str, Any]] = json.loads(self.keys("log", "show", *self.store, "--json"))
        return entries


def _await(port: int, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + PATIENCE
    while True:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.connect(("127.0.0.1", port))
            return
        if process.poll() is not None:
            assert process.stdout is not None
            raise AssertionError(process.stdout.read().decode())
        assert time.monotonic() < end, "the broker does not listen"
        time.sleep(0.1)


PLATFORM = "two-owners"
# Answers with the corpus; or, for /crash, whether a child was ended by a signal, and whether it left a core dump.
ANSWER = """
import os

def answer(path):
    if path == "/crash":
        child = os.fork()
        if child == 0:
            os.abort()
        status = os.waitpid(child, 0)[1]
        return f"{os.WIFSIGNALED(status)} {os.WCOREDUMP(status)}".encode()
    with open("/run/privml-data/corpus/claims.txt", "rb") as file:
        return file.read()
"""
CLAIMS = b"Claim 1: the roof leaked.\n"


def encrypted_image(folder: Path, out: Path, weights: Owner, data: Owner | None = None) -> Path:
    """Build ``out``: the demo's image whose model is encrypted, and perhaps a corpus of somebody else, too."""
    shutil.copytree(shipped(), folder)
    brokers = {weights.name: {"ed25519": weights.begin()}}
    recipe: dict[str, Any] = {
        "extends": "./demo-cpu.yaml",
        "description": "The demo's image with encrypted volumes.",
        "variant": "development",
        "firmware": weights.simulation.firmware,
        "platforms": [weights.simulation.platform],
        "inference": yaml.safe_load((folder / "demo-cpu.yaml").read_text())["inference"],
        "keys": {"brokers": brokers},
    }
    recipe["inference"]["models"][0]["encrypt"] = {"broker": weights.name, "resource": weights.resource}
    if data is not None:
        brokers[data.name] = {"ed25519": data.begin()}
        (folder / "corpus").mkdir()
        (folder / "corpus/claims.txt").write_bytes(CLAIMS)
        encrypt = {"broker": data.name, "resource": data.resource}
        recipe["data"] = [{"name": "corpus", "source": "file:corpus/", "encrypt": encrypt}]
        recipe["services"] = {"claims": {"run": command(ANSWER), "memory": "64MiB"}}
        platform = (folder / "platforms/qemu-11-q35-tpm.yaml").read_text()
        platform = platform.replace("name: qemu-11-q35-tpm", f"name: {PLATFORM}")
        platform = platform.replace("devices:\n", 'devices:\n  - {kind: virtio-blk, slot: "05.0"}\n')
        (folder / f"platforms/{PLATFORM}.yaml").write_text(platform)
        recipe["platforms"] = [PLATFORM]
    written = folder / f"{NAME}.yaml"
    written.write_text(yaml.safe_dump(recipe, sort_keys=False))
    # The same packages as in demo-cpu-dev: no archive is asked.
    shutil.copy(folder / "demo-cpu-dev.lock.json", folder / f"{NAME}.lock.json")
    succeeded(privml("lock", str(written)))
    keys = [word for owner in (weights, data) if owner is not None for word in ("--key", str(owner.key))]
    succeeded(privml("image", str(written), "-o", str(out), *keys))
    return out


def delivered(port: int, *brokers: str, code: int = 0) -> dict[str, Any]:
    """What `keys deliver` did for the guest on ``port``; it must exit with ``code``."""
    words = [word for url in brokers for word in ("--broker", url)]
    done = privml("keys", "deliver", f"https://127.0.0.1:{port}", *words, "--wait", "120", "--json")
    found: dict[str, Any] = json.loads(succeeded(done, code).stdout)
    return found
