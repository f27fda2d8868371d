"""What holds the book together: chapters, modules and tests under one name; equations and code that cite each other;
figures, exercises and sources that are complete. What only the rendered pages show is in tests/browser."""

from __future__ import annotations

import functools
import importlib
import inspect
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import nbformat
import pytest
import yaml
from pybtex.database import parse_file

from nnbook.backprop import Primitive

ROOT = Path(__file__).resolve().parents[1]
CONFIG = yaml.safe_load((ROOT / "book" / "_config.yml").read_text(encoding="utf-8"))
TOC = yaml.safe_load((ROOT / "book" / "_toc.yml").read_text(encoding="utf-8"))
SECTIONS = ("Verification", "Experiments", "Conventions", "Common mistakes", "Summary", "Exercises", "References")
FEWEST_EXERCISES = 8
WITHOUT_IDENTIFIER = {"linnainmaa1970", "novikoff1962", "weston1999"}  # a thesis and two proceedings that never got one

EQUATION_LABEL = re.compile(r"^:label:\s*(eq-\S+)\s*$|^\s*\$\$\s*\((eq-[^)\s]+)\)", re.MULTILINE)
CITATION = re.compile(r"(?:\{cite(?::\w+)?\}|:cite(?::\w+)?:)`([^`]+)`")
FUNCTION_LINK = re.compile(r"\{py:func\}`(?:[^`<]*<)?~?(nnbook\.[\w.]+)>?`")
DIRECTIVE = re.compile(r"^(`{3,}|:{3,})\{([\w:-]+)\}[ \t]*(.*?)[ \t]*\n(.*?)^\1[ \t]*$", re.MULTILINE | re.DOTALL)
OPTION = re.compile(r"^:([\w-]+):[ \t]*(.*?)[ \t]*$", re.MULTILINE)


def pages() -> list[str]:
    found = [TOC["root"]]

    def collect(entries: list[dict[str, Any]]) -> None:
        for entry in entries:
            if "file" in entry:
                found.append(entry["file"])
            for key in ("chapters", "sections"):
                collect(entry.get(key, []))

    collect(TOC.get("parts", []) + TOC.get("chapters", []))
    return found


CHAPTERS = [page.removeprefix("chapters/") for page in pages() if page.startswith("chapters/")]


@functools.cache
def cells(chapter: str) -> list[Any]:
    return nbformat.read(ROOT / "chapters" / f"{chapter}.ipynb", as_version=4).cells


def prose(chapter: str) -> str:
    return "\n\n".join(cell.source for cell in cells(chapter) if cell.cell_type == "markdown")


MORE_MODULES = {"03_backprop": ("numpy_api",)}  # whose equations stand in the chapter too


def modules_of(chapter: str) -> list[ModuleType]:
    names = (chapter.split("_", 1)[1], *MORE_MODULES.get(chapter, ()))
    return [importlib.import_module(f"nnbook.{name}") for name in names]


def primitives(*modules: ModuleType) -> dict[str, Primitive]:
    return {
        name: value
        for module in modules
        for name, value in vars(module).items()
        if isinstance(value, Primitive) and value.__module__ == module.__name__ and value.__name__ == name
    }


def labels(chapter: str) -> list[str]:
    return [first or second for first, second in EQUATION_LABEL.findall(prose(chapter))]


def directives(text: str) -> list[tuple[str, str, dict[str, str], str]]:
    """``(name, argument, options, body)`` of every MyST directive."""
    found = []
    for match in DIRECTIVE.finditer(text):
        body = match[4]
        found.append((match[2], match[3], dict(OPTION.findall(body)), body))
    return found


# One name through the whole house


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_chapter_module_and_test_bear_one_name(chapter: str) -> None:
    number, name = chapter.split("_", 1)
    assert int(number) == CHAPTERS.index(chapter) + 1, "the file's number is not the one that the page will show"
    assert (ROOT / "nnbook" / f"{name}.py").is_file()
    assert (ROOT / "tests" / f"test_{name}.py").is_file()


def test_every_notebook_and_every_page_is_in_the_table_of_contents() -> None:
    written = {f"chapters/{path.stem}" for path in (ROOT / "chapters").glob("*.ipynb")}
    written |= {f"book/{path.stem}" for path in (ROOT / "book").glob("*.md")}
    assert written == set(pages())
    assert len(pages()) == len(set(pages()))


# Equations and code


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_every_primitive_has_its_two_equations_and_cites_them(chapter: str) -> None:
    given = labels(chapter)
    assert len(given) == len(set(given)), "a label is given twice"
    missing = []
    for name, primitive in primitives(*modules_of(chapter)).items():
        for label, function in ((f"eq-{name}", primitive), (f"eq-{name}-vjp", primitive.vjp)):
            if label not in given:
                missing.append(f"no equation {label} in the chapter")
            if f":eq:`{label}`" not in (inspect.getdoc(function) or ""):
                missing.append(f"the docstring of {getattr(function, '__name__', name)} does not cite {label}")
    assert not missing, "\n".join(missing)


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_every_equation_of_a_vjp_has_its_primitive(chapter: str) -> None:
    of_vjps = {label.removeprefix("eq-").removesuffix("-vjp") for label in labels(chapter) if label.endswith("-vjp")}
    assert of_vjps == set(primitives(*modules_of(chapter)))


def test_every_equation_that_a_docstring_cites_exists() -> None:
    given = {label for chapter in CHAPTERS for label in labels(chapter)}
    cited = {
        f"{path.name}: {label}"
        for path in (ROOT / "nnbook").glob("*.py")
        for label in re.findall(r":eq:`([^`<>]+)`", path.read_text(encoding="utf-8"))
        if label not in given
    }
    assert not cited


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_the_chapter_links_its_functions(chapter: str) -> None:
    linked = set(FUNCTION_LINK.findall(prose(chapter)))
    for module in modules_of(chapter):
        defined = {name for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__}
        explained = {label.removeprefix("eq-") for label in labels(chapter)} & defined
        wanted = {f"{module.__name__}.{name}" for name in explained | set(primitives(module))}
        assert not wanted - linked


# The order of a chapter, its figures and exercises


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_a_chapter_has_its_sections_in_order(chapter: str) -> None:
    text = prose(chapter)
    headings = re.findall(r"^## +(.+?)\s*$", text, re.MULTILINE)
    assert tuple(heading for heading in headings if heading in SECTIONS) == SECTIONS
    assert headings[-len(SECTIONS) + 2 :] == list(SECTIONS[2:]), "something stands between the closing sections"
    assert len(re.findall(r"^# ", text, re.MULTILINE)) == 1
    opening = text.split("\n## ", 1)[0]
    assert re.search(r"[Ww]hat you will be able to do|you (?:can|will be able to)", opening)
    before = [first or second for first, second in EQUATION_LABEL.findall(text.split("\n## Verification", 1)[0])]
    module = modules_of(chapter)[0]
    derived = [f"eq-{name}-vjp" for name in primitives(module)] or [
        f"eq-{name}" for name, value in vars(module).items() if inspect.isfunction(value)
    ]
    assert set(before) & set(derived), "nothing is derived before it is verified"


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_every_figure_has_a_caption_and_words_for_those_who_cannot_see_it(chapter: str) -> None:
    wrong = []
    for cell in cells(chapter):
        if cell.cell_type == "markdown":
            wrong += [f"{cell.id}: ![]({target})" for target in re.findall(r"!\[\s*\]\(([^)]*)\)", cell.source)]
            wrong += [
                f"{cell.id}: {name} {argument} has no :alt:"
                for name, argument, options, _ in directives(cell.source)
                if name in ("image", "figure") and not options.get("alt")
            ]
            continue
        shown = [
            output for output in cell.get("outputs", []) if output.output_type in ("display_data", "execute_result")
        ]
        pictures = [output for output in shown if {"image/png", "image/svg+xml", "image/jpeg"} & set(output.data)]
        about = cell.metadata.get("mystnb", {})
        caption = about.get("figure", {}).get("caption", "")
        if pictures:
            if not caption.strip():
                wrong.append(f"{cell.id}: no caption")
            if len(about.get("image", {}).get("alt", "").split()) < 4:
                wrong.append(f"{cell.id}: no alternative text worth the name")
        if caption and len(shown) != 1:
            wrong.append(f"{cell.id}: {len(shown)} outputs under one caption, which would be repeated for each")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_every_exercise_has_its_solution(chapter: str) -> None:
    found = directives(prose(chapter))
    asked = [options.get("label") for name, _, options, _ in found if name in ("exercise", "exercise-start")]
    solved = {argument: body for name, argument, _, body in found if name in ("solution", "solution-start")}
    folded = {
        argument
        for name, argument, options, _ in found
        if name in ("solution", "solution-start") and "dropdown" in options.get("class", "").split()
    }
    assert None not in asked, "an exercise has no label"
    assert len(asked) == len(set(asked)) >= FEWEST_EXERCISES
    assert set(asked) == set(solved), "exercises and solutions do not match"
    assert folded == set(solved), "a solution is not folded"
    whole = {argument: body for name, argument, _, body in found if name == "solution"}
    for label, body in whole.items():
        assert len(OPTION.sub("", body).split()) >= 8, f"the solution of {label} is hardly one"
    starts = sum(name.endswith("-start") for name, *_ in found)
    ends = sum(name.endswith("-end") for name, *_ in found)
    assert starts == ends


# Sources


def bibliography() -> Any:
    return parse_file(str(ROOT / "book" / "references.bib")).entries


def test_every_source_can_be_found() -> None:
    without = [
        key
        for key, entry in bibliography().items()
        if key not in WITHOUT_IDENTIFIER
        and not any(entry.fields.get(field, "").strip() for field in ("doi", "eprint", "url", "isbn"))
    ]
    assert not without


def test_every_citation_has_its_entry() -> None:
    texts = {chapter: prose(chapter) for chapter in CHAPTERS}
    for path in [*(ROOT / "book").glob("*.md"), *(ROOT / "nnbook").rglob("*.py")]:
        texts[path.name] = path.read_text(encoding="utf-8")
    known = set(bibliography())
    unknown = {
        f"{place}: {key}"
        for place, text in texts.items()
        for group in CITATION.findall(text)
        for key in (part.strip() for part in group.split(","))
        if key not in known
    }
    assert not unknown


# The site's settings


def test_settings_keep_the_promises_of_the_site() -> None:
    settings = CONFIG["sphinx"]["config"]
    assert CONFIG["only_build_toc_files"] is True
    assert {".*", "**/.*"} <= set(CONFIG["exclude_patterns"])
    assert CONFIG["execute"] == {"execute_notebooks": "off", "allow_errors": False}
    assert settings["nitpicky"] is True
    assert settings["katex_prerender"] is True
    assert settings["html_math_renderer"] == "katex"
    assert settings["nb_ipywidgets_js"] == {}
    assert settings["html_context"]["default_mode"] == "auto"
    assert not {"sphinx_thebe", "sphinx_comments", "sphinx.ext.mathjax", "sphinx.ext.intersphinx"} & set(
        settings["extensions"]
    )


def test_paths_in_the_settings_exist_and_are_relative() -> None:
    settings = CONFIG["sphinx"]["config"]
    paths = [CONFIG["logo"], CONFIG["html"]["favicon"], *settings["html_static_path"], *settings["templates_path"]]
    paths += settings["bibtex_bibfiles"]
    static = [
        name if isinstance(name, str) else name[0] for key in ("css", "js") for name in settings[f"html_{key}_files"]
    ]
    paths += [f"book/_static/{name}" for name in static]
    paths += [f"book/{folder}/{name}.py" for name, folder in CONFIG["sphinx"]["local_extensions"].items()]
    for path in paths:
        assert not Path(path).is_absolute()
        assert (ROOT / path).exists(), path


def test_the_address_of_the_repository_stands_in_one_place() -> None:
    text = (ROOT / "book" / "_config.yml").read_text(encoding="utf-8")
    assert text.count(CONFIG["repository"]["url"]) == 1
    for path in [*(ROOT / "book" / "_ext").glob("*.py"), *(ROOT / "book" / "_templates").iterdir()]:
        assert CONFIG["repository"]["url"] not in path.read_text(encoding="utf-8"), path.name


def test_locked_packages_carry_no_addresses() -> None:
    lock = json.loads((ROOT / "package-lock.json").read_text(encoding="utf-8"))
    assert lock["packages"]
    for place, entry in lock["packages"].items():
        assert "resolved" not in entry, place
        assert not place or "integrity" in entry, place
