"""Answers to fields that recipes do not have, by the names under which other tools have them."""

from __future__ import annotations

_NO_LOGIN = "the guest has no logins, shells or keys of people (ADR 0011)"
_NO_SCRIPT = "a recipe runs nothing: it names `packages`, `files` and settings, so that two builds are the same"
_NETWORK = "the guest listens on `agent.listen` only, and no connection begins in it (ADR 0012)"
_ADDRESSES = "what each network card does is in `network`: addresses and gateways, dhcp, or unused"
_SCRATCH = "the root is read-only; a service has a /tmp of its own, as large as its `scratch`"
_SIZES = "machine sizes are in `shapes`, as {vcpus, memory}"
_MODELS = "models are in `inference.models`"
_DATA = "files for the services that are no part of the root are in `data`, each with a name and a source"
_OPTIONS = "words of the kernel command line are in `kernel.options`"
_SERVICES = "programs of your own are in `services`, each with `run` and `environment`"
_USERS = "the guest's accounts are the agent's, the engine's and one for each of `services` (ADR 0057)"
_STATE = "which state of the archives is used is in the lock, which `privml-build lock` writes"
_ARCHIVES = "archives besides the base's are in `archives`; their addresses are in mirrors.yaml, by label"
_ROOT = "the root is read-only; `data` are read-only volumes that services read"
_ANSWERS = {
    _OPTIONS: (
        "append", "args", "bootargs", "cmdline", "command_line", "kernel_args", "kernel_cmdline", "kernel_options",
    ),
    _NO_LOGIN: ("authorized_keys", "login", "password", "root_password", "shell", "ssh", "ssh_keys", "sudo"),
    _NO_SCRIPT: (
        "build", "cmd", "command", "commands", "copy", "entrypoint", "hooks", "postinst", "provision", "run",
        "runcmd", "script", "scripts",
    ),
    _NETWORK: ("dns", "egress", "expose", "firewall", "outbound", "port", "ports", "proxy"),
    _ADDRESSES: (
        "address", "addresses", "dhcp", "gateway", "gateways", "interface", "interfaces", "ip", "networks", "nic",
        "nics", "static_ip",
    ),
    _SCRATCH: ("cache", "scratch", "state", "tmp", "tmpfiles", "tmpfs", "writable"),
    _SIZES: ("cpu", "cpus", "memory", "ram", "size", "vcpus", "vm"),
    _DATA: ("adapter", "adapters", "corpus", "dataset", "datasets", "documents", "rag"),
    _MODELS: ("model", "models", "weights"),
    _SERVICES: ("daemon", "env", "environment", "service", "systemd", "unit", "units"),
    _ARCHIVES: (
        "apt_sources", "ppa", "ppas", "repo", "repos", "repositories", "repository", "signed_by", "sources", "uri",
        "uris",
    ),
    _STATE: ("date", "mirror", "mirrors", "pin", "pins", "snapshot", "timestamp"),
    _ROOT: ("disk", "disks", "mount", "mounts", "persistent", "storage", "swap", "volumes"),
    _USERS: ("group", "groups", "user", "users"),
    "the guest's name, time zone and locale are the same in every image": ("hostname", "locale", "timezone"),
    "the GPUs of the machine and their driver are in `gpu`": ("accelerator", "cuda", "gpus", "nvidia"),
    "an image is public and anybody can rebuild it, so it holds no secrets": (
        "credentials", "secret", "secrets", "token", "tokens",
    ),
    "kernel modules are in `kernel.modules`": ("modprobe", "module", "modules"),
    "kernel settings are in `sysctl`": ("sysctls", "tunables"),
    "packages of the base's archives are in `packages`": ("apt", "debs", "install"),
    "an image starts from `base`, or from another recipe by `extends`": ("dockerfile", "from", "image", "include"),
}  # fmt: skip


def answer(name: str) -> str | None:
    """What to do instead of a field ``name``; None if there is no answer."""
    wanted = name.lower().replace("-", "_")
    return next((text for text, names in _ANSWERS.items() if wanted in names), None)
