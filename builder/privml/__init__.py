"""privml-build: images whose measurements are known before they boot.

The rooms of this package, bottom first, and what each may import are in ``docs/ARCHITECTURE.md``; the
contract is checked by ``tests/unit/test_layers.py``.
"""

__version__ = "0.1.0"
