"""Field tests that were received: today's code compares each as it did when it came, and README has a row for it."""

from tests.field.golden import FOLDER, problems

README = FOLDER.parents[2] / "README.md"


def test_every_received_field_test_is_compared_as_before() -> None:
    folders = sorted(FOLDER.iterdir()) if FOLDER.is_dir() else []
    assert [problem for folder in folders for problem in problems(folder)] == []
    text = README.read_text()
    assert [folder.name for folder in folders if f"tests/vectors/field/{folder.name})" not in text] == []
