#!/usr/bin/python3
"""mkosi's finalize script: bring the tree into its final, normal form before verity seals it.

Runs in the tools tree's sandbox. Reads ``privml.json`` beside mkosi.conf:
{"modules": [names], "initrd_modules": [names, in load order], "generators": [names], "programs": [names], "overlay": [paths],
"epoch": n}
Takes kernel and initrd parts out to $OUTPUTDIR, removes what the guest does not need or what differs between builds,
compiles Python, and brings owners, modes and times into one form. Fails when a kernel, module or program is missing.
"""

import compileall
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


def remove(*patterns: str) -> None:
    for pattern in patterns:
        for path in sorted(root.glob(pattern.lstrip("/"))):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def fail(text: str) -> None:
    sys.exit(f"finalize: {text}")


def libraries(program: Path) -> list[Path]:
    """The shared libraries of a program of the tree, by its own loader."""
    text = subprocess.run(
        ["chroot", str(root), "/usr/lib64/ld-linux-x86-64.so.2", "--list", "/" + str(program.relative_to(root))],
        check=True, capture_output=True, text=True,
    ).stdout
    return [root / path.lstrip("/") for path in re.findall(r"(/\S+) \(0x", text)]


# -- kernel and initrd parts leave the tree ---------------------------------------------------------------------
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
    """Names with what they need, each after its needs."""
    order: list[str] = []

    def visit(name: str) -> None:
        name = name.replace("-", "_")
        if name in order or name in builtin:
            return
        if name not in modules:
            fail(f"kernel {kernel.name} has no module {name}")
        # modules.dep lists needs with the deepest last
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
    # The loader's own path is /lib64/...; everything else is found in its default directory.
    directory = "lib64" if library.name.startswith("ld-linux") else "usr/lib/x86_64-linux-gnu"
    (initrd / directory).mkdir(parents=True, exist_ok=True)
    shutil.copyfile(library.resolve(), initrd / directory / library.name)
    (initrd / directory / library.name).chmod(0o755)
shutil.copyfile(root / "usr/lib/privml/initrd-init", initrd / "init")
(initrd / "init").chmod(0o755)
remove("usr/lib/privml/initrd-init", "usr/bin/busybox")

# -- only the modules that the guest may load ------------------------------------------------------------------
wanted = set(closure(facts["modules"]))
for name, path in modules.items():
    if name not in wanted:
        path.unlink()
for path in sorted(kernel.rglob("*"), reverse=True):
    if path.is_dir() and not path.is_symlink() and not any(path.iterdir()):
        path.rmdir()
remove(f"usr/lib/modules/{kernel.name}/vmlinuz", f"usr/lib/modules/{kernel.name}/build",
       f"usr/lib/modules/{kernel.name}/source", f"usr/lib/modules/{kernel.name}/System.map",
       f"usr/lib/modules/{kernel.name}/config", f"usr/lib/modules/{kernel.name}/vdso", "boot/*", "efi/*",
       f"usr/lib/modules/{kernel.name}/modules.symbols*")
subprocess.run(["depmod", "-b", str(root), kernel.name], check=True)

# -- what the guest does not need, and what differs between builds ---------------------------------------------
remove(
    "var/cache/*", "var/log/*", "var/lib/apt", "var/lib/dpkg", "var/lib/ucf", "var/lib/pam", "var/lib/python",
    "var/lib/systemd/deb-systemd-helper-*", "var/lib/systemd/catalog", "var/lib/systemd/random-seed",
    "var/lib/dracut", "var/backups", "var/mail", "var/spool", "var/local", "var/opt",
    "etc/*-", "etc/.pwd.lock", "etc/ssh", "etc/apt", "etc/dpkg", "etc/cron*", "etc/kernel", "etc/dracut*",
    "etc/update-motd.d", "etc/motd", "etc/issue*", "etc/skel", "etc/alternatives", "etc/initramfs-tools",
    "etc/fstab", "etc/systemd/user", "etc/rc?.d", "etc/init.d", "etc/default/*",
    "etc/logrotate.d", "etc/bash*", "etc/profile*", "etc/debconf.conf", "etc/opt", "etc/gai.conf",
    "usr/share/doc", "usr/share/man", "usr/share/info", "usr/share/locale", "usr/share/lintian", "usr/share/bug",
    "usr/share/bash-completion", "usr/share/zsh", "usr/share/fish", "usr/share/perl*", "usr/share/debconf",
    "usr/share/initramfs-tools", "usr/share/menu", "usr/share/common-licenses", "usr/share/pixmaps",
    "usr/share/polkit-1", "usr/share/gcc", "usr/share/gdb", "usr/share/i18n", "usr/share/zoneinfo/right",
    "usr/share/zoneinfo/posix", "usr/share/dbus-1", "usr/share/factory", "usr/share/base-*", "usr/share/dpkg",
    "usr/share/xml", "usr/share/readline", "usr/share/adduser", "usr/share/debianutils", "usr/share/keyrings",
    "usr/share/python3/runtime.d", "usr/share/python3/bcep", "usr/share/pam*", "usr/share/awk", "usr/include",
    "usr/share/lintian-overrides", "usr/share/bugs", "usr/share/libgcrypt*", "usr/share/llama*", "usr/share/mime",
    "usr/lib/dracut", "usr/lib/kernel", "usr/lib/init", "usr/lib/ssl/misc", "usr/lib/dpkg", "usr/lib/apt",
    "usr/lib/initramfs-tools", "usr/lib/pcrlock.d", "usr/lib/rpm", "usr/lib/installkernel", "usr/lib/user-tmpfiles.d",
    "usr/lib/linux*", "usr/lib/x86_64-linux-gnu/perl*", "usr/lib/x86_64-linux-gnu/gconv",
    "usr/lib/x86_64-linux-gnu/security", "usr/lib/x86_64-linux-gnu/libsystemd-core-*-none",
    "usr/lib/udev/hwdb.d", "usr/lib/udev/hwdb.bin", "etc/udev/hwdb.bin", "usr/lib/python3/dist-packages/*.egg-info",
    "usr/lib/python3*/test", "usr/lib/python3*/idlelib", "usr/lib/python3*/ensurepip", "usr/lib/python3*/tkinter",
    "usr/lib/python3*/turtledemo", "usr/lib/python3*/pydoc_data", "usr/lib/python3*/lib2to3", "usr/lib/python3*/venv",
    "usr/lib/python3*/unittest", "usr/lib/python3*/xmlrpc", "usr/lib/python3*/wsgiref", "usr/lib/python3*/dbm",
    "usr/lib/python3*/curses", "usr/lib/python3*/sqlite3", "usr/lib/python3*/__phello__",
    "usr/lib/valgrind", "usr/lib/tc", "usr/local/*", "usr/games", "usr/src", "srv/*", "media/*", "mnt/*", "opt/*",
    "home/*", "root/.*",
)
for directory in [*root.rglob("__pycache__")]:
    shutil.rmtree(directory)

# -- no way in: only the programs on the list; no logins, no generators ----------------------------------------
programs = set(facts["programs"])
for directory in (root / "usr/bin", root / "usr/sbin"):
    for path in sorted(directory.iterdir()):
        if path.name not in programs:
            path.unlink()
present = {path.name for directory in ("usr/bin", "usr/sbin") for path in (root / directory).iterdir()}
if programs - present:
    fail(f"programs that the guest needs are not there: {sorted(programs - present)}")
remove(
    "lib32", "libx32", "usr/lib32", "usr/libx32", "usr/libexec/coreutils", "usr/libexec/dpkg", "usr/libexec/libselinux",
    "usr/share/applications", "usr/share/binfmts", "usr/share/cruft", "usr/share/dict", "usr/share/doc-base",
    "usr/share/libc-bin", "usr/share/tabset", "usr/share/util-linux", "usr/share/user-tmpfiles.d", "usr/lib/mime",
    "usr/lib/binfmt.d", "usr/lib/credstore", "usr/lib/pam.d", "usr/lib/lsb", "etc/shells", "etc/pam.d", "etc/pam.conf", "etc/subuid", "etc/subgid",
    "usr/lib/systemd/system/*getty*", "usr/lib/systemd/system/debug-shell*", "usr/lib/systemd/systemd-sulogin-shell",
    "usr/lib/systemd/system/*/*getty*", "etc/systemd/system/*getty*", "etc/systemd/system/*/*getty*",
    "usr/lib/systemd/systemd-ssh-*", "usr/lib/systemd/user", "usr/lib/systemd/user-*", "usr/lib/systemd/system-shutdown/*",
    "usr/lib/systemd/system/systemd-firstboot*", "usr/lib/systemd/system/*/systemd-firstboot*",
    "usr/lib/systemd/systemd-logind", "usr/lib/systemd/system/systemd-logind*", "usr/lib/systemd/system/*/systemd-logind*",
    "usr/lib/systemd/system/*/systemd-hwdb-update*", "usr/lib/systemd/system/*/systemd-journal-catalog-update*",
    "usr/lib/systemd/system/*/systemd-update-done*", "usr/lib/systemd/system/*/ldconfig*",
    "usr/lib/systemd/system/*.timer", "usr/lib/systemd/system/*/*.timer", "etc/systemd/system/*/*.timer",
)
generators = root / "usr/lib/systemd/system-generators"
for path in sorted(generators.iterdir()) if generators.is_dir() else []:
    if path.name not in facts["generators"]:
        path.unlink()
# Units are enabled, masked and drawn in by the overlay alone: what presets and maintainer scripts linked goes.
overlay = set(facts["overlay"])
for base in ("etc/systemd/system", "etc/systemd/network", "etc/modules-load.d", "etc/sysctl.d", "etc/udev/rules.d"):
    for path in sorted((root / base).rglob("*"), reverse=True):
        if path.is_dir() and not path.is_symlink():
            if not any(path.iterdir()):
                path.rmdir()
        elif str(path.relative_to(root)) not in overlay:
            path.unlink()

# -- fixed forms --------------------------------------------------------------------------------------------------
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
        fields[1], fields[2] = "!*", ""  # nobody logs in; the day of the last change is the day of the build
    shadow.write_text("".join(":".join(fields) + "\n" for fields in lines))

for tree in (root / "usr/lib/python3.14", root / "usr/lib/python3/dist-packages", root / "usr/lib/privml"):
    if tree.is_dir() and not compileall.compile_dir(
        tree, quiet=2, workers=1, stripdir=str(root), prependdir="/",
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    ) and tree.name == "privml":
        fail("the agent does not compile")

for path in [root, *root.rglob("*")]:
    status = path.lstat()
    if stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
        path.unlink()
        continue
    if not path.is_symlink():
        # No setuid, nothing writable by group or others but the sticky temporary directories.
        mode = stat.S_IMODE(status.st_mode) & ~0o6000
        if not (stat.S_ISDIR(status.st_mode) and mode & 0o1000):
            mode &= ~0o022
        path.chmod(mode)
    for name in os.listxattr(path, follow_symlinks=False):
        os.removexattr(path, name, follow_symlinks=False)
    os.utime(path, (facts["epoch"], facts["epoch"]), follow_symlinks=False)
