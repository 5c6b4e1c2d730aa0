"""Basics that everything may import: errors, processes, steps, files, strict JSON. Standard library only."""
