"""The words of QEMU's command line that are known: which decide what is measured, and which belong to the host.

Whatever is not here is refused by `commandline` or `rootbus`, so that nothing that moves a register passes unseen.
"""

from __future__ import annotations

from collections.abc import Mapping

FLAGS = frozenset(
    (
        "-nographic", "-daemonize", "-no-reboot", "-no-shutdown", "-S", "-enable-kvm", "-no-user-config",
        "-nodefaults", "-snapshot",
    )
)  # fmt: skip
OF_THE_HOST = frozenset(
    (
        "-name", "-D", "-d", "-pidfile", "-monitor", "-qmp", "-qmp-pretty", "-mon", "-chardev", "-netdev",
        "-display", "-vnc", "-spice", "-blockdev", "-sandbox", "-msg", "-rtc", "-audiodev", "-runas", "-run-with",
        "-user", "-trace", "-k", "-L", "-accel", "-bios", "-kernel", "-overcommit", "-add-fd", "-action",
        "-watchdog-action",
    )
)  # fmt: skip
REFUSED: Mapping[str, str] = {
    "-append": "the image has its own command line, and a host's is measured into RTMR2: leave it out",
    "-initrd": "the image has its own initrd: leave it out",
    "-smbios": "the host's text in SMBIOS is measured into RTMR0: leave it out",
    "-acpitable": "a table of the host's is measured into RTMR0: leave it out",
    "-numa": "NUMA is not modelled (SRAT, and memory ranges in the TD HOB): leave it out",
    "-shim": "a shim before the image is not modelled: leave it out",
    "-pflash": "a TD starts with -bios and a whole firmware file, not with flash",
    "-readconfig": "a file with more options is not read: write them out",
    "-hda": "name the disk with -blockdev and -device virtio-blk-pci",
    "-cdrom": "name the disk with -blockdev and -device virtio-blk-pci",
    "-net": "name the card with -netdev and -device virtio-net-pci",
    "-nic": "name the card with -netdev and -device virtio-net-pci",
    "-usb": "USB controllers are not modelled: leave it out",
    "-plugin": "a plugin can change the machine: leave it out",
}
NONE_ONLY = ("-vga", "-parallel")
OBJECTS = frozenset(
    (
        "memory-backend-ram", "memory-backend-memfd", "memory-backend-file", "memory-backend-memfd-private",
        "rng-random", "rng-builtin", "iothread", "secret", "iommufd", "tls-creds-x509", "throttle-group",
        "monitor-qmp",
    )
)  # fmt: skip
GUEST = frozenset(
    (
        "id", "qom-type", "sept-ve-disable", "mrconfigid", "mrowner", "mrownerconfig", "quote-generation-socket",
        "quote-generation-service", "attributes",
    )
)  # fmt: skip
MACHINE_OPTIONS = frozenset(
    (
        "smm", "pic", "hpet", "kernel_irqchip", "vmport", "sata", "smbus", "i8042", "smbios-entry-point-type",
    )
)  # fmt: skip
MACHINE_HOST = frozenset(
    (
        "accel", "dump-guest-core", "mem-merge", "memory-backend", "private",
    )
)  # fmt: skip
GUEST_SUPPORT = ("confidential-guest-support", "memory-encryption")
TD_DEFAULTS = {"smm": "off", "pic": "off", "kernel_irqchip": "split"}
"""What QEMU sets in a TD when the command line leaves it open (target/i386/kvm/tdx.c, tdx_kvm_init)."""
NO_UUID = "00000000-0000-0000-0000-000000000000"
"""The UUID in the tables of a machine that has none."""
IDENTITY = ("vendor", "family", "model", "stepping", "phys-bits")
CPU_HOST = frozenset(
    (
        "pmu", "migratable", "invtsc", "tsc-frequency", "check", "enforce", "x-force-cpuid-0x1f",
    )
)  # fmt: skip
GLOBALS = frozenset({"ICH9-LPC.disable_s3", "ICH9-LPC.disable_s4", "ICH9-LPC.noreboot"})
GLOBALS_HOST = frozenset({"kvm-pit.lost_tick_policy"})
DEVICE_HOST = frozenset(
    (
        "id", "drive", "netdev", "chardev", "rng", "mac", "guest-cid", "vhostfd", "num-queues", "mq", "queues",
        "host_mtu", "iothread", "share-rw", "serial", "write-cache", "werror", "rerror", "discard",
        "logical_block_size", "physical_block_size", "rx_queue_size", "tx_queue_size", "queue-size", "max-bytes",
        "period", "max_ports", "deflate-on-oom", "free-page-reporting",
    )
)  # fmt: skip
DEVICE_KEPT = frozenset(
    (
        "bus", "addr", "bootindex", "romfile", "rombar", "vectors", "packed", "iommu_platform", "disable-legacy",
        "disable-modern", "event_idx", "ioeventfd", "config-wce", "scsi", "ats",
    )
)  # fmt: skip
