"""The launch digest of an SEV-SNP guest, from its firmware, its kernel and its processors.

Pure: bytes in, digests and steps out. `measure FILE` uses it for firmware; no recipe or platform can name SEV-SNP
yet.
"""
