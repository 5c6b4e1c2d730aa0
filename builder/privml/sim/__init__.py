"""A simulated TDX platform, for development images and tests. No production image holds a byte of it."""
