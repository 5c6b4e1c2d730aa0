"""Description of a virtual machine (platform, size, devices), and its QEMU argument list."""
