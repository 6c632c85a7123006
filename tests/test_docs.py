"""The pages are true: their Python runs, their tables are what the code says, their links and rooms exist."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import seq2seq_models
from seq2seq_models import cli
from seq2seq_models.bundled import demo_checkpoint

from .repositories import FAMILY, SMALL, write_repository
from .stand_in_hub import StandInHub

ROOT = Path(__file__).parents[1]
PAGES = [*sorted((ROOT / "docs").glob("*.md")), *sorted(ROOT.glob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
SHELL = re.compile(r"^```(?:sh|bash)\n(.*?)^```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)")
COMPILED = {"docs/export.md", "docs/tensorflow.md", "docs/flax.md", "docs/ecosystem.md", "README.md"}
"""Pages that compile programs: they run on the demonstration checkpoints, and by `make test` only."""
LIBRARY_WARNINGS = r"ignore:::(tensorflow|keras|google|optree|jax|flax|optax|transformers)(\..*)?"
WORDS = ["A fire broke out at the harbour on Monday. It rained all day in Porto.", "what kind of carbs do they eat?"]


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> list[tuple[int, str]]:
    """The Python of a page, each block with its line."""
    text = page.read_text(encoding="utf-8")
    return [(text[: found.start(1)].count("\n"), found[1]) for found in BLOCK.finditer(text)]


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Small repositories under the names that the pages use."""
    folders = {}
    for name in FAMILY:
        folders[name] = tmp_path_factory.mktemp("repository")
        write_repository(folders[name], name, WORDS, **SMALL)
    return folders


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    """docs/make_tables.py, which is no part of a package."""
    spec = importlib.util.spec_from_file_location("make_tables", ROOT / "docs" / "make_tables.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def with_python() -> list[Any]:
    """The pages with Python, those that compile marked."""
    pages = [page for page in PAGES if blocks(page)]
    return [
        pytest.param(page, id=name_of(page), marks=[pytest.mark.heavy] if name_of(page) in COMPILED else [])
        for page in pages
    ]


@pytest.mark.filterwarnings(LIBRARY_WARNINGS)
@pytest.mark.parametrize("page", with_python())
def test_the_python_of_a_page_runs(
    page: Path,
    hub: StandInHub,
    repositories: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In order and in one namespace, as a reader would type it."""
    for name, folder in repositories.items():
        demo = "pegasus-demo" if FAMILY[name] == "Pegasus" else "blenderbot-small-demo"
        hub.add(name, demo_checkpoint(demo) if name_of(page) in COMPILED else folder)
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "__main__"}
    for line, block in blocks(page):
        exec(compile("\n" * line + block, name_of(page), "exec"), namespace)


def commands() -> list[Any]:
    """The commands in the shell blocks of the pages, continued lines joined."""
    found = []
    for page in PAGES:
        for block in SHELL.findall(page.read_text(encoding="utf-8")):
            lines = block.replace("\\\n", " ").splitlines()
            found += [(page, line.strip()) for line in lines if re.search(r"\bseq2seq-models |\bpython \w+/", line)]
    return [pytest.param(page, line, id=f"{name_of(page)}: {line[:60]}") for page, line in found]


@pytest.mark.parametrize(("page", "line"), commands())
def test_the_commands_of_a_page_are_commands(page: Path, line: str) -> None:
    """Ours parse, with all their options; scripts are there and know the options by name."""
    for part in re.split(r"[|;]|&&", line):
        words = shlex.split(re.split(r"[<>]", part)[0], comments=True)
        if words[:1] == ["seq2seq-models"]:
            assert callable(cli._parser().parse_args(words[1:]).run)
        elif "python" in words and words[words.index("python") + 1].startswith(("examples/", "benchmarks/", "docs/")):
            script = ROOT / words[words.index("python") + 1]
            sources = [script, *script.parent.glob("finetuning/*.py")]
            known = "".join(source.read_text(encoding="utf-8") for source in sources)
            for word in words:
                option = word.partition("=")[0].removeprefix("--")
                assert not word.startswith("--") or option in known or option.replace("-", "_") in known, word


def test_the_pages_have_python_to_run() -> None:
    assert sum(len(blocks(page)) for page in PAGES) >= 15


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    links = LINK.findall(page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_tables_are_what_the_code_says(tables: ModuleType) -> None:
    assert [name_of(page) for page in tables.stale_pages()] == [], "run python docs/make_tables.py"
    for page, parts in (("generation", 3), ("differences", 1)):
        assert len(tables.PART.findall((ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8"))) == parts


def test_every_difference_is_listed(tables: ModuleType) -> None:
    """Counted another way than the page is made."""
    source = ROOT / "src" / "seq2seq_models"
    texts = [path.read_text(encoding="utf-8") for path in source.rglob("*.py")]
    marked = sum(text.count(tables.MARK) + text.count(tables.OLDER) for text in texts)
    rows = [line for line in tables.differences().splitlines() if line.startswith("| `")]
    assert marked == len(rows) > 10
    assert all(len(row.split(" | ")) == 3 and len(row.split(" | ")[2]) > 10 for row in rows)


def test_the_map_names_every_room() -> None:
    """docs/design.md has one line for each file of the package, and none for a file that is not there."""
    text = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    row = re.compile(r"^\| `([\w/]+\.py)` \|", re.MULTILINE)
    before, _, after = text.partition("### The wings\n")
    shared, _, after = after.partition("\n### ")
    named = set(row.findall(before + after))
    named |= {f"{wing}/{room}" for wing in ("pytorch", "tensorflow", "flax") for room in row.findall(shared)}
    house = Path(seq2seq_models.__file__).parent
    rooms = {path.relative_to(house).as_posix() for path in house.rglob("*.py") if path.stat().st_size}
    assert named == rooms


def test_the_site_has_every_page_and_every_model() -> None:
    """mkdocs itself, which `make docs` runs, fails for a page that no menu leads to; here is what it cannot know."""
    menu = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert [page.name for page in (ROOT / "docs").glob("*.md") if f": {page.name}\n" not in menu] == []
    models = re.compile(r"^(TF|Flax|)(Pegasus|BlenderbotSmall)(Model|For\w+)$")
    names = [name for name in dir(seq2seq_models) if models.match(name)]
    assert len(names) == 18
    pages = {page.stem: page for page in (ROOT / "docs" / "api").glob("*/*.md")}
    assert {*names, "PegasusConfig", "PegasusTokenizer", "GenerationConfig", "pipeline"} <= set(pages)
    for name, page in pages.items():
        assert f"/{page.parent.name}/{name}.md\n" in menu
        assert re.search(rf"^::: seq2seq_models\.\S+\.{name}$", page.read_text(encoding="utf-8"), re.MULTILINE)


def test_the_reference_is_what_its_script_writes() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "docs" / "make_api_pages.py", "--check"], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.filterwarnings(LIBRARY_WARNINGS)
@pytest.mark.parametrize(
    "page",
    [
        pytest.param(
            page, id=page.stem, marks=[pytest.mark.heavy] if page.parent.name in ("tensorflow", "flax") else []
        )
        for page in sorted((ROOT / "docs" / "api").glob("*/*.md"))
    ],
)
def test_the_example_of_a_class_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    ((_, block),) = blocks(page)
    exec(compile(block, page.name, "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out.strip()


def test_the_changelog_begins_with_this_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## (\d+\.\d+\.\d+)", text, re.MULTILINE)
    assert versions[0] == seq2seq_models.__version__
