"""Measured events: registers, TCG event logs, replay, and the agent's own events. Bytes in, records out; no I/O."""
