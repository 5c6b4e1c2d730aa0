"""Bytes by their SHA-256, and where missing bytes come from."""
