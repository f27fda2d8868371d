"""The framework of the explorables: controls that refuse, figures that are whole, banks that come back as they were."""

from __future__ import annotations

import copy
import gzip
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from nnbook.explore.bank import STEPS, pack, unpack
from nnbook.explore.core import Choice, DataSet, Drawing, Integer, Linear, Log, Toggle, experiment, explorable
from nnbook.explore.figures import (
    arrange,
    at_frame,
    bars,
    check,
    diverging,
    dots,
    figure,
    frame,
    line,
    panel,
    pixels,
    surface,
    words,
)
from nnbook.explore.picture import picture

# Controls


def drawing() -> Any:
    return Drawing(
        {"dot": lambda: np.eye(3)[:, :1] * np.eye(3)[0], "nothing": lambda: np.zeros((3, 3))}, size=3, label="Ink"
    )


@pytest.mark.parametrize(
    ("control", "value", "said"),
    [
        (Linear(-1, 2, 0, label="Bias"), 2.5, "Bias: 2.5 is not a number from -1 to 2"),
        (Linear(-1, 2, 0, label="Bias"), "1", "Bias: '1' is not a number from -1 to 2"),
        (Linear(-1, 2, 0, label="Bias"), True, "Bias: True is not a number from -1 to 2"),
        (Linear(-1, 2, 0, label="Bias"), float("nan"), "Bias: nan is not a number from -1 to 2"),
        (Log(0.01, 1, 0.1, label="Rate"), 0.0, "Rate: 0.0 is not a number from 0.01 to 1"),
        (Integer(1, 5, 2, label="Count"), 2.5, "Count: 2.5 is not a whole number from 1 to 5"),
        (Integer(1, 5, 2, label="Count"), 6, "Count: 6 is not a whole number from 1 to 5"),
        (Choice("a", "b", label="Kind"), "c", "Kind: 'c' is not one of 'a', 'b'"),
        (drawing(), "no", "Ink: 'no' is not one of 'dot', 'nothing'"),
        (drawing(), np.zeros((2, 3)), "Ink: an array of shape (2, 3) is not a picture of shape (3, 3), nor a name"),
        (drawing(), 7, "Ink: 7 is not a picture of shape (3, 3), nor a name"),
        (drawing(), [[0, 1], [0]], "Ink: [[0, 1], [0]] is not a picture of shape (3, 3), nor a name"),
        (drawing(), np.full((3, 3), 1.5), "Ink: ink goes from 0 to 1, this picture's is not there: 1.5 to 1.5"),
        (drawing(), np.full((3, 3), -0.1), "Ink: ink goes from 0 to 1"),
        (drawing(), np.full((3, 3), np.nan), "Ink: ink goes from 0 to 1, this picture's is not there: nan to nan"),
        (Toggle(label="On"), 1, "On: 1 is not one of False, True"),
    ],
)
def test_a_wrong_value_is_refused_with_what_is_allowed(control: Any, value: Any, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        control.check(value)


def test_a_function_gets_the_picture_of_a_drawing_whether_named_or_drawn() -> None:
    def total(picture):
        return figure([line([0, 1], [0, picture.sum()])], panel("p"), text=f"ink {picture.sum():g}")

    e = explorable("T", caption="c", experiments=TRY, picture=drawing())(total)
    assert e()["text"] == "ink 1"
    assert e(picture="nothing")["text"] == "ink 0"
    ink = np.full((3, 3), 0.5, np.float32)
    assert e(picture=ink)["text"] == "ink 4.5"
    assert e(picture=ink.tolist())["text"] == "ink 4.5"
    kept = e.check(picture=ink)["picture"]
    ink[:] = 0
    assert kept.sum() == 4.5, "who draws on changes nothing that was handed over"
    assert list(e.shards()) == [{"picture": "dot"}, {"picture": "nothing"}]
    assert e.controls["picture"].show(kept) == "drawn"
    with pytest.raises(ValueError, match="the page cannot show picture="):
        explorable("T", caption="c", experiments=(experiment("a", "b", picture=kept), *TRY[1:]), picture=drawing())(
            total
        )


@pytest.mark.parametrize(
    "make",
    [
        lambda: Choice("a", label="Kind"),
        lambda: Choice("a", "a", label="Kind"),
        lambda: Choice("a", "b", default="c", label="Kind"),
        lambda: DataSet({"a": lambda: (np.zeros((1, 2)), np.zeros(1, int))}, label="Data"),
        lambda: DataSet({"a": 1, "b": 2}, label="Data"),  # type: ignore[dict-item]
        lambda: Drawing({"dot": lambda: np.zeros((28, 28))}, label="Ink"),
        lambda: Drawing({"dot": 1, "b": 2}, label="Ink"),  # type: ignore[dict-item]
        lambda: Drawing({"a": lambda: np.zeros(1), "b": lambda: np.zeros(1)}, size=1, label="Ink"),
        lambda: Linear(1, 1, 1, label="Bias"),
        lambda: Linear(0, 1, 0, stops=1, label="Bias"),
        lambda: Linear(0, float("inf"), 0, label="Bias"),
        lambda: Integer(0, 4, 1, stops=3, label="Count"),  # type: ignore[arg-type]
        lambda: Linear(0, 1, 2, label="Bias"),
        lambda: Linear(0, 1, 0.5, stops=(0, 2), label="Bias"),
        lambda: Log(0, 1, 0.5, label="Rate"),
        lambda: Integer(0, 4, 1, label=""),
    ],
)
def test_a_control_that_makes_no_sense_is_refused(make: Any) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        make()


@given(st.floats(-100, 100), st.floats(0.001, 100), st.floats(0, 1), st.integers(2, 20))
def test_every_stop_of_a_slider_is_allowed_and_the_default_is_one(
    low: float, width: float, share: float, n: int
) -> None:
    control = Linear(low, low + width, min(low + width, low + share * width), stops=n, label="x")
    assert control.default in control.stops
    assert [control.check(stop) for stop in control.stops] == sorted(control.stops)


def test_a_computed_stop_beside_the_default_gives_way_to_it() -> None:
    assert Linear(0, 1, 1 / 3, stops=4, label="x").stops == (0, 1 / 3, 0.666666666667, 1)


def test_values_are_shown_as_a_reader_expects() -> None:
    count, rate = Integer(1, 5000, 1, stops=(1, 1234), label="n"), Log(1e-4, 1, 0.1, label="r", unit="s")
    assert [count.show(v) for v in (1, 999, 1234)] == ["1", "999", "1,234"]
    assert rate.show(0.0123456) == "0.0123 s"
    assert Linear(-2, 2, 0, label="w").show(-1.5) == "\N{MINUS SIGN}1.5"


def test_only_a_control_with_fewer_values_on_the_page_is_coarse() -> None:
    assert Linear(0, 1, 0, label="x").is_coarse
    assert Integer(1, 9, 2, stops=(1, 2, 9), label="n").is_coarse
    assert not Integer(1, 3, 2, label="n").is_coarse
    assert not Choice("a", "b", label="k").is_coarse


# Explorables


def test_an_experiment_begins_at_its_moment_or_at_the_last_one() -> None:
    assert experiment("a", "b", frame=0, x=1).parameters == {"x": 1}
    assert experiment("a", "b", frame=0).frame == 0
    assert experiment("a", "b").frame is None
    for wrong in (-1, 0.5, True):
        with pytest.raises(ValueError, match=f"counted from 0, not {wrong}"):
            experiment("a", "b", frame=wrong)


TRY = (experiment("Do this.", "It shows that."),) * 3


def parabola(x, sign):
    """A parabola."""
    return figure([line([0, x], [0, x * x if sign else -x * x])], panel("p"), text=f"at {x:g}")


def make(**controls: Any) -> Any:
    return explorable("Parabola", caption="A curve.", experiments=TRY, **controls)(parabola)


CONTROLS = {"x": Integer(0, 3, 1, label="x"), "sign": Toggle(True, label="sign")}


def test_an_explorable_checks_its_parameters_and_fills_in_the_defaults() -> None:
    e = make(**CONTROLS)
    assert e()["text"] == "at 1"
    assert e(x=2)["data"][0]["y"][1] == 4
    with pytest.raises(ValueError, match="x: 4 is not a whole number from 0 to 3"):
        e(x=4)
    with pytest.raises(ValueError, match="parabola has no parameter y; it has x, sign"):
        e(y=1)


def test_an_explorable_needs_three_experiments_and_names_that_the_page_does_not_use() -> None:
    with pytest.raises(ValueError, match="three experiments, not 1"):
        explorable("P", caption="c", experiments=TRY[:1], **CONTROLS)(parabola)
    with pytest.raises(ValueError, match="the page uses the name frame itself"):
        explorable("P", caption="c", experiments=TRY, frame=Integer(0, 3, 1, label="x"))(lambda frame: {})


def test_the_placeholder_is_text_not_markup() -> None:
    e = explorable("a <b> & c", caption="c", experiments=TRY, **CONTROLS)(parabola)
    assert "a &lt;b&gt; &amp; c:" in e.placeholder


def test_an_explorable_whose_controls_do_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"takes \('x', 'sign'\), its controls are"):
        make(x=CONTROLS["x"])
    with pytest.raises(ValueError, match=r"the page cannot show x=0\.3"):
        explorable("P", caption="c", experiments=(experiment("a", "b", x=0.3), *TRY[1:]), x=Linear(0, 1, 0, label="x"))(
            lambda x: x
        )
    with pytest.raises(ValueError, match="needs a title, a caption and three experiments"):
        explorable("P", caption="", experiments=TRY, **CONTROLS)(parabola)


def test_the_grid_of_the_page_is_every_stop_once_shard_by_shard() -> None:
    e = make(**CONTROLS)
    assert list(e.shards()) == [{"sign": False}, {"sign": True}]
    grid = [setting for shard in e.shards() for setting in e.settings(shard)]
    assert len(grid) == 8
    assert grid[:2] == [{"x": 0, "sign": False}, {"x": 1, "sign": False}]


def test_what_a_notebook_stores_is_the_same_everywhere() -> None:
    bundle = make(**CONTROLS)._repr_mimebundle_()
    assert bundle["text/plain"] == "<explorable parabola>"
    assert bundle["text/html"] == (
        f'<div data-explorable="{__name__}:parabola">Parabola: run this cell to move the controls.</div>'
    )


# Figures


def test_a_figure_without_words_or_with_frames_that_do_not_fit_is_refused() -> None:
    trace = line([0, 1], [0, 1])
    with pytest.raises(ValueError, match="says its result in words"):
        figure([trace], panel("p"), text="")
    with pytest.raises(ValueError, match="frame 0 updates 2 traces, the figure has 1"):
        figure([trace], panel("p"), text="t", frames=[frame("a", [{}, {}])])
    with pytest.raises(ValueError, match="trace 0 stands on panel 2, there are 1"):
        figure([line([0], [0], on=2)], panel("p"), text="t")


def everything() -> dict[str, Any]:
    grid = np.linspace(0, 1, 5)
    data = [
        surface(grid, grid, np.outer(grid, grid), low=0, high=1),
        line(grid, grid**2, name="curve", dash="dash"),
        dots(grid, 1 - grid, name="dots", symbol="cross", on=1),
        bars([0, 1], [0.2, 0.7], name="bars", on=1),
        words(grid, grid, list("abcde"), on=1),
    ]
    moments = [
        frame(f"t {k}", [{}, {"x": grid[:k], "y": grid[:k] ** 2}, {"y": grid + k}, {}, {}], "now") for k in (1, 3, 5)
    ]
    return figure(data, panel("one", x=(0, 1)), panel("two", ticks={0: "a"}), text="end", frames=moments)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda fig: fig["data"][0].update(y=np.array([0.0, np.nan, 1.0])), "trace 0 .*not finite"),
        (lambda fig: fig["data"][0].update(x=np.arange(9.0)), "x of length 9"),
        (lambda fig: fig["frames"][1]["data"][0].update(yy=np.zeros(3)), "sets yy"),
        (lambda fig: fig.pop("text"), "returns figure"),
    ],
)
def test_a_figure_that_cannot_be_drawn_is_named(spoil: Any, said: str) -> None:
    fig = copy.deepcopy(everything())
    check(fig)
    spoil(fig)
    with pytest.raises(ValueError, match=said):
        check(fig)


def test_blue_is_low_and_orange_is_high() -> None:
    scale = dict(diverging(1.0))
    red, _, blue = (int(part) for part in scale[0.0].removeprefix("rgba(").split(",")[:3])
    assert blue > red
    red, _, blue = (int(part) for part in scale[1.0].removeprefix("rgba(").split(",")[:3])
    assert red > blue


def test_a_moment_changes_only_what_its_frame_names() -> None:
    fig = everything()
    traces, text = at_frame(fig, 1)
    assert text == "now"
    assert len(traces[1]["x"]) == 3
    assert traces[3] is fig["data"][3] or traces[3] == fig["data"][3]


@pytest.mark.parametrize("stacked", [False, True])
def test_panels_fill_the_drawing_and_do_not_overlap(stacked: bool) -> None:
    layout = everything()["layout"]
    arrange(layout, 600, 500, stacked=stacked)
    axis = "y" if stacked else "x"
    first, second = (layout[f"{axis}axis{end}"]["domain"] for end in ("", "2"))
    if stacked:  # the first panel is on top, and y goes up
        first, second = second, first
    assert 0 < first[0] < first[1] < second[0] < second[1] < 1


def test_the_static_picture_draws_every_kind_of_trace_the_same_every_time() -> None:
    first = picture(everything(), 600, 300)
    assert first.startswith(b"<?xml")
    assert first == picture(everything(), 600, 300)
    strange = everything()
    strange["data"][1]["mode"] = "lines+text"
    with pytest.raises(ValueError, match="has no static picture"):
        picture(strange, 600, 300)


# Banks


def same(a: Any, b: Any, exact: bool = False) -> bool:
    if isinstance(a, np.ndarray):
        half = (a.max() - a.min()) / STEPS / 2 if a.size else 0
        return a.shape == b.shape and bool(np.all(np.abs(a - b) <= half * 1.001 + 1e-12 * np.abs(a).max(initial=0)))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


finite = st.floats(-1e6, 1e6, width=32)


@given(st.lists(arrays(float, array_shapes(max_dims=3, max_side=6), elements=finite), min_size=1, max_size=4))
def test_arrays_come_back_from_a_bank_within_one_step(values: list[np.ndarray]) -> None:
    figures = [{"data": [{"x": value, "name": f"n{i}"}], "frames": []} for i, value in enumerate(values)]
    assert same(figures, unpack(pack(figures)))


@given(arrays(float, st.tuples(st.integers(1, 8), st.integers(1, 5), st.integers(1, 5)), elements=finite))
def test_what_changes_over_time_comes_back_within_one_step_of_the_whole(film: np.ndarray) -> None:
    frames = [{"name": f"t{k}", "data": [{"z": z}, {"x": np.arange(k + 1.0)}]} for k, z in enumerate(film)]
    back = unpack(pack([{"data": [{"z": film[-1]}], "frames": frames}]))[0]
    step = (film.max() - film.min()) / STEPS
    for k, moment in enumerate(back["frames"]):
        assert np.abs(moment["data"][0]["z"] - film[k]).max() <= step + 1e-9
        assert len(moment["data"][1]["x"]) == k + 1


def test_a_whole_figure_comes_back_from_a_bank() -> None:
    fig = everything()
    other = everything() | {"text": "other"}
    short = everything() | {"frames": []}
    for before, after in zip([fig, other, short], unpack(pack([fig, other, short])), strict=True):
        assert before["text"] == after["text"]
        assert after["layout"]["xaxis"]["domain"] == before["layout"]["xaxis"]["domain"]
        for number in range(max(len(before["frames"]), 1)):
            assert len(at_frame(after, number)[0]) == len(at_frame(before, number)[0])


def test_a_growing_curve_costs_as_much_as_its_last_moment() -> None:
    curve = np.random.default_rng(0).normal(size=400)

    def film(moments: Any) -> bytes:
        return pack([{"frames": [{"data": [{"y": curve[:k]}]} for k in moments]}])

    assert len(film(range(1, 401))) < len(film([400])) + 4000
    assert len(film(range(1, 401))) < 5 * len(film([400]))


def test_equal_figures_are_stored_once() -> None:
    assert len(pack([everything()] * 50)) < len(pack([everything()])) + 200


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_never_gets_into_a_bank(bad: float) -> None:
    with pytest.raises(ValueError, match="not finite"):
        pack([{"data": [{"x": np.array([bad])}]}])
    with pytest.raises(ValueError, match="not finite"):
        pack([{"data": [{"x": bad}]}])


@pytest.mark.parametrize("ends", [(-1e308, 1e308), (0.0, 5e-324)])
def test_numbers_that_no_step_can_tell_apart_never_get_into_a_bank(ends: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="cannot be told apart"):
        pack([{"data": [{"x": np.array(ends)}]}])


def test_an_array_of_any_empty_shape_comes_back() -> None:
    back = unpack(pack([{"a": np.zeros((0, 3)), "b": np.zeros(0)}]))[0]
    assert back["a"].shape == (0, 3)
    assert back["b"].shape == (0,)


def test_a_damaged_bank_is_refused() -> None:
    whole = pack([everything()])
    raw = gzip.decompress(whole)
    assert unpack(raw)[0]["text"] == "end"  # a server may have unpacked it on the way
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :]
    for damaged in (flipped, whole[:-20], raw[:-3], raw[:20], b"<html>not found</html>", b""):
        with pytest.raises(ValueError, match="bank"):
            unpack(damaged)


def test_pixels_are_sharp_squares_from_the_upper_left_corner() -> None:
    z = np.array([[1.0, 0.0, -1.0], [0.0, 0.5, 0.0]])
    trace = pixels(z, at=(10.0, 4.0), size=2.0)
    np.testing.assert_array_equal(trace["x"], [11, 13, 15])
    np.testing.assert_array_equal(trace["y"], [5, 7])
    assert trace["zsmooth"] is False
    check(figure([trace], panel("p", x=(10, 16), y=(8, 4)), text="t"))


@pytest.mark.parametrize("grey", [False, True])
def test_a_pixel_of_the_static_picture_stands_where_its_panel_has_it_and_is_sharp(grey: bool) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from nnbook.explore.picture import _trace

    z = np.zeros((2, 4))
    z[1, 0] = 1
    sheet = Figure(figsize=(4, 2), dpi=20)
    ax = sheet.add_axes((0, 0, 1, 1))
    _trace(ax, pixels(z, low=0 if grey else -1, grey=grey), 0)
    ax.set(xlim=(0, 4), ylim=(2, 0))
    ax.set_axis_off()
    canvas = FigureCanvasAgg(sheet)
    canvas.draw()
    dark = np.asarray(canvas.buffer_rgba())[..., :3].min(axis=2) < 250
    assert dark[21:39, 1:19].all(), "the lower left square has colour"
    assert not dark[:19].any()
    assert not dark[:, 21:].any()
