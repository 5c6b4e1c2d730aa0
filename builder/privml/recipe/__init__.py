"""Recipes and platforms: what a person declares, read strictly, with the line of every field."""
