"""What the book's extension makes of an explorable before any script runs, and what it refuses to build."""

from __future__ import annotations

import html.parser
import importlib
import json
import re
import sys
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest

from nnbook.explore.bank import unpack
from nnbook.explore.core import Choice, DataSet, Drawing, Integer, Linear, Toggle, experiment, explorable
from nnbook.explore.figures import figure, frame, line, panel

ROOT = Path(__file__).resolve().parents[1]
pytest.importorskip("sphinx")
sys.path.insert(0, str(ROOT / "book" / "_ext"))
page = importlib.import_module("explorables")

NASTY = 'a <b>"c" & d\'e'


def cloud():
    return np.random.default_rng(0).normal(size=(9, 2)), np.arange(9) % 2


@explorable(
    f"Title {NASTY}",
    caption=f"Caption {NASTY}",
    experiments=(experiment(f"Do {NASTY}", "shows", kind=NASTY, on=True, n=2), *[experiment("b", "c")] * 2),
    kind=Choice("plain", NASTY, label="Kind"),
    on=Toggle(label="On"),
    points=DataSet({"a": cloud, "b": cloud}, label="Points"),
    n=Integer(1, 3, 1, label="Count", help=f"help {NASTY}"),
    w=Linear(0, 1, 0.5, stops=3, label="Weight"),
)
def small(kind, on, points, n, w):
    x = np.arange(n + 1.0)
    moments = [frame(f"t{k}", [{"y": x * w * k}], f"moment {k}") for k in range(n + 1)]
    return figure([line(x, x * w, name=kind)], panel("p"), text=NASTY, frames=moments)


FACTS = {"text": NASTY, "frames": ["t0", "t1"], "longest": 90, "panels": 1, "sizes": [1]}


class Elements(html.parser.HTMLParser):
    def __init__(self, text: str):
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def all(self, *tags: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.found if tag in tags]


def rendered() -> str:
    return page.widget_html(small, FACTS, "_static/explorables/small-1", "_static/plotly.js")


def test_every_input_has_a_label_and_is_disabled_until_the_script_runs() -> None:
    text = rendered()
    elements = Elements(text)
    labelled = {label.get("for") for label in elements.all("label")}
    inside = re.findall(r"<label[^>]*><input[^>]*>", text)
    for field in elements.all("input", "select"):
        assert (
            field.get("id") in labelled
            or field.get("aria-label")
            or any(f'name="{field["name"]}"' in i for i in inside)
        )
    assert text.count("<fieldset disabled>") == 1
    assert text.count('<fieldset class="explorable-time" disabled>') == 1


def test_nothing_of_the_text_becomes_markup() -> None:
    text = rendered()
    assert not Elements(text).all("b")
    spec = json.loads(re.search(r'<script type="application/json">(.*?)</script>', text, re.DOTALL)[1])  # type: ignore[index]
    assert spec["controls"][0]["stops"][1] == NASTY
    assert [c["name"] for c in spec["controls"]] == list(small.controls)


def test_an_experiment_is_a_link_to_its_setting() -> None:
    link = urlsplit(Elements(rendered()).all("a")[0]["href"])
    assert parse_qs(link.query) == {"small.kind": [NASTY], "small.on": ["true"], "small.n": ["2"]}
    assert link.fragment == "small"
    assert page.address("e", {"x": 1.0}, 0) == "?e.x=1.0&e.frame=0#e"


def test_a_drawing_is_chosen_among_pictures_and_the_page_says_where_one_draws() -> None:
    cross = np.eye(3)
    control = Drawing({"cross": lambda: cross, "half": lambda: np.full((3, 3), 0.5)}, size=3, label="Picture")
    e = explorable("T", caption="c", experiments=(experiment("a", "b"),) * 3, picture=control)(lambda picture: {})
    text = page.control_html("e", "picture", control)
    radios = Elements(text).all("input")
    assert [radio["value"] for radio in radios] == ["0", "1"]
    assert [radio["type"] for radio in radios] == ["radio"] * 2
    assert '<path fill-opacity="1" d="M0 0h1v1h-1zM1 1h1v1h-1zM2 2h1v1h-1z"/>' in text
    assert '<path fill-opacity="0.5" d="M0 0h3v1h-3zM0 1h3v1h-3zM0 2h3v1h-3z"/>' in text
    assert page.coarse_note(e) == " On this page you choose among stored pictures; in Jupyter you draw your own."


def test_the_page_says_which_controls_are_coarser_than_in_jupyter() -> None:
    assert page.coarse_note(small) == " On this page Weight moves in coarse steps, in Jupyter in fine ones."


@pytest.mark.parametrize(
    ("sizes", "said"),
    [([10, 300_001], r"shard 1 has 300,001 bytes, more than 300,000"), ([299_000] * 14, r"4,186,000 bytes together")],
)
def test_banks_that_are_too_large_stop_the_build(sizes: list[int], said: str) -> None:
    page.check_sizes("m:e", [300_000] * 13)
    with pytest.raises(page.ExtensionError, match=said):
        page.check_sizes("m:e", sizes)


def test_what_is_no_explorable_is_refused() -> None:
    with pytest.raises(page.ExtensionError, match="which is a module"):
        page.find("nnbook.explore.neurons:np")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('<div class="x" data-explorable="m:e">t</div>', "an explorable is written"),
        ('<div data-explorable="m:e">t</div>' * 2, "m:e stands there twice"),
    ],
)
def test_a_placeholder_that_would_be_overlooked_stops_the_build(text: str, said: str) -> None:
    from types import SimpleNamespace

    from docutils import nodes

    tree = nodes.container("", nodes.raw("", text, format="html"))
    app = SimpleNamespace(env=SimpleNamespace(docname="a"))
    with pytest.raises(page.ExtensionError, match=said):
        page.note_explorables(app, tree)


def test_an_explorable_that_is_not_there_is_named() -> None:
    with pytest.raises(page.ExtensionError, match=r"nnbook\.explore\.neurons:no_such"):
        page.find("nnbook.explore.neurons:no_such")
    with pytest.raises(page.ExtensionError, match=r"nnbook\.explore\.nowhere:x"):
        page.find("nnbook.explore.nowhere:x")


def test_the_build_evaluates_every_shard_and_the_next_one_nothing(tmp_path: Path, monkeypatch: Any) -> None:
    where = "nnbook.explore.losses:one_output"
    facts = page.build([where], tmp_path)
    folder = tmp_path / "nnbook.explore.losses.one_output"
    explorable_ = page.find(where)
    shards = list(explorable_.shards())
    assert len(facts[where]["sizes"]) == len(shards)
    figures = unpack((folder / "3.bank").read_bytes())
    assert [f["text"] for f in figures] == [explorable_(**s)["text"] for s in explorable_.settings(shards[3])]
    assert (folder / "wide.svg").read_bytes().startswith(b"<?xml")
    monkeypatch.setattr(page, "ProcessPoolExecutor", None)
    assert page.build([where], tmp_path) == facts


@pytest.mark.parametrize("file", ["book/_static/explorables.js", "nnbook/explore/drawing.js"])
def test_each_script_is_one_small_module_without_markup_from_strings(file: str) -> None:
    text = (ROOT / file).read_text(encoding="utf-8")
    assert text.count("\n") < 500
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|https?://", text
    )
