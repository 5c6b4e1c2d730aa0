"""Write docs/pictures: `make pictures`."""

from tests.pictures.all import FOLDER, PICTURES

for name, draw in PICTURES.items():
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / name).write_text(draw())
