"""The guest's boot agent: boot stages that fail closed, a root attestor for evidence, and an unprivileged server.

It uses only the standard library, h11 and cryptography, on Debian's Python. Every path of a kernel interface is an
argument whose default is the guest's path, never an environment variable.
"""
