"""Attestation tokens of Arm CCA: read, and checked with a platform's key that the caller has. None is predicted."""
