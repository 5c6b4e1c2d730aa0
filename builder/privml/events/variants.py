"""The two variants of an image: what production may hold, and what only development may."""

from __future__ import annotations

from typing import Final, Literal, get_args

Variant = Literal["production", "development"]
VARIANTS: tuple[Variant, ...] = get_args(Variant)
PRODUCTION: Final = "production"
DEVELOPMENT: Final = "development"
