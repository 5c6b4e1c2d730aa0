"""A build by an unprivileged user gives the same bytes, without a trace of the user."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.real.conftest import ROOT, await_mkosi, only_full, privml, settled, succeeded

from privml.host.facts import SUBORDINATE_IDS
from privml.host.survey import subordinate
from privml.output.manifest import read

pytestmark = [pytest.mark.real, only_full]


def somebody() -> pwd.struct_passwd:
    """A user of this machine who may create user namespaces with enough ids; skips if there is none."""
    if os.geteuid() != 0:
        pytest.skip("this is no root already: every build of this run is unprivileged")
    for user in pwd.getpwall():
        tables = (Path("/etc/subuid"), Path("/etc/subgid"))
        if user.pw_uid >= 1000 and all(
            subordinate(table, user.pw_name, user.pw_uid) >= SUBORDINATE_IDS for table in tables
        ):
            return user
    pytest.skip(f"no user of this machine has {SUBORDINATE_IDS} subordinate ids (/etc/subuid, /etc/subgid)")


def python_for(user: pwd.struct_passwd) -> str:
    """A Python of this version, which the wheels are for, that the user may run."""
    minor = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for candidate in (os.path.realpath(sys.executable), f"/usr/bin/{minor}", f"/usr/local/bin/{minor}"):
        done = (
            subprocess.run([candidate, "-c", ""], user=user.pw_uid, group=user.pw_gid, extra_groups=[], check=False)
            if Path(candidate).is_file() and not _closed(Path(candidate))
            else None
        )
        if done is not None and done.returncode == 0:
            return candidate
    pytest.skip(f"no {minor} that {user.pw_name} may run: {sys.executable} is in a closed folder")


def _closed(path: Path) -> bool:
    return any(not folder.stat().st_mode & 0o001 for folder in path.parents)


@pytest.fixture
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[pwd.struct_passwd, str, Path]]:
    """A user, a Python for it, and its own folder with a copy of privml-build."""
    user = somebody()
    python = python_for(user)
    place = Path("/var/tmp") / f"privml-unprivileged.{os.getpid()}"
    place.mkdir(mode=0o755)
    try:
        for name in ("builder", "recipes", "images"):
            shutil.copytree(ROOT / name, place / "checkout" / name)
        libraries = Path(pytest.__file__).parents[1]
        shutil.copytree(libraries, place / "libraries", ignore=shutil.ignore_patterns("_privml*", "__editable__*"))
        succeeded(privml("store", "export", "demo-cpu", str(place / "pool")))
        (place / "work").mkdir()
        os.chown(place / "work", user.pw_uid, user.pw_gid)
        yield user, python, place
    finally:
        shutil.rmtree(place)


def test_an_unprivileged_user_builds_the_same_bytes(
    demo_cpu: Path, theirs: tuple[pwd.struct_passwd, str, Path]
) -> None:
    """Also after interrupted builds, of which nothing is left, least of all files of subordinate ids."""
    user, python, place = theirs
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(place / "work"),
        "PRIVML_STORE": str(place / "work/store"),
        "PYTHONPATH": f"{place}/checkout/builder:{place}/libraries",
    }
    words = ["image", "demo-cpu", "--pool", str(place / "pool"), "--output", str(place / "work/image")]

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [python, "-c", "from privml.cli.main import main; main()", *words],
            cwd=place / "checkout",
            env=environment,
            user=user.pw_uid,
            group=user.pw_gid,
            extra_groups=[],
            umask=0o077,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    for number in (signal.SIGKILL, signal.SIGTERM):
        child = start()
        await_mkosi(place / "work", child)
        time.sleep(1.0)  # into the middle of its work
        child.send_signal(number)
        _, told = child.communicate(timeout=60)
        if number == signal.SIGTERM:
            assert (child.returncode, told.splitlines()[-1]) == (130, "privml-build: stopped")
        assert settled(f"{place}/work/", 5) == []
    child = start()
    _, told = child.communicate(timeout=900)
    assert child.returncode == 0, told
    left = sorted(path.name for path in (place / "work").iterdir())
    assert left == [".image.lock", "image", "store"], "what the ended builds had made is gone"
    made = place / "work/image"
    assert (made / "root.raw").stat().st_uid == user.pw_uid
    assert read(made).artefacts == read(demo_cpu).artefacts
    for name in ("manifest.json", "prediction.json", "sbom.cdx.json", "provenance.json"):
        assert (made / name).read_bytes() == (demo_cpu / name).read_bytes()
