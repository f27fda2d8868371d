"""What the pages around the chapters say is so: README, Rosetta table, glossary, bibliography, citation."""

import importlib
import inspect
import operator
import re
from functools import reduce
from pathlib import Path

import pytest
import yaml
from pybtex.database import parse_file

import nnbook
from nnbook.backprop import Primitive

ROOT = Path(__file__).resolve().parents[1]
BOOK = ROOT / "book"
# Modules all of whose functions have a row
TRANSLATED = (
    "numpy_api",
    "neurons",
    "losses",
    "regularization",
    "cnn",
    "rnn",
    "attention",
)  # all their functions have a row


def text(path):
    return (ROOT / path).read_text(encoding="utf-8")


def python_blocks(path):
    return re.findall(r"```python\n(.*?)```", text(path), re.DOTALL)


# README


def test_the_examples_of_the_readme_run_and_say_what_they_promise(capsys):
    training, checking = python_blocks("README.md")
    exec(compile(training, "README.md", "exec"), {})
    share = int(re.search(r"(\d+)% of unseen digits", capsys.readouterr().out)[1])
    assert share >= 95
    exec(compile(checking, "README.md", "exec"), {})
    assert "FAIL" not in (verdict := capsys.readouterr().out)
    assert "square" in verdict


def test_the_readme_maps_what_is_there():
    for path in re.findall(r"^\| (`.*?) \|", text("README.md"), re.MULTILINE):
        for name in re.findall(r"`([^`]+)`", path):
            assert (ROOT / name).exists(), name
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", text("README.md") + text("CONTRIBUTING.md")):
        assert (ROOT / link).exists(), link


def test_the_shape_of_the_introduction_example_is_the_real_one():
    """The introduction shows softplus without its parameter; what is left must still be its code."""
    (shown,) = python_blocks("book/intro.md")
    names = {"primitive": nnbook.backprop.primitive, "np": __import__("numpy"), "sigmoid": nnbook.neurons.sigmoid}
    exec(shown, names)
    x = names["np"].linspace(-3, 3, 7)
    assert names["np"].allclose(names["softplus"](x), nnbook.neurons.softplus(x))
    _, pull = nnbook.backprop.vjp(names["softplus"], x)
    assert names["np"].allclose(pull(names["np"].ones(7))[0], nnbook.neurons.sigmoid(x))


def test_the_example_of_the_page_about_explorables_is_one():
    example, use = python_blocks("book/explorables.md")
    names = {}
    exec(compile(example, "book/explorables.md", "exec"), names)
    descent = names["descent"]
    assert len(descent.experiments) == 3
    said = [descent(**trial.parameters)["frames"] for trial in descent.experiments]
    ends = [
        [moment["text"].split()[-1].rstrip(".").replace("\N{MINUS SIGN}", "-") for moment in frames] for frames in said
    ]
    x = [[float(end) for end in row] for row in ends]
    assert x[0][20] > 0.1, "it creeps"
    assert x[1][1] == 0, "one step is enough"
    assert x[2][1] < 0 < x[2][2] < 1, "it swings"
    assert abs(x[2][20]) < 0.05, "and gets there"
    assert use.splitlines()[-1] == "descent"


# Rosetta table


def rosetta_rows():
    """The cells of each row of each table, as text."""
    tables = re.findall(r":::\{list-table\}.*?\n\n(.*?)\n:::", text("book/rosetta.md"), re.DOTALL)
    for table in tables:
        for row in re.split(r"(?m)^\* -", table)[1:]:
            yield [" ".join(cell.split()) for cell in re.split(r"(?m)^  -", row)]


def test_every_public_function_of_the_chapters_has_a_row():
    named = set(re.findall(r"nnbook\.(\w+\.\w+)`", text("book/rosetta.md")))
    for module in TRANSLATED:
        for name, member in vars(importlib.import_module(f"nnbook.{module}")).items():
            here = getattr(member, "__module__", None) == f"nnbook.{module}"
            public = not name.startswith("_") and not name.endswith("_vjp")
            if here and public and (isinstance(member, Primitive) or callable(member)):
                assert f"{module}.{name}" in named, f"{module}.{name} has no row in book/rosetta.md"


def test_rows_have_as_many_cells_as_their_head_and_name_functions_that_exist():
    assert len({len(row) for row in rosetta_rows()} - {3, 4, 5}) == 0
    for module, name in re.findall(r"nnbook\.(\w+)\.(\w+)`", text("book/rosetta.md")):
        assert hasattr(importlib.import_module(f"nnbook.{module}"), name), f"{module}.{name}"


def test_every_name_in_the_pytorch_column_exists():
    torch = pytest.importorskip("torch")
    starts = {"torch": torch, "F": torch.nn.functional, "nn": torch.nn, "optim": torch.optim}
    checked = 0
    for ours, theirs, *_ in rosetta_rows():
        names = re.findall(r"`((?:torch|F|nn)\.[\w.]+)`", ours + theirs)
        if "nnbook.losses" in ours and "PyTorch" not in ours and "not in `F`" not in ours:
            names += [f"F.{name}" for name in re.findall(r"losses\.(\w+)`", ours)]
        if "nnbook.optimizers" in ours and (found := re.match(r"`(\w+)`", theirs)):
            scheduler = hasattr(torch.optim.lr_scheduler, found[1]) and not hasattr(torch.optim, found[1])
            names += [f"optim.lr_scheduler.{found[1]}" if scheduler else f"optim.{found[1]}"]
        for name in names:
            head, *path = name.split(".")
            reduce(getattr, path, starts[head])
            checked += 1
    assert checked >= 40, checked


def test_every_optimizer_and_every_schedule_has_a_row():
    module = nnbook.optimizers
    public = {name for name, f in vars(module).items() if inspect.isfunction(f) and f.__module__ == module.__name__}
    public = {name for name in public if not name.startswith("_") and not name.endswith("_init")}
    assert public == set(re.findall(r"nnbook\.optimizers\.(\w+)`", text("book/rosetta.md")))


@pytest.mark.parametrize(
    ("optimizer", "option"),
    [
        ("sgd", "momentum"),
        ("adagrad", "eps"),
        ("rmsprop", "alpha"),
        ("rmsprop", "eps"),
        ("adadelta", "rho"),
        ("adadelta", "eps"),
        ("adam", "eps"),
        ("adamw", "eps"),
        ("adamw", "weight_decay"),
    ],
)
def test_the_defaults_in_the_table_are_those_of_both_libraries(optimizer, option):
    torch = pytest.importorskip("torch")
    ours = inspect.signature(getattr(nnbook.optimizers, optimizer)).parameters[option].default
    twin = next(member for name, member in vars(torch.optim).items() if name.lower() == optimizer and callable(member))
    assert twin([torch.zeros(1)], lr=0.1).defaults[option] == ours
    row = next(r for r in rosetta_rows() if f"optimizers.{optimizer}`" in r[0])
    if stated := re.search(rf"`{option}=([\d.e-]+)`", row[0]):
        assert float(stated[1]) == ours


# Glossary


def glossary():
    """``[(English, Chinese, definition)]``."""
    body = re.search(r"```\{glossary\}\n(.*?)```", text("book/glossary.md"), re.DOTALL)[1]
    entries = []
    for entry in body.strip().split("\n\n"):
        english, chinese, *definition = entry.splitlines()
        entries.append((english, chinese, " ".join(line.strip() for line in definition)))
    return entries


def test_the_glossary_is_sorted_and_complete():
    entries = glossary()
    terms = [english.lower() for english, _, _ in entries]
    assert terms == sorted(set(terms))
    for english, chinese, definition in entries:
        assert re.search(r"[\u4e00-\u9fff]", chinese), f"{english} has no Chinese term"
        assert re.search(r"→ \{doc\}`chapter \d", definition), f"{english} does not say where it is introduced"


def test_terms_and_functions_named_in_the_glossary_exist():
    terms = {english for english, _, _ in glossary()}
    for _, _, definition in glossary():
        assert set(re.findall(r"\{term\}`(?:[^`<]+<)?([^`<>]+)>?`", definition)) <= terms
        for module, name in re.findall(r"nnbook\.(\w+)\.(\w+)`", definition):
            assert hasattr(importlib.import_module(f"nnbook.{module}"), name), f"{module}.{name}"


# Bibliography


def bibliography():
    return parse_file(BOOK / "references.bib").entries


def test_no_work_stands_twice_in_the_bibliography():
    entries = bibliography()
    identifiers = [e.fields[kind].lower() for e in entries.values() for kind in ("doi", "eprint") if kind in e.fields]
    assert len(identifiers) == len(set(identifiers))


# Citation and licences


def test_the_citation_agrees_with_the_package():
    citation = yaml.safe_load(text("CITATION.cff"))
    assert citation["version"] == nnbook.__version__
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    config = yaml.safe_load(text("book/_config.yml"))
    assert citation["title"] == config["title"]
    assert citation["authors"][0]["name"] == config["author"]
    assert f"version {nnbook.__version__}" in text("README.md")


def test_both_licences_are_named_where_they_are_needed():
    assert text("LICENSE").startswith("MIT License")
    assert "https://creativecommons.org/licenses/by/4.0/legalcode" in text("LICENSE-text")
    assert reduce(operator.and_, (word in text("README.md") for word in ("MIT", "CC BY 4.0")))
