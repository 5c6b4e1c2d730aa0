"""GPU drivers that an image can have: one record for each version, and what is publicly known about versions.

Recipe, lock, image and lint read these records. A driver is added with its patches and a build that is recorded in
`measurements/drivers`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from privml.engines.engine import DRIVER_LIBRARIES
from privml.recipe import referencevalues
from privml.recipe.distributions import Base, Version, base
from privml.recipe.fabrics import Fabric, hopper_board

NVIDIA = "nvidia"
VENDORS = (NVIDIA,)
LIBRARIES = DRIVER_LIBRARIES.removeprefix("/")
"""The folder of the driver's libraries in the guest."""


@dataclass(frozen=True)
class Part:
    """Files of the user space, by their path in a package of the release, or in the vendor's runfile.

    ``package`` is None for the runfile. ``links`` are names of links next to a file, by the path of the file in the
    guest.
    """

    package: str | None
    suite: str | None
    files: Mapping[str, str]
    links: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Source:
    """The package with the modules' source: ``archive`` is the tar file in it, ``folder`` the source in that."""

    package: str
    suite: str
    archive: str
    folder: str


@dataclass(frozen=True)
class Runfile:
    """The vendor's own file, which has the modules' source and the user space, and is in no archive of the release.

    ``name`` is the folder that it says it unpacks to, ``folder`` the modules' source in it. ``licences`` are those of
    its content.
    """

    name: str
    folder: str
    licences: tuple[str, ...]


@dataclass(frozen=True)
class Kernels:
    """The kernels from ``first`` up to, not including, ``before``, and the patches that make the source fit them."""

    first: Version
    before: Version
    patches: tuple[str, ...]


@dataclass(frozen=True)
class Driver:
    """One version of a vendor's driver for guests of one release.

    ``components`` has the components of each suite that its packages are in. ``source`` says whether modules and user
    space come from packages or from the vendor's runfile. ``image`` is the kernel that a recipe must name,
    ``headers`` are patterns of the packages with its headers; with them ``toolchain`` compiles ``modules``, by the
    program ``compiler``. ``config`` is the path of the kernel's configuration in the first of ``headers``, and
    ``options`` are those in it (without `CONFIG_`) that confidential computing needs. ``crypto`` lists symbols that a
    module with confidential computing needs from the kernel, one of each group. ``loaded`` are the modules that the
    guest loads, in order, and ``parameters`` theirs (``MODULE.NAME=VALUE``). ``guest`` are packages of the release
    that the user space needs, and ``removals`` what the guest does not need of them. ``firmware`` are the parts that
    one architecture needs. ``probes`` are programs that its libraries try to start. ``untried`` says what of it was
    never done here. ``fabric`` is the board of linked GPUs that it can be used with in protected PCIe mode; None if
    its archives are not known.
    """

    vendor: str
    version: str
    distribution: str
    release: str
    components: Mapping[str, tuple[str, ...]]
    source: Source | Runfile
    kernels: tuple[Kernels, ...]
    image: str
    headers: tuple[str, ...]
    toolchain: tuple[str, ...]
    compiler: str
    modules: tuple[str, ...]
    config: str
    options: tuple[str, ...]
    crypto: tuple[tuple[str, ...], ...]
    loaded: tuple[str, ...]
    parameters: tuple[str, ...]
    parts: tuple[Part, ...]
    firmware: Mapping[str, Part]
    guest: tuple[str, ...]
    removals: tuple[str, ...]
    programs: tuple[str, ...]
    probes: tuple[str, ...] = ()
    untried: str = ""
    fabric: Fabric | None = None

    @property
    def base(self) -> Base:
        """The release, with the components that the driver's packages are in."""
        found = base(self.distribution, self.release)
        widen = self.components
        suites, others = (
            tuple(dataclasses.replace(suite, components=widen.get(suite.name, suite.components)) for suite in every)
            for every in (found.release.suites, found.distribution.others)
        )
        release = dataclasses.replace(found.release, suites=suites)
        releases = MappingProxyType({**found.distribution.releases, self.release: release})
        return Base(dataclasses.replace(found.distribution, releases=releases, others=others), release)

    def user_space(self, architecture: str) -> tuple[Part, ...]:
        """The parts that a guest with GPUs of ``architecture`` gets."""
        return (*self.parts, self.firmware[architecture])

    @property
    def patches(self) -> tuple[str, ...]:
        """The patches of all its kernels, by file name."""
        return tuple(sorted({name for each in self.kernels for name in each.patches}))

    def kernel(self, version: Version) -> Kernels | None:
        """The range of kernels that ``version`` is in; None if the source was never built for it."""
        return next((each for each in self.kernels if each.first <= version < each.before), None)


_BACKPORTS = "trixie-backports"
_OF_PACKAGE = "usr/lib/x86_64-linux-gnu/nvidia/current"
_VERSION_550 = "550.163.01"


def _library(package: str, name: str, *links: str) -> Part:
    """A library in Debian's folder of the current driver."""
    file = f"{name}.so.{_VERSION_550}"
    target = f"{LIBRARIES}/{file}"
    return Part(package, _BACKPORTS, {f"{_OF_PACKAGE}/{file}": target}, {target: links})


_NVIDIA_550 = Driver(
    vendor=NVIDIA,
    version=_VERSION_550,
    distribution="debian",
    release="trixie",
    components=MappingProxyType(
        {
            "trixie": ("main", "contrib"),
            _BACKPORTS: ("main", "contrib", "non-free", "non-free-firmware"),
        }
    ),
    source=Source(
        "nvidia-open-kernel-source",
        _BACKPORTS,
        "usr/src/nvidia-open-kernel.tar.xz",
        "modules/nvidia-open-kernel",
    ),
    kernels=(Kernels((7, 3), (7, 4), ("nvidia-550.163.01-linux-7.3.patch",)),),
    image="linux-image-amd64",
    headers=("linux-headers-{abi}-{flavour}", "linux-headers-{abi}-common", "linux-kbuild-{abi}"),
    toolchain=(
        "?essential",
        "base-files",
        "gcc-14",
        "make",
        "binutils",
        "libc6-dev",
        "kmod",
        "libelf1t64",
        "mawk",
        "patch",
    ),
    compiler="gcc-14",
    modules=("nvidia", "nvidia-uvm"),
    config="usr/src/linux-headers-{abi}-{flavour}/.config",
    options=(
        # nvidia/internal_crypt_lib.h of its source: without one of these, every function of cryptography is a stub.
        "CRYPTO_AEAD",
        "CRYPTO_AKCIPHER",
        "CRYPTO_SKCIPHER",
        "CRYPTO_HASH",
        "CRYPTO_HMAC",
        "CRYPTO_ECDH",
        "CRYPTO_ECDSA",
        "CRYPTO_RSA",
        "X509_CERTIFICATE_PARSER",
        # nvidia/libspdm_*.c ask for `gcm(aes)`, `sha256`, `sha384` and `sha512` by name, when a GPU is used.
        "CRYPTO_AES",
        "CRYPTO_CTR",
        "CRYPTO_GCM",
        "CRYPTO_SHA256",
        "CRYPTO_SHA512",
    ),
    crypto=(
        ("crypto_alloc_aead",),
        ("crypto_alloc_shash",),
        ("crypto_ecdh_shared_secret",),
        ("ecc_gen_privkey",),
        ("ecc_make_pub_key",),
        ("crypto_alloc_akcipher", "crypto_alloc_sig"),
    ),
    # The driver asks for algorithms by name when it talks to a GPU; no module can be loaded then.
    loaded=("ecdh_generic", "ecdsa_generic", "gcm", "ctr", "aesni_intel", "nvidia", "nvidia_uvm"),
    # Else the driver's libraries, run by root, replace the device nodes by ones that everybody may open.
    parameters=("nvidia.NVreg_ModifyDeviceFiles=0",),
    parts=(
        _library("libcuda1", "libcuda", "libcuda.so.1"),
        _library("libnvidia-ml1", "libnvidia-ml", "libnvidia-ml.so.1"),
        _library("libnvidia-cfg1", "libnvidia-cfg", "libnvidia-cfg.so.1"),
        _library("libnvidia-ptxjitcompiler1", "libnvidia-ptxjitcompiler", "libnvidia-ptxjitcompiler.so.1"),
        # libcuda opens it by this name, and only if confidential computing is on.
        Part(
            "libnvidia-pkcs11-openssl3",
            _BACKPORTS,
            {
                f"usr/lib/x86_64-linux-gnu/libnvidia-pkcs11-openssl3.so.{_VERSION_550}": (
                    f"{LIBRARIES}/libnvidia-pkcs11-openssl3.so.{_VERSION_550}"
                )
            },
        ),
        Part("nvidia-persistenced", None, {"usr/bin/nvidia-persistenced": "usr/bin/nvidia-persistenced"}),
    ),
    firmware=MappingProxyType(
        {
            "hopper": Part(
                "firmware-nvidia-gsp",
                _BACKPORTS,
                {
                    f"usr/lib/firmware/nvidia/{_VERSION_550}/gsp_ga10x.bin": (
                        f"usr/lib/firmware/nvidia/{_VERSION_550}/gsp_ga10x.bin"
                    )
                },
            )
        }
    ),
    guest=("libssl3t64", "libtirpc3t64"),
    removals=("etc/gss", "etc/netconfig", "usr/lib/x86_64-linux-gnu/gss", "usr/lib/x86_64-linux-gnu/krb5"),
    programs=("nvidia-persistenced",),
    # For its modules, which are loaded before.
    probes=("modprobe",),
)

_VERSION_595 = "595.71.05"


def _of_runfile(name: str, *links: str) -> Part:
    """A library at the top of the runfile."""
    file = f"{name}.so.{_VERSION_595}"
    target = f"{LIBRARIES}/{file}"
    return Part(None, None, {file: target}, {target: links})


# Kernel, toolchain, modules and what the release adds are as for 550. The names of its files are from public image
# descriptions that use this version, and the patch is from public fragments of its source: ADR 0085.
_NVIDIA_595 = dataclasses.replace(
    _NVIDIA_550,
    version=_VERSION_595,
    components=MappingProxyType({}),
    source=Runfile(
        f"NVIDIA-Linux-x86_64-{_VERSION_595}",
        "kernel-open",
        ("Dual MIT/GPL", "License For Customer Use of NVIDIA Software"),
    ),
    kernels=(Kernels((7, 3), (7, 4), (f"nvidia-{_VERSION_595}-linux-7.3.patch",)),),
    parts=(
        _of_runfile("libcuda", "libcuda.so.1"),
        _of_runfile("libnvidia-ml", "libnvidia-ml.so.1"),
        _of_runfile("libnvidia-cfg", "libnvidia-cfg.so.1"),
        _of_runfile("libnvidia-ptxjitcompiler", "libnvidia-ptxjitcompiler.so.1"),
        # Both are opened by libcuda when it compiles for the GPU.
        _of_runfile("libnvidia-nvvm", "libnvidia-nvvm.so.4"),
        _of_runfile("libnvidia-gpucomp"),
        # libcuda opens it by this name, and only if confidential computing is on.
        _of_runfile("libnvidia-pkcs11-openssl3"),
        Part(None, None, {"nvidia-persistenced": "usr/bin/nvidia-persistenced"}),
    ),
    firmware=MappingProxyType(
        {
            "hopper": Part(
                None,
                None,
                {"firmware/gsp_ga10x.bin": f"usr/lib/firmware/nvidia/{_VERSION_595}/gsp_ga10x.bin"},
            )
        }
    ),
    untried="its runfile could not be fetched where this was written, so nothing of it was unpacked, compiled or "
    "booted; the first `lock` and build on a machine that reaches NVIDIA show whether names and patch are right",
    fabric=hopper_board(_VERSION_595),
)

DRIVERS = {(each.vendor, each.version): each for each in (_NVIDIA_550, _NVIDIA_595)}
"""Every driver, by vendor and version."""


def driver(vendor: str, version: str) -> Driver:
    """Look up a driver; ``KeyError`` if there is no record. Recipes and locks check the names when they are read."""
    return DRIVERS[vendor, version]


def architectures() -> list[str]:
    """Every architecture of GPUs that a driver has firmware for."""
    return sorted({name for each in DRIVERS.values() for name in each.firmware})


@dataclass(frozen=True)
class Advisory:
    """What is publicly known of a vendor's versions from ``first`` to ``last``, and where it is said."""

    vendor: str
    first: str
    last: str
    what: str
    source: str

    def concerns(self, vendor: str, version: str) -> bool:
        """Whether it is about this version."""
        return vendor == self.vendor and _numbers(self.first) <= _numbers(version) <= _numbers(self.last)


ADVISORIES = (
    Advisory(
        NVIDIA,
        "550.54.14",
        "550.113",
        "attestation of GPUs with HBM3 memory may fail, use 550.127.05 or later",
        "Azure/az-cgpu-onboarding, README",
    ),
)
_REFERENCE_VALUES = {NVIDIA: referencevalues.DRIVERS}


def known_of(vendor: str, version: str) -> list[str]:
    """Reasons against a version of a driver, each with its source; empty if none is known."""
    found = [f"{each.what} ({each.source})" for each in ADVISORIES if each.concerns(vendor, version)]
    if version not in _REFERENCE_VALUES.get(vendor, ()):
        found.append(
            "no reference values of it are known, so no verifier accepts it (edgelesssys/contrast, "
            "dev-docs/nvidia/rim-ids.json)"
        )
    return found


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())
