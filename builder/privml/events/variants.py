"""The variants of an image: what a caller may trust, and what exists to be looked into."""

from __future__ import annotations

PRODUCTION = "production"
DEVELOPMENT = "development"
"""An image with a console, a shell or the simulated platform. It is never accepted as genuine."""

VARIANTS = (PRODUCTION, DEVELOPMENT)
