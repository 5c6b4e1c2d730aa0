"""Published measurements from a second machine: another user, an empty home, store and memory, and a fresh clone.

Only addresses lead there: of the measurements and of the pool. The first test builds nothing there. In `make
check-full` a stranger also rebuilds the version in the clone and hands in an endorsement.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import pwd
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.real.conftest import ROOT, only_full, privml, succeeded
from tests.real.test_publish import KEYS, NAME, NONCE, ROLES, SPKI, guest, in_process
from tests.real.test_unprivileged import python_for, somebody
from tests.unit.pool_server import serving

from privml.output import manifest as manifests
from privml.sim import quote as sim

pytestmark = pytest.mark.real

Reports = Callable[[str], dict[str, Any]]
WANTED = f"{NAME}@1.0"
BUILDER = (
    *("anyio", "click", "cryptography", "dcap-qvl", "starlette", "uvicorn"),
    *("jinja2", "packaging", "pydantic", "pyyaml"),
)
"""What pyproject.toml asks for, with the extra `build` and without uv, which only locks."""


@dataclass(frozen=True)
class Publisher:
    """The publishers' machine: keys, what they built, and the folders that they serve."""

    place: Path
    built: Path
    monkeypatch: pytest.MonkeyPatch

    def keys(self, *names: str) -> list[str]:
        return [word for name in names for word in ("--key", str(self.place / f"{name}.pem"))]

    def run(self, *words: str, keys: tuple[str, ...] = ()) -> None:
        succeeded(privml("publish", *words, "--in", str(self.place / "measurements"), *self.keys(*keys)))

    def begin(self) -> None:
        """Make keys and a repository, and publish one version with its artefacts."""
        for name, words in KEYS.items():
            private, public = str(self.place / f"{name}.pem"), str(self.place / f"{name}.pub")
            subprocess.run(["openssl", "genpkey", *words, "-out", private], check=True, capture_output=True)
            subprocess.run(["openssl", "pkey", "-in", private, "-pubout", "-out", public], check=True)
        (self.place / "roles.toml").write_text(ROLES)
        (self.place / "state").mkdir()
        self.monkeypatch.setenv("XDG_STATE_HOME", str(self.place / "state"))
        self.run("root", str(self.place / "roles.toml"), keys=("root-1", "root-2", "online"))
        words = ("publish", NAME, "--version", "1.0", "--in", str(self.place / "measurements"))
        pool = ("--artefacts", str(self.place / "pool"))
        in_process(self.monkeypatch, self.built, *words, *pool, *self.keys("ann", "ben", "online"))

    def revoke(self) -> None:
        self.run("state", WANTED, "revoked", "--reason", "a hole", keys=("ben", "carl", "online"))


@pytest.fixture
def publisher(reports: Reports, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Publisher:
    if reports(NAME)["refreshed"]:
        pytest.skip(f"inputs-gone: {NAME} is refreshed, and no refreshed image is published")
    found = Publisher(tmp_path, ROOT / "out/legs" / NAME, monkeypatch)
    found.begin()
    return found


@dataclass(frozen=True)
class Stranger:
    """Another user with a clone and an empty home, and nothing else."""

    user: pwd.struct_passwd
    place: Path

    @property
    def clone(self) -> Path:
        return self.place / "clone"

    @property
    def home(self) -> Path:
        return self.place / "home"

    def run(self, code: int, *words: str) -> subprocess.CompletedProcess[str]:
        """`privml-build` in the clone, as this user."""
        program = (str(self.place / "venv/bin/python"), "-c", "from privml.cli.main import main; main()")
        return succeeded(self.call(*program, *words), code)

    def call(self, *words: str) -> subprocess.CompletedProcess[str]:
        environment = {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "HOME": str(self.home),
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }
        who = {"user": self.user.pw_uid, "group": self.user.pw_gid, "extra_groups": []} if os.geteuid() == 0 else {}
        return subprocess.run(
            words, cwd=self.clone, env=environment, capture_output=True, text=True, timeout=3000, check=False,
            umask=0o077, **who,
        )  # fmt: skip

    def git(self, *words: str) -> str:
        return succeeded(self.call("git", "-c", "user.name=zoe", "-c", "user.email=zoe@x", *words)).stdout

    def verdict(self, code: int, *words: str) -> dict[str, Any]:
        """What `verify` says of the guest whose document lies in the clone."""
        done = self.run(
            code, "verify", "guest.json", "--nonce", NONCE.hex(), "--spki", SPKI.hex(), "--json",
            "--allow-simulated", "sim.pem", *words,
        )  # fmt: skip
        told: dict[str, Any] = json.loads(done.stdout)
        return told


def libraries(names: tuple[str, ...], to: Path) -> None:
    """Copy these distributions and what they need into a folder for another Python of this version."""
    wanted, done = list(names), set[str]()
    while wanted:
        name = wanted.pop()
        if name in done:
            continue
        done.add(name)
        try:
            found = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # only for other systems
        wanted += [re.split(r"[^A-Za-z0-9._-]", row)[0] for row in found.requires or () if "extra ==" not in row]
        for file in found.files or ():
            if ".." not in file.parts and "__pycache__" not in file.parts:
                (to / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(str(found.locate_file(file)), to / file)


@pytest.fixture
def strangers() -> Iterator[Callable[[pwd.struct_passwd], Stranger]]:
    """Makes the home, the libraries and the clone of a user."""
    places: list[Path] = []

    def make(user: pwd.struct_passwd) -> Stranger:
        place = Path("/var/tmp") / f"privml-second-machine.{os.getpid()}.{len(places)}"
        place.mkdir(mode=0o755)
        places.append(place)
        made = Stranger(user, place)
        subprocess.run([python_for(user), "-m", "venv", "--without-pip", str(place / "venv")], check=True)
        [packages] = (place / "venv/lib").glob("python*/site-packages")
        libraries(BUILDER, packages)
        (packages / "checkout.pth").write_text(f"{made.clone}/builder\n")
        tracked = subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT).decode().split("\0")
        for name in filter(None, tracked):
            if (ROOT / name).is_file() and name.split("/")[0] not in ("tests", "benchmarks", "fuzz"):
                (made.clone / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, made.clone / name)
        made.home.mkdir()
        reachable(place / "venv/bin/python", user)
        if os.geteuid() == 0:
            for folder in (made.clone, made.home):
                subprocess.run(["chown", "-R", f"{user.pw_uid}:{user.pw_gid}", str(folder)], check=True)
        return made

    yield make
    for place in places:
        shutil.rmtree(place)


def reachable(program: Path, user: pwd.struct_passwd) -> None:
    """Fail with the modes along the way if the user cannot run ``program``."""
    who = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if os.geteuid() == 0 else {}
    try:
        subprocess.run([program, "-c", ""], check=True, **who)  # type: ignore[call-overload]
    except PermissionError:
        pytest.fail(subprocess.check_output(["namei", "--long", str(program)], text=True))


def anybody() -> pwd.struct_passwd:
    """A user who is not root, and needs no rights to build."""
    if os.geteuid() != 0:
        return pwd.getpwuid(os.geteuid())
    return next(user for user in pwd.getpwall() if user.pw_name == "nobody" or user.pw_uid >= 1000)


def bring(publisher: Publisher, stranger: Stranger) -> None:
    """What comes to the stranger by other ways: a root that they trust, and a captured guest."""
    for name, data in {
        "root.json": (publisher.place / "measurements/root.json").read_bytes(),
        "guest.json": guest(publisher.built / "a"),
        "sim.pem": sim.root_pem(),
    }.items():
        (stranger.clone / name).write_bytes(data)
        (stranger.clone / name).chmod(0o644)


def test_another_user_verifies_fetches_and_hears_of_a_revocation(
    publisher: Publisher, strangers: Callable[[pwd.struct_passwd], Stranger]
) -> None:
    stranger = strangers(anybody())
    bring(publisher, stranger)
    built = publisher.built / "a"
    with serving(publisher.place) as (address, asked):
        trust = ("--trust", "root.json", NAME, "--index", f"{address}/measurements")
        told = stranger.verdict(10, *trust)
        assert told["anchor"].startswith("version 1.0 (serial 1), signed by 2 of 3 publishers (")
        assert any(note.startswith("first use of this root here") for note in told["notes"])
        assert not any(path.startswith("/pool") for path in asked)

        image = ("image", WANTED, "--trust", "root.json", "--index", f"{address}/measurements")
        stranger.run(0, *image, "--pool", f"{address}/pool")
        fetched = stranger.clone / "out" / NAME
        for name in manifests.read(built).artefacts:
            assert (fetched / name).read_bytes() == (built / name).read_bytes(), name
            if os.geteuid() == 0:
                assert (fetched / name).stat().st_uid == stranger.user.pw_uid
        shown = stranger.run(0, "inspect", f"out/{NAME}").stdout
        assert "fetched, not built: version 1.0 (serial 1), signed by " in shown
        told = stranger.verdict(10, "--expect", f"out/{NAME}")
        assert "fetched as version 1.0 (serial 1) and not built" in told["anchor"]

        shutil.copytree(publisher.place / "measurements", publisher.place / "old")
        publisher.revoke()
        for words in (trust, (*trust[:2], WANTED, *trust[3:])):
            assert [row["code"] for row in stranger.verdict(8, *words)["refusals"]] == ["version-revoked"]
        refused = stranger.run(8, *image, "--pool", f"{address}/pool", "--output", "again")
        assert "version-revoked: the publishers revoked this version: got 1.0 is revoked: a hole" in refused.stderr
        assert not (stranger.clone / "again").exists()

        old = stranger.verdict(8, *trust[:3], "--index", f"{address}/old")
        assert [row["code"] for row in old["refusals"]] == ["index-rollback"]
    kept = {path.relative_to(stranger.home).parts[:3] for path in stranger.home.rglob("*") if path.is_file()}
    assert (".local", "state", "privml-build") in kept


@only_full
def test_a_stranger_rebuilds_and_hands_in_an_endorsement(
    publisher: Publisher, strangers: Callable[[pwd.struct_passwd], Stranger]
) -> None:
    """The three commands of docs/PUBLISHING.md. Inputs come from a pool, as on a machine without mirrors."""
    stranger = strangers(somebody() if os.geteuid() == 0 else anybody())
    bring(publisher, stranger)
    shutil.rmtree(stranger.clone / "measurements")
    shutil.copytree(publisher.place / "measurements", stranger.clone / "measurements")
    succeeded(privml("store", "export", NAME, str(stranger.place / "inputs")))
    subprocess.run(
        ["openssl", "genpkey", "-algorithm", "ed25519", "-out", str(stranger.clone / "zoe.pem")],
        check=True, capture_output=True,
    )  # fmt: skip
    with (stranger.clone / ".gitignore").open("a") as ignored:
        ignored.write("/zoe.pem\n/guest.json\n/sim.pem\n/root.json\n")
    if os.geteuid() == 0:
        uid, gid = stranger.user.pw_uid, stranger.user.pw_gid
        subprocess.run(["chown", "-R", f"{uid}:{gid}", str(stranger.clone)], check=True)
    stranger.git("init", "--quiet", "--initial-branch=main")
    stranger.git("add", "--all")
    stranger.git("commit", "--quiet", "--message", "a clone")
    stranger.run(0, "store", "import", str(stranger.place / "inputs"))

    said = stranger.run(0, "endorse", WANTED, "--as", "zoe", "--key", "zoe.pem").stdout
    assert said.startswith(f"{NAME} 1.0: identical\n")
    line = said.strip().splitlines()[-1]
    assert line.startswith("git switch -c endorse-zoe && git add measurements/")
    succeeded(stranger.call("sh", "-c", line.replace("git commit", "git -c user.name=z -c user.email=z@x commit")))
    changed = stranger.git("show", "--name-only", "--format=", "HEAD").split()
    endorsement = f"{NAME}/1.0/endorsements/zoe.dsse.json"
    assert changed == [f"measurements/{endorsement}"]

    place = publisher.place / "measurements" / endorsement
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(stranger.clone / "measurements" / endorsement, place)
    succeeded(privml("publish", "check", str(publisher.place / "measurements")))
    row = next(text for text in said.splitlines() if '"privml-rebuilders/v1"' in text)
    (stranger.clone / "people.json").write_text(row)
    (stranger.clone / "people.json").chmod(0o644)
    trust = ("--trust", "root.json", NAME, "--index", "measurements", "--rebuilders", "people.json:1")
    assert stranger.verdict(10, *trust)["published"]["rebuilders"] == ["zoe"]
