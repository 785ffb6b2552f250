"""Put built-in data, stored runs, notebooks and named studies into the wheel; the rest is in setup.cfg."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent


class BuildWithData(build_py):
    """Copy the top-level folders beside the modules; an editable install finds them where they are."""

    def run(self) -> None:
        """Build the package."""
        super().run()
        if self.editable_mode:
            return
        files = [path for path in (ROOT / "data").rglob("*.*") if path.suffix not in (".py", ".pyc")]
        files += [*(ROOT / "notebooks").glob("*.ipynb"), *(ROOT / "studies").glob("*.yaml")]
        for path in sorted(files):
            target = Path(self.build_lib, "kdviz", path.relative_to(ROOT))
            self.mkpath(str(target.parent))
            self.copy_file(str(path), str(target))


setup(cmdclass={"build_py": BuildWithData})
