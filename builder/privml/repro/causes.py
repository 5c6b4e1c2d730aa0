"""Why two builds differ: the table of causes, as data, with the way to be rid of each.

A row holds for a field (content, mode, presence...), for paths, and when its matcher says yes; the first row that
holds names the cause. Rows go from the special to the general. tests/unit/test_repro_mutation.py injects every one
of them into a tree, so a row that nobody can reach does not pass.
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
    """``fields`` and ``globs`` (`*` crosses `/`) say where it applies, ``seen`` and ``fact`` what it looks like."""

    id: str
    cause: str
    fix: str
    fields: tuple[str, ...] = ("content",)
    globs: tuple[str, ...] = _EVERYWHERE
    seen: m.Matcher | None = None
    fact: Fact | None = None


@dataclass(frozen=True)
class Symptom:
    """One difference, as far as a cause can be looked for: bytes are None where there are none, or too many."""

    field: str
    path: str
    a: Entry | None = None
    b: Entry | None = None
    data_a: bytes | None = None
    data_b: bytes | None = None
    # What is known to differ between the two surroundings: cause's id -> (value of a, value of b).
    surroundings: Mapping[str, tuple[tuple[str, str], ...]] = dataclasses.field(default_factory=dict)


def _xattr(prefix: str) -> Fact:
    def fact(a: Entry, b: Entry) -> bool:
        return any(name.startswith(prefix) for name, _ in set(a.xattrs) ^ set(b.xattrs))

    return fact


def _group_bits(a: Entry, b: Entry) -> bool:
    return (a.mode ^ b.mode) & ~0o077 == 0


def _is_link(a: Entry, b: Entry) -> bool:
    return a.type == b.type == "link"


_LOGS = "a log is kept in the tree"
_NO_CACHE = "remove it in images/mkosi/finalize.py; caches go to a volume at run time, never into the image"
_DATABASE = "CleanPackageMetadata=yes, and remove what is left of it in images/mkosi/finalize.py"
_STAMP = "pin it through SOURCE_DATE_EPOCH, or remove the line in finalize"

TREE: tuple[Cause, ...] = (
    # -- files that are known by their path
    Cause("ldconfig-cache", "ldconfig's auxiliary cache is keyed by inode and ctime", "remove var/cache/ldconfig",
          ("content", "presence"), ("var/cache/ldconfig/*",)),
    Cause("log", _LOGS, "delete every file under var/log in finalize, keep the directories",
          ("content", "presence"), ("var/log/*",)),
    Cause("machine-id", "an id of this machine was made", "write an empty etc/machine-id, remove the others",
          ("content", "presence"), ("etc/machine-id", "var/lib/dbus/machine-id", "etc/hostid", "etc/nvme/host*")),
    Cause("random-seed", "a seed or secret was drawn", "remove it: the guest draws its own",
          ("content", "presence"), ("*/random-seed", "*/credential.secret", "*/entropy-file")),
    Cause("ssh-host-key", "host keys were generated", "do not install sshd; remove etc/ssh",
          ("content", "presence"), ("etc/ssh/ssh_host_*", "etc/dropbear/*_key")),
    Cause("module-key", "a module signing key was generated (DKMS, or CONFIG_MODULE_SIG_KEY's default)",
          "use the distribution's signed modules; never DKMS in a guest", ("content", "presence"),
          ("var/lib/dkms/*", "*/signing_key.*", "var/lib/shim-signed/*")),
    Cause("account-backup", "tools keep the file as it was before", "remove etc/*- in finalize",
          ("content", "presence"), ("etc/passwd-", "etc/group-", "etc/shadow-", "etc/gshadow-", "etc/sub?id-")),
    Cause("account-date", "the day of the last change is the day of the build", "empty the third field of etc/shadow",
          ("content",), ("etc/shadow",), m.same_columns(2)),
    Cause("account-order", "accounts stand in the order of installation", "sort the file by id in finalize",
          ("content",), ("etc/passwd", "etc/group", "etc/shadow", "etc/gshadow"), m.same_lines),
    Cause("account-ids", "system users got their ids in the order of installation", "fix the ids with sysusers.d",
          ("content",), ("etc/passwd", "etc/group"), m.same_accounts),
    Cause("dpkg-database", "dpkg's database keeps orders and times", _DATABASE,
          ("content", "presence"), ("var/lib/dpkg/*",)),
    Cause("debconf-cache", "debconf's databases keep the order of questions", "remove var/cache/debconf",
          ("content", "presence"), ("var/cache/debconf/*",)),
    Cause("apt-state", "apt's lists and caches hold times and sources", _DATABASE,
          ("content", "presence"), ("var/lib/apt/*", "var/cache/apt/*")),
    Cause("compute-cache", "a run-time cache (GPU, compiler, model hub) was baked in", _NO_CACHE,
          ("content", "presence"),
          ("*.triton/*", "*.nv/ComputeCache/*", "*.cache/vllm/*", "*.cache/huggingface/*", "*torchinductor_*",
           "*.cache/flashinfer/*")),
    Cause("index-cache", "an index (fonts, manuals, icons, MIME) is written in the order of the directory", _NO_CACHE,
          ("content", "presence"),
          ("var/cache/fontconfig/*", "var/cache/man/*", "*/icon-theme.cache", "*/mimeinfo.cache", "*/mime.cache",
           "*/loaders.cache")),
    Cause("systemd-index", "a binary index that systemd's tools made", "remove it: it is made again when needed",
          ("content", "presence"), ("*/hwdb.bin", "var/lib/systemd/catalog/*")),
    Cause("unit-links", "units are linked by presets and maintainer scripts",
          "`disable *` preset; link in the overlay",
          ("content", "presence", "type"), ("etc/systemd/*.wants/*", "etc/systemd/*.requires/*",
          "var/lib/systemd/deb-*")),
    Cause("initramfs", "an initramfs was generated inside the tree", "INITRD=No; do not install a generator",
          ("content", "presence"), ("boot/initrd*", "boot/initramfs*")),
    Cause("depmod", "depmod's output is of other modules", "run depmod once, after the modules are final",
          ("content", "presence"), ("*lib/modules/*/modules.*",)),
    Cause("ld-so-cache", "the linker's cache lists other libraries", "run ldconfig last, from the locked tools",
          ("content",), ("etc/ld.so.cache",)),
    Cause("locale-archive", "the locale archive is in the order of generation", "C.UTF-8 only; remove the archive",
          ("content", "presence"), ("*/locale-archive", "etc/locale.gen")),
    Cause("wheel-path", "pip noted where a wheel came from", "unpack locked wheels; remove direct_url.json",
          ("content", "presence"), ("*.dist-info/direct_url.json",)),
    Cause("wheel-record", "the wheel's record lists files made at installation", "unpack wheels, run no pip",
          ("content",), ("*.dist-info/RECORD", "*.dist-info/INSTALLER", "*.dist-info/REQUESTED")),
    Cause("compiled-time", "compiled Python names its source's time", "compileall with unchecked hashes",
          ("content",), ("*.pyc",), m.pyc_header),
    Cause("compiled-order", "compiled Python holds a set in hash order", "compile with PYTHONHASHSEED=0",
          ("content",), ("*.pyc",), m.pyc_code),
    Cause("compiled-presence", "some Python was compiled when it was run",
          "PYTHONDONTWRITEBYTECODE=1; compile in finalize",
          ("presence",), ("*__pycache__*", "*.pyc")),
    # -- files that are known by what they are
    Cause("emptied", "the file is empty, or zeros, in one build",
          "a write was cut: look for a failure that was ignored",
          seen=m.one_empty),
    Cause("module-signature", "a kernel module was signed anew", "use the distribution's signed modules",
          globs=("*.ko", "*.ko.*"), seen=m.module_signature),
    Cause("gpu-module-stamp", "the GPU module's build noted user, host and date",
          "NV_BUILD_USER, NV_BUILD_HOST, DATE",
          globs=("*nvidia*.ko*",), seen=m.holds(rb"NVRM|nvidia id|NVIDIA UNIX")),
    Cause("kernel-stamp", "the kernel notes builder, host and time of its build", "KBUILD_BUILD_USER/HOST/TIMESTAMP",
          seen=lambda a, b: b"Linux version" in a and b"Linux version" in b),
    Cause("build-id", "the linker's build id moved though the code did not", "fix paths with -ffile-prefix-map",
          seen=m.build_id),
    Cause("go-build-id", "Go's build id names an action's inputs", "-trimpath -ldflags=-buildid=",
          seen=m.without(rb"Go build ID: \"[^\"]+\"")),
    Cause("pe-time", "the PE header holds the time of linking", "link with --no-insert-timestamp", seen=m.pe_stamp),
    Cause("gzip-time", "gzip's header holds the time", "gzip -n", seen=m.head(b"\x1f\x8b", 4, 8)),
    Cause("compression", "the same bytes, compressed by another version, level or number of threads",
          "locked tools, an explicit level, one thread", seen=m.same_unpacked),
    Cause("archive-time", "an archive's headers hold times or owners", "tar --mtime --owner=0, zip -X, ar D",
          seen=m.same_members),
    Cause("archive-order", "an archive is in the order of the directory", "sort the names before archiving",
          seen=m.reordered_members),
    Cause("database", "a database file keeps its history", "make it once from a sorted dump, or leave it out",
          seen=m.head(b"SQLite format 3\0", 16, 1 << 40)),
    Cause("key-material", "keys or certificates were generated", "no keys in an image: make them in the guest",
          seen=m.key_material),
    # -- text, by what moved in it
    Cause("json-order", "the same value, written in another order", "write JSON with sorted keys", seen=m.same_json),
    Cause("line-order", "the same lines in another order", "sort, with LC_ALL=C", seen=m.same_lines),
    Cause("build-path", "the path of the build is in it", "-ffile-prefix-map, or a constant path",
          seen=m.without(m.PATH)),
    Cause("random-id", "a random id", "derive it from the recipe's name (UUIDv5)", seen=m.without(m.UUID)),
    Cause("address", "a memory address was printed", "print no addresses", seen=m.without(m.ADDRESS)),
    Cause("processor-count", "the number of processors", "a fixed number of jobs, recorded nowhere",
          seen=m.without(m.JOBS)),
    Cause("locale", "the builder's locale", "LC_ALL=C.UTF-8 for every tool", seen=m.without(m.LOCALE)),
    Cause("time-stamp", "the time of the build", _STAMP, seen=m.without(m.DATE)),
    Cause("time-zone", "the builder's time zone", "TZ=UTC for every tool", seen=m.without(m.DATE + b"|" + m.ZONE)),
    Cause("git-describe", "an abbreviated commit or a dirty mark", "--abbrev=40 from a clean tree",
          seen=m.without(m.GIT)),
    Cause("builder-name", "user and host of the builder", "fixed names for user and host", seen=m.without(m.BUILDER)),
    Cause("temporary-name", "the name of a temporary file", "a fixed name, or none", seen=m.without(m.TEMPORARY)),
    Cause("random-bytes", "a random or derived number", "find what draws it; derive it from the recipe",
          seen=m.without(m.HEX)),
    Cause("hash-order", "the same words in another order: a set or hash table was printed",
          "PYTHONHASHSEED=0, or sort before printing", seen=m.same_words),
    # -- what is around the bytes
    Cause("umask", "group's and others' bits follow the builder's umask", "umask 022; set modes in finalize",
          ("mode",), fact=_group_bits),
    Cause("mode", "the owner's bits or a set-id bit differ", "set modes in finalize; write no set-id files",
          ("mode",)),
    Cause("owner", "the builder's ids are in the tree", "mkfs.erofs --all-root; chown in finalize", ("uid", "gid")),
    Cause("file-time", "a file has the time of the build", "set every time to the epoch after the last write",
          ("mtime",)),
    Cause("acl", "the builder's file system gave default ACLs", "remove all attributes in finalize",
          ("xattrs",), fact=_xattr("system.posix_acl")),
    Cause("security-label", "the builder's security module labelled the file", "remove all attributes in finalize",
          ("xattrs",), fact=_xattr("security.selinux")),
    Cause("attribute", "an extended attribute differs", "remove all attributes in finalize", ("xattrs",)),
    Cause("hard-links", "files are linked in one build and copied in the other", "mkfs.erofs --hard-dereference",
          ("links",), fact=lambda a, b: not a.links.startswith("member") and not b.links.startswith("member")),
    Cause("member-order", "the archive's members are in another order", "sort the names before archiving",
          ("links",)),
    Cause("link-target", "a link points elsewhere", "make links in the overlay, with fixed relative targets",
          fact=_is_link),
    Cause("file-type", "a file in one build is a link, directory or device in the other", "make it in the overlay",
          ("type",)),
    Cause("temporary-file", "a temporary file was left behind", "remove it where it is made", ("presence",),
          ("*/tmp[a-z0-9_]*", "tmp/?*", "var/tmp/?*", "*.tmp", "*.swp", "*~", "*/.#*")),
    Cause("missing-or-extra", "the path is in one build only", "find who makes it: package, script or overlay",
          ("presence",)),
    Cause("unknown-content", "other bytes, for no reason that is in this table", "see both files; try diffoscope"),
)  # fmt: skip

OUTSIDE: tuple[Cause, ...] = (
    Cause("empty-artefact", "an artefact is empty", "the build failed and nobody noticed", ("empty",)),
    Cause("absent-artefact", "an artefact that an image must have is not there", "build it again", ("absent",)),
    Cause("surplus-artefact", "a file is in one output only", "remove it, or have both builds make it", ("surplus",)),
    Cause("unlike-artefact", "the directory holds something that is no plain file", "artefacts are plain files",
          ("kind",)),
    Cause("false-manifest", "the manifest or prediction is not of the files beside it", "measure the image again",
          ("claim",)),
    Cause("package-version", "a package has another version or digest", "build both from one lock", ("package",)),
    Cause("other-kernel", "the kernel has other bytes", "build both from one lock; see kernel.package",
          ("section",), (".linux", ".uname")),
    Cause("other-initrd", "the initrd has other bytes", "its members are compared below", ("section",), (".initrd",)),
    Cause("other-command-line", "the kernel's command line differs", "it carries the root hash: see the root's tree",
          ("section",), (".cmdline",)),
    Cause("other-stub", "the UKI's stub or its text sections differ", "build both with one tools lock", ("section",)),
    Cause("firmware-register", "MRTD and RTMR0 are the firmware's and the machine's",
          "see firmware.fd and the platform",
          ("register",), ("*mrtd", "*rtmr0")),
    Cause("image-register", "RTMR1 to RTMR3 are the UKI's, its command line's and the configuration's",
          "see the UKI's sections and the root hash", ("register",)),
    Cause("verity-salt", "the verity salt is not a function of the recipe", "fix Seed=", ("verity",), ("*salt",)),
    Cause("tree-hash", "the root hash follows from the tree", "see the tree's first difference", ("verity",)),
    Cause("partition-id", "partition ids follow from the root hash, else from Seed=", "see the root hash; fix Seed=",
          ("gpt",), ("*id",)),
    Cause("partition-place", "partitions lie elsewhere", "their sizes follow from the trees", ("gpt",)),
    Cause("filesystem-id", "the file system's UUID is drawn at random", "fix Seed=", ("erofs",), ("*uuid",)),
    Cause("filesystem-time", "the file system holds the time of its making", "mkfs.erofs -T", ("erofs",), ("*time",)),
    Cause("filesystem-layout", "the same tree, laid out otherwise", "lock erofs-utils, fix its options and threads",
          ("erofs",)),
    Cause("document-field", "a document beside the artefacts says something else", "see the field", ("document",)),
    Cause("unreadable-artefact", "the artefact is not what its name says", "look at the build that made it",
          ("unreadable",)),
    Cause("initrd-layout", "the same members, packed otherwise (numbers, padding, what follows the end)",
          "pack with measure/cpio.py alone", ("cpio",)),
    Cause("nothing-compared", "a layer had nothing in it, so nothing is known of it", "see what is missing above",
          ("nothing",)),
    Cause("explained-above", "the bytes follow from a difference that is told above",
          "see the first one of this file",
          ("follows",)),
    Cause("unexplained-bytes", "bytes differ and nothing above says why", "compare the files by hand; tell us",
          ("raw",)),
)  # fmt: skip

TABLE = (*TREE, *OUTSIDE)
# What is so because of something else that is told too, and is to be looked for there.
FOLLOWS = frozenset({
    "firmware-register", "image-register", "tree-hash", "other-command-line", "other-initrd", "partition-id",
    "partition-place", "document-field", "explained-above",
})  # fmt: skip
BY_ID = {cause.id: cause for cause in TABLE}
# One look tells that no row knows a path: with tens of thousands of differences that is most of the work.
_KNOWN = re.compile("|".join(translate(glob) for cause in TREE if cause.globs != _EVERYWHERE for glob in cause.globs))
_ROWS = {
    (name, known): tuple(
        cause for cause in TABLE if name in cause.fields and (known or cause in OUTSIDE or cause.globs == _EVERYWHERE)
    )
    for name in {name for cause in TABLE for name in cause.fields}
    for known in (True, False)
}


def name_cause(symptom: Symptom) -> Cause:
    """The first row that holds for ``symptom``; every symptom has one."""
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
    """What is known to differ between the surroundings is in the bytes, and is all that differs."""
    for first, second in values:
        one, two = first.encode(), second.encode()
        if len(one) < 3 or len(two) < 3 or one == two:
            continue
        if one in a and two in b and re.sub(re.escape(one), b"\0", a) == re.sub(re.escape(two), b"\0", b):
            return True
    return False
