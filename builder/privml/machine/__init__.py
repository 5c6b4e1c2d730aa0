"""What the virtual machine is: platform, size, devices, and the one QEMU argument list made from them."""
