"""The house itself: one room a purpose, files a person can read, the field's words, documents that name what exists."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.paths import ROOT

SOURCES = (
    "tocsin", "features", "models", "routing", "actors", "serve_deployments", "launch", "cli", "benchmarks",
    "verification",
)  # fmt: skip
MAX_FILES = 15  # directly in a folder
MAX_LINES = 400
REASON = "Long because"
RETIRED_MODULES = {
    "asking", "batching", "beside", "cautions", "complaints", "dead_letter_office", "expectation", "freshening",
    "guardian",
    "guards", "identity", "landing", "late", "lineage", "moments", "noting", "observed", "predicting", "recall",
    "schemas", "scripts", "shared_breaker", "stored", "turns",
}  # fmt: skip
RETIRED_PLACES = {"features/memory.py", "features/reads.py", "serve_deployments/lineup.py", "tocsin/cli"}
RETIRED_NAMES = re.compile(
    r"MOST_\w+|why|AsyncBreaker|SharedBreaker|Freshener|Lander|Guardian|Complaints|DeadLetterOffice|ModelsInService|guardian_of"
)
DOCUMENTS = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/**/*.md", "ops/*.md")
    for path in ROOT.glob(pattern)
    if path.name != "CHANGELOG.md"  # names what was there at the time
)
FILE_NAMED = re.compile(r"`((?:[\w.-]+/)*[\w.-]+\.(?:py|md|toml|yaml|ipynb|jinja2?))`")
FOLDER_NAMED = re.compile(rf"`((?:{'|'.join(SOURCES)})/(?:[\w-]+/)*)`")
SYMBOL_NAMED = re.compile(rf"(?:`|from |import |python -m )((?:{'|'.join(SOURCES)})(?:\.\w+)+)")
LINK = re.compile(r"\]\((?!https?://|#)([^)#]+)")


def sources(*folders: str) -> list[Path]:
    found = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    assert found, "no sources: this test would prove nothing"
    return sorted(path for path in found if "foreign" not in path.parts)


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def identifiers(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case (
                ast.Name(id=name) | ast.arg(arg=name) | ast.keyword(arg=str(name)) | ast.Attribute(attr=name)
            ):
                yield name
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield name
            case _:
                pass


def test_no_folder_is_a_cupboard() -> None:
    files = Counter(path.parent for path in sources(*SOURCES, "tests"))
    assert {name_of(folder): count for folder, count in files.items() if count > MAX_FILES} == {}


def test_a_long_file_says_why_it_is() -> None:
    unexplained = [
        name_of(path)
        for path in sources(*SOURCES)
        if len((text := path.read_text(encoding="utf-8")).splitlines()) > MAX_LINES
        and REASON not in (ast.get_docstring(ast.parse(text)) or "")
    ]
    assert unexplained == []


def test_errors_of_the_driver_are_translated_in_one_place() -> None:
    pattern = re.compile(r"raise translate\(")
    places = [name_of(path) for path in sources(*SOURCES) if pattern.search(path.read_text(encoding="utf-8"))]
    assert [place for place in places if not place.startswith("tocsin/storage/")] == []


def test_no_module_has_a_retired_name() -> None:
    assert [name_of(path) for path in sources(*SOURCES) if path.stem in RETIRED_MODULES] == []
    assert [place for place in RETIRED_PLACES if (ROOT / place).exists()] == []


@pytest.mark.parametrize("folder", SOURCES)
def test_no_identifier_is_a_retired_name(folder: str) -> None:
    found = {
        (name_of(path), name)
        for path in sources(folder)
        for name in identifiers(ast.parse(path.read_text(encoding="utf-8")))
        if RETIRED_NAMES.fullmatch(name)
    }
    assert found == set()


def test_only_files_tell_where_they_are() -> None:
    """`tell` was a word for four things; what is left is a file's own position."""
    telling = {
        name_of(path)
        for path in sources(*SOURCES)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == "tell"
    }
    assert telling == set()


def test_one_word_is_one_class() -> None:
    """A public class name stands for one thing."""
    where: dict[str, set[str]] = {}
    for path in sources(*(one for one in SOURCES if one not in {"benchmarks", "verification"})):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                where.setdefault(node.name, set()).add(name_of(path))
    assert {name: places for name, places in where.items() if len(places) > 1} == {}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_what_a_document_names_exists(document: str) -> None:
    path = ROOT / document
    text = path.read_text(encoding="utf-8")
    named = [(ROOT / name, name) for name in [*FILE_NAMED.findall(text), *FOLDER_NAMED.findall(text)]]
    linked = [((path.parent / name).resolve(), name) for name in LINK.findall(text)]
    missing = [
        name for place, name in [*named, *linked] if not (place.exists() or (path.parent / name).exists())
    ]
    assert missing == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_a_symbol_that_a_document_names_exists(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    assert {name for name in SYMBOL_NAMED.findall(text) if not stands(name)} == set()


def stands(name: str) -> bool:
    """Whether a dotted name is a module, a folder, or something a module defines or exports."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        place = ROOT.joinpath(*parts[:length])
        module = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
        if place.is_dir() and length == len(parts):
            return True
        if module.is_file():
            return length == len(parts) or defines(module, parts[length])
    return False


def defines(module: Path, name: str) -> bool:
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        match node:
            case ast.ClassDef(name=found) | ast.FunctionDef(name=found) | ast.AsyncFunctionDef(name=found):
                pass
            case ast.alias(name=found) | ast.Name(id=found, ctx=ast.Store()):
                pass
            case _:
                continue
        if found == name:
            return True
    return False


def test_symbols_that_do_not_exist_are_found() -> None:
    assert stands("features.definitions.FEATURES")
    assert stands("tocsin.Client")
    assert stands("benchmarks.routing")
    assert not stands("features.definitions.NOTHING")
    assert not stands("benchmarks.features_online")


def test_unit_tests_mirror_the_rooms() -> None:
    tests = ROOT / "tests" / "unit"
    folders = {path.parent.relative_to(tests) for path in tests.rglob("test_*.py")} - {Path()}
    assert [folder.as_posix() for folder in sorted(folders) if not (ROOT / folder).is_dir()] == []


def test_the_index_of_decisions_has_no_gap_without_a_word() -> None:
    folder = ROOT / "docs" / "adr"
    index = (folder / "README.md").read_text(encoding="utf-8")
    decisions = sorted(path.name for path in folder.glob("[0-9]*.md"))
    assert [name for name in decisions if f"({name})" not in index] == []
    numbers = {int(name[:4]) for name in decisions}
    gaps = set(range(1, max(numbers))) - numbers
    assert [number for number in sorted(gaps) if f"{number:04d}" not in index] == []
