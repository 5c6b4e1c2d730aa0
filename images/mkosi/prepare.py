#!/usr/bin/python3
"""mkosi's prepare script: the steps that depend only on the packages. It keeps the resulting tree for later builds.

Runs in the sandbox of the tools tree, after the packages are installed and before any file of ours is in the tree.
Removes the parts of Python that the guest never imports (``unused`` in privml.json) and compiles the rest, with the
guest's own Python if the tools have another version. Writes the tree to ``base.tar`` next to mkosi.conf, without what
``left_out`` in privml.json names and ``read_later`` does not, and with the folders of ``hidden`` under their other
names; a build with the same packages starts from it (``BaseTrees=``) and skips this script.

Packages of no archive of the base (``outside`` in privml.json: of archives that the recipe adds, and files next to it)
are installed here, after all others. Their maintainer scripts could change anything, so the tree is compared with what
it was: the build ends with path, package and rule for each set-id bit, capability, device, unit, diversion, alternative
and changed file of another package.
"""

import compileall
import fnmatch
import hashlib
import json
import os
import py_compile
import shutil
import stat
import subprocess
import sys
from pathlib import Path

# What dpkg and its triggers write for any package, apart from the diversions and alternatives.
WRITTEN = (
    "etc/ld.so.cache", "var/cache/*", "var/lib/apt/*", "var/lib/dpkg/*", "var/lib/systemd/deb-systemd-helper-*",
    "var/log/*",
)
# Where such a package may have files; what finalize keeps of them is less.
PLACES = (
    "etc/*", "opt/*", "usr/bin/*", "usr/lib/*", "usr/libexec/*", "usr/sbin/*", "usr/share/*", "var/lib/*",
    "var/cache/*", "var/log/*",
)
# Rule, and the paths that break it when they are new or changed.
RULES = (
    ("alternatives", ("etc/alternatives/*", "var/lib/dpkg/alternatives/*")),
    ("diversions", ("var/lib/dpkg/diversions",)),
    ("/etc/systemd", ("etc/systemd/*",)),
    ("units", (
        "usr/lib/systemd/*", "usr/lib/udev/*", "etc/udev/*", "usr/lib/sysusers.d/*", "usr/lib/tmpfiles.d/*",
        "usr/lib/modules-load.d/*", "etc/modules-load.d/*", "usr/lib/sysctl.d/*", "etc/sysctl.d/*", "etc/init.d/*",
    )),
    ("files that other programs read", (
        "etc/ld.so.conf*", "etc/ld.so.preload", "usr/lib/python3.*", "*/glibc-hwcaps/*", "*.pth", "*/sitecustomize*", "*/usercustomize*",
        "usr/lib/ssl/*", "usr/lib/modules/*", "usr/lib/privml/*", "etc/privml/*", "usr/lib/x86_64-linux-gnu/security/*",
        "usr/lib/x86_64-linux-gnu/ossl-modules/*", "usr/lib/x86_64-linux-gnu/engines-3/*",
        "usr/lib/x86_64-linux-gnu/libnss_*",
    )),
)


def look(root: Path) -> dict[str, tuple[str, ...]]:
    """Every path with its type, mode, owner, content, and whether it has capabilities."""
    found = {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        kind = stat.S_IFMT(status.st_mode)
        if kind == stat.S_IFLNK:
            content = os.readlink(path)
        elif kind == stat.S_IFREG:
            content = hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            content = f"{status.st_rdev}"
        capabilities = "security.capability" in os.listxattr(path, follow_symlinks=False)
        owner = f"{status.st_uid}:{status.st_gid}"
        found[str(path.relative_to(root))] = (
            f"{kind:o}", f"{stat.S_IMODE(status.st_mode):o}", owner, content, "capabilities" if capabilities else "",
        )
    return found


def owners(root: Path, names: list[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Path to package: of the packages ``names``, and of all others. Directories of both are of the others."""
    ours: dict[str, str] = {}
    theirs: dict[str, str] = {}
    for path in sorted((root / "var/lib/dpkg/info").glob("*.list")):
        package = path.stem.partition(":")[0]
        for line in path.read_text().splitlines():
            name = line.lstrip("/")
            for each in (name, f"usr/{name}") if name.split("/")[0] in ("bin", "lib", "lib64", "sbin") else (name,):
                (ours if package in names else theirs)[each] = package
    return {name: package for name, package in ours.items() if name not in theirs}, theirs


def broken(
    before: dict[str, tuple[str, ...]], after: dict[str, tuple[str, ...]], root: Path, names: list[str]
) -> list[str]:
    """One line for each rule that the packages ``names`` broke: path, package and rule."""
    ours, theirs = owners(root, names)
    lines = []
    for name in sorted(before.keys() | after.keys()):
        was, now = before.get(name), after.get(name)
        if was == now:
            continue
        package = ours.get(name, " or ".join(names))
        mode = int(now[1], 8) if now else 0
        directory = bool(now and now[0] == f"{stat.S_IFDIR:o}")
        rules = [rule for rule, patterns in RULES if any(fnmatch.fnmatchcase(name, each) for each in patterns)]
        # A list that was not there and is empty now says nothing.
        if rules == ["diversions"] and not (root / name).read_bytes():
            rules = []
        if now and mode & 0o6000 and not (directory and was):
            rules.append("set-id bits")
        if now and now[0] not in (f"{stat.S_IFREG:o}", f"{stat.S_IFDIR:o}", f"{stat.S_IFLNK:o}"):
            rules.append("device nodes")
        if now and now[4]:
            rules.append("capabilities")
        part = name.removeprefix("var/lib/dpkg/info/").partition(".")[0].partition(":")[0]
        if name.startswith("var/lib/dpkg/info/") and part not in (*names, "format"):
            rules.append(f"files of the package {part}")
        if name in theirs and not directory and not any(fnmatch.fnmatchcase(name, each) for each in WRITTEN):
            rules.append(f"files of the package {theirs[name]}")
        elif not rules and name not in ours and not directory:
            if not any(fnmatch.fnmatchcase(name, each) for each in WRITTEN):
                rules.append("files that the package does not list")
        elif not rules and not directory and not any(fnmatch.fnmatchcase(name, each) for each in PLACES):
            rules.append("files outside /usr, /etc, /opt and /var")
        lines += [f"/{name} ({package}): a package from outside the base may not add or change {rule}" for rule in rules]
    return lines


def install_outside(root: Path, names: list[str]) -> None:
    """Install packages of no archive of the base, and end the build if they changed what they may not."""
    if early := [name for name in names if [*(root / "var/lib/dpkg/info").glob(f"{name}[.:]*list")]]:
        listed = ", ".join(early)
        sys.exit(f"prepare: the packages {listed} from outside the base are installed already: another package needs them")
    before = look(root)
    subprocess.run(["mkosi-install", *names], check=True)
    if lines := broken(before, look(root), root, names):
        sys.exit("prepare: a package from outside the base is refused:\n  " + "\n  ".join(lines))


def main(root: Path, place: Path) -> None:
    facts = json.loads((place / "privml.json").read_bytes())
    if facts["outside"]:
        install_outside(root, facts["outside"])
    for pattern in (*(f"usr/lib/python3*/{name}" for name in facts["unused"]), "usr/lib/python3/dist-packages/*.egg-info"):
        for path in sorted(root.glob(pattern)):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    # Files compiled by maintainer scripts contain times.
    for directory in [*root.rglob("__pycache__")]:
        shutil.rmtree(directory)
    trees = [*sorted(root.glob("usr/lib/python3.*")), root / "usr/lib/python3/dist-packages"]
    ours = f"python{sys.version_info.major}.{sys.version_info.minor}"
    if (root / "usr/bin" / ours).exists():
        for tree in filter(Path.is_dir, trees):
            compileall.compile_dir(
                tree, quiet=2, workers=0, stripdir=str(root), prependdir="/",
                invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
            )
    else:
        # What one version compiles, another does not read. Files that are not for this version are passed over.
        words = ["/usr/bin/python3", "-I", "-B", "-m", "compileall", "-qq", "--invalidation-mode", "unchecked-hash"]
        named = [f"/{tree.relative_to(root)}" for tree in trees if tree.is_dir()]
        subprocess.run(["chroot", root, *words, *named], check=False)
    for name, other in facts["hidden"].items():
        (root / name).rename(root / other)
    left_out = {path for pattern in facts["left_out"] for path in root.glob(pattern)}
    left_out -= {root / name for name in facts["read_later"]}
    list_of_them = place / "left-out"
    list_of_them.write_text("".join(f"./{path.relative_to(root)}\n" for path in sorted(left_out)))
    subprocess.run(
        ["tar", "--create", "--anchored", "--no-wildcards", "--exclude-from", list_of_them, "--file", place / "base.tar", "--directory", root,
         "--format=pax", "--numeric-owner", "--xattrs", "--sort=name", "."],
        check=True,
    )
    for name, other in facts["hidden"].items():
        (root / other).rename(root / name)


# compileall's helpers import this file again.
if __name__ == "__main__":
    main(Path(os.environ["BUILDROOT"]), Path(os.environ["SRCDIR"]))
