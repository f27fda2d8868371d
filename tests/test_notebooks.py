"""The stored form of the chapters, and the tool that brings them into it."""

import base64
import importlib.util
import io
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image
from PIL.PngImagePlugin import PngInfo

ROOT = Path(__file__).resolve().parents[1]
CHAPTERS = sorted((ROOT / "chapters").glob("*.ipynb"))

spec = importlib.util.spec_from_file_location("notebooks", ROOT / "tools" / "notebooks.py")
notebooks = importlib.util.module_from_spec(spec)
sys.modules["notebooks"] = notebooks
spec.loader.exec_module(notebooks)

CAPTIONED = {"mystnb": {"figure": {"caption": "A caption."}, "image": {"alt": "What there is to be seen."}}}


def png(size=(4, 3), remark=None):
    picture, info = io.BytesIO(), PngInfo()
    if remark:
        info.add_text("Software", remark)
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(noise).save(picture, "PNG", pnginfo=info, dpi=(192, 192))
    return base64.b64encode(picture.getvalue()).decode()


def stored(*cells):
    """A notebook in the stored form, apart from what is wrong with the cells."""
    count = 0
    for i, cell in enumerate(cells):
        cell.id = f"cell{i}"
        if cell.cell_type == "code":
            count += 1
            cell.execution_count = count
    return new_notebook(cells=list(cells), metadata=notebooks.METADATA)


def code(source="x = 1", *outputs, metadata=None):
    return new_code_cell(source, outputs=list(outputs), metadata=metadata or {})


def text(text, name="stdout"):
    return new_output("stream", name=name, text=text)


def picture(**options):
    return new_output("display_data", {"image/png": png(**options), "text/plain": "<Figure>"})


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_every_chapter_is_in_the_stored_form(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert list(notebooks.problems(notebook)) == []


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_normalizing_a_stored_chapter_changes_no_byte(path):
    notebook = nbformat.read(path, as_version=4)
    notebooks.normalize(notebook)
    assert nbformat.writes(notebook) + "\n" == path.read_text(encoding="utf-8")


def test_a_sound_notebook_has_no_problems():
    sound = stored(
        new_markdown_cell("# Title"),
        code(),
        code("print(1)", text("1\n")),
        code("_ = plot()", picture(), metadata=CAPTIONED),
        code("time()", text("3 s"), metadata={"tags": ["nbval-ignore-output"]}),
        code("f()"),
    )
    assert list(notebooks.problems(sound)) == []


EXEMPT = {"tags": ["nbval-ignore-output"]}
FAULTS = {
    "executed": lambda: with_counts(stored(code(), code()), [1, 3]),
    "not executed": lambda: with_counts(stored(code()), [None]),
    "the id": lambda: with_ids(stored(code(), code()), ["a", "a"]),
    "its metadata": lambda: with_metadata(stored(code()), widgets={"state": {}}),
    "has the metadata collapsed": lambda: stored(code(metadata={"collapsed": True})),
    "its format": lambda: with_format(stored(code())),
    "exempt from comparison": lambda: stored(code(metadata=EXEMPT), code(metadata=EXEMPT), *(code() for _ in range(6))),
    "is empty": lambda: stored(code("  \n")),
    "ends in a semicolon": lambda: stored(code("f();  ")),
    "installs packages": lambda: stored(code("!pip install x", text(""))),
    "no output is stored": lambda: stored(code("print(1)")),
    "but no output": lambda: stored(code("x = 2\nx + 1")),
    "writes to stderr": lambda: stored(code("f()", text("Warning", "stderr"))),
    "stores an error": lambda: stored(code("f()", new_output("error", ename="E", evalue="v", traceback=[]))),
    "shows a path": lambda: stored(code("f()", text("in /home/someone/x.py"))),
    "names a path": lambda: stored(new_markdown_cell("see /tmp/x/y")),
    "address in memory": lambda: stored(code("f()", text("<object at 0x7f3a2b4c5d6e>"))),
    "stores a widget": lambda: stored(
        code("f()", new_output("display_data", {"application/vnd.jupyter.widget-view+json": {"model_id": "x"}}))
    ),
    "without a caption": lambda: stored(code("f()", picture(), metadata={"mystnb": {"image": {"alt": "A"}}})),
    "without alternative text": lambda: stored(
        code("f()", picture(), metadata={"mystnb": {"figure": {"caption": "A"}}})
    ),
    "repeats its caption": lambda: stored(
        code("f()", picture(), metadata={"mystnb": {"figure": {"caption": "A"}, "image": {"alt": "A"}}})
    ),
    "shows 2 pictures": lambda: stored(code("f()", picture(), picture(), metadata=CAPTIONED)),
    "at most 100000": lambda: stored(code("f()", picture(size=(250, 250)), metadata=CAPTIONED)),
}


def with_counts(notebook, counts):
    for cell, count in zip(notebook.cells, counts, strict=True):
        cell.execution_count = count
    return notebook


def with_ids(notebook, ids):
    for cell, id_ in zip(notebook.cells, ids, strict=True):
        cell.id = id_
    return notebook


def with_metadata(notebook, **extra):
    notebook.metadata = nbformat.from_dict({**notebooks.METADATA, **extra})
    return notebook


def with_format(notebook):
    notebook.nbformat_minor = 4
    return notebook


@pytest.mark.parametrize("word", FAULTS)
def test_every_fault_is_found_and_named(word):
    assert any(word in fault for fault in notebooks.problems(FAULTS[word]()))


@pytest.mark.parametrize(
    ("source", "shows"),
    [
        ("print(1)", True),
        ("for i in x:\n    print(i)", False),  # may print nothing
        ("x", True),
        ("x;", False),
        ("f()", False),  # may return None
        ("'text'", False),
        ("import math", False),
        ("%matplotlib inline\nx", False),
        ("", False),
    ],
)
def test_must_show_claims_only_what_is_certain(source, shows):
    assert notebooks.must_show(source) is shows


def test_normalize_strips_what_depends_on_the_run():
    raw = new_notebook(
        cells=[
            new_code_cell(
                "plot()",
                outputs=[
                    text("a"),
                    text("b"),
                    text("c", "stderr"),
                    new_output(
                        "display_data",
                        {
                            "image/png": png(remark="matplotlib 9"),
                            "text/plain": "<Figure>",
                            "application/vnd.jupyter.widget-view+json": {"model_id": "x"},
                        },
                        metadata={"image/png": {"width": 2, "height": 1}, "needs_background": "light"},
                    ),
                ],
                metadata={"execution": {"iopub.execute_input": "2020"}, "tags": ["hide-input"]},
            ),
            new_markdown_cell("text"),
        ],
        metadata={"widgets": {}, "language_info": {"name": "python", "version": "3.1"}},
    )
    for cell in raw.cells:
        cell.id = "same"
    notebooks.normalize(raw)
    first, second = raw.cells
    assert raw.metadata == notebooks.METADATA
    assert first.id == "same"
    assert len(second.id) == 8
    assert first.metadata == {"tags": ["hide-input"]}
    assert [output.get("text") for output in first.outputs] == ["ab", "c", None]
    shown = first.outputs[2]
    assert set(shown.data) == {"image/png", "text/plain"}
    assert shown.metadata == {"image/png": {"width": 2, "height": 1}}
    before, after = (
        Image.open(io.BytesIO(base64.b64decode(png()))),
        Image.open(io.BytesIO(base64.b64decode(shown.data["image/png"]))),
    )
    assert "Software" not in after.info
    assert "dpi" in after.info
    assert np.array_equal(np.asarray(before), np.asarray(after))
    once = nbformat.writes(raw)
    notebooks.normalize(raw)
    assert nbformat.writes(raw) == once


@pytest.fixture
def workshop(tmp_path, monkeypatch):
    """A directory in which the tool finds one small chapter and keeps its records."""
    monkeypatch.setattr(notebooks, "CHAPTERS", tmp_path)
    monkeypatch.setattr(notebooks, "RECORDS", tmp_path / "records")
    monkeypatch.setattr(notebooks, "fingerprint", lambda notebook: str(len(notebook.cells)))

    def write(*sources):
        notebook = new_notebook(cells=[new_code_cell(source) for source in sources])
        nbformat.write(notebook, tmp_path / "01_small.ipynb")
        return tmp_path / "01_small.ipynb"

    return write


@pytest.mark.filterwarnings("default")  # jupyter_client's sockets are collected late
def test_the_tool_executes_once_and_notices_foreign_changes(workshop, capsys, monkeypatch):
    monkeypatch.setenv("NNBOOK_DATA", "somewhere")
    path = workshop("import os\nprint(os.environ.get('NNBOOK_DATA'), os.environ['OMP_NUM_THREADS'])", "1 + 1")
    assert notebooks.main([]) == 0
    cells = nbformat.read(path, as_version=4).cells
    assert [cell.execution_count for cell in cells] == [1, 2]
    assert cells[0].outputs[0].text == "None 1\n"
    assert cells[1].outputs[0].data["text/plain"] == "2"
    assert notebooks.main(["--check"]) == 0
    capsys.readouterr()
    assert notebooks.main([]) == 0
    assert "nothing changed" in capsys.readouterr().out
    path.write_text(path.read_text().replace('"2"', '"3"'))
    assert notebooks.main([]) == 0
    assert "written" in capsys.readouterr().out
    assert nbformat.read(path, as_version=4).cells[1].outputs[0].data["text/plain"] == "2"


@pytest.mark.filterwarnings("default")
def test_the_tool_refuses_warnings_and_leaves_a_failing_chapter_alone(workshop, capsys):
    workshop("import warnings\nwarnings.warn('careful')")
    assert notebooks.main([]) == 1
    assert "writes to stderr" in capsys.readouterr().err
    path = workshop("1 / 0")
    before = path.read_text()
    assert notebooks.main([]) == 1
    assert "ZeroDivisionError" in capsys.readouterr().err
    assert path.read_text() == before


def test_unknown_options_are_refused(capsys):
    assert notebooks.main(["--chekc"]) == 2
    assert "--check" in capsys.readouterr().out
