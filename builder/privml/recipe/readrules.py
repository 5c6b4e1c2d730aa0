"""The rules that apply while a recipe is read (stage ``read`` of `rules`)."""

from __future__ import annotations

from privml.recipe.rule import Rule

READ_RULES = (
    Rule(
        "unpinned-source",
        "error",
        "read",
        "A source names exactly one version: `pypi:NAME==VERSION`, a file with its SHA-256, or a commit; never a "
        "range, a name alone, a branch or `latest`.",
        "A service built its verifier from `FROM ...:latest`: what was attested depended on the day of the build.",
        "near/mpc#3442",
    ),
    Rule(
        "development-firmware",
        "error",
        "read",
        "A production recipe uses the firmware that is made for its TEE.",
        "An image came with a generic OVMF: TDs hung on it, and its MRTD was one that no guest could have.",
        "confidential-dot-ai/confidential-os-builder#60",
    ),
    Rule(
        "given-twice",
        "error",
        "read",
        "Each device kind, platform and shape is listed once.",
        "Registers are published by platform, CPUs and memory, because memory alone moves them; a second entry for "
        "the same machine leaves open which one a verifier takes.",
        "Dstack-TEE/meta-dstack#63",
    ),
    Rule(
        "extends-chain",
        "error",
        "read",
        "A recipe may only extend a recipe that does not extend another.",
        "A setting of mkosi was inherited by some parts and silently not by others, so what looked pinned was not; "
        "with one level, two files contain everything.",
        "systemd/mkosi#4420",
    ),
    Rule(
        "privileged-port",
        "error",
        "read",
        "The agent listens on a port from 1024 up.",
        "Ports below need CAP_NET_BIND_SERVICE; the network-facing server runs without capabilities.",
        "capabilities(7)",
    ),
    Rule(
        "exception-missing",
        "error",
        "read",
        "A kernel option, module or sysctl that is not on the list of `recipe/kernelsettings.py` has an entry in "
        "`exceptions`, with a reason.",
        "A word on the command line turns protections off, and a verifier sees only that a register differs; an "
        "exception is in manifest and prediction, and verifiers refuse it unless their policy names it.",
        "bootparam(7)",
    ),
    Rule(
        "exception-never",
        "error",
        "read",
        "No exception exists for outbound connections, a shell, root, set-id programs, the attestor, the devices of "
        "TEE and GPU, keys, the engine's socket, and settings that give one of them.",
        "What every image of this builder guarantees cannot depend on the recipe: a verifier knows it without "
        "reading one.",
        "capabilities(7)",
    ),
    Rule(
        "exception-unused",
        "error",
        "read",
        "Each exception is needed by a field of the recipe.",
        "Verifiers who accept an exception that nothing needs would accept it later, when something does.",
        "lintian(1)",
    ),
    Rule(
        "archive-label",
        "error",
        "read",
        "The label of an archive is not one of the base's archives or suites, and has no host name.",
        "Packages of the base and of other archives are installed differently: those of the base's label are trusted "
        "to change the system.",
        "apt_preferences(5)",
    ),
    Rule(
        "archive-unused",
        "error",
        "read",
        "Each archive is named by a package.",
        "An archive that nothing needs is a key that is trusted later, when something is.",
        "sources.list(5)",
    ),
    Rule(
        "platform-unmeasured",
        "error",
        "read",
        "A platform runs its guests in a TEE, or has a TPM.",
        "A VMM option started guests outside TDX, where they are not measured, and nothing else showed it.",
        "Dstack-TEE/dstack#614",
    ),
    Rule(
        "platform-processor",
        "error",
        "read",
        "A platform of SNP guests names one of QEMU's EPYC models, with that model's identity.",
        "Guests were started with another CPU model than the one that they were measured for: each was refused, and "
        "nothing named the cause. With `host`, the digest would depend on the machine.",
        "aleph-im/aleph-vm#1145",
    ),
    Rule(
        "driver-version",
        "error",
        "read",
        "A GPU driver is one of those that were built here, and has firmware for the GPUs.",
        "A driver was rolled back after days of work, because no reference values were published for it and no "
        "verifier accepted its GPUs.",
        "tinfoilsh/cvmimage#165",
    ),
    Rule(
        "driver-kernel",
        "error",
        "read",
        "A GPU driver is compiled for a kernel that its source was built for, of the release that has its packages.",
        "On a later kernel one of the driver's compile tests failed without a word: the module was built and loaded "
        "with stubs for its cryptography, and an H100 could not be used in confidential mode.",
        "NVIDIA/open-gpu-kernel-modules#893",
    ),
    Rule(
        "driver-runfile",
        "error",
        "read",
        "A GPU driver that is in no archive of the release comes from the vendor's file, by address and SHA-256; any "
        "other comes from the release's packages.",
        "A service had to go back to one exact version, because no reference values were published for the next. No "
        "archive of Debian has it, and an address alone leaves the bytes open.",
        "tinfoilsh/cvmimage#165",
    ),
    Rule(
        "gpu-ppcie",
        "error",
        "read",
        "GPUs in protected PCIe mode are a whole board of eight with its four switches, and the recipe names the "
        "vendor's archives for the switches, of the driver's version.",
        "Evidence of the switches could not be read inside a guest: the library for it works with exactly one "
        "version of the driver.",
        "NVIDIA/nvtrust#153",
    ),
    Rule(
        "network-address",
        "error",
        "read",
        "A static card has addresses of ordinary hosts in their usual spelling, each once, and no two cards are in "
        "overlapping networks; other cards have none.",
        "The addresses are measured: one that no caller can reach, or that two cards share, is found when a guest "
        "boots, and then the image must be built again.",
        "systemd.network(5)",
    ),
    Rule(
        "network-gateway",
        "error",
        "read",
        "A gateway is another machine in a network of its card, and each IP version has one default route at most.",
        "The kernel refuses a route through a router that it cannot reach, and answers to other callers are lost.",
        "systemd.network(5)",
    ),
    Rule(
        "service-scratch",
        "error",
        "read",
        "A service's `scratch` is smaller than its `memory`.",
        "A tmpfs is memory: a service that fills one as large as its limit is killed.",
        "systemd.resource-control(5)",
    ),
    Rule(
        "key-broker",
        "error",
        "read",
        "Each encrypted volume names a broker of `keys.brokers`, and each broker has a key of its own and a volume.",
        "One key service for each project was a condition that was written nowhere, and a deployment for two failed. "
        "Here the recipe names whose keys a guest waits for, and a volume without a broker is never opened.",
        "NVIDIA/NVFlare#5312",
    ),
    Rule(
        "key-resource",
        "error",
        "read",
        "Each encrypted volume has a key of its own.",
        "XTS under one key shows which blocks of two volumes are equal, and a key that is released for one volume "
        "opens the other.",
        "cryptsetup(8)",
    ),
    Rule(
        "data-unused",
        "error",
        "read",
        "A recipe with `data` has a service that can read it.",
        "Neither engine nor agent has access to the volumes of data: without a service they would be measured and "
        "mounted for nobody.",
        "systemd.exec(5)",
    ),
    Rule(
        "python-requirement",
        "error",
        "read",
        "A requirement of `python` is a name with versions, extras or ranges; never an address, and no marker.",
        "A name that existed on a private index only was uploaded to the public one with a higher version, and "
        "machines installed that; here the lock names one file and its SHA-256 for each name.",
        "pypa/pip#8606",
    ),
    Rule(
        "python-path",
        "error",
        "read",
        "No service of a recipe with wheels sets PYTHONPATH itself.",
        "The variable decides which modules a program imports; with two owners, the one that counts is seen only in "
        "the guest.",
        "python3(1)",
    ),
    Rule(
        "python-unused",
        "error",
        "read",
        "A recipe with wheels has a service that can import them, or an engine that comes from them.",
        "Agent and boot process never have the wheels on their search path, so nothing else could use them.",
        "python3(1)",
    ),
    Rule(
        "python-compiler",
        "error",
        "read",
        "A wheel that compiles C when it runs has a version whose modules the build can compile instead.",
        "A server started, and failed at its first request with `Failed to find C compiler`. With a compiler there, "
        "code that nobody measured would run in the guest.",
        "vllm-project/vllm#2997",
    ),
    Rule(
        "engine-wheel",
        "error",
        "read",
        "A recipe whose engine comes from wheels pins the engine's wheel in `python.requirements`, by `==` and a "
        "version that the engine's record knows.",
        "Options of an engine change with its versions: one that is unknown ends it when a guest boots, and what was "
        "turned off by an option may be on under its new name.",
        "vllm-project/vllm#57224",
    ),
)
