"""Every byte of a repository of published measurements."""

from __future__ import annotations

import pytest
from tests.property.test_published_mutations import PATHS, wrongly_accepted
from tests.real.conftest import only_full

pytestmark = pytest.mark.real


@only_full
@pytest.mark.parametrize("path", PATHS)
def test_no_changed_byte_is_accepted(path: str) -> None:
    assert wrongly_accepted(path) == []
