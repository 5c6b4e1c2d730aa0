"""The rules about the guest's own files below ``images`` (stage ``guest`` of `rules`)."""

from __future__ import annotations

from privml.recipe.rule import Rule

GUEST_RULES = (
    Rule(
        "missing-seed",
        "error",
        "guest",
        "mkosi's configuration sets Seed= and SourceDateEpoch= to values derived from recipe and lock.",
        "Without a seed, ids of disks and file systems are random: no two images of the same input were equal.",
        "pengutronix/genimage#311",
    ),
    Rule(
        "generated-keys",
        "error",
        "guest",
        "Nothing random is generated during a build: no keys, ids or seeds, and no program that generates them.",
        "A package's script generated host keys during the build: anyone could extract the private keys from the "
        "release, and every rebuild had different ones.",
        "p2pool-starter-stack/pithead#894",
    ),
    Rule(
        "latest",
        "error",
        "guest",
        "Scripts and mkosi's configuration use no moving names, such as `latest` or `stable`.",
        "A service built its verifier from `FROM ...:latest`: what was attested depended on the day of the build.",
        "near/mpc#3442",
    ),
    Rule(
        "script-network",
        "error",
        "guest",
        "No script downloads anything, and mkosi runs without a network: inputs come from the lock.",
        "Programs were downloaded by curl without a digest during builds; a rebuild proved nothing.",
        "celo-org/optimism#532",
    ),
    Rule(
        "baked-cache",
        "error",
        "guest",
        "The guest's files contain no caches (Python, compilers, GPUs, model hubs, linker).",
        "The key of a compile cache depends on the machine: two processes of one service found different keys.",
        "ai-dynamo/dynamo#10695",
    ),
    Rule(
        "overlay-lost",
        "error",
        "guest",
        "Every overlay file is in the image: no removal pattern, program list or unit list takes it away.",
        "A unit of an image needed a file that the image did not have; it was found when a guest booted.",
        "Dstack-TEE/dstack#1173",
    ),
    Rule(
        "overlay-modes",
        "error",
        "guest",
        "Overlay files have no set-id bit, and only programs are executable; other mode bits are not used.",
        "Files entered an initramfs with the modes of the checkout: local and CI images differed.",
        "siderolabs/talos#4096",
    ),
    Rule(
        "unknown-setting",
        "error",
        "guest",
        "mkosi's configuration has only known settings, each once.",
        "mkosi only warns about a setting that is unknown or has no effect in its section, and continues.",
        "systemd/mkosi#4420",
    ),
)
