"""Evidence of NVIDIA GPUs and NVSwitches: SPDM reports, certificate chains, revocation answers, reference values."""
