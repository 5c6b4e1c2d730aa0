"""The rules that `lint` applies to readable recipes (stage ``judge`` of `rules`)."""

from __future__ import annotations

from privml.recipe.rule import Rule

JUDGE_RULES = (
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
)
