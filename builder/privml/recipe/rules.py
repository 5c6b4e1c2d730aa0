"""The rules of `lint` as data: the requirement, and the public incident that motivates it.

Rules of stage ``read`` apply while a recipe is read (``models``, ``loader``) and always end in exit 3. Rules of stage
``judge`` are applied by ``lint`` to readable recipes. Rules of stage ``guest`` (``guestfiles``) check the guest's own
files below ``images``, also before every build.
"""

from __future__ import annotations

from privml.recipe.guestrules import GUEST_RULES
from privml.recipe.rule import Rule

_ALL = (
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
        "file-place",
        "error",
        "judge",
        "A recipe's files are in folders of their own, /etc/NAME/ or /usr/lib/NAME/, which no program of the guest "
        "reads by itself.",
        "A unit, a loader's setting or a Python module in the right folder runs as root at boot.",
        "systemd.unit(5)",
    ),
    Rule(
        "file-source",
        "error",
        "judge",
        "A recipe's files are local files and folders below the recipe's folder, and links stay inside.",
        "A link to a file of the machine would put a secret, or what differs between machines, into the image.",
        "symlink(7)",
    ),
    Rule(
        "archive-keyring",
        "error",
        "judge",
        "The keyring of an archive holds exactly the keys whose fingerprints the recipe lists, as primary keys.",
        "A key that was added to a machine for one archive was trusted for all of them, and nobody who read the list "
        "of archives saw it.",
        "apt-secure(8)",
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
        "platform-emulated",
        "error",
        "judge",
        "A production recipe's platforms run their guests in a TEE.",
        "Published registers could only be produced by a special QEMU: what was measured was not what ran.",
        "Datura-ai/lium-io#1106",
    ),
    Rule(
        "platform-firmware",
        "error",
        "judge",
        "A recipe has firmware for the TEE of each of its platforms.",
        "A guest ran with firmware of another build: it started, and its launch digest covered no kernel.",
        "AMDESE/AMDSEV#257",
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
        "platform-tpm",
        "error",
        "judge",
        "A production recipe's platforms have no TPM.",
        "The host controls a software TPM's registers; a verifier that accepted a value chosen by the host "
        "reported it as verified.",
        "Dstack-TEE/dstack#1266",
    ),
    Rule(
        "platform-devices",
        "error",
        "judge",
        "A recipe declares exactly the devices of each of its platforms: one disk for the root, one for each model, "
        "and whatever else the machine has.",
        "An image had a different RTMR0 on another machine, because devices are in the ACPI tables. The guest "
        "expects the declared ones.",
        "near/mpc#1105",
    ),
    Rule(
        "boot-disk",
        "error",
        "judge",
        "A recipe with `boot: disk` is for TDX, on platforms with neither tables learnt from a QEMU nor a boot order "
        "of QEMU. One with machines of a cloud has `boot: disk`.",
        "Firmware measures a boot option for each disk, and QEMU's boot order sorts them. A boot that was not "
        "predicted has registers that nobody published.",
        "qemu-system-x86_64(1)",
    ),
    Rule(
        "platform-size",
        "error",
        "judge",
        "A recipe's sizes are those of the machines that were captured for a cloud's platform.",
        "Google publishes no reference values of RTMR0, which depends on the machine's size, so nothing predicts "
        "that of a machine that nobody captured.",
        "google/gce-tcb-verifier#73",
    ),
    Rule(
        "platform-untried",
        "warning",
        "judge",
        "The guest has drivers for the machines of its platforms.",
        "A guest had no network on Google's C3 machines, because its kernel had no driver for their card, and "
        "nothing said so before it was started there.",
        "Dstack-TEE/meta-dstack#66",
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
        "driver-untried",
        "warning",
        "judge",
        "A GPU driver was compiled here at least once.",
        "A driver was offered for a kernel that it could not be compiled for, because no build tried it: "
        "Linux 7.2 has lost a function that it calls.",
        "NixOS/nixpkgs#554125",
    ),
    Rule(
        "gpu-platform",
        "warning",
        "judge",
        "A platform has the GPUs that the recipe declares.",
        "Each GPU is in the ACPI tables: RTMR0 of a machine with one is another than that of the platform's file. No "
        "log of a TD with a GPU was there to compare a prediction with (docs/adr/0035).",
        "near/mpc#1105",
    ),
    Rule(
        "gpu-firmware",
        "warning",
        "judge",
        "A recipe with GPUs lists the firmware that each may have.",
        "NVIDIA had published no reference values for the VBIOS of a machine's H200, and its attestation failed. "
        "Without the list the guest starts on any VBIOS, and only a caller's policy refuses it.",
        "NVIDIA/nvtrust#144",
    ),
    Rule(
        "device-unused",
        "warning",
        "judge",
        "The guest reads every disk of its machine.",
        "A disk without a volume is part of the machine and so of RTMR0, and the kernel reads its partition table; "
        "it is for platforms that always have one, such as a disk with the settings of a cloud.",
        "near/mpc#1105",
    ),
    Rule(
        "platform-vcpus",
        "error",
        "judge",
        "A machine has at most the CPUs of its platform's `max_vcpus`, and above 255 a platform sets kernel_irqchip "
        "to split.",
        "A plain interrupt message has 8 bits for its CPU. QEMU starts a larger machine without extended destination "
        "ids too, and its guest then leaves the other CPUs off.",
        "qemu-system-x86_64(1)",
    ),
    Rule(
        "network-cards",
        "error",
        "judge",
        "`network` has one entry for each network card, and a recipe with several cards has it; one is used.",
        "Two cards that both take a default route from DHCP leave open through which one an answer leaves.",
        "systemd.network(5)",
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
    Rule(
        "engine-gpus",
        "error",
        "judge",
        "A recipe with an engine that needs GPUs has as many as the engine's option `gpus` says.",
        "An engine ends when it finds fewer GPUs than it shares a model among; GPUs beyond these are in the machine "
        "and in its RTMR0, and serve nobody.",
        "near/mpc#1105",
    ),
    Rule(
        "engine-cuda",
        "error",
        "judge",
        "The GPU driver is new enough for the CUDA that the engine's wheels are for.",
        "With an older driver CUDA does not start, and the engine ends when the guest boots. A minor release of vLLM "
        "was the first for the next CUDA, and no longer ran on drivers of the one before.",
        "verl-project/verl-omni#133",
    ),
    Rule(
        "engine-kernels",
        "error",
        "judge",
        "The engine has native code for the GPU, or the driver compiles its PTX, for all that a model needs. `lock` "
        "looks at the model's configuration too.",
        "A driver refuses PTX that is newer than itself: an engine that had loaded its model failed in the first "
        "attention that had no native code, with an error that named neither the model nor the driver.",
        "vllm-project/vllm#31700",
    ),
    Rule(
        "engine-fault",
        "warning",
        "judge",
        "No fault of the engine's version under confidential computing is publicly known.",
        "The same model decoded 3.3 times slower after an upgrade, only under confidential computing: without it, "
        "the new version was faster.",
        "vllm-project/vllm#57680",
    ),
    Rule(
        "driver-known",
        "warning",
        "judge",
        "No advisory about the driver's version is publicly known, and its reference values are published.",
        "A driver was rolled back after days of work, because no reference values were published for it and no "
        "verifier accepted its GPUs.",
        "tinfoilsh/cvmimage#165",
    ),
    Rule(
        "platform-defaults",
        "warning",
        "judge",
        "A platform sets smm, pic, hpet and kernel_irqchip itself.",
        "QEMU's defaults change with its version and configuration, and RTMR0 changes with them.",
        "canonical/tdx#270",
    ),
    Rule(
        "firmware-unused",
        "warning",
        "judge",
        "Each TEE that a recipe has firmware for has a platform.",
        "People tried settings by turns until a digest fitted, because none was published for their machine.",
        "AMDESE/AMDSEV#212",
    ),
    Rule(
        "memory-for-model",
        "warning",
        "judge",
        "A shape's memory is at least the size of the model's file plus 512 MiB.",
        "If a machine proves too small it gets more memory, and RTMR0 no longer matches the published value.",
        "canonical/tdx#289",
    ),
    Rule(
        "wide-pattern",
        "warning",
        "judge",
        "The pattern of the model's file is more specific than a star.",
        "A star matches whatever is there: a project chose inputs by location instead of by name, so its mismatches "
        "carried no information.",
        "celo-org/optimism#532",
    ),
    Rule(
        "model-missing",
        "error",
        "judge",
        "A model or data next to the recipe is there, or the lock names its bytes.",
        "A unit of an image needed a file that the image did not have; it was found when a guest booted. A missing "
        "model is found before anything is built.",
        "Dstack-TEE/dstack#1173",
    ),
    Rule(
        "no-lock",
        "warning",
        "judge",
        "A recipe has its lock next to it.",
        "Unrecorded inputs change with the archive every day, so a mismatch carries no information.",
        "celo-org/optimism#532",
    ),
    Rule(
        "stale-lock",
        "warning",
        "judge",
        "The lock matches the recipe, the guest files and the tools.",
        "A pin did not apply to the tools as believed: 74 of 478 packages came live from the archive.",
        "confidential-dot-ai/confidential-os-builder#96",
    ),
    *GUEST_RULES,
)

RULES = {rule.id: rule for rule in _ALL}
