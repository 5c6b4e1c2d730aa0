"""Evidence of Intel TDX. The package itself imports nothing, so the guest can carry some of its modules only."""
