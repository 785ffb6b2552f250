"""Run the tutorials on one's own losses and properties, and write what they print and draw into them.

python docs/make_own.py FOLDER
"""

import contextlib
import io
import os
import re
import shutil
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent
PICTURES = {"your_own_loss": "points.jpg", "your_own_property": "property.png"}
"""What each page saves, by its name, under which the picture is kept."""

BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.DOTALL | re.MULTILINE)


def find_page(name: str) -> Path:
    """Return the path of a page."""
    return DOCS / "tutorials" / f"{name}.md"


def run_blocks(text: str) -> list[tuple[re.Match[str], str]]:
    """Execute the blocks of a page one after another, here; each with what it printed."""
    names: dict[str, object] = {}
    told = []
    for block in BLOCK.finditer(text):
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(block[1], names)
        told.append((block, "".join(f"{line.rstrip()}\n" for line in printed.getvalue().splitlines())))
    return told


def main(folder: Path) -> None:
    """Run each page in a folder of its own."""
    for name, picture in PICTURES.items():
        (folder / name).mkdir(parents=True)
        os.chdir(folder / name)
        text = find_page(name).read_text(encoding="utf-8")
        for block, printed in reversed(run_blocks(text)):
            if block[2] is not None:
                text = text[: block.start(2)] + printed + text[block.end(2) :]
        find_page(name).write_text(text, encoding="utf-8")
        shutil.copy(picture, DOCS / "images" / f"{name}{Path(picture).suffix}")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
