"""The sealed channel: HPKE, Binary HTTP, oblivious HTTP, and the keys and replay sets of a gateway.

Nothing imports this room yet: no route, no verb, and the guest does not carry it. Everything here is pure: time,
keys and bytes are arguments. Standard library and `cryptography` only.
"""
