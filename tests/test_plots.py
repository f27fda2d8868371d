"""The figures: readable on both pages, the same on every run, and true to their data."""

import io
import itertools
import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_hex, to_rgb, to_rgba
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from PIL import Image

from nnbook import plots
from nnbook.backprop import Step, exp, maximum, primitive, record

mpl.use("Agg")

ROOT = Path(__file__).resolve().parents[1]

WHITE, DARK = "#ffffff", "#14181e"
"""The pages of the book: its theme's light and dark background."""


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def rng(seed=0):
    return np.random.default_rng(seed)


# ---------------------------------------------------------------------------------------------------------------------
# Colours
# ---------------------------------------------------------------------------------------------------------------------


def linear(colour):
    """Linear red, green, blue of an sRGB colour."""
    c = np.array(to_rgb(colour))
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def contrast(a, b):
    """Contrast ratio by WCAG 2.1."""
    dark, light = sorted(float(linear(c) @ [0.2126, 0.7152, 0.0722]) for c in (a, b))
    return (light + 0.05) / (dark + 0.05)


def brightened(colour):
    """What the site makes of a colour in dark mode (book/_static/book.css)."""
    return np.minimum(1.2 * np.array(to_rgb(colour)), 1)


# What dichromats see of linear red, green, blue: Machado, Oliveira and Fernandes (2009), severity 1.
VISION = {
    "normal": np.eye(3),
    "protan": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deutan": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritan": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}


def lab(rgb):
    """CIE L*a*b* of linear red, green, blue."""
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ np.clip(rgb, 0, 1)
    f = np.array([np.cbrt(t) if t > 0.008856 else 7.787 * t + 16 / 116 for t in xyz / [0.95047, 1, 1.08883]])
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def test_the_site_brightens_figures_as_assumed_here():
    rules = (ROOT / "book" / "_static" / "book.css").read_text(encoding="utf-8")
    assert 'html[data-theme="dark"] .bd-content div.cell_output img { filter: brightness(1.2); }' in rules


def test_text_is_readable_on_both_pages():
    assert contrast(plots.GREY, WHITE) >= 4.5
    assert contrast(plots.GREY, DARK) >= 3.9
    # The site shows figures brighter by a fifth in dark mode.
    assert contrast(brightened(plots.GREY), DARK) >= 4.5


def test_no_grey_could_do_better_on_both_pages_at_once():
    assert max(min(contrast((g, g, g), WHITE), contrast((g, g, g), DARK)) for g in np.linspace(0, 1, 1001)) < 4.3


@pytest.mark.parametrize("colour", sorted({*plots.COLOURS.values(), *plots.CLASS_COLOURS}))
def test_every_colour_shows_on_both_pages(colour):
    assert contrast(colour, WHITE) >= 3
    assert contrast(colour, DARK) >= 3


@pytest.mark.parametrize("vision", VISION)
def test_the_four_main_colours_differ_for_every_eye(vision):
    seen = [lab(VISION[vision] @ linear(c)) for c in plots.CLASS_COLOURS[:4]]
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) > 15


@pytest.mark.parametrize(
    "pair", [("train", "validation"), ("value", "gradient"), ("numpy", "torch"), ("right", "wrong")]
)
@pytest.mark.parametrize("vision", VISION)
def test_what_stands_side_by_side_differs_for_every_eye(pair, vision):
    a, b = (lab(VISION[vision] @ linear(plots.COLOURS[name])) for name in pair)
    assert np.linalg.norm(a - b) > 40


def test_classes_differ_by_marker_too():
    assert len(set(plots.CLASS_MARKERS)) == len(set(plots.CLASS_COLOURS)) == 10


@given(st.floats(0, 1), st.sampled_from([plots.CELL_RIGHT, plots.CELL_WRONG]))
def test_white_counts_are_readable_on_every_cell(share, ends):
    assert contrast(plots.mix(*ends, share), WHITE) >= 4.5
    assert contrast(brightened(plots.mix(*ends, share)), WHITE) >= 4.5


def test_colour_maps_begin_at_the_page():
    assert plots.DIVERGING(0.5)[3] < 0.02
    assert plots.DIVERGING(0.0) == pytest.approx(to_rgba(plots.BLUE))
    assert plots.DIVERGING(1.0) == pytest.approx(to_rgba(plots.VERMILLION))
    assert plots.SEQUENTIAL(0.0) == pytest.approx(to_rgba(plots.BLUE, 0))
    assert plots.SEQUENTIAL(1.0) == pytest.approx(to_rgba(plots.BLUE))
    with pytest.raises(AttributeError, match="has no attribute 'RAINBOW'"):
        plots.RAINBOW  # noqa: B018


# ---------------------------------------------------------------------------------------------------------------------
# Style
# ---------------------------------------------------------------------------------------------------------------------


def test_importing_plots_imports_no_matplotlib():
    code = "import sys, nnbook.plots; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_drawing_changes_no_setting():
    before = dict(mpl.rcParams)
    plots.training_curves({"train": [3, 2, 1]})
    assert dict(mpl.rcParams) == before


def test_use_style_is_for_all_figures_and_asks_for_fine_pictures_in_notebooks(monkeypatch):
    from matplotlib_inline import backend_inline

    asked = []
    monkeypatch.setattr(backend_inline, "set_matplotlib_formats", asked.append)
    with mpl.rc_context():
        plots.use_style()
        assert mpl.rcParams["text.color"] == plots.GREY
        assert mpl.rcParams["figure.facecolor"] == "none"
        assert mpl.rcParams["axes.prop_cycle"].by_key()["color"] == list(plots.CLASS_COLOURS)
        assert asked == []
        monkeypatch.setattr(mpl, "get_backend", lambda: "inline")
        plots.use_style()
        assert asked == ["retina"]


FIGURES = {
    "training_curves": lambda: plots.training_curves({"train": rng().random((3, 9)), "test": rng(1).random(9)}),
    "function_and_derivative": lambda: plots.function_and_derivative(exp, x=np.linspace(-1, 1, 30)),
    "decision_regions": lambda: plots.decision_regions(
        lambda p: p[:, 0] > 0, rng().normal(size=(60, 2)), rng(1).integers(0, 2, 60), names=["no", "yes"]
    ),
    "confusion_matrix": lambda: plots.confusion_matrix(rng().integers(0, 9, (10, 10))),
    "image_grid": lambda: plots.image_grid(rng().random((20, 28, 28)), labels=range(20)),
    "layer_histograms": lambda: plots.layer_histograms([rng().normal(size=400)] * 3),
    "graph": lambda: plots.graph(record(lambda x, w: (exp(x * w) + x) * w, 0.3, 0.8)),
}


def drawn(ax):
    out = io.BytesIO()
    ax.figure.savefig(out, dpi=192)
    plt.close(ax.figure)
    return out.getvalue()


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_transparent_small_and_the_same_every_time(name):
    first, second = drawn(FIGURES[name]()), drawn(FIGURES[name]())
    assert first == second
    assert len(first) < 100_000
    pixels = np.asarray(Image.open(io.BytesIO(first)))
    assert pixels.shape[2] == 4
    assert np.all(pixels[[0, 0, -1, -1], [0, -1, 0, -1], 3] == 0)
    assert 0.003 < np.mean(pixels[..., 3] > 0) < 0.98


@pytest.mark.parametrize("name", FIGURES)
def test_no_text_is_black_or_white(name):
    ax = FIGURES[name]()
    ax.figure.canvas.draw()
    allowed = {to_hex(c) for c in (plots.GREY, *plots.COLOURS.values())} | (
        {"#ffffff"} if name == "confusion_matrix" else set()
    )
    texts = [t for t in ax.figure.findobj(mpl.text.Text) if t.get_text() and t.get_visible()]
    assert {to_hex(text.get_color()) for text in texts} <= allowed


@pytest.mark.parametrize(
    "draw",
    [
        lambda ax: plots.training_curves({"a": [1, 2]}, ax=ax),
        lambda ax: plots.function_and_derivative(exp, ax=ax),
        lambda ax: plots.decision_regions(lambda p: p[:, 0] > 0, np.eye(2), np.arange(2), ax=ax),
        lambda ax: plots.confusion_matrix(np.eye(2, dtype=int), ax=ax),
        lambda ax: plots.image_grid(np.eye(4)[None], ax=ax),
        lambda ax: plots.layer_histograms([np.arange(3)], ax=ax),
        lambda ax: plots.graph(record(lambda x: x * x, 1.0), ax=ax),
    ],
)
def test_given_axes_are_used(draw):
    figure, axes = plt.subplots(1, 2)
    assert draw(axes[1]) is axes[1]
    assert plt.get_fignums() == [figure.number]
    assert axes[0].has_data() is False


# ---------------------------------------------------------------------------------------------------------------------
# Curves
# ---------------------------------------------------------------------------------------------------------------------


def band(collection):
    """Lower and upper edge of a filled band by place."""
    points = collection.get_paths()[0].vertices
    return {
        x: (points[points[:, 0] == x, 1].min(), points[points[:, 0] == x, 1].max()) for x in np.unique(points[:, 0])
    }


def test_curves_show_mean_and_one_standard_deviation():
    seeds = np.array([[1.0, 2.0], [3.0, 6.0]])
    ax = plots.training_curves({"train loss": seeds})
    (line,) = ax.lines
    assert line.get_xydata().tolist() == [[1, 2], [2, 4]]
    assert line.get_color() == plots.COLOURS["train"]
    edges = band(ax.collections[0])
    assert edges[1.0] == pytest.approx((2 - np.sqrt(2), 2 + np.sqrt(2)))
    assert edges[2.0] == pytest.approx((4 - np.sqrt(8), 4 + np.sqrt(8)))
    assert ax.get_legend() is None


def test_seeds_may_stop_early():
    ax = plots.training_curves({"a": [[1, 2, 3], [3], [5, 4]], "test": [1.0, 1.0, 1.0]})
    assert ax.lines[0].get_ydata().tolist() == [3, 3, 3]
    edges = band(ax.collections[0])
    assert edges[3.0] == (3, 3)
    assert edges[2.0] == pytest.approx((3 - np.sqrt(2), 3 + np.sqrt(2)))
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a", "test"]
    assert ax.lines[1].get_color() == plots.COLOURS["test"]


def test_the_band_stays_positive_on_a_logarithmic_axis():
    ax = plots.training_curves({"a": [[0.1], [10.0]]}, x=[7], log=True, xlabel="step")
    assert ax.get_yscale() == "log"
    assert ax.get_xlabel() == "step"
    assert band(ax.collections[0])[7.0][0] == pytest.approx(0.1)


def test_a_label_without_a_word_gets_a_class_colour():
    assert plots.training_curves({" ": [1, 2]}).lines[0].get_color() == plots.CLASS_COLOURS[0]


@pytest.mark.parametrize(
    ("curves", "x", "message"),
    [
        ({}, None, "at least one curve"),
        ({"a": []}, None, r"'a' must be \(T,\) or \(S, T\)"),
        ({"a": [[1, 2], []]}, None, "'a' must be"),
        ({"a": np.zeros((2, 2, 2))}, None, "'a' must be"),
        ({"a": [1, 2]}, [1, 2, 3], r"\(3,\), the longest curve has shape \(2,\)"),
    ],
)
def test_bad_curves_are_refused(curves, x, message):
    with pytest.raises(ValueError, match=message):
        plots.training_curves(curves, x=x)


def test_the_derivative_is_found_by_the_engine():
    x = np.linspace(-2, 2, 9)
    ax = plots.function_and_derivative(lambda t: exp(2 * t), x=x, name="g")
    value, slope = ax.lines[-2:]
    assert np.allclose(value.get_ydata(), np.exp(2 * x))
    assert np.allclose(slope.get_ydata(), 2 * np.exp(2 * x))
    assert (value.get_color(), slope.get_color()) == (plots.COLOURS["value"], plots.COLOURS["gradient"])
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["g", "derivative"]


def test_names_come_from_the_function():
    assert plots.function_and_derivative(exp).get_legend().get_texts()[0].get_text() == "exp"
    ax = plots.function_and_derivative(np.sin, np.cos)
    assert ax.get_legend().get_texts()[0].get_text() == "sin"
    assert np.allclose(ax.lines[-1].get_ydata(), np.cos(np.linspace(-5, 5, 401)))


@pytest.mark.parametrize("x", [np.linspace(-1, 1, 5), np.array([-1.0, -0.5, 0.5, 1.0])])
def test_curves_are_broken_at_kinks(x):
    ax = plots.function_and_derivative(lambda t: maximum(t, 0.0), x=x, kinks=[0])
    slope = ax.lines[-1]
    assert np.isnan(slope.get_ydata()[slope.get_xdata() == 0]).all()
    assert slope.get_ydata()[~np.isnan(slope.get_ydata())].tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plots.function_and_derivative(exp, x=np.zeros((2, 2))), r"\(2, 2\)"),
        (lambda: plots.function_and_derivative(exp, x=[1.0]), "N > 1"),
        (lambda: plots.function_and_derivative(lambda t: t.sum()), r"maps shape \(401,\) to \(\)"),
        (lambda: plots.function_and_derivative(np.sum, np.cos), r"f maps shape \(401,\) to \(\)"),
        (lambda: plots.function_and_derivative(np.sin, np.sum), r"the derivative maps shape \(401,\) to \(\)"),
    ],
)
def test_functions_must_be_element_wise(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# ---------------------------------------------------------------------------------------------------------------------
# Classification
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "predict",
    [
        lambda p: p[:, 0] > 0.5,
        lambda p: (p[:, 0] > 0.5).astype(int),
        lambda p: np.stack([0.5 - p[:, 0], p[:, 0] - 0.5], axis=1),
    ],
    ids=["bool", "int", "scores"],
)
def test_the_plane_is_coloured_by_the_prediction(predict):
    x = np.array([[0.0, 0.0], [1.0, 1.0]])
    ax = plots.decision_regions(predict, x, np.array([0, 1]), resolution=13, margin=0.1)
    colours = ax.images[0].get_array()
    assert colours.shape == (13, 13, 4)
    assert np.allclose(colours[:, 0, :3], to_rgb(plots.CLASS_COLOURS[0]))
    assert np.allclose(colours[:, -1, :3], to_rgb(plots.CLASS_COLOURS[1]))
    assert ax.get_xlim() == pytest.approx((-0.1, 1.1))


def test_classes_keep_names_colours_and_markers_whatever_their_numbers():
    x = rng().normal(size=(30, 2))
    y = np.where(x[:, 0] > 0, 7, -1)
    ax = plots.decision_regions(lambda p: np.where(p[:, 0] > 0, 7, -1), x, y, names=["left", "right"])
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["left", "right"]
    shown = [collection for collection in ax.collections if collection.get_label() in ("left", "right")]
    assert [len(collection.get_offsets()) for collection in shown] == [np.sum(y == -1), np.sum(y == 7)]
    assert [to_hex(c.get_facecolor()[0]).upper() for c in shown] == list(plots.CLASS_COLOURS[:2])


def test_the_dtype_of_the_points_reaches_predict():
    seen = []

    def predict(points):
        seen.append(points.dtype)
        return points[:, 0] > 0

    plots.decision_regions(predict, np.eye(2, dtype=np.float32), np.arange(2))
    assert seen == [np.float32]


def test_one_class_alone_has_no_border():
    ax = plots.decision_regions(lambda p: np.zeros(len(p), int), np.eye(2), np.zeros(2, int), resolution=5)
    assert len(ax.collections) == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plots.decision_regions(len, np.zeros((3, 3)), np.zeros(3, int)), r"\(3, 3\) and \(3,\)"),
        (lambda: plots.decision_regions(len, np.zeros((3, 2)), np.zeros(4, int)), r"\(3, 2\) and \(4,\)"),
        (lambda: plots.decision_regions(len, np.zeros((0, 2)), np.zeros(0, int)), r"\(0, 2\) and \(0,\)"),
        (lambda: plots.decision_regions(len, np.zeros((3, 2)), np.zeros(3)), "integers, not float64"),
        (lambda: plots.decision_regions(lambda p: p[:, 0], np.eye(2), np.arange(2)), "predict gave float64 of shape"),
        (lambda: plots.decision_regions(lambda p: p[:, :1], np.eye(2), np.arange(2)), "scores .* with C > 1"),
        (lambda: plots.decision_regions(lambda p: 0, np.eye(2), np.arange(2)), r"of shape \(\)"),
        (
            lambda: plots.decision_regions(lambda p: p[:, 0] > 0, np.eye(2), np.arange(2), names=["one"]),
            r"1 names for the classes \[0, 1\]",
        ),
    ],
)
def test_bad_points_and_predictions_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_confusion_matrix_writes_its_counts():
    ax = plots.confusion_matrix([[5, 0, 1], [2, 7, 0], [0, 0, 9]], names=["a", "b", "c"])
    assert {t.get_position(): t.get_text() for t in ax.texts} == {
        (0, 0): "5",
        (2, 0): "1",
        (0, 1): "2",
        (1, 1): "7",
        (2, 2): "9",
    }
    assert [t.get_text() for t in ax.get_xticklabels()] == ["a", "b", "c"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("predicted", "true")


def test_a_confusion_matrix_may_hold_shares():
    assert [t.get_text() for t in plots.confusion_matrix([[0.25, 0.75], [0.0, 1.0]]).texts] == ["0.25", "1", "0.75"]


@pytest.mark.parametrize(
    ("matrix", "names", "message"),
    [
        (np.zeros((2, 3)), None, r"\(2, 3\)"),
        (np.zeros(4), None, r"\(4,\)"),
        (np.zeros((0, 0)), None, r"\(0, 0\)"),
        (-np.eye(2), None, "negative"),
        (np.eye(2), ["a"], "1 names for 2 classes"),
    ],
)
def test_bad_confusion_matrices_are_refused(matrix, names, message):
    with pytest.raises(ValueError, match=message):
        plots.confusion_matrix(matrix, names)


# ---------------------------------------------------------------------------------------------------------------------
# Arrays
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3, 4, 4), (3, 16), (3, 1, 4, 4)])
def test_images_stand_side_by_side(shape):
    images = rng().random((3, 4, 4))
    mosaic = plots.image_grid(images.reshape(shape), columns=2).images[0].get_array()
    assert mosaic.shape == (2 * 5, 2 * 5 - 1, 4)
    for i, (top, left) in enumerate([(1, 0), (1, 5), (6, 0)]):
        tile = mosaic[top : top + 4, left : left + 4]
        assert np.allclose(tile[..., :3], images[i][..., None])
        assert np.all(tile[..., 3] == 1)
    assert np.all(mosaic[:, 4, 3] == 0)  # nothing between the images
    assert np.all(mosaic[6:, 5:, 3] == 0)


def test_grey_is_absolute_in_the_unit_interval_and_relative_beyond():
    faint = plots.image_grid(np.full((1, 2, 2), 0.25)).images[0].get_array()
    assert np.allclose(faint[1:, :, :3], 0.25)
    wide = plots.image_grid(np.array([[[-1.0, 3.0]]])).images[0].get_array()
    assert wide[-1, :, 0].tolist() == [0, 1]


def test_signed_images_are_light_grey_at_zero():
    tile = plots.image_grid(np.array([[[-2.0, 0.0, 2.0]]]), signed=True).images[0].get_array()[-1]
    assert np.allclose(tile[:, :3], [to_rgb(plots.BLUE), (0.83, 0.83, 0.83), to_rgb(plots.VERMILLION)])
    blank = plots.image_grid(np.zeros((1, 2, 2)), signed=True).images[0].get_array()[1:]
    assert np.all(blank[..., :3] == 0.83)


def test_wrong_labels_are_marked():
    ax = plots.image_grid(np.zeros((2, 5, 5)), labels=["a", 3], wrong=[False, True])
    assert [(t.get_text(), t.get_color()) for t in ax.texts] == [("a", plots.GREY), ("3", plots.COLOURS["wrong"])]


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (np.zeros((2, 15)), {}, r"\(2, 15\)"),
        (np.zeros(16), {}, r"\(16,\)"),
        (np.zeros((0, 4, 4)), {}, r"\(0, 4, 4\)"),
        (np.zeros((2, 3, 4, 4)), {}, r"\(2, 3, 4, 4\)"),
        (np.zeros((2, 4, 4)), {"labels": [1]}, "1 labels for 2 images"),
        (np.zeros((2, 4, 4)), {"wrong": [1, 0, 1]}, "3 flags for 2 images"),
        (np.zeros((2, 4, 4)), {"columns": 0}, "at least 1, not 0"),
    ],
)
def test_bad_images_are_refused(images, options, message):
    with pytest.raises(ValueError, match=message):
        plots.image_grid(images, **options)


def test_histograms_count_all_values():
    layers = {"first": np.array([0.0, 0.0, 1.0]), "second": np.array([[-9.0, 0.5]])}
    ax = plots.layer_histograms(layers, bins=2, limits=(0, 1), colour="gradient")
    tops = [patch.get_data().values for patch in ax.patches]
    assert np.allclose(tops[0], [1 + 0.85, 1 + 0.425])  # first layer on top, highest bin 0.85
    assert np.allclose(tops[1], [0.85, 0.85])  # -9 lies below the limits and counts in the first bin
    assert [t.get_text() for t in ax.get_yticklabels()] == ["second", "first"]
    assert "mean 0.33\nsd 0.47" in [t.get_text() for t in ax.texts]


def test_histograms_of_a_sequence_are_numbered_and_share_their_range():
    ax = plots.layer_histograms([np.array([-1.0, 0.0]), np.array([3.0])])
    assert ax.get_xlim() == (-1, 3)
    assert [t.get_text() for t in ax.get_yticklabels()] == ["2", "1"]
    assert plots.layer_histograms([np.ones(3)]).get_xlim() == (0.5, 1.5)


@pytest.mark.parametrize(
    ("layers", "options", "message"),
    [
        ([], {}, "at least one layer"),
        ([np.array([])], {}, "'1' is empty"),
        ({"a": [np.nan]}, {}, "'a' is empty or holds values that are not finite"),
        ([np.ones(2)], {"limits": (1, 1)}, "limits must ascend"),
        ([np.ones(2)], {"colour": "pink"}, "unknown colour 'pink'"),
    ],
)
def test_bad_layers_are_refused(layers, options, message):
    with pytest.raises(ValueError, match=message):
        plots.layer_histograms(layers, **options)


# ---------------------------------------------------------------------------------------------------------------------
# The graph
# ---------------------------------------------------------------------------------------------------------------------


def shown(ax, colour):
    return [t.get_text() for t in ax.texts if t.get_color() == plots.COLOURS[colour]]


def test_the_graph_shows_values_and_adjoints():
    ax = plots.graph(record(lambda x, y: (x * y + x) * 1.0, 2.0, 3.0))
    assert shown(ax, "value") == ["2", "3", "6", "8", "8"]
    assert shown(ax, "gradient") == ["4", "2", "1", "1", "1"]
    assert [t.get_text() for t in ax.texts if t.get_color() == plots.GREY] == ["x", "y", "×", "+", "×"]
    assert sum(isinstance(patch, FancyBboxPatch) for patch in ax.patches) == 5
    assert sum(isinstance(patch, FancyArrowPatch) for patch in ax.patches) == 5


def test_adjoints_can_be_left_out_and_may_be_missing():
    steps = record(lambda x, y: x * 1.0, 2.0, 3.0)
    assert steps[1].adjoint is None
    assert len(shown(plots.graph(steps), "gradient")) == 2
    assert shown(plots.graph(steps, adjoints=False), "gradient") == []


def test_an_argument_used_twice_has_two_arrows_apart():
    ax = plots.graph(record(lambda x: x * x, 3.0))
    first, second = (p.get_path().vertices for p in ax.patches if isinstance(p, FancyArrowPatch))
    assert not np.allclose(first, second)
    assert np.allclose(first[[0, -1]], second[[0, -1]])


def test_an_operation_of_the_readers_own_is_shown_by_its_name():
    @primitive
    def an_operation_with_a_long_name(x):
        return 2 * x, None

    an_operation_with_a_long_name.defvjp(lambda dy, saved, x: (2 * dy,))
    ax = plots.graph(record(an_operation_with_a_long_name, -0.0, names=("x",)))
    assert "an_operation_with_a_long_name" in [t.get_text() for t in ax.texts]
    assert shown(ax, "value") == ["0", "0"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (-0.5, "−0.5"),
        (-0.0, "0"),
        (1234567.0, "1.23e+06"),
        (np.array([1.0, 2.0]), "[1 2]"),
        (np.array([1.2345, -2.3456]), "[1.23 −2.35]"),
        (np.array([0.6667] * 3), "[0.7 0.7 0.7]"),
        (np.array([-0.6667] * 4), "(4,)"),
        (np.zeros(5), "(5,)"),
        (np.zeros((2, 2)), "(2, 2)"),
    ],
)
def test_numbers_in_the_graph_are_short(value, text):
    assert plots._number(value, 3) == text


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([], "at least one step"),
        ([Step("x", (), 1.0, 1.0), Step("f", (1,), 1.0, 1.0)], r"step 1 \(f\) has parents \(1,\)"),
        ([Step("f", (-1,), 1.0, 1.0)], "must come before it"),
    ],
)
def test_bad_graphs_are_refused(steps, message):
    with pytest.raises(ValueError, match=message):
        plots.graph(steps)


graphs = st.integers(1, 16).flatmap(
    lambda n: st.tuples(
        *(st.lists(st.integers(0, i - 1), max_size=2).map(tuple) if i else st.just(()) for i in range(n))
    )
)


@given(graphs)
def test_a_layout_runs_from_left_to_right_and_overlaps_nowhere(parents):
    places, routes = plots._layout(parents)
    assert len(routes) == sum(map(len, parents))
    stops = [stop for route in routes for stop in route]
    for (a, b), (c, d) in itertools.combinations([*places, *stops], 2):
        assert a != c or abs(b - d) > 1 - 1e-9
    edges = [(parent, i) for i in range(len(parents)) for parent in parents[i]]
    for (start, end), route in zip(edges, routes, strict=True):
        columns = [places[start][0], *(column for column, _ in route), places[end][0]]
        assert columns == list(range(columns[0], columns[-1] + 1))
        assert columns[-1] > columns[0]


def test_a_chain_is_drawn_straight():
    places, _ = plots._layout([(), (0,), (1,), (2,), (3,)])
    assert [column for column, _ in places] == [0, 1, 2, 3, 4]
    assert len({row for _, row in places}) == 1


def test_a_layout_untangles_crossings():
    # Four inputs, paired crosswise: 0 with 2, 1 with 3
    parents = [(), (), (), (), (0, 2), (1, 3), (4, 5)]
    places, _ = plots._layout(parents)
    row = [row for _, row in places]
    below = min(row[0], row[2]) > max(row[1], row[3])
    above = max(row[0], row[2]) < min(row[1], row[3])
    assert below or above


def test_decision_regions_asks_between_the_integers():
    asked = []

    def predict(points):
        asked.append(points)
        return points[:, 0] > 0

    plots.decision_regions(predict, np.array([[0, 0], [1, 1]]), np.array([0, 1]), resolution=11)
    assert asked[0].dtype == np.float64
    assert len(np.unique(asked[0][:, 0])) == 11
