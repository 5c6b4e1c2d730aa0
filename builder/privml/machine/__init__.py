"""Description of a virtual machine (platform, shape, devices), and its QEMU argument list."""
