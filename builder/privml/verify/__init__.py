"""Policy and verdict: judge the facts of a document and give every reason. No I/O, no clock.

The package itself is the library's ``privml.verify(source, expect)``, which is in ``client.calls``.
"""

from privml.base.callables import make_callable

make_callable(__name__, "privml.client.calls")
