"""Published statements about an image: predicate v2 in an in-toto Statement. No file access, no signing."""
