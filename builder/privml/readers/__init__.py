"""Identify third-party files by content, read captures of a TD, and compare files with each other."""
