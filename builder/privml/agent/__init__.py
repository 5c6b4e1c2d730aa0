"""The boot agent, in the guest: stages that fail closed, a root attestor for evidence, an unprivileged server.

Standard library, h11 and cryptography only; the guest runs it on Debian's Python. Every path of a kernel interface is
an argument with the guest's value as default, never an environment variable.
"""
