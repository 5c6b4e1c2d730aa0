"""The sealed channel: HPKE, Binary HTTP, oblivious HTTP, the keys and replay sets of a gateway; and receipts.

Everything here is pure: time, keys and bytes are arguments. Standard library and `cryptography` only.
"""
