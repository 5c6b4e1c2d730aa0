#!/usr/bin/python3
"""mkosi's finalize script: normalise the tree before the verity hashes are computed.

Runs in the sandbox of the tools tree. Reads ``privml.json`` next to mkosi.conf:
{"modules": [names], "initrd_modules": [names, in load order], "generators": [names], "programs": [names],
"units": [names], "systemd": [names], "paths": [patterns], "removals": [[why, [patterns]]], "forbidden": [names],
"overlay": {path: SHA-256 or "-> TARGET"}, "services": [absolute paths of programs], "own": [paths of the recipe's
files], "added": [packages that the recipe names], "own_programs": [programs that it keeps], "outside": [packages of
no archive of the base], "hidden": {folder: where a base tree has it}, "wheels": null or {"directory": folder of
Python wheels, "files": {path below it: SHA-256}, "programs": [paths below it], "probes": [names], "imports": [modules], "environment":
{name: value}}, "epoch": n}
Copies kernel, initrd parts, copyright files and the list of installed packages to $OUTPUTDIR, removes what the guest
does not need or what differs between builds, compiles the agent, and normalises owners, modes and times. Fails if a
package is not fully installed, if a kernel, module, program or unit is missing, if the tree has an undeclared path,
or if an overlay file is not in the tree as it was given. Modules of wheels are imported with the guest's own Python,
in a sandbox that cannot write to the tree, by ``imports.py``.
"""

import compileall
import fnmatch
import hashlib
import json
import lzma
import os
import py_compile
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

root = Path(os.environ["BUILDROOT"])
out = Path(os.environ["OUTPUTDIR"])
facts = json.loads((Path(os.environ["SRCDIR"]) / "privml.json").read_bytes())


INITRD_INIT = "usr/lib/privml/initrd-init"  # goes into the initrd, not into the root
lost: dict[str, str] = {}


def take(path: Path, rule: str) -> None:
    """Remove a path, and note the rule for each overlay file in it."""
    name = str(path.relative_to(root))
    for file in facts["overlay"]:
        if file == name or file.startswith(f"{name}/"):
            lost.setdefault(file, rule)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remove(why: str, *patterns: str) -> None:
    for pattern in patterns:
        for path in sorted(root.glob(pattern.lstrip("/"))):
            take(path, f"`{pattern}` is removed: {why}")


def fail(text: str) -> None:
    sys.exit(f"finalize: {text}")


def libraries(program: Path) -> list[Path]:
    """The shared libraries of a program in the tree, listed by the tree's loader."""
    text = subprocess.run(
        ["chroot", str(root), "/usr/lib64/ld-linux-x86-64.so.2", "--list", "/" + str(program.relative_to(root))],
        check=True, capture_output=True, text=True,
    ).stdout
    return [root / path.lstrip("/") for path in re.findall(r"(/\S+) \(0x", text)]


# -- a base tree has some folders in another place ----------------------------------------------------------------
for name, other in facts["hidden"].items():
    if (root / other).is_dir():
        if (root / name).is_dir():  # the overlay has files there
            shutil.copytree(root / name, root / other, symlinks=True, dirs_exist_ok=True)
            shutil.rmtree(root / name)
        (root / other).rename(root / name)

# -- map paths to packages, while dpkg's lists still exist --------------------------------------------------------
packages: dict[str, str] = {}
for path in sorted((root / "var/lib/dpkg/info").glob("*.list")):
    for line in path.read_text().splitlines():
        name = line.lstrip("/")
        packages[name] = packages[f"usr/{name}"] = path.stem

installed = []
for entry in (root / "var/lib/dpkg/status").read_text().strip().split("\n\n"):
    fields = dict(line.split(": ", 1) for line in entry.splitlines() if ": " in line and not line.startswith(" "))
    if fields["Status"] != "install ok installed":
        fail(f"package {fields['Package']} has the status `{fields['Status']}`, expected `install ok installed`")
    installed.append({key.lower(): fields[key] for key in ("Package", "Version", "Architecture")})
(out / "installed.json").write_text(json.dumps(installed))

# -- a recipe's files are in folders that no package has --------------------------------------------------------------
for name in facts["own"]:
    if name in packages:
        fail(f"/{name}, a file of the recipe, is a file of the package {packages[name]}")
    for parent in list(Path(name).parents)[:-1]:
        owner = packages.get(str(parent))
        if owner is not None and str(parent) not in ("etc", "usr", "usr/bin", "usr/lib"):
            fail(f"/{name}, a file of the recipe, is in /{parent}, a folder of the package {owner}")

# -- collect the declared licence of each package, for the SBOM ---------------------------------------------------
# A directory may be a link to that of another package of the same source (Debian Policy 12.5).
copyrights = {
    folder.name: (folder / "copyright").read_text(errors="replace")
    for folder in sorted((root / "usr/share/doc").iterdir())
    if (folder / "copyright").is_file() and (folder / "copyright").resolve().is_relative_to(root.resolve())
}
common = {
    path.name: os.readlink(path)
    for path in sorted((root / "usr/share/common-licenses").glob("*"))
    if path.is_symlink()
}
(out / "licences.json").write_text(json.dumps({"copyright": copyrights, "common": common}, sort_keys=True))

# -- move kernel and initrd parts out of the tree -----------------------------------------------------------------
kernels = sorted((root / "usr/lib/modules").iterdir())
if len(kernels) != 1:
    fail(f"got {len(kernels)} kernels, expected 1: {[k.name for k in kernels]}")
kernel = kernels[0]
image = next((p for p in (kernel / "vmlinuz", root / f"boot/vmlinuz-{kernel.name}") if p.is_file()), None)
if image is None:
    fail(f"kernel {kernel.name} has no vmlinuz")
shutil.copyfile(image, out / "vmlinuz")
(out / "kernel-version").write_text(kernel.name + "\n")

modules: dict[str, Path] = {}
for path in sorted(kernel.rglob("*.ko*")):
    modules[re.sub(r"\.ko(\.[a-z]+)?$", "", path.name).replace("-", "_")] = path
if any(name.startswith(f"usr/lib/modules/{kernel.name}/") for name in facts["overlay"]):
    subprocess.run(["depmod", "-b", str(root), kernel.name], check=True)  # the overlay has modules of a driver
depends = {}
for line in (kernel / "modules.dep").read_text().splitlines():
    name, _, needs = line.partition(":")
    key = re.sub(r"\.ko(\.[a-z]+)?$", "", Path(name).name).replace("-", "_")
    depends[key] = [re.sub(r"\.ko(\.[a-z]+)?$", "", Path(n).name).replace("-", "_") for n in needs.split()]
builtin = {
    re.sub(r"\.ko$", "", Path(line).name).replace("-", "_")
    for line in (kernel / "modules.builtin").read_text().splitlines()
}


def closure(names: list[str]) -> list[str]:
    """Modules with their dependencies, in load order."""
    order: list[str] = []

    def visit(name: str) -> None:
        name = name.replace("-", "_")
        if name in order or name in builtin:
            return
        if name not in modules:
            fail(f"kernel {kernel.name} has no module {name}")
        # modules.dep lists the deepest dependencies last
        for need in reversed(depends.get(name, [])):
            visit(need)
        order.append(name)

    for name in names:
        visit(name)
    return order


initrd = out / "initrd"
(initrd / "modules").mkdir(parents=True)
for number, name in enumerate(closure(facts["initrd_modules"])):
    data = modules[name].read_bytes()
    if modules[name].suffix == ".xz":
        data = lzma.decompress(data)
    (initrd / "modules" / f"{number:02}-{name}.ko").write_bytes(data)
busybox = root / "usr/bin/busybox"
dmsetup = next(p for p in (root / "usr/sbin/dmsetup", root / "usr/bin/dmsetup") if p.is_file())
for source, target in [(busybox, "bin/busybox"), (dmsetup, "sbin/dmsetup")]:
    (initrd / target).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source.resolve(), initrd / target)
    (initrd / target).chmod(0o755)
for library in libraries(dmsetup):
    # The loader's path is /lib64/...; the libraries are found in its default directory.
    directory = "lib64" if library.name.startswith("ld-linux") else "usr/lib/x86_64-linux-gnu"
    (initrd / directory).mkdir(parents=True, exist_ok=True)
    shutil.copyfile(library.resolve(), initrd / directory / library.name)
    (initrd / directory / library.name).chmod(0o755)
shutil.copyfile(root / INITRD_INIT, initrd / "init")
(initrd / "init").chmod(0o755)
remove("it is a part of the initrd", INITRD_INIT, "usr/bin/busybox")

# -- keep only the modules that the guest may load ----------------------------------------------------------------
wanted = set(closure(facts["modules"]))
for name, path in modules.items():
    if name not in wanted:
        take(path, "it is not on the list of kernel modules")
for path in sorted(kernel.rglob("*"), reverse=True):
    if path.is_dir() and not path.is_symlink() and not any(path.iterdir()):
        path.rmdir()
remove("kernel and initrd are made outside the root",
       f"usr/lib/modules/{kernel.name}/vmlinuz", f"usr/lib/modules/{kernel.name}/build",
       f"usr/lib/modules/{kernel.name}/source", f"usr/lib/modules/{kernel.name}/System.map",
       f"usr/lib/modules/{kernel.name}/config", f"usr/lib/modules/{kernel.name}/vdso", "boot/*", "efi/*",
       f"usr/lib/modules/{kernel.name}/modules.symbols*")
subprocess.run(["depmod", "-b", str(root), kernel.name], check=True)

# -- keep only the listed programs; no logins, no generators ------------------------------------------------------
programs = set(facts["programs"])
for directory in (root / "usr/bin", root / "usr/sbin"):
    for path in sorted(directory.iterdir()):
        if path.name not in programs:
            take(path, "it is not on the list of programs")
for name in facts["own_programs"]:
    places = [path for path in (root / "usr/bin" / name, root / "usr/sbin" / name) if os.path.lexists(path)]
    if not places:
        fail(f"the recipe keeps the program {name}, which none of its packages and files has")
    path, owner = places[0], packages.get(f"usr/bin/{name}", packages.get(f"usr/sbin/{name}", "no package"))
    if not path.resolve().is_file() or not path.resolve().is_relative_to(root.resolve()):
        fail(f"/usr/bin/{name} ({owner}) is a link to {os.readlink(path)}, which is not in the guest")
    if path.stat().st_mode & 0o6000 or "security.capability" in os.listxattr(path.resolve()):
        fail(f"/usr/bin/{name} ({owner}) has a set-id bit or capabilities, for which no exception exists")
present = {path.name for directory in ("usr/bin", "usr/sbin") for path in (root / directory).iterdir()}
if programs - present:
    fail(f"programs that the guest needs are missing: {sorted(programs - present)}")
generators = root / "usr/lib/systemd/system-generators"
for path in sorted(generators.iterdir()) if generators.is_dir() else []:
    if path.name not in facts["generators"]:
        take(path, "it is not on the list of generators")
# Only the overlay enables units. Links made by presets and maintainer scripts are removed, and so are the
# distribution's units, programs and rules that are not on the lists.
overlay = set(facts["overlay"])
units = root / "usr/lib/systemd/system"
missing = [name for name in facts["units"] if not (units / name).is_file()]
if missing:
    fail(f"units that the guest needs are missing: {missing}")
for path in sorted(units.iterdir()):
    if path.name not in facts["units"] and str(path.relative_to(root)) not in overlay:
        if not any(file.startswith(f"{path.relative_to(root)}/") for file in overlay):
            take(path, "it is not on the list of units")
for path in sorted((root / "usr/lib/systemd").iterdir()):
    if path.name not in facts["systemd"]:
        take(path, "it is not on the list of systemd's parts")
for base in ("etc/systemd", "etc/modules-load.d", "etc/sysctl.d", "etc/udev", "usr/lib/systemd/system-preset",
             "usr/lib/sysusers.d"):
    for path in sorted((root / base).rglob("*"), reverse=True):
        if path.is_dir() and not path.is_symlink():
            if not any(path.iterdir()):
                path.rmdir()
        elif str(path.relative_to(root)) not in overlay:
            path.unlink()
for why, patterns in facts["removals"]:
    remove(why, *patterns)

for name in ("usr/libexec",):  # an engine may use a part of it
    if (root / name).is_dir() and not any((root / name).iterdir()):
        (root / name).rmdir()

# -- normalise accounts and files ---------------------------------------------------------------------------------
(root / "etc/machine-id").write_bytes(b"")
for name in ("resolv.conf", "hostname", "mtab"):
    (root / "etc" / name).unlink(missing_ok=True)
(root / "etc/resolv.conf").write_bytes(b"")
(root / "etc/hostname").write_bytes(b"privml\n")
for name in ("passwd", "group", "shadow", "gshadow"):
    path = root / "etc" / name
    if path.is_file():
        path.write_text("".join(sorted(path.read_text().splitlines(keepends=True),
                                       key=lambda line: (line.split(":")[2:3] if name in ("passwd", "group") else [""],
                                                         line))))
shadow = root / "etc/shadow"
if shadow.is_file():
    lines = [line.split(":") for line in shadow.read_text().splitlines()]
    for fields in lines:
        fields[1], fields[2] = "!*", ""  # no logins; the date of the last change would be the date of the build
    shadow.write_text("".join(":".join(fields) + "\n" for fields in lines))

agent = root / "usr/lib/privml"
if (root / f"usr/bin/python{sys.version_info.major}.{sys.version_info.minor}").exists():
    compiled = compileall.compile_dir(
        agent, quiet=2, workers=1, stripdir=str(root), prependdir="/",
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    )
else:  # see prepare.py
    words = ["/usr/bin/python3", "-I", "-B", "-m", "compileall", "-qq", "--invalidation-mode", "unchecked-hash"]
    compiled = subprocess.run(["chroot", str(root), *words, "/usr/lib/privml"], check=False).returncode == 0
if not compiled:
    fail("the agent does not compile")

# -- compile the wheels ---------------------------------------------------------------------------------------------
if facts["wheels"]:
    # By the guest's own Python, and in one process: compiled bytes can depend on what was compiled before. Files that
    # are templates, or for another Python, are passed over.
    words = ["/usr/bin/python3", "-I", "-B", "-m", "compileall", "-qq", "--invalidation-mode", "unchecked-hash"]
    status = subprocess.run(["chroot", str(root), *words, f"/{facts['wheels']['directory']}"], check=False).returncode
    if status not in (0, 1):  # 1: some were passed over
        fail(f"the wheels do not compile: exit status {status}")

# -- refuse undeclared paths --------------------------------------------------------------------------------------
allowed = {name for name in facts["paths"] if "*" not in name} | overlay - {INITRD_INIT}
allowed |= {f"usr/lib/systemd/{name}" for name in facts["systemd"]}
allowed |= {f"usr/lib/systemd/system/{name}" for name in facts["units"]}
patterns = [name for name in facts["paths"] if "*" in name]
trees = [name.removesuffix("/**") for name in patterns if name.endswith("/**")]


def same_depth(name: str, pattern: str) -> bool:
    """Match a pattern in which `*` never matches a slash."""
    parts, wanted = name.split("/"), pattern.split("/")
    return len(parts) == len(wanted) and all(map(fnmatch.fnmatchcase, parts, wanted))


def declared(name: str, *, directory: bool) -> bool:
    """Whether a path is on the list, below a listed tree, or a parent of a listed path."""
    parts = name.split("/")
    if name in allowed or (parts[:2] in (["usr", "bin"], ["usr", "sbin"]) and len(parts) <= 3):
        return True  # programs were compared with their own list above
    if any(same_depth(name, pattern) for pattern in patterns):
        return True
    for tree in trees:
        depth = tree.count("/") + 1
        if len(parts) >= depth and same_depth("/".join(parts[:depth]), tree):
            return True
    if not directory:
        return False
    ways = [*allowed, *patterns]
    return any(len(way.split("/")) > len(parts) and same_depth(name, "/".join(way.split("/")[: len(parts)])) for way in ways)


brought = {name for name, package in packages.items() if package.partition(":")[0] in facts["added"]}
# Python would run these at the start of the agent.
startup = ("*.pth", "sitecustomize*", "usercustomize*")


def of_an_added_package(name: str) -> bool:
    """Whether a path, or the source of a compiled module, is of a package that the recipe names."""
    folder, cache, inside = name.partition("/__pycache__")
    source = f"{folder}/{inside.strip('/').partition('.')[0]}.py" if inside else folder
    return (source if cache else name) in brought


wheels = facts["wheels"] or {"directory": "", "files": {}, "imports": []}
wheel_folders = {str(parent) for path in wheels["files"] for parent in Path(wheels["directory"], path).parents}


def of_a_wheel(name: str, *, directory: bool) -> bool:
    """Whether a path is a file of a wheel, one compiled from it, or a folder with such files."""
    if not wheels["files"] or not f"{name}/".startswith(f"{wheels['directory']}/"):
        return False
    if directory:
        return name.removesuffix("/__pycache__") in wheel_folders
    folder, cache, file = name.removeprefix(f"{wheels['directory']}/").rpartition("__pycache__/")
    return (f"{folder}{file.partition('.')[0]}.py" if cache else file) in wheels["files"]


wrong = []
for path in sorted(root.rglob("*")):
    name = str(path.relative_to(root))
    directory = path.is_dir() and not path.is_symlink()
    if of_a_wheel(name, directory=directory):
        continue  # a name that means a program elsewhere is a module or data here, and not executable
    if of_an_added_package(name) and any(fnmatch.fnmatchcase(path.name, bad) for bad in startup):
        wrong.append(f"/{name} ({packages.get(name, 'no package')}) would run at the start of every Python program")
    elif any(fnmatch.fnmatchcase(path.name, bad) for bad in facts["forbidden"]):
        wrong.append(f"/{name} ({packages.get(name, 'no package')}) is forbidden")
    elif not declared(name, directory=directory):
        if of_an_added_package(name):
            if not name.startswith("usr/lib/") and not directory:
                path.unlink()  # of a package that a recipe names, programs and what is in /usr/lib stay
            continue
        wrong.append(f"/{name} ({packages.get(name, 'no package')}) is not declared")
for name in sorted(brought, reverse=True):
    path = root / name
    if path.is_dir() and not path.is_symlink() and not any(path.iterdir()):
        path.rmdir()
if wrong:
    more = f"\n  and {len(wrong) - 40} more" if len(wrong) > 40 else ""
    fail("the tree has paths that are not declared in recipe/guestroot.py:\n  " + "\n  ".join(wrong[:40]) + more)

# -- the services' programs are there -----------------------------------------------------------------------------
for program in facts["services"]:
    path = root / program.lstrip("/")
    while path.is_symlink():
        target = os.readlink(path)
        path = root / target.lstrip("/") if target.startswith("/") else path.parent / target
    if not path.is_file() or not path.stat().st_mode & 0o100:
        fail(f"the program {program} of a service is not in the image, or cannot be executed")

# -- the recipe's programs can start ---------------------------------------------------------------------------------
for name in facts["own_programs"]:
    path = next(p for p in (root / "usr/bin" / name, root / "usr/sbin" / name) if p.exists())
    with path.open("rb") as file:
        start = file.read(256)
    if start.startswith(b"#!"):
        interpreter = start[2:].split(b"\n")[0].split()[0].decode(errors="replace")
        if not (root / interpreter.lstrip("/")).is_file():
            fail(f"/usr/bin/{name} is a script for {interpreter}, which is not in the guest")
    elif start.startswith(b"\x7fELF"):
        listed = subprocess.run(
            ["chroot", str(root), "/usr/lib64/ld-linux-x86-64.so.2", "--list", f"/{path.relative_to(root)}"],
            capture_output=True, text=True,
        )
        if missing := re.findall(r"(\S+) => not found|(lib\S+): cannot open", listed.stdout + listed.stderr):
            fail(f"/usr/bin/{name} needs {', '.join(sorted(a or b for a, b in missing))}, which is not in the guest")

# -- every overlay file is in the tree as it was given --------------------------------------------------------------
wrong = []
for name, wanted in facts["overlay"].items():
    path = root / name
    if name == INITRD_INIT:
        continue
    if path.is_symlink():
        found = f"-> {path.readlink()}"
    elif path.is_file():
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    else:
        wrong.append(f"/{name}: {lost.get(name, 'mkosi removed it')}")
        continue
    if found != wanted:
        wrong.append(f"/{name}: the build or a package's script wrote another file ({found}, expected {wanted})")
for name, wanted in wheels["files"].items():
    path = root / wheels["directory"] / name
    if path.is_symlink() or not path.is_file():
        wrong.append(f"/{path.relative_to(root)}: mkosi removed it")
    elif (found := hashlib.sha256(path.read_bytes()).hexdigest()) != wanted:
        wrong.append(f"/{path.relative_to(root)}: the build wrote another file ({found}, expected {wanted})")
if wrong:
    fail("files of the overlay are not in the image as they were given:\n  " + "\n  ".join(wrong))

# -- the modules that the recipe names can be imported --------------------------------------------------------------
# As in the guest: no network, nothing to write to but /tmp and /run, and no program but Python and the wheels' own.
# Probes are refused too, but expected.
for module in wheels["imports"]:
    words = ["mkosi-sandbox", "--unshare-net", "--ro-bind", str(root), "/", "--dev", "/dev", "--ro-bind", "/proc",
             "/proc", "--tmpfs", "/tmp", "--tmpfs", "/run", "--chdir", "/"]
    for name in os.environ:
        words += ["--unsetenv", name]
    for name, value in wheels["environment"].items():
        words += ["--setenv", name, value]
    programs = ":".join(["/usr/bin/python3", *(f"/{wheels['directory']}/{name}" for name in wheels["programs"])])
    watch = (Path(os.environ["SRCDIR"]) / "imports.py").read_text()
    words += ["--", "/usr/bin/python3", "-B", "-c", watch, programs, module]
    done = subprocess.run(words, capture_output=True, text=True, errors="replace", check=False)
    said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    refused = [line.removeprefix("refused: ") for line in said if line.startswith("refused: ")]
    said = [line for line in said if not line.startswith("refused: ")]
    started = f"; it started {', '.join(refused)}, which was refused" if refused else ""
    if done.returncode != 0:
        fail(f"wheel-import: import {module}: {said[-1] if said else f'exit status {done.returncode}'}{started}")
    if more := [name for name in refused if Path(name).name not in wheels["probes"]]:
        fail(f"wheel-program: import {module} starts {', '.join(more)}, which is not in `python.programs`")

for path in [root, *root.rglob("*")]:
    status = path.lstat()
    if stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
        path.unlink()
        continue
    if not path.is_symlink():
        # No setuid, and only the sticky temporary directories are writable by group or others.
        mode = stat.S_IMODE(status.st_mode) & ~0o6000
        if not (stat.S_ISDIR(status.st_mode) and mode & 0o1000):
            mode &= ~0o022
        path.chmod(mode)
    for name in os.listxattr(path, follow_symlinks=False):
        os.removexattr(path, name, follow_symlinks=False)
    os.utime(path, (facts["epoch"], facts["epoch"]), follow_symlinks=False)

# -- the input of mkosi has the wheels too, and would only need room ------------------------------------------------
if wheels["files"]:
    shutil.rmtree(Path(os.environ["SRCDIR"]) / "mkosi.extra" / wheels["directory"], ignore_errors=True)
