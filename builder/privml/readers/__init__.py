"""Third-party files: identified by content, captured from a TD, and compared with each other."""
