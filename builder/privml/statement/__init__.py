"""What is published about an image: predicate v2 and the in-toto Statement around it. Pure: no files, no signing."""
