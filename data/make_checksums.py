"""Make ``checksums.json``: the SHA-256 of every data file, which ``kdviz.sources.find_data`` checks.

Run it after any file below ``data/`` was made anew.

    python data/make_checksums.py
"""

import hashlib
import json
from pathlib import Path

HERE = Path(__file__).parent
NOT_DATA = {".py", ".md", ".yaml"}


def main() -> None:
    """Write the checksums of everything below this folder that is neither code nor text about it."""
    files = (path for path in HERE.rglob("*") if path.is_file() and path.suffix not in NOT_DATA)
    checksums = {
        path.relative_to(HERE).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(files)
        if path.name != "checksums.json" and not path.name.startswith(".")
    }
    (HERE / "checksums.json").write_text(json.dumps(checksums, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
