"""A simulated TDX platform, for development images and tests. It is never part of a production image."""
