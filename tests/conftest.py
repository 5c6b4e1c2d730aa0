"""For all tests: Hypothesis measures no time, because a loaded machine would fail what is right."""

from hypothesis import settings

settings.register_profile("privml", deadline=None)
settings.load_profile("privml")
