"""Inference engines that can run in the guest: one record for each, read by all other parts."""
