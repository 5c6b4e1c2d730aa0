"""The launch digest of an SEV-SNP guest, from its firmware, its kernel and its processors.

Pure: bytes in, digests and steps out. `predict` makes the launches of an image; `bound` derives its firmware.
"""
