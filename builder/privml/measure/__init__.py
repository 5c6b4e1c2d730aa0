"""From artefacts to register values: what firmware, stub and kernel will measure. Bytes in, records out; no I/O."""
