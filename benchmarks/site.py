"""The pages of a large repository: 3 images with 40 versions each, on 16 machine sizes.

`python -m benchmarks.site` prints this line alone; it needs no image.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.measured import cpu_here, figure
from tests.unit import published_whole

from privml.publish import site

Figure = Callable[[str, list[float], float, str], None]


def run(figure: Figure) -> None:
    """Print the line: reading and checking the whole repository, and making all pages, in processor time."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        published_whole.many(images=3, versions=40, sizes=16).write(folder)
        files = site.site(folder)
        pages = sum(path.endswith(".html") for path in files)
        assert pages >= 360, pages
        figure("site-of-360-pages", [cpu_here(lambda: site.site(folder)) for _ in range(5)], 2, "s of CPU")


if __name__ == "__main__":
    run(figure)
