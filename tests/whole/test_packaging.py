"""What setup.cfg promises: extras without torch, declared imports, files that travel with the package."""

import ast
import configparser
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from email import message_from_bytes
from fnmatch import fnmatch
from importlib.metadata import Distribution, distribution, packages_distributions
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import kdviz

ROOT = Path(__file__).resolve().parents[2]
TORCH = {"torch", "torchvision", "captum", "safetensors"}
CONSTRAINTS = [
    line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")
]


@pytest.fixture(scope="session")
def setup() -> configparser.ConfigParser:
    """setup.cfg, with the %(name)s of its extras filled in."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    return config


@pytest.fixture(scope="module")
def workflow() -> dict:
    """The CI workflow; PyYAML reads its key `on` as True."""
    return yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))


def requirements(setup: configparser.ConfigParser, *extras: str) -> list[Requirement]:
    """Return what a plain install and these extras ask for, where it applies here."""
    texts = setup["options"]["install_requires"].split("\n")
    for extra in extras:
        texts += setup["options.extras_require"][extra].split("\n")
    wanted = [Requirement(text) for text in texts if text.strip()]
    return [one for one in wanted if one.marker is None or one.marker.evaluate()]


def closure(wanted: list[Requirement]) -> dict[str, Distribution]:
    """Return every installed distribution that an installer would fetch for these requirements."""
    found: dict[str, Distribution] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    pending = [(one.name, frozenset(one.extras)) for one in wanted]
    while pending:
        name, extras = pending.pop()
        if (canonicalize_name(name), extras) in seen:
            continue
        seen.add((canonicalize_name(name), extras))
        here = found.setdefault(canonicalize_name(name), distribution(name))
        for text in here.requires or ():
            needed = Requirement(text)
            marker = needed.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
                pending.append((needed.name, frozenset(needed.extras)))
    return found


def third_party_imports() -> set[str]:
    """Return the top-level packages that kdviz imports beyond the standard library."""

    def names(tree: ast.AST) -> Iterator[str]:
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                yield node.module

    found = {
        name.split(".")[0]
        for path in (ROOT / "kdviz").rglob("*.py")
        for name in names(ast.parse(path.read_text(encoding="utf-8")))
    }
    return found - set(sys.stdlib_module_names) - {"kdviz"}


# -- setup.cfg


def test_extras__are_the_promised_ones(setup: configparser.ConfigParser) -> None:
    names = set(setup["options.extras_require"]) - set(setup.defaults())
    assert names >= {"view", "measure", "vision", "text", "lab", "attribution", "all", "docs", "dev"}


def test_view_extra__asks_for_no_torch(setup: configparser.ConfigParser) -> None:
    assert TORCH & closure(requirements(setup, "view")).keys() == set()
    assert TORCH & closure(requirements(setup, "lab")).keys() == set()
    assert TORCH & closure(requirements(setup, "all")).keys() == TORCH  # the search itself finds torch


def test_imports__are_declared(setup: configparser.ConfigParser) -> None:
    declared = {canonicalize_name(one.name) for one in requirements(setup, "all", "cluster", "lightning")}
    homes = packages_distributions()
    undeclared = {
        name: homes.get(name, [])
        for name in third_party_imports()
        if not declared & {canonicalize_name(home) for home in homes.get(name, [])}
    }
    assert undeclared == {}


def test_declared_requirements__are_imported(setup: configparser.ConfigParser) -> None:
    homes = packages_distributions()
    imported = {canonicalize_name(home) for name in third_party_imports() for home in homes.get(name, [])}
    core = {canonicalize_name(one.name) for one in requirements(setup)}
    assert core - imported == set(), "a plain install should fetch nothing that kdviz does not use"


def test_package_data__covers_every_file(setup: configparser.ConfigParser) -> None:
    patterns = [text.strip() for text in re.split(r"[,\n]", setup["options.package_data"]["kdviz"])]
    files = [path for path in (ROOT / "kdviz").rglob("*") if path.is_file()]
    files = [path for path in files if path.suffix not in (".py", ".pyc")]
    assert ROOT / "kdviz" / "papers.csv" in files
    missed = [
        str(path.relative_to(ROOT / "kdviz"))
        for path in files
        if not any(fnmatch(str(path.relative_to(ROOT / "kdviz")), pattern) for pattern in patterns)
    ]
    assert missed == []


def test_version__is_written_once(setup: configparser.ConfigParser) -> None:
    assert setup["metadata"]["version"] == "attr: kdviz.__version__"
    assert "project" not in tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.findall(r"^## \[?(.+?)\]?(?: - .*)?$", changes, re.MULTILINE)[0] == "Unreleased"
    assert re.fullmatch(r"\d+\.\d+\.\d+", kdviz.__version__)


# -- one set of versions for make, conda and CI


def test_constraints__pin_everything_that_development_needs(setup: configparser.ConfigParser) -> None:
    pins = {}
    for line in CONSTRAINTS:
        name, version = line.split("==")  # exact pins only; anything else fails here
        pins[canonicalize_name(name)] = version
    unpinned = {"pip", "setuptools", "wheel"}  # the installers' own, different in every new environment
    assert pins.keys() & {*unpinned, "kdviz"} == set()
    wanted = requirements(setup, "dev")
    assert closure(wanted).keys() - pins.keys() - unpinned == set()
    outside = [one for one in wanted if not one.specifier.contains(pins[canonicalize_name(one.name)])]
    assert outside == []
    assert [line for line in CONSTRAINTS if "+" in line] == [], "a local version cannot be fetched elsewhere"


def test_environment_yml__repeats_no_dependency(setup: configparser.ConfigParser) -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    oldest = setup["options"]["python_requires"].removeprefix(">=")
    assert environment["name"] == "kdviz"
    assert environment["dependencies"] == [
        f"python={oldest}",
        "pip",
        {"pip": ["-c constraints.txt", "-e .[dev]"]},
    ]


def test_ci__tests_the_oldest_and_the_newest_python(setup: configparser.ConfigParser, workflow: dict) -> None:
    supported = re.findall(r"Python :: (3\.\d+)", setup["metadata"]["classifiers"])
    assert workflow["jobs"]["tests"]["strategy"]["matrix"]["python"] == [supported[0], supported[-1]]
    assert setup["options"]["python_requires"] == f">={supported[0]}"


def test_ci__no_job_fails_quietly(workflow: dict) -> None:
    assert set(workflow["jobs"]) == {"lint", "tests", "without-torch", "docs", "notebooks", "newest"}
    text = (ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8")
    for quiet in ("continue-on-error", "|| true", "|| :", "set +e", "exit 0"):
        assert quiet not in text


def test_ci_and_pre_commit__run_the_lint_of_make(workflow: dict) -> None:
    make = (ROOT / "Makefile").read_text(encoding="utf-8")
    recipe = re.findall(r"^\t\$\(BIN\)/(.+)$", make.split("\nlint:")[1], re.MULTILINE)
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    entries = [hook["entry"] for repository in hooks["repos"] for hook in repository["hooks"]]
    assert recipe == ["ruff check .", "ruff format --check .", "mypy"]
    assert "pre-commit run --all-files --show-diff-on-failure" in str(workflow["jobs"]["lint"]["steps"])
    for command in recipe:
        assert any(entry.startswith(command.removesuffix(" .")) for entry in entries), command


# -- what is handed out


@pytest.fixture(scope="session")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The source distribution, and the wheel that is built from nothing but it."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT]
    built = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    (source,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return source, wheel


def package_files() -> set[str]:
    """Return the files of the package as the checkout has them."""
    files = {path.relative_to(ROOT) for path in (ROOT / "kdviz").rglob("*") if path.is_file()}
    return {file.as_posix() for file in files if file.suffix != ".pyc"}


def shipped_files() -> set[str]:
    """Return the files of the top-level folders that the wheel takes with it."""
    files = {path.relative_to(ROOT) for path in (ROOT / "data").rglob("*") if path.is_file()}
    files = {file for file in files if file.suffix not in (".py", ".pyc")}
    files |= {path.relative_to(ROOT) for path in (ROOT / "notebooks").glob("*.ipynb")}
    files |= {path.relative_to(ROOT) for path in (ROOT / "studies").glob("*.yaml")}
    return {file.as_posix() for file in files}


@pytest.mark.slow
def test_wheel__holds_the_package_its_data_and_notebooks_and_nothing_else(
    distributions: tuple[Path, Path],
) -> None:
    with zipfile.ZipFile(distributions[1]) as wheel:
        names = set(wheel.namelist())
        metadata = message_from_bytes(wheel.read(f"kdviz-{kdviz.__version__}.dist-info/METADATA"))
    own = {name for name in names if ".dist-info/" not in name}
    assert own == package_files() | {f"kdviz/{name}" for name in shipped_files()}
    assert own > {"kdviz/papers.csv", "kdviz/py.typed", "kdviz/data/review_license.txt"}
    assert own > {"kdviz/data/runs/fashion.nc", "kdviz/notebooks/01_report.ipynb", "kdviz/studies/v.yaml"}
    assert 10 * 2**20 < distributions[1].stat().st_size < 30 * 2**20
    assert f"kdviz-{kdviz.__version__}.dist-info/licenses/LICENSE" in names
    assert metadata["Version"] == kdviz.__version__
    assert metadata["License-File"] == "LICENSE"


@pytest.mark.slow
def test_source_distribution__holds_what_builds_the_wheel(distributions: tuple[Path, Path]) -> None:
    with tarfile.open(distributions[0]) as archive:
        files = [member.name.split("/", 1)[1] for member in archive.getmembers() if member.isfile()]
    own = {name for name in files if ".egg-info/" not in name}
    texts = {"CHANGELOG.md", "CITATION.cff", "LICENSE", "MANIFEST.in", "PKG-INFO", "README.md", "SECURITY.md"}
    scripts = {path.relative_to(ROOT).as_posix() for path in (ROOT / "data").rglob("*.py")}
    assert own == package_files() | shipped_files() | scripts | texts | {
        "pyproject.toml",
        "setup.cfg",
        "setup.py",
    }
    assert distributions[0].stat().st_size < 30 * 2**20


# -- viewing where no torch is installed


@pytest.fixture(scope="session")
def python_without_torch(
    tmp_path_factory: pytest.TempPathFactory,
    setup: configparser.ConfigParser,
    distributions: tuple[Path, Path],
) -> Path:
    """A virtual environment with the wheel, and links to what its extra `view` asks for."""
    home = tmp_path_factory.mktemp("view") / "env"
    venv.create(home, system_site_packages=False, with_pip=False, symlinks=True)
    (site,) = home.glob("lib/python*/site-packages")
    for package in closure(requirements(setup, "view")).values():
        for top in {file.parts[0] for file in package.files or () if file.suffix != ".pth"} - {
            "..",
            "__pycache__",
        }:
            link = site / top
            if not link.exists():
                link.symlink_to(Path(str(package.locate_file(top))))
    with zipfile.ZipFile(distributions[1]) as wheel:
        wheel.extractall(site)  # a pure wheel is installed by unpacking it
    return home / "bin" / "python"


def outside_the_checkout() -> dict[str, str]:
    """Return the environment without what would lead back to the checkout's package or data."""
    return {name: value for name, value in os.environ.items() if name not in ("KDVIZ_DATA", "PYTHONPATH")}


@pytest.mark.slow
def test_view__works_where_torch_is_not_installed(python_without_torch: Path, tmp_path: Path) -> None:
    # The golden run's gains, solved by hand: entropies are -log(G)/2 plus a constant a sample. At epoch 0
    # both samples have one background unit below the background mean, at epoch 10 the first has two.
    run = ROOT / "tests" / "data" / "golden_run_v1.nc"
    script = ROOT / "tests" / "view_without_torch.py"
    result = subprocess.run(
        [python_without_torch, script, run, "optimum", "0"],
        cwd=tmp_path,
        env=outside_the_checkout(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stdout) == (
        0,
        "student-fc1-s0 features.7: 1.00 -> 1.50 knowledge points a sample\n",
    ), result.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        ([], 0, "Start with: kdviz demo"),
        (["--help"], 0, "Start with: kdviz demo"),
        (["info", ROOT / "tests" / "data" / "golden_run_v2.nc"], 0, "2 samples"),
        (["train", "birds", "--modality", "image"], 1, "install kdviz["),
        (["explore", ROOT / "tests" / "data" / "golden_run_v2.nc"], 1, "install kdviz[lab]"),
    ],
)
def test_python_m_kdviz__works_anywhere_and_without_torch(
    python_without_torch: Path, tmp_path: Path, arguments: list[str], status: int, said: str
) -> None:
    result = subprocess.run(
        [python_without_torch, "-m", "kdviz", *arguments],
        cwd=tmp_path,
        env=outside_the_checkout(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == status, result.stderr
    assert said in result.stdout + result.stderr and "Traceback" not in result.stderr


@pytest.mark.slow
def test_measure__names_the_extra_where_torch_is_not_installed(python_without_torch: Path) -> None:
    result = subprocess.run(
        [python_without_torch, "-c", "import kdviz; kdviz.measure"],
        cwd=python_without_torch.parent,
        env=outside_the_checkout(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert "kdviz[measure]" in result.stderr


@pytest.mark.slow
def test_built_in_data__comes_with_the_wheel(python_without_torch: Path, tmp_path: Path) -> None:
    script = "import kdviz; print(len(kdviz.sources.fashion_composites('held-out', count=2)))"
    result = subprocess.run(
        [python_without_torch, "-c", script],
        cwd=tmp_path,
        env=outside_the_checkout(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stdout) == (0, "2\n"), result.stderr


USE_THE_WHEEL = """
import sys
sys.path.insert(0, sys.argv[1])
import kdviz, kdviz.cli
from kdviz.reports.notebooks import find_notebook
folder = kdviz.sources.find_data("runs/fashion.nc").parents[3]
run = kdviz.open_run(kdviz.sources.find_data("runs/fashion.nc"))
print(kdviz.__file__, folder, len(run.summary()), find_notebook("02_explore"), sep="\\n")
sys.argv[1:] = ["rerun", "02_explore", "--folder", "made"]
kdviz.cli.main()
"""


@pytest.mark.slow
def test_wheel__of_its_own_reads_stored_runs_and_notebooks(
    distributions: tuple[Path, Path], tmp_path: Path
) -> None:
    home, elsewhere = tmp_path / "installed", tmp_path / "elsewhere"
    elsewhere.mkdir()
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*install, "--target", home, distributions[1]], check=True, cwd=elsewhere)
    environment = outside_the_checkout() | {"PYTHONPATH": str(home)}  # the notebook's kernel, too
    result = subprocess.run(
        [sys.executable, "-c", USE_THE_WHEEL, home],
        cwd=elsewhere,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    package = home / "kdviz"
    expected = [str(package / "__init__.py"), str(home)]
    notebook = str(package / "notebooks" / "02_explore.ipynb")
    printed = result.stdout.splitlines()
    assert [*printed[:2], printed[3]] == [*expected, notebook]
    assert int(printed[2]) > 0
    assert list((elsewhere / "made").glob("**/*.html")), result.stdout


def test_view_script__refuses_to_prove_nothing() -> None:
    script = ROOT / "tests" / "view_without_torch.py"
    result = subprocess.run([sys.executable, script, "none.nc"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 1
    assert "prove nothing" in result.stderr
