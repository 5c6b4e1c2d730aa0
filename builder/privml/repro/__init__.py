"""Test whether a build is reproducible: build twice in different environments and explain every difference."""
