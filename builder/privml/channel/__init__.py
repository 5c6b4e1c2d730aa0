"""The sealed channel: HPKE, Binary HTTP, oblivious HTTP, and the keys and replay sets of a gateway.

Everything here is pure: time, keys and bytes are arguments. Standard library and `cryptography` only, because the
guest carries this room.
"""
