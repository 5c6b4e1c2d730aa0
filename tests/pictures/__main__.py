"""Write docs/pictures and the tables of docs/VERIFIERS.md: `make pictures`."""

from tests.pictures import checks
from tests.pictures.all import FOLDER, PICTURES

for name, draw in PICTURES.items():
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / name).write_text(draw())
checks.PAGE.write_text(checks.page())
