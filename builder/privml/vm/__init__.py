"""Virtual machines: QEMU and swtpm as processes, firmware blobs by qtest, the firmware's log out of a boot."""
