"""Builds where users have them: another file system, a read-only worktree, a container, another Python, sudo."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.real.conftest import ROOT, only_full, succeeded
from tests.real.pythons import checkout, requirements, tree_of, version_of

from privml.image.tools import Bind
from privml.image.workplace import Workplace
from privml.output.manifest import read
from privml.recipe.distributions import DEBIAN, TOOLS
from privml.store.objects import default_root

pytestmark = pytest.mark.real

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount, or be another user")
POOL = ["--pool", str(default_root() / "objects")]
START = "from privml.cli.start import main; main()"
NOBODY = 65534


def same(directory: Path, honest: Path) -> None:
    assert read(directory).artefacts == read(honest).artefacts
    for name in ("manifest.json", "prediction.json"):
        assert (directory / name).read_bytes() == (honest / name).read_bytes()


def mounted(*words: str) -> bool:
    return subprocess.run(["mount", *words], check=False, capture_output=True).returncode == 0


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system of the kind ``request.param``."""
    where, kind = tmp_path / "place", request.param
    where.mkdir()
    if kind == "overlay":
        for name in ("lower", "upper", "work"):
            (tmp_path / name).mkdir()
        (tmp_path / "lower/below").touch()
        options = f"lowerdir={tmp_path}/lower,upperdir={tmp_path}/upper,workdir={tmp_path}/work"
        done = mounted("-t", "overlay", "-o", options, "none", str(where))
    else:
        disk = tmp_path / "disk"
        disk.touch()
        os.truncate(disk, 6 << 30)
        if shutil.which(f"mkfs.{kind}") is None:
            pytest.skip(f"there is no mkfs.{kind}")
        subprocess.run([f"mkfs.{kind}", str(disk)], check=True, capture_output=True)
        done = mounted("-o", "loop", str(disk), str(where))
    if not done:
        pytest.skip(f"this machine cannot mount {kind}")
    yield where
    subprocess.run(["umount", "--lazy", str(where)], check=True)


@only_full
@needs_root
@pytest.mark.parametrize("place", ["overlay", "btrfs"], indirect=True)
def test_output_store_and_temporary_files_on_another_file_system(place: Path, tdx_min: Path) -> None:
    (place / "temporary").mkdir()
    environment = {**os.environ, "PRIVML_STORE": str(place / "store"), "TMPDIR": str(place / "temporary")}
    words = [str(Path(sys.executable).with_name("privml-build")), "image", "tdx-min", *POOL]
    done = subprocess.run(
        [*words, "--output", str(place / "image")],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    succeeded(done)
    same(place / "image", tdx_min)
    assert list((place / "temporary").iterdir()) == []


@only_full
@needs_root
def test_a_read_only_git_worktree(tmp_path: Path, tdx_min: Path) -> None:
    tree = tmp_path / "worktree"
    subprocess.run(["git", "worktree", "add", "--detach", str(tree)], cwd=ROOT, check=True, capture_output=True)
    try:
        checkout(tree)
        assert (tree / ".git").is_file()
        if not mounted("--bind", str(tree), str(tree)):
            pytest.skip("this root may not mount")
        try:
            subprocess.run(["mount", "-o", "remount,bind,ro", str(tree)], check=True)
            environment = {**os.environ, "PYTHONPATH": str(tree / "builder")}

            def run(*words: str, code: int = 0) -> str:
                command = [sys.executable, "-c", START, *words]
                done = subprocess.run(
                    command, cwd=tree, env=environment, capture_output=True, text=True, timeout=900, check=False
                )
                return succeeded(done, code).stderr

            run("image", "tdx-min", "--output", str(tmp_path / "image"))
            same(tmp_path / "image", tdx_min)
            run("lock", "tdx-min")
            for words in (("image", "tdx-min"), ("init", "mine")):
                assert "ead-only file system" in run(*words, code=5)
        finally:
            subprocess.run(["umount", "--lazy", str(tree)], check=True)
    finally:
        subprocess.run(["git", "worktree", "remove", "--force", str(tree)], cwd=ROOT, check=True)


@only_full
@needs_root
def test_a_home_and_files_of_another_user_are_named() -> None:
    """sudo that keeps HOME: root's files in a user's store, and a user with root's home."""
    base = Path("/var/tmp") / f"privml-homes.{os.getpid()}"
    python = f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}"
    if not Path(python).is_file():
        pytest.skip(f"there is no {python}, which another user may run")
    (base / "closed").mkdir(0o700, parents=True)
    try:
        base.chmod(0o755)
        (base / "home").mkdir()
        os.chown(base / "home", NOBODY, NOBODY)
        checkout(base / "checkout")
        ours = shutil.ignore_patterns("_privml*", "_editable*", "__editable__*")
        shutil.copytree(Path(pytest.__file__).parents[1], base / "libraries", ignore=ours)
        for data in (b"", b"a"):
            digest = hashlib.sha256(data).hexdigest()
            path = base / f"pool{len(data)}/sha256" / digest[:2] / digest[2:]
            path.parent.mkdir(parents=True)
            path.write_bytes(data)

        def run(user: int, home: str, *words: str, code: int) -> str:
            done = subprocess.run(
                [python, "-c", START, *words],
                cwd="/",
                env={
                    "PATH": "/usr/bin:/bin",
                    "HOME": str(base / home),
                    "PYTHONPATH": f"{base}/checkout/builder:{base}/libraries",
                    "PYTHONDONTWRITEBYTECODE": "1",
                },
                user=user,
                group=user,
                extra_groups=[],
                umask=0o022,
                capture_output=True,
                text=True,
                check=False,
            )
            return succeeded(done, code).stderr

        run(0, "home", "store", "import", str(base / "pool0"), code=0)
        said = run(NOBODY, "home", "store", "import", str(base / "pool1"), code=5)
        assert f"hint: {base}/home/.cache/privml-build/store" in said
        assert "belongs to root: choose another place (`--output`, PRIVML_STORE), or change the owner" in said
        said = run(NOBODY, "closed", "store", "size", code=5)
        assert f"hint: HOME is {base}/closed, which belongs to root: set HOME (`sudo -H` does)" in said
    finally:
        shutil.rmtree(base)


def contained(words: list[str]) -> subprocess.CompletedProcess[str]:
    """Run podman, out of sight of a second cgroup hierarchy, which its runtime refuses."""
    hide = '! mountpoint -q /sys/fs/cgroup/unified || umount -l /sys/fs/cgroup/unified; exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", hide, "sh", "podman", "--storage-driver", "vfs", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)


@only_full
@needs_root
def test_a_container_without_loop_devices(tmp_path: Path, tdx_min: Path) -> None:
    """podman with the one capability that docs/BUILDING.md names: no loop device, no network, another Python."""
    if shutil.which("podman") is None:
        pytest.skip("there is no podman")
    release = TOOLS.release.codename
    root = tmp_path / "root"
    shutil.copytree(tree_of(release, tmp_path).root, root, symlinks=True)
    libraries, source = requirements(version_of(release), tmp_path), checkout(tmp_path / "source")
    (tmp_path / "work").mkdir()
    binds = [f"{tmp_path}/work:/work", f"{source}:/source:ro", f"{libraries}:/libraries:ro"]
    binds.append(f"{default_root()}/objects:/pool:ro")
    variables = {"PYTHONPATH": "/source/builder:/libraries", "PRIVML_STORE": "/work/store", "HOME": "/work"}
    few = [
        "--network",
        "none",
        "--cgroups",
        "disabled",
        "--ulimit",
        "nofile=1024:1024",
        "--ulimit",
        "nproc=1024:1024",
    ]
    words = ["run", "--rm", *few, "--workdir", "/work"]
    words += [word for bind in binds for word in ("--volume", bind)]
    words += [word for name, value in variables.items() for word in ("--env", f"{name}={value}")]
    inner = ["python3", "-c", START]
    done = contained([*words, "--rootfs", str(root), "true"])
    if done.returncode != 0:
        pytest.skip(f"podman does not work here: {done.stderr[-200:]}")
    image = ["image", "tdx-min", "--pool", "/pool", "--output", "/work/image"]
    done = contained([*words, "--rootfs", str(root), *inner, *image])
    assert done.returncode == 5
    assert "hint: run outside this container, or give it CAP_SYS_ADMIN" in done.stderr
    capable = [*words, "--cap-add", "SYS_ADMIN", "--rootfs", str(root)]
    assert "loop" not in succeeded(contained([*capable, "ls", "/dev"])).stdout
    succeeded(contained([*capable, *inner, *image]))
    same(tmp_path / "work/image", tdx_min)


# A tree of locked packages has no git, pip, ssh-keygen, mount, certificates of authorities or names of hosts, and not
# the apt that the tests' expectations are of. The libraries are in a folder of their own: their programs, such as
# zizmor, are not in the environment, and environments that a test makes do not have them.
NEED_MORE = (
    "client_environment", "client_proxy", "demonstration", "endorse_command", "export_command", "export_snp",
    "host_facts", "image_fetched", "library", "lock_archive", "lock_modelfolder", "lock_modelsources",
    "lock_requirements", "packaging", "publish_artefacts", "publish_command", "publish_signer", "store_faults",
    "store_pypi", "ways_out", "workflows",
)  # fmt: skip
# Refused by each Python, in other words: a name that is too long, endless trailers.
IN_OTHER_WORDS = (
    "test_cli_wrong_paths.py::test_a_wrong_path_is_named_with_what_is_there",
    "test_client_attested.py::test_the_same_answers_without_pauses_are_read",
)


@dataclass(frozen=True)
class Another:
    """A folder that the other Python sees as `/work`, and what runs a command there."""

    folder: Path
    run: Callable[..., str]


@pytest.fixture(scope="module", params=sorted(DEBIAN.releases))
def another_python(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Another:
    """Runs commands by the Python of a Debian release that images may be based on, in a tree of locked packages."""
    place = tmp_path_factory.mktemp(request.param)
    tools, tree, version = Workplace().tools(), tree_of(request.param, place), version_of(request.param)
    checkout(place / "work/source")
    (place / "work/lent.pth").write_text("/libraries\n/work/source/builder\n")
    program = place / "work/privml-build"
    program.write_text(f"#!/work/venv/bin/python3\n{START}\n")
    program.chmod(0o755)
    (place / "work/start").write_text(
        "set -e\n"
        "test -d /work/venv || python3 -m venv --without-pip /work/venv\n"
        f"cp /work/lent.pth /work/venv/lib/python{version}/site-packages/\n"
        "cp /work/privml-build /work/venv/bin/\n"
        "cd /work/source\n"
        'exec "$@"\n'
    )
    (place / "home").mkdir()  # mkosi expects one on the host
    binds = [
        Bind(place / "work", "/work", writable=True),
        Bind(place / "home", "/home"),
        Bind(requirements(version, place), "/libraries"),
        Bind(default_root() / "objects", "/pool"),
    ]

    def run(*words: str) -> str:
        command = tree.command(
            ["sh", "/work/start", *words], binds=binds, network=True, env={"PRIVML_STORE": "/work/store"}
        )
        # The program that makes the sandbox is mkosi's, which only the tools have.
        command[2] = str(tools.mkosi_packages / "mkosi/sandbox.py")
        done = subprocess.run(command, capture_output=True, text=True, timeout=1500, check=False)
        return succeeded(done).stdout

    assert run("/work/venv/bin/python3", "--version").startswith(f"Python {version}.")
    return Another(place / "work", run)


@only_full
def test_the_fast_tests_by_another_python(another_python: Another) -> None:
    fast = ["tests/unit", "tests/property", "tests/golden"]
    fast += [f"--ignore=tests/unit/test_{name}.py" for name in NEED_MORE]
    fast += [f"--deselect=tests/unit/{name}" for name in IN_OTHER_WORDS]
    words = ("-m", "pytest", "--quiet", "-p", "no:cacheprovider", *fast)
    assert " failed" not in another_python.run("/work/venv/bin/python3", *words)


@only_full
def test_a_build_by_another_python(another_python: Another, tdx_min: Path) -> None:
    words = ("image", "tdx-min", "--pool", "/pool", "--output", "/work/image")
    another_python.run("/work/venv/bin/privml-build", *words)
    same(another_python.folder / "image", tdx_min)
