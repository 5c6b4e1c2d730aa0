"""The two variants of an image: what production may hold, and what only development may."""

from __future__ import annotations

PRODUCTION = "production"
DEVELOPMENT = "development"
VARIANTS = (PRODUCTION, DEVELOPMENT)
