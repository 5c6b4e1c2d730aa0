"""Virtual machines: QEMU and swtpm as processes, firmware blobs from qtest, and event logs of real boots."""
