"""Compute register values from artefacts: what firmware, stub and kernel measure. Bytes in, records out; no I/O.

The package itself is the library's ``privml.measure(path)``, which is in ``readers.calls``.
"""

from privml.base.callables import make_callable

make_callable(__name__, "privml.readers.calls")
