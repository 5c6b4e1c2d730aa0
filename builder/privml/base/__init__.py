"""Standard library only: errors, processes, steps, files, strict JSON. Everything may import this room."""
