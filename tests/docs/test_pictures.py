"""Pictures of docs/images/: small, used by a page, and described."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
PICTURES = sorted(path for path in (ROOT / "docs/images").iterdir() if path.suffix in (".png", ".svg"))
IMAGE = re.compile(r"!\[([^\]]*)\]\(([^)\s]+)\)")


@pytest.mark.parametrize("picture", PICTURES, ids=lambda path: path.name)
def test_a_picture_is_small_and_used(picture: Path) -> None:
    assert picture.stat().st_size <= 200_000
    assert any(f"images/{picture.name})" in page.read_text(encoding="utf-8") for page in PAGES)


def test_every_picture_has_a_description() -> None:
    for page in PAGES:
        for text, target in IMAGE.findall(page.read_text(encoding="utf-8")):
            assert len(text.split()) >= 3, f"{page.relative_to(ROOT)}: {target}"
