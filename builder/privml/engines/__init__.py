"""The programs that can run a model in the guest: one record for each, which every other part reads."""
