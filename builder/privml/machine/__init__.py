"""What the virtual machine is: platform, shape, devices, and the one QEMU argument list made from them."""
