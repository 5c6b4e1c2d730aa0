"""Evidence of Intel TDX. The package imports nothing itself, so the guest can include only some of its modules."""
