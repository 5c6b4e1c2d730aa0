"""The two variants of an image: production and development."""

from __future__ import annotations

from typing import Final, Literal, get_args

Variant = Literal["production", "development"]
VARIANTS: tuple[Variant, ...] = get_args(Variant)
PRODUCTION: Final = "production"
DEVELOPMENT: Final = "development"
