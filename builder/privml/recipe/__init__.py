"""Recipes and platforms: the author's declarations, strictly decoded, with the source line of every field."""
