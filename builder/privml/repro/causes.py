"""Table of the causes for which two builds differ, with how to fix each.

A row applies to fields (content, mode, presence...) and paths, if its matcher accepts the bytes; the first row that
applies names the cause. Specific rows come before general ones. tests/unit/test_repro_mutation.py injects every cause
into a tree, so an unreachable row fails the tests.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase, translate

from privml.repro import matchers as m
from privml.repro.tree import Entry

_EVERYWHERE = ("*",)
Fact = Callable[[Entry, Entry], bool]


@dataclass(frozen=True)
class Cause:
    """One cause. ``fields`` and ``globs`` (`*` matches `/`) say where to look, ``seen`` and ``fact`` match values."""

    id: str
    cause: str
    fix: str
    fields: tuple[str, ...] = ("content",)
    globs: tuple[str, ...] = _EVERYWHERE
    seen: m.Matcher | None = None
    fact: Fact | None = None


@dataclass(frozen=True)
class Symptom:
    """One difference, as input for the table; bytes are None where there are none, or too many."""

    field: str
    path: str
    a: Entry | None = None
    b: Entry | None = None
    data_a: bytes | None = None
    data_b: bytes | None = None
    # Known differences between the two environments: id of the cause -> (value of a, value of b).
    surroundings: Mapping[str, tuple[tuple[str, str], ...]] = dataclasses.field(default_factory=dict)


def _xattr(prefix: str) -> Fact:
    def fact(a: Entry, b: Entry) -> bool:
        return any(name.startswith(prefix) for name, _ in set(a.xattrs) ^ set(b.xattrs))

    return fact


def _group_bits(a: Entry, b: Entry) -> bool:
    return (a.mode ^ b.mode) & ~0o077 == 0


def _is_link(a: Entry, b: Entry) -> bool:
    return a.type == b.type == "link"


_LOGS = "the tree contains a log"
_NO_CACHE = "remove it in images/mkosi/finalize.py; caches go to a volume at run time, never into the image"
_DATABASE = "CleanPackageMetadata=yes, and remove the rest in images/mkosi/finalize.py"
_STAMP = "pin it through SOURCE_DATE_EPOCH, or remove the line in finalize"

TREE: tuple[Cause, ...] = (
    # -- files identified by their path
    Cause("ldconfig-cache", "ldconfig's auxiliary cache is keyed by inode and ctime", "remove var/cache/ldconfig",
          ("content", "presence"), ("var/cache/ldconfig/*",)),
    Cause("log", _LOGS, "delete the files under var/log in finalize, keep the directories",
          ("content", "presence"), ("var/log/*",)),
    Cause("machine-id", "a machine id was generated", "write an empty etc/machine-id, remove the others",
          ("content", "presence"), ("etc/machine-id", "var/lib/dbus/machine-id", "etc/hostid", "etc/nvme/host*")),
    Cause("random-seed", "a seed or secret was generated", "remove it: the guest generates its own",
          ("content", "presence"), ("*/random-seed", "*/credential.secret", "*/entropy-file")),
    Cause("ssh-host-key", "host keys were generated", "do not install sshd; remove etc/ssh",
          ("content", "presence"), ("etc/ssh/ssh_host_*", "etc/dropbear/*_key")),
    Cause("module-key", "a module signing key was generated (DKMS, or CONFIG_MODULE_SIG_KEY's default)",
          "use the distribution's signed modules; never DKMS in a guest", ("content", "presence"),
          ("var/lib/dkms/*", "*/signing_key.*", "var/lib/shim-signed/*")),
    Cause("account-backup", "tools keep a backup of the old file", "remove etc/*- in finalize",
          ("content", "presence"), ("etc/passwd-", "etc/group-", "etc/shadow-", "etc/gshadow-", "etc/sub?id-")),
    Cause("account-date", "the date of the last change is the build date", "empty the third field of etc/shadow",
          ("content",), ("etc/shadow",), m.same_columns(2)),
    Cause("account-order", "accounts are in the order of installation", "sort the file by id in finalize",
          ("content",), ("etc/passwd", "etc/group", "etc/shadow", "etc/gshadow"), m.same_lines),
    Cause("account-ids", "system users got their ids in the order of installation", "fix the ids with sysusers.d",
          ("content",), ("etc/passwd", "etc/group"), m.same_accounts),
    Cause("dpkg-database", "dpkg's database contains installation order and times", _DATABASE,
          ("content", "presence"), ("var/lib/dpkg/*",)),
    Cause("debconf-cache", "debconf's databases keep the order of questions", "remove var/cache/debconf",
          ("content", "presence"), ("var/cache/debconf/*",)),
    Cause("apt-state", "apt's lists and caches contain times and sources", _DATABASE,
          ("content", "presence"), ("var/lib/apt/*", "var/cache/apt/*")),
    Cause("compute-cache", "the tree contains a run-time cache (GPU, compiler, model hub)", _NO_CACHE,
          ("content", "presence"),
          ("*.triton/*", "*.nv/ComputeCache/*", "*.cache/vllm/*", "*.cache/huggingface/*", "*torchinductor_*",
           "*.cache/flashinfer/*")),
    Cause("index-cache", "an index (fonts, manuals, icons, MIME) is in directory order", _NO_CACHE,
          ("content", "presence"),
          ("var/cache/fontconfig/*", "var/cache/man/*", "*/icon-theme.cache", "*/mimeinfo.cache", "*/mime.cache",
           "*/loaders.cache")),
    Cause("systemd-index", "a binary index written by systemd's tools", "remove it: it is rebuilt when needed",
          ("content", "presence"), ("*/hwdb.bin", "var/lib/systemd/catalog/*")),
    Cause("unit-links", "units are linked by presets and maintainer scripts",
          "`disable *` preset; link in the overlay",
          ("content", "presence", "type"), ("etc/systemd/*.wants/*", "etc/systemd/*.requires/*",
          "var/lib/systemd/deb-*")),
    Cause("initramfs", "an initramfs was generated inside the tree", "INITRD=No; do not install a generator",
          ("content", "presence"), ("boot/initrd*", "boot/initramfs*")),
    Cause("depmod", "depmod ran on a different set of modules", "run depmod once, after the modules are final",
          ("content", "presence"), ("*lib/modules/*/modules.*",)),
    Cause("ld-so-cache", "the linker cache lists different libraries", "run ldconfig last, from the locked tools",
          ("content",), ("etc/ld.so.cache",)),
    Cause("locale-archive", "the locale archive is in the order of generation", "C.UTF-8 only; remove the archive",
          ("content", "presence"), ("*/locale-archive", "etc/locale.gen")),
    Cause("wheel-path", "pip recorded where a wheel came from", "unpack locked wheels; remove direct_url.json",
          ("content", "presence"), ("*.dist-info/direct_url.json",)),
    Cause("wheel-record", "the wheel's RECORD lists files created at installation", "unpack wheels, do not run pip",
          ("content",), ("*.dist-info/RECORD", "*.dist-info/INSTALLER", "*.dist-info/REQUESTED")),
    Cause("compiled-time", "compiled Python contains the source's time", "compileall with unchecked hashes",
          ("content",), ("*.pyc",), m.pyc_header),
    Cause("compiled-order", "compiled Python contains a set in hash order", "compile with PYTHONHASHSEED=0",
          ("content",), ("*.pyc",), m.pyc_code),
    Cause("compiled-presence", "some Python files were compiled because they ran",
          "PYTHONDONTWRITEBYTECODE=1; compile in finalize",
          ("presence",), ("*__pycache__*", "*.pyc")),
    # -- files identified by their content
    Cause("emptied", "the file is empty, or zeros, in one build",
          "a write was incomplete: look for an ignored error",
          seen=m.one_empty),
    Cause("module-signature", "a kernel module was signed during the build", "use the distribution's signed modules",
          globs=("*.ko", "*.ko.*"), seen=m.module_signature),
    Cause("gpu-module-stamp", "the GPU module contains user, host and date of its build",
          "NV_BUILD_USER, NV_BUILD_HOST, DATE",
          globs=("*nvidia*.ko*",), seen=m.holds(rb"NVRM|nvidia id|NVIDIA UNIX")),
    Cause("kernel-stamp", "the kernel contains user, host and time of its build", "KBUILD_BUILD_USER/HOST/TIMESTAMP",
          seen=lambda a, b: b"Linux version" in a and b"Linux version" in b),
    Cause("build-id", "the build id changed but the code did not", "fix paths with -ffile-prefix-map",
          seen=m.build_id),
    Cause("go-build-id", "Go's build id depends on the build's inputs", "-trimpath -ldflags=-buildid=",
          seen=m.without(rb"Go build ID: \"[^\"]+\"")),
    Cause("pe-time", "the PE header contains the link time", "link with --no-insert-timestamp", seen=m.pe_stamp),
    Cause("gzip-time", "the gzip header contains the time", "gzip -n", seen=m.head(b"\x1f\x8b", 4, 8)),
    Cause("compression", "the same bytes, compressed with a different version, level or number of threads",
          "locked tools, an explicit level, one thread", seen=m.same_unpacked),
    Cause("archive-time", "the archive's headers contain times or owners", "tar --mtime --owner=0, zip -X, ar D",
          seen=m.same_members),
    Cause("archive-order", "the archive is in directory order", "sort the names before archiving",
          seen=m.reordered_members),
    Cause("database", "a database file depends on its history", "create it from a sorted dump, or leave it out",
          seen=m.head(b"SQLite format 3\0", 16, 1 << 40)),
    Cause("key-material", "keys or certificates were generated", "no keys in an image: generate them in the guest",
          seen=m.key_material),
    # -- text, by what changed in it
    Cause("json-order", "the same value in a different order", "write JSON with sorted keys", seen=m.same_json),
    Cause("line-order", "the same lines in a different order", "sort, with LC_ALL=C", seen=m.same_lines),
    Cause("build-path", "the file contains the build path", "-ffile-prefix-map, or a constant path",
          seen=m.without(m.PATH)),
    Cause("random-id", "a random id", "derive it from the recipe's name (UUIDv5)", seen=m.without(m.UUID)),
    Cause("address", "a memory address was printed", "print no addresses", seen=m.without(m.ADDRESS)),
    Cause("processor-count", "the number of processors", "use a fixed number of jobs and do not record it",
          seen=m.without(m.JOBS)),
    Cause("locale", "the builder's locale", "LC_ALL=C.UTF-8 for every tool", seen=m.without(m.LOCALE)),
    Cause("time-stamp", "the time of the build", _STAMP, seen=m.without(m.DATE)),
    Cause("time-zone", "the builder's time zone", "TZ=UTC for every tool", seen=m.without(m.DATE + b"|" + m.ZONE)),
    Cause("git-describe", "an abbreviated commit or a dirty flag", "--abbrev=40 from a clean tree",
          seen=m.without(m.GIT)),
    Cause("builder-name", "the build user or host", "fixed names for user and host", seen=m.without(m.BUILDER)),
    Cause("temporary-name", "the name of a temporary file", "a fixed name, or none", seen=m.without(m.TEMPORARY)),
    Cause("random-bytes", "a random or derived number", "find what generates it; derive it from the recipe",
          seen=m.without(m.HEX)),
    Cause("hash-order", "the same words in a different order: a set or hash table was printed",
          "PYTHONHASHSEED=0, or sort before printing", seen=m.same_words),
    # -- metadata
    Cause("umask", "the bits for group and others depend on the builder's umask", "umask 022; set modes in finalize",
          ("mode",), fact=_group_bits),
    Cause("mode", "the owner's mode bits or a set-id bit differ", "set modes in finalize; avoid set-id files",
          ("mode",)),
    Cause("owner", "the tree has ids of the builder", "mkfs.erofs --all-root; chown in finalize", ("uid", "gid")),
    Cause("file-time", "a file has the time of the build", "set all times to the epoch after the last write",
          ("mtime",)),
    Cause("acl", "the builder's file system set default ACLs", "remove all attributes in finalize",
          ("xattrs",), fact=_xattr("system.posix_acl")),
    Cause("security-label", "the builder's security module labelled the file", "remove all attributes in finalize",
          ("xattrs",), fact=_xattr("security.selinux")),
    Cause("attribute", "an extended attribute differs", "remove all attributes in finalize", ("xattrs",)),
    Cause("hard-links", "files are linked in one build and copied in the other", "mkfs.erofs --hard-dereference",
          ("links",), fact=lambda a, b: not a.links.startswith("member") and not b.links.startswith("member")),
    Cause("member-order", "the archive's members are in a different order", "sort the names before archiving",
          ("links",)),
    Cause("link-target", "a link has a different target", "create links in the overlay, with fixed relative targets",
          fact=_is_link),
    Cause("file-type", "a file in one build is a link, directory or device in the other", "create it in the overlay",
          ("type",)),
    Cause("temporary-file", "a temporary file was left behind", "remove it where it is created", ("presence",),
          ("*/tmp[a-z0-9_]*", "tmp/?*", "var/tmp/?*", "*.tmp", "*.swp", "*~", "*/.#*")),
    Cause("missing-or-extra", "the path is in one build only", "find what creates it: package, script or overlay",
          ("presence",)),
    Cause("unknown-content", "different bytes with no known cause", "compare both files; try diffoscope"),
)  # fmt: skip

OUTSIDE: tuple[Cause, ...] = (
    Cause("empty-artefact", "an artefact is empty", "the build failed without an error", ("empty",)),
    Cause("absent-artefact", "a required artefact is missing", "build it again", ("absent",)),
    Cause("surplus-artefact", "a file is in one output only", "remove it, or have both builds make it", ("surplus",)),
    Cause("unlike-artefact", "the directory contains more than plain files", "artefacts must be plain files",
          ("kind",)),
    Cause("false-manifest", "the manifest or prediction does not match its files", "measure the image again",
          ("claim",)),
    Cause("package-version", "a package has a different version or digest", "build both from one lock", ("package",)),
    Cause("other-kernel", "the kernel differs", "build both from one lock; see kernel.package",
          ("section",), (".linux", ".uname")),
    Cause("other-initrd", "the initrd differs", "its members are compared below", ("section",), (".initrd",)),
    Cause("other-command-line", "the kernel's command line differs", "it contains the root hash: see the root's tree",
          ("section",), (".cmdline",)),
    Cause("other-stub", "the UKI's stub or its text sections differ", "build both with one tools lock", ("section",)),
    Cause("firmware-register", "MRTD and RTMR0 depend on firmware and machine",
          "see firmware.fd and the platform",
          ("register",), ("*mrtd", "*rtmr0")),
    Cause("image-register", "RTMR1 to RTMR3 depend on the UKI, its command line and the configuration",
          "see the UKI's sections and the root hash", ("register",)),
    Cause("verity-salt", "the verity salt is not derived from the recipe", "fix Seed=", ("verity",), ("*salt",)),
    Cause("volume-key", "the volume is encrypted by another key, or in one build only",
          "build both with one key file", ("encryption",)),
    Cause("ciphertext", "the ciphertext depends on the key and on every byte of the model",
          "see the key's check value; build both with one key and one lock", ("ciphertext",)),
    Cause("tree-hash", "the root hash depends on the tree", "see the tree's first difference", ("verity",)),
    Cause("partition-id", "partition ids depend on the root hash, or on Seed=", "see the root hash; fix Seed=",
          ("gpt",), ("*id",)),
    Cause("partition-place", "partitions are at different places", "their sizes depend on the trees", ("gpt",)),
    Cause("filesystem-id", "the file system's UUID is random", "fix Seed=", ("erofs",), ("*uuid",)),
    Cause("filesystem-time", "the file system contains its creation time", "mkfs.erofs -T", ("erofs",), ("*time",)),
    Cause("filesystem-size", "the numbers of files and blocks depend on the tree", "see the tree's first difference",
          ("erofs",), ("*inodes", "*blocks")),
    Cause("filesystem-layout", "the same tree in a different layout", "lock erofs-utils, fix its options and threads",
          ("erofs",)),
    Cause("configuration-key", "the measured configuration differs", "build both from one recipe and lock",
          ("configuration",)),
    Cause("document-field", "a document next to the artefacts differs", "see the field", ("document",)),
    Cause("unreadable-artefact", "the artefact is not of the format its name says", "look at the build that made it",
          ("unreadable",)),
    Cause("initrd-layout", "the same members, packed differently (inode numbers, padding, trailing bytes)",
          "pack only with measure/cpio.py", ("cpio",)),
    Cause("nothing-compared", "a layer was empty, so nothing was compared", "see what is missing above",
          ("nothing",)),
    Cause("explained-above", "the bytes follow from a difference reported above",
          "see the first one of this file",
          ("follows",)),
    Cause("unexplained-bytes", "bytes differ and nothing above explains it", "compare the files by hand; report it",
          ("raw",)),
)  # fmt: skip

TABLE = (*TREE, *OUTSIDE)
# Not in the table: it is named when recipe or inputs of two images differ (`explained`).
INTENDED = Cause("intended", "the recipe or its inputs differ here", "nothing, if the change is wanted", ())
# Consequences of another reported difference, which is the one to look at.
FOLLOWS = frozenset({
    "ciphertext", "firmware-register", "image-register", "tree-hash", "other-command-line", "other-initrd",
    "partition-id", "partition-place", "filesystem-size", "document-field", "explained-above",
})  # fmt: skip
BY_ID = {cause.id: cause for cause in TABLE}
# Check all globs at once: with tens of thousands of differences, most paths match no row.
_KNOWN = re.compile("|".join(translate(glob) for cause in TREE if cause.globs != _EVERYWHERE for glob in cause.globs))
_ROWS = {
    (name, known): tuple(
        cause for cause in TABLE if name in cause.fields and (known or cause in OUTSIDE or cause.globs == _EVERYWHERE)
    )
    for name in {name for cause in TABLE for name in cause.fields}
    for known in (True, False)
}


def name_cause(symptom: Symptom) -> Cause:
    """The first row that applies to ``symptom``; there always is one."""
    if symptom.data_a is not None and symptom.data_b is not None and symptom.field == "content":
        for identifier, values in symptom.surroundings.items():
            if _told_by(values, symptom.data_a, symptom.data_b) and not _known_path(symptom.path):
                return BY_ID[identifier]
    return next(cause for cause in _ROWS[symptom.field, _known_path(symptom.path)] if _holds(cause, symptom))


def _holds(cause: Cause, symptom: Symptom) -> bool:
    if cause.globs != _EVERYWHERE and not any(fnmatchcase(symptom.path, glob) for glob in cause.globs):
        return False
    if cause.fact is not None and (symptom.a is None or symptom.b is None or not cause.fact(symptom.a, symptom.b)):
        return False
    if cause.seen is None:
        return True
    return symptom.data_a is not None and symptom.data_b is not None and cause.seen(symptom.data_a, symptom.data_b)


def _known_path(path: str) -> bool:
    return _KNOWN.match(path) is not None


def _told_by(values: tuple[tuple[str, str], ...], a: bytes, b: bytes) -> bool:
    """Whether the known differences of the environments occur in the bytes and explain the whole difference."""
    for first, second in values:
        one, two = first.encode(), second.encode()
        if len(one) < 3 or len(two) < 3 or one == two:
            continue
        if one in a and two in b and re.sub(re.escape(one), b"\0", a) == re.sub(re.escape(two), b"\0", b):
            return True
    return False
