"""The documentation builds without a warning and without a network, and says who to cite."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import kdviz
from kdviz.schema import VARIABLES

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"


# -- the site


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages, built as `make docs` builds them; connections are refused meanwhile."""
    pages = tmp_path_factory.mktemp("site") / "html"
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    recipe = re.search(r"^\t\$\(BIN\)/python -m (sphinx .+) docs docs/_build/html$", _read("Makefile"), re.M)
    assert recipe is not None
    built = subprocess.run(
        [sys.executable, "-m", *recipe[1].split(), str(DOCS), str(pages)],
        cwd=ROOT,
        env=os.environ | nowhere,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (built.returncode, built.stderr) == (0, ""), built.stderr
    return pages


@pytest.mark.slow
def test_site__documents_every_public_name(site: Path) -> None:
    pages = "".join(path.read_text(encoding="utf-8") for path in (site / "api").glob("*.html"))
    documented = set(re.findall(r'id="(kdviz[\w.]*|module-kdviz[\w.]*)"', pages))
    modules = [name for name in kdviz.__all__ if f"module-kdviz.{name}" in documented]
    verbs = [name for name in kdviz.__all__ if f"kdviz.{name}" in documented]
    assert sorted({*modules, *verbs, "__version__"}) == sorted(kdviz.__all__)
    for module in (
        "analysis",
        "distillation",
        "models",
        "networks",
        "reports",
        "sources",
        "store",
        "studies",
        "training",
    ):
        public = __import__(f"kdviz.{module}", fromlist=["__all__"]).__all__
        described = {
            name
            for name in public
            if {f"kdviz.{module}.{name}", f"kdviz.{name}", f"module-kdviz.{module}.{name}"} & documented
        }
        undescribed = {name for name in public if name not in described and name.upper() != name}
        assert undescribed == set(), module
    assert all(f">{name}</span>" in pages for name in VARIABLES)


@pytest.mark.slow
def test_site__shows_notebooks_with_their_stored_outputs(site: Path) -> None:
    for notebook in (ROOT / "notebooks").glob("*.ipynb"):
        page = (site / "notebooks" / f"{notebook.stem}.html").read_text(encoding="utf-8")
        assert "cell_output" in page
        assert "_images/" in page


@pytest.mark.slow
def test_site__loads_nothing_from_elsewhere(site: Path) -> None:
    loaded = set()
    for path in site.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        loaded |= set(re.findall(r"<(?:script|img)[^>]+src=\"(https?:[^\"]+)", text))
        loaded |= set(re.findall(r"<link[^>]+rel=\"stylesheet\"[^>]+href=\"(https?:[^\"]+)", text))
    assert loaded == set()


@pytest.mark.slow
def test_site__tells_in_words_what_pictures_show(site: Path) -> None:
    count = 0
    for path in site.rglob("*.html"):
        for image in re.findall(r"<img\b[^>]*_images/[^>]*>", path.read_text(encoding="utf-8")):
            (alt,) = re.findall(r'\balt="([^"]*)"', image)
            assert len(alt.split()) > 1 and not alt.endswith((".jpg", ".png")), image
            count += 1
    assert count > 75


def test_links_of_the_readme__lead_somewhere() -> None:
    for name in ("README.md", "CONTRIBUTING.md"):
        targets = re.findall(r"\]\((?!https?:)([^)#]+)", _read(name))
        assert targets
        assert [target for target in targets if not (ROOT / target).exists()] == []


# -- who to cite


def test_citation__has_what_the_format_asks_for() -> None:
    citation = yaml.safe_load(_read("CITATION.cff"))
    assert citation["cff-version"] == "1.2.0"
    assert citation["type"] == "software"
    assert citation["authors"] == [{"name": "kdviz developers"}]
    assert citation["version"] == kdviz.__version__
    assert {"message", "title", "license"} <= citation.keys()
    for reference in citation["references"]:
        assert {"type", "title", "authors"} <= reference.keys()
        assert all({"family-names", "given-names"} == author.keys() for author in reference["authors"])


def test_references__are_the_same_in_both_files() -> None:
    cited = {
        (reference["title"], reference["year"], reference["identifiers"][0]["value"].removeprefix("arXiv:"))
        for reference in yaml.safe_load(_read("CITATION.cff"))["references"]
    }
    software, *papers = re.findall(r"^@\w+\{.*?^\}", _read("docs/references.bib"), re.DOTALL | re.MULTILINE)
    found = {
        (
            _field(entry, "title").replace("{", "").replace("}", ""),
            int(_field(entry, "year")),
            _field(entry, "eprint"),
        )
        for entry in papers
    }
    assert found == cited
    assert len(cited) == 4
    assert _field(software, "version") == kdviz.__version__


def _field(entry: str, name: str) -> str:
    match = re.search(rf"^  {name}\s*= \{{(.*)\}},?$", entry, re.MULTILINE)
    assert match is not None, f"{name} is missing in {entry}"
    return match[1]


def _read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")
