"""For all tests: Hypothesis measures no time, because a loaded machine would fail what is right, and files are made
with the umask of most machines, which no test leaves changed."""

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

settings.register_profile("privml", deadline=None)
settings.load_profile("privml")
UMASK = 0o022
os.umask(UMASK)


@pytest.fixture(autouse=True)
def no_other_umask() -> Iterator[None]:
    """A test that leaves the process another umask fails, and not the next one."""
    yield
    found = os.umask(UMASK)
    assert found == UMASK, f"the test left umask {found:04o}"
