"""The harness, put to the test: right functions pass, and every planted error is caught by the check meant for it."""

import dataclasses
import math
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest

from nnbook import backprop, mutants, verify
from nnbook.backprop import Primitive, primitive
from nnbook.references import REFERENCES, Case, Reference, fixed, normal

PRIMITIVES = verify.primitives()
EXP = REFERENCES["exp"]


@pytest.fixture(params=PRIMITIVES.values(), ids=PRIMITIVES.keys())
def op(request):
    return request.param


def variant(name, forward=None, vjp=None):
    """The book's primitive with another forward pass or another VJP."""
    right = PRIMITIVES[name]
    other = Primitive(forward or right.forward)
    other.__name__ = name
    other.vjp = vjp or right.vjp
    return other


def failed(result):
    return {row.check for row in result.rows if not row.ok}


# ---------------------------------------------------------------------------------------------------------------------
# Every primitive of the book
# ---------------------------------------------------------------------------------------------------------------------


def test_every_primitive_has_a_vjp_and_a_reference(op):
    assert op.vjp is not None
    assert op.__name__ in REFERENCES


def test_every_primitive_is_verified(op):
    result = verify.verify(op)
    assert result.ok, result.details()


def test_every_primitive_is_verified_with_another_seed(op):
    assert verify.rejects(op, seed=1) == ""


def test_every_reference_names_its_cases_differently(op):
    names = [case.name for case in REFERENCES[op.__name__].cases]
    assert len(set(names)) == len(names)


@pytest.mark.gpu
def test_every_primitive_is_verified_on_every_gpu():
    results = [verify.verify_devices(op) for op in PRIMITIVES.values()]
    assert all(result.rows for result in results)
    assert "\n".join(result.details() for result in results if not result.ok) == ""


# ---------------------------------------------------------------------------------------------------------------------
# Planted errors
# ---------------------------------------------------------------------------------------------------------------------


def test_there_are_at_least_twelve_kinds_of_error():
    assert len(mutants.MUTATIONS) >= 12


def test_every_planted_error_is_caught(op, record_property):
    tally = mutants.tally(op)
    record_property(
        "planted errors",
        f"{tally.name:>34}: {tally.counted:3} counted, {tally.skipped:2} change nothing; "
        f"verify misses {len(tally.survivors)}, an upstream of ones {len(tally.survivors_of_ones)}",
    )
    assert tally.counted >= 5
    assert tally.survivors == ()


def test_an_upstream_of_ones_accepts_what_is_right_and_much_that_is_wrong(op):
    """The wrong way to test a gradient; ``python -m nnbook.mutants`` prints how many errors it lets pass."""
    assert mutants.passes_with_ones(op)
    assert mutants.passes_with_ones(mutants.plant(op, "dy ignored", 0), REFERENCES[op.__name__])


def test_with_an_upstream_of_ones_softmax_may_lose_its_whole_gradient():
    """The entries of a softmax sum to 1, so the gradient of their sum is zero, and so is a backward pass that is."""
    nothing = mutants.plant(PRIMITIVES["softmax"], "dropped", 0)
    assert mutants.passes_with_ones(nothing, REFERENCES["softmax"])
    assert verify.rejects(nothing, REFERENCES["softmax"]) == "gradients"


@pytest.mark.parametrize("name", ["multiply", "matmul", "exp"])
def test_each_way_catches_planted_errors_alone(name):
    right, reference = PRIMITIVES[name], REFERENCES[name]
    for mutant in mutants.mutants(right):
        if mutant.moved > 1e-4:
            where = f"{mutant.kind}, argument {mutant.argument}"
            against_torch = [r for d in verify.DTYPES for r in verify._against_torch(mutant.op, name, reference, d, 0)]
            assert [row.ok for row in against_torch] == [True, False, True, False], where
            assert not verify._adjoint(mutant.op, reference, 0).ok, where
            assert not verify._complex_step(mutant.op, reference, 0).ok, where


def test_a_mutant_that_changes_nothing_is_not_counted():
    found = {(m.kind, m.argument): m.counts for m in mutants.mutants(PRIMITIVES["add"])}
    assert not found["swapped with another argument", 0]  # both cotangents are dy
    assert not found["derivative left out", 0]
    assert found["wrong sign", 0]


def test_the_change_a_mutant_makes_is_measured_relative_to_the_largest_entry():
    moved = {m.kind: m.moved for m in mutants.mutants(PRIMITIVES["exp"])}
    assert moved["wrong sign"] == pytest.approx(2)
    assert moved["a tenth of a percent too large"] == pytest.approx(1e-3)
    assert moved["first entry off"] == pytest.approx(1)


def test_a_vjp_without_a_cotangent_can_be_spoiled_too():
    """``step`` may answer None for its derivative of zero."""
    none = variant("step", vjp=lambda dy, saved, x: (None,))
    assert all(m.moved == 0 for m in mutants.mutants(none, REFERENCES["step"]))


# ---------------------------------------------------------------------------------------------------------------------
# Errors of other kinds than a wrong derivative
# ---------------------------------------------------------------------------------------------------------------------


def test_a_value_wrong_by_1e_13_fails_in_float64_only():
    result = verify.verify(variant("exp", lambda x: (np.exp(x) * (1 + 1e-13), np.exp(x))))
    assert [row.ok for row in result.rows[:4]] == [False, True, True, True]
    assert "value" in failed(result)


def test_a_value_promoted_to_float64_is_caught():
    def promoting(x):
        y = np.exp(np.asarray(x, float))
        return y, y

    assert "shapes and dtypes" in failed(verify.verify(variant("exp", promoting)))


def test_a_cotangent_promoted_to_float64_is_caught_though_the_tape_mends_it():
    result = verify.verify(variant("exp", vjp=lambda dy, y, x: (dy * y * np.ones(1),)))
    assert failed(result) == {"shapes and dtypes"}
    assert "cotangent of argument 0: shape (3, 4) float64, expected (3, 4) float32" in repr(result)


def test_a_value_of_another_shape_is_caught_and_both_shapes_are_named():
    def kept(x, *, axis=None, keepdims=False):
        return np.sum(x, axis=axis, keepdims=True), None

    result = verify.verify(variant("sum", kept))
    assert {"value", "shapes and dtypes"} <= failed(result)
    assert "shape (1, 1), not ()" in repr(result)


def test_a_forward_pass_that_writes_into_its_input_is_caught():
    def in_place(x):
        y = np.exp(x)
        x[...] = 0
        return y, y

    result = verify.verify(variant("exp", in_place))
    assert "inputs untouched" in failed(result)


def test_a_vjp_that_writes_into_dy_is_caught():
    def in_place(dy, y, x):
        if dy.ndim:
            dy *= y
        return (dy * 1 if dy.ndim else dy * y,)

    result = verify.verify(variant("exp", vjp=in_place))
    assert "inputs untouched" in failed(result)
    assert "argument 1 was written to" in repr(result)


def test_an_assumption_about_memory_layout_is_caught():
    def in_memory_order(x):
        y = np.exp(x.ravel("K")).reshape(x.shape)
        return y, np.exp(x)

    assert failed(verify.verify(variant("exp", in_memory_order))) == {"memory layouts"}


def test_broadcasting_that_is_not_undone_is_caught():
    result = verify.verify(variant("multiply", vjp=lambda dz, saved, x, y: (dz * y, dz * x)))
    assert "broadcasting" in failed(result)
    assert "VJP gave shape" in repr(result)


def test_a_forward_pass_that_refuses_to_broadcast_is_caught():
    def strict(x, y):
        if np.shape(x) != np.shape(y):
            raise ValueError(f"shapes {np.shape(x)} and {np.shape(y)}")
        return x * y, None

    cases = (Case("matrices", normal((3, 4), (3, 4))), Case("size 1", normal((1,), (1,))), EXP.cases[0])
    sizes = (Case("size 0", normal((0, 3), (0, 3))),)
    reference = dataclasses.replace(REFERENCES["multiply"], cases=(*cases[:2], *sizes))
    assert failed(verify.verify(variant("multiply", strict), reference=reference)) == {"broadcasting"}


def test_overflow_at_extreme_inputs_is_caught():
    def naive(x, *, beta=1.0):
        return np.log(1 + np.exp(beta * x)) / beta, None

    result = verify.verify(variant("softplus", naive))
    assert "extreme values" in failed(result)
    assert "FloatingPointError: overflow" in repr(result)


def test_a_nan_is_never_accepted():
    def with_nan(x):
        y = np.exp(x)
        return np.where(np.isneginf(x), np.nan, y).astype(x.dtype)[()], y

    real = dataclasses.replace(EXP, analytic=False)
    assert failed(verify.verify(variant("exp", with_nan), reference=real)) == {"extreme values"}


def test_another_convention_at_a_kink_is_caught():
    result = verify.verify(
        variant("absolute", vjp=lambda dy, saved, x: (dy * np.where(x >= 0, 1, -1).astype(x.dtype),))
    )
    assert failed(result) == {"at kinks"}


def test_bad_input_that_passes_or_fails_in_another_way_is_caught():
    def silent(x):
        return (np.exp(x), np.exp(x)) if x.dtype.kind in "fc" else (x, x)

    class Lenient(Primitive):
        def _as_array(self, arg, position):
            return np.asarray(arg)

    lenient = Lenient(silent)
    lenient.__name__, lenient.vjp = "exp", PRIMITIVES["exp"].vjp
    result = verify.verify(lenient)
    assert failed(result) == {"bad input"}
    assert "raised nothing" in repr(result)

    lenient.forward = PRIMITIVES["exp"].forward
    result = verify.verify(lenient)
    assert failed(result) == {"bad input"}
    assert "not ValueError" in repr(result)

    vague = dataclasses.replace(
        REFERENCES["sum"], bad=((Case("axis", normal((2, 3)), {"axis": 2}), "no such message"),)
    )
    assert "does not match 'no such message'" in repr(verify.verify(PRIMITIVES["sum"], reference=vague))


def test_a_vjp_that_uses_up_what_was_saved_is_caught():
    def forward(x):
        y = np.exp(x)
        return y, [y]

    result = verify.verify(variant("exp", forward, lambda dy, saved, x: (dy * saved.pop(),)))
    assert failed(result) == {"VJP alone"}


def test_missing_sizes_are_caught():
    result = verify.verify(PRIMITIVES["exp"], reference=dataclasses.replace(EXP, cases=EXP.cases[:1]))
    assert failed(result) == {"sizes 0 and 1"}
    assert "no case has an array of size 1, and none of that size is refused" in repr(result)


def test_a_function_that_is_no_primitive_can_be_verified():
    def exp(x):
        return backprop.exp(x / 2) * backprop.exp(x / 2)

    result = verify.verify(exp)
    assert result.ok, result.details()
    assert {"VJP alone", "bad input"}.isdisjoint(row.check for row in result.rows)

    def matmul(a, b):
        return a @ b

    result = verify.verify(matmul)
    assert failed(result) == {"bad input"}  # NumPy's own message does not name both shapes


def test_constants_are_not_differentiated():
    @primitive
    def masked(x, mask):
        return x * mask, None

    @masked.defvjp
    def masked_vjp(dy, saved, x, mask):
        return dy * mask, None

    cases = tuple(Case(f"size {n}", normal((n,), (n,))) for n in (0, 1, 5))
    reference = Reference(lambda torch: torch.multiply, cases, constants=(1,))
    assert verify.verify(masked, reference=reference).ok
    assert "gradients" in failed(verify.verify(masked, reference=dataclasses.replace(reference, constants=())))


def test_extremes_can_be_declared_to_be_none():
    result = verify.verify(PRIMITIVES["exp"], reference=dataclasses.replace(EXP, extremes=()))
    assert result.ok
    assert "extreme values" not in [row.check for row in result.rows]


def test_a_case_without_differentiable_argument_leaves_only_the_value_to_compare():
    only_constants = Case("integers", lambda rng: (np.array([1, 2]),))
    reference = dataclasses.replace(
        EXP, torch=lambda torch: lambda x: torch.exp(x.double() if not x.is_floating_point() else x)
    )
    reference = dataclasses.replace(reference, cases=(*EXP.cases, only_constants), analytic=False)
    rows = {(row.check, row.dtype): row for row in verify.verify(PRIMITIVES["exp"], reference=reference).rows}
    assert rows["value", "float64"].cases == 4
    assert rows[verify.ADJOINT, "float64"].cases == 3


# ---------------------------------------------------------------------------------------------------------------------
# Error, bound, samples
# ---------------------------------------------------------------------------------------------------------------------


def test_the_error_is_relative_to_the_largest_entry():
    assert verify.error([1.0, 0.0], [1.0, 1e-20]) == 1e-20
    assert verify.error([2.0, 4.0], [2.0, 5.0]) == pytest.approx(0.2)
    assert verify.error([0.5], [0.0]) == 0.5
    assert verify.error(np.zeros((0, 3)), np.zeros((0, 3))) == 0


@pytest.mark.parametrize(
    ("a", "b"), [([1.0], 1.0), ([np.nan], [1.0]), ([1.0], [np.nan]), ([np.inf], [1.0]), ([np.inf], [-np.inf])]
)
def test_shapes_infinities_and_nans_must_agree(a, b):
    assert verify.error(a, b) == np.inf


@pytest.mark.parametrize("wrong", [[1 + 5j], [1 + 0j], ["1.0"], [b"1.0"], np.array([1.0], object), [None]])
def test_what_are_no_real_numbers_is_infinitely_far_from_them(wrong):
    """NumPy would drop an imaginary part, read a text and take None for a nan."""
    assert verify.error(wrong, [1.0]) == np.inf
    assert verify.error(wrong, [np.nan]) == np.inf


def test_equal_infinities_and_nans_are_left_out():
    assert verify.error([np.inf, np.nan, 1.0], [np.inf, np.nan, 2.0]) == 0.5


def test_the_bound_is_64_eps_or_4_times_pytorchs_own_error():
    assert verify.bound("exp", "float64") == 64 * 2.0**-52
    assert verify.bound("exp", "float32", 1e-3) == 4e-3
    assert verify.bound("exp", "float32", 1e-9) == 64 * 2.0**-23
    assert verify.bound("exp", "float32", np.inf) == 64 * 2.0**-23  # where PyTorch itself fails, it excuses nothing


def test_a_looser_bound_is_printed_with_its_reason(monkeypatch, capsys):
    monkeypatch.setitem(verify.LOOSER, ("exp", "float64"), (1024, "it is only an example"))
    text = repr(verify.verify(PRIMITIVES["exp"]))
    assert "1024 eps" in text
    assert "float64: 1024 eps, because it is only an example" in text
    assert verify.verify(variant("exp", lambda x: (np.exp(x) * (1 + 1e-13), np.exp(x)))).rows[0].ok
    verify.main(["exp"])
    assert "exp float64: 1024 eps, because it is only an example" in capsys.readouterr().out


def test_every_looser_bound_belongs_to_a_function_and_has_a_reason():
    for (name, dtype), (multiple, reason) in verify.LOOSER.items():
        assert name in REFERENCES
        assert dtype in verify.DTYPES
        assert multiple > verify.EPS_MULTIPLE
        assert reason


@pytest.mark.parametrize("name", [name for name, reference in REFERENCES.items() if reference.kinks])
def test_samples_keep_their_distance_from_kinks(name):
    reference = REFERENCES[name]
    for case in reference.cases:
        s = verify.sample(reference, case, "float64")
        assert np.min(reference.kinks(*s.args, **s.static), initial=np.inf) >= 1e-3


def test_a_case_that_always_lies_on_a_kink_is_refused():
    reference = Reference(lambda torch: torch.abs, (Case("zero", fixed([0.0])),), kinks=np.abs)
    with pytest.raises(ValueError, match=r"'zero': 200 draws"):
        verify.verify(PRIMITIVES["absolute"], reference=reference)


def test_samples_are_the_same_every_time_and_differ_by_seed_and_dtype():
    case = EXP.cases[0]
    again = dataclasses.replace(EXP)  # another key for the cache
    first, second = verify.sample(EXP, case, "float64"), verify.sample(again, case, "float64")
    assert first is not second
    np.testing.assert_array_equal(first.args[0], second.args[0])
    np.testing.assert_array_equal(first.dy, second.dy)
    assert not np.array_equal(first.dy, verify.sample(EXP, case, "float64", 1).dy)
    assert verify.sample(EXP, case, "float32").dy.dtype == np.float32
    with pytest.raises(ValueError, match="read-only"):
        first.args[0][0] = 0


def test_a_name_without_reference_is_an_error_that_says_what_to_do():
    with pytest.raises(ValueError, match="nothing_like_it has no entry"):
        verify.verify(nothing_like_it)


@primitive
def nothing_like_it(x):
    return x, None


# ---------------------------------------------------------------------------------------------------------------------
# What is printed
# ---------------------------------------------------------------------------------------------------------------------


class Tables(HTMLParser):
    """Collects tags with their attributes and the text between them."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


SHORT = """\
exp: all checks passed
way              check              dtype    cases  bound                 result
against PyTorch  value, gradients   float64  3      64 eps                ok
                 value, gradients   float32  3      64 eps or 4x PyTorch  ok"""


def test_the_short_table_says_what_was_checked():
    text = repr(verify.verify(PRIMITIVES["exp"]))
    assert re.sub(" {2,}", "  ", text).startswith(re.sub(" {2,}", "  ", SHORT))
    for check in ("complex step", "memory layouts", "extreme values", "VJP alone"):
        assert check in text


def test_the_table_does_not_depend_on_what_was_measured():
    result = verify.verify(PRIMITIVES["exp"])
    text, page, details = repr(result), result._repr_html_(), result.details()
    for row in result.rows:
        row.measured = row.measured * 3.7
    assert (repr(result), result._repr_html_()) == (text, page)
    assert result.details() != details
    assert not re.search(r"\de-(0[7-9]|1)", text)


def test_the_page_shows_an_accessible_table_without_colours_of_its_own():
    results = verify.verify(PRIMITIVES["exp"], PRIMITIVES["log"])
    for shown in (verify.verify(PRIMITIVES["exp"]), results, mutants.campaign(PRIMITIVES["exp"])):
        page = Tables(shown._repr_html_())
        tags = [tag for tag, _ in page.tags]
        assert tags.count("table") == tags.count("caption") == tags.count("thead") == 1
        scopes = [attrs.get("scope") for tag, attrs in page.tags if tag == "th"]
        assert set(scopes) == {"col", "row"}
        assert not any("style" in attrs or "class" in attrs or "bgcolor" in attrs for _, attrs in page.tags)


def test_symbols_are_escaped_on_the_page():
    page = verify.verify(PRIMITIVES["exp"])._repr_html_()
    assert "&lt;dy, Jv&gt;" in page
    assert verify.ADJOINT in Tables(page).text


def test_a_failure_shows_in_text_and_on_the_page_and_long_lists_are_cut():
    result = verify.verify(mutants.plant(PRIMITIVES["exp"], "wrong sign", 0), reference=EXP)
    assert not result.ok
    for text in (repr(result), Tables(result._repr_html_()).text, result.details()):
        assert "checks FAILED" in text
        assert "FAIL gradients: matrix, gradient of argument 0: error 2.0e+00, allowed" in text
    assert "<strong>FAIL</strong>" in result._repr_html_()
    row = verify.Row("way", "check", "dtype", "bound", cases=1, failures=["a", "b", "c", "d", "e"])
    assert "and 2 more" in repr(verify.Result("f", [row]))


def test_a_check_without_a_case_has_failed():
    row = verify.Row("way", "check", "dtype", "bound")
    assert not row.ok
    assert "no case at all" in repr(verify.Result("f", [row]))


def test_several_functions_make_one_table():
    results = verify.verify(PRIMITIVES["exp"], PRIMITIVES["absolute"], PRIMITIVES["matmul"])
    assert results.ok
    assert repr(results).splitlines()[0] == "3 functions: all checks passed"
    assert [line.split()[0] for line in repr(results).splitlines()[2:]] == ["exp", "absolute", "matmul"]
    assert "-" in repr(results).splitlines()[3].split()  # |x| has no complex step
    assert "worst" in results.details()
    wrong = mutants.plant(PRIMITIVES["exp"], "wrong sign", 0)
    results = verify.verify(wrong, PRIMITIVES["log"])
    assert not results.ok
    assert repr(results).splitlines()[0] == "FAILED: exp"
    assert "exp: FAIL gradients" in repr(results)


def test_the_command_verifies_by_name_and_returns_the_number_of_failures(monkeypatch, capsys):
    assert verify.main(["exp", "log"]) == 0
    assert capsys.readouterr().out.count("all checks passed") == 2
    assert verify.main(["exp", "--details"]) == 0
    assert "allowed" in capsys.readouterr().out
    monkeypatch.setattr(verify, "primitives", lambda: {"exp": mutants.plant(PRIMITIVES["exp"], "dropped", 0)})
    assert verify.main([]) == 1


def test_the_command_that_counts_planted_errors_prints_survivors(monkeypatch, capsys):
    assert mutants.main(["exp", "add"]) == 0
    text = capsys.readouterr().out
    assert "missed by verify: none" in text
    assert "dy ignored" in text
    assert re.search(r"^all +78 +\d+ +\d+ +\d+$", text, re.MULTILINE)
    monkeypatch.setattr(mutants, "rejects", lambda *args, **kwargs: "")
    assert mutants.main(["exp"]) >= 12
    assert "exp, argument 0: wrong sign" in capsys.readouterr().out


def test_two_primitives_of_one_name_are_refused(monkeypatch):
    other = variant("exp")
    other.__module__ = "nnbook.backprop"
    monkeypatch.setattr(backprop, "other", other, raising=False)
    with pytest.raises(ValueError, match="two primitives are called exp"):
        verify.primitives()


def test_importing_the_harness_does_not_import_torch():
    code = "import sys, nnbook.verify, nnbook.mutants; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ---------------------------------------------------------------------------------------------------------------------
# Devices
# ---------------------------------------------------------------------------------------------------------------------


def test_without_a_gpu_it_says_so_and_shows_no_row(monkeypatch):
    monkeypatch.setattr(verify, "devices", lambda: ())
    result = verify.verify_devices(PRIMITIVES["exp"])
    assert result.rows == []
    assert repr(result) == "exp: PyTorch sees no GPU here, so nothing was compared on one"
    assert "sees no GPU" in result._repr_html_()


def test_a_device_gets_a_row_for_each_dtype_with_numbers(monkeypatch):
    monkeypatch.setattr(verify, "devices", lambda: ("cpu",))
    result = verify.verify_devices(PRIMITIVES["matmul"])
    assert result.ok
    assert [(row.way, row.dtype) for row in result.rows] == [
        ("against PyTorch on cpu", "float64"),
        ("against PyTorch on cpu", "float32"),
    ]
    assert "worst" in repr(result)
    assert "worst" in result._repr_html_()
    wrong = mutants.plant(PRIMITIVES["matmul"], "transposed", 1)
    assert not verify.verify_devices(wrong, REFERENCES["matmul"]).ok


def test_mps_has_float32_only(monkeypatch):
    monkeypatch.setattr(verify, "devices", lambda: ("mps",))
    on_cpu = verify.run_torch
    monkeypatch.setattr(verify, "run_torch", lambda *args: on_cpu(*args[:5]))
    assert [row.dtype for row in verify.verify_devices(PRIMITIVES["exp"]).rows] == ["float32"]


def test_the_environment_names_the_device(monkeypatch):
    import torch

    monkeypatch.setenv("NNBOOK_DEVICE", "cpu")
    assert verify.devices() == ()
    monkeypatch.setenv("NNBOOK_DEVICE", "meta")
    assert verify.devices() == ("meta",)
    monkeypatch.setenv("NNBOOK_DEVICE", "no such device")
    with pytest.raises(ValueError, match="NNBOOK_DEVICE=no such device: PyTorch cannot use it"):
        verify.devices()
    monkeypatch.delenv("NNBOOK_DEVICE")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert verify.devices() == ("cuda:0", "cuda:1")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Some GPU")
    assert verify._device_name("cuda:1") == "cuda:1 (Some GPU)"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert verify.devices() == ("mps",)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert verify.devices() == ()


def test_tf32_is_off_inside_and_as_before_outside():
    import torch

    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    with verify._full_precision():
        assert not torch.backends.cuda.matmul.allow_tf32
        assert not torch.backends.cudnn.allow_tf32
    assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == before


# ---------------------------------------------------------------------------------------------------------------------
# A reader's own function
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("candidate", "vjp", "ok", "text"),
    [
        (np.exp, None, True, "exp: the values agree with PyTorch in 3 cases"),
        (
            np.exp,
            lambda dy, x: dy * np.exp(x),
            True,
            "exp: value and gradients agree with PyTorch in 3 cases",
        ),
        (np.exp, lambda dy, x: (dy * np.exp(x),), True, "exp: value and gradients agree"),
        (lambda x: ..., None, None, "exp: not attempted"),
        (np.exp, lambda dy, x: ..., None, "exp: the value agrees with PyTorch; the VJP is not attempted"),
        (np.exp, lambda dy, x: (...,), None, "the VJP is not attempted"),
        (lambda x: x[:1], None, False, "exp: case 'matrix': expected shape (3, 4), got (1, 4)"),
        (lambda x: 2 * np.exp(x), None, False, "exp: case 'matrix': the numbers differ\nexpected [["),
        (lambda x: None, None, False, "expected an array of shape (3, 4), got NoneType"),
        (lambda x: "text", None, False, "got str"),
        (lambda x: 1 / 0, None, False, "case 'matrix' raised ZeroDivisionError: division by zero"),
        (np.exp, lambda dy, x: dy, False, "case 'matrix', gradient of argument 0: the numbers differ"),
        (np.exp, lambda dy, x: (dy, dy), False, "the VJP returned 2 cotangents for 1 arguments"),
        (np.exp, lambda dy, x: 1 / 0, False, "the VJP raised ZeroDivisionError"),
        (lambda: 0, None, False, "your function's arguments fit none of the 3 cases"),
        (PRIMITIVES["exp"], None, True, "value and gradients agree"),
        (mutants.plant(PRIMITIVES["exp"], "wrong sign", 0), None, False, "gradient of argument 0: the numbers differ"),
        (Primitive(lambda x: (np.exp(x), None)), None, True, "the values agree"),
    ],
)
def test_check_says_what_agrees_and_what_does_not(candidate, vjp, ok, text):
    result = verify.check(candidate, "exp", vjp)
    assert text in repr(result)
    assert result.ok is ok


def with_vjp(forward, vjp):
    """A reader's own primitive."""
    op = primitive(forward)
    op.defvjp(vjp)
    return op


def empty(x): ...


def documented(x):
    """To be written."""
    ...  # noqa: PIE790 - as the exercises have it


def empty_vjp(dy, x): ...


def empty_primitive_vjp(dy, y, x): ...


def generates(x):
    yield from np.exp(x)


def forgets_to_return(x):
    np.exp(x)


def with_a_gap(x):
    y = ...
    return np.exp(y)


def quits(x):
    sys.exit("enough")


def in_place(x):
    return np.exp(x, out=x)


def zeroes_its_input(x):
    y = np.exp(x)
    x[...] = 0
    return y


def exp_vjp(dy, x):
    return dy * np.exp(x)


def in_place_dy(dy, x):
    dy *= np.exp(x)
    return dy


def in_place_vjp(dy, x):
    return dy * np.exp(x, out=x)


def leaf(x):
    import torch

    return torch.from_numpy(x).exp().requires_grad_()


def leaf_vjp(dy, x):
    import torch

    return leaf(x) * torch.from_numpy(dy)


def bfloat16(x):
    import torch

    return torch.from_numpy(x).exp().bfloat16()


class Unconvertible:
    """What raises when NumPy asks for its numbers, and leaves by the back door if ``way`` is SystemExit."""

    def __init__(self, way):
        self.way = way

    def __array__(self, dtype=None, copy=None):
        raise self.way("no numbers")


class Untold(Exception):
    def __str__(self):
        raise RuntimeError("no words either")


def raises_untold(*arguments):
    raise Untold


def primitive_forward(x):
    y = np.exp(x)
    return y, y


def overwriting_primitive_vjp(dy, y, x):
    x[...] = 0
    return (dy * y,)


def first_bad(x, value):
    y = np.exp(x)
    if y.size:
        y.flat[0] = value
    return y


ANSWERS = {
    "complex": (lambda x: np.exp(x) + 5j, None, False, "'matrix': expected real numbers, got complex128"),
    "complex, nothing imaginary": (lambda x: np.exp(x) + 0j, None, False, "expected real numbers, got complex128"),
    "strings": (lambda x: np.exp(x).astype(str), None, False, "expected numbers, got an array of dtype <U"),
    "bytes": (lambda x: np.exp(x).astype(bytes), None, False, "expected numbers, got an array of dtype |S"),
    "a list of strings": (lambda x: [str(v) for v in x], None, False, "expected numbers, got an array of dtype <U"),
    "objects": (lambda x: np.exp(x).astype(object), None, False, "expected numbers, got an array of dtype object"),
    "booleans": (lambda x: x > 0, None, False, "expected numbers, got booleans"),
    "times": (lambda x: x.astype("m8[s]"), None, False, "expected numbers, got an array of dtype timedelta64"),
    "records": (
        lambda x: np.exp(x).view([("a", float)]),
        None,
        False,
        "expected numbers, got an array of dtype [('a', '<f8')]",
    ),
    "a tuple": (
        lambda x: (np.exp(x), None),
        None,
        False,
        "expected an array of shape (3, 4), got a tuple of 2; return the array alone",
    ),
    "a tuple of rows": (lambda x: tuple(np.exp(x)), None, False, "got a tuple of 3; return the array alone"),
    "a dict": (lambda x: {"y": np.exp(x)}, None, False, "expected an array of shape (3, 4), got dict"),
    "a generator": (generates, None, False, "expected an array of shape (3, 4), got generator"),
    "a map": (lambda x: map(np.exp, x), None, False, "expected an array of shape (3, 4), got map"),
    "a ragged list": (
        lambda x: [[1.0], [1.0, 2.0]],
        None,
        False,
        "expected an array of shape (3, 4), got list, which NumPy cannot convert: ValueError: ",
    ),
    "hidden entries": (
        lambda x: np.ma.masked_less(np.exp(x), 1),
        None,
        False,
        "of the 12 numbers of a masked array are hidden",
    ),
    "a masked array, nothing hidden": (lambda x: np.ma.array(np.exp(x)), None, True, "the values agree"),
    "nan": (
        lambda x: first_bad(x, np.nan),
        None,
        False,
        "the numbers differ: 1 of 12 is infinite or nan, at (0, 0)\nexpected [[",
    ),
    "all infinite": (
        lambda x: np.full_like(x, np.inf),
        None,
        False,
        "the numbers differ: 12 of 12 are infinite or nan, the first at (0, 0)",
    ),
    "huge": (lambda x: np.full_like(x, -1.7e308), None, False, "the numbers differ\nexpected [["),
    "float32": (
        lambda x: np.exp(x.astype(np.float32)),
        None,
        False,
        "as little as float32 rounds; compute in the float64 that comes in",
    ),
    "float16": (lambda x: np.exp(x).astype(np.float16), None, False, "as little as float16 rounds"),
    "float32 and wrong": (lambda x: 2 * np.exp(x.astype(np.float32)), None, False, "the numbers differ\nexpected"),
    "just off": (lambda x: np.exp(x) * (1 + 1e-7), None, False, "the numbers differ, by 1.0e-07 of the largest"),
    "long double": (lambda x: np.exp(x.astype(np.longdouble)), None, True, "the values agree"),
    "overwritten": (in_place, None, False, "exp: case 'matrix': your function overwrites its argument x"),
    "overwritten, the answer right": (zeroes_its_input, None, False, "your function overwrites its argument x"),
    "overwritten by a ufunc": (
        lambda *a: np.exp(a[0], out=a[0]),
        None,
        False,
        "your function overwrites its argument 0",
    ),
    "reshaped in place": (
        lambda x: (np.exp(x), setattr(x, "shape", (x.size,)))[0],
        None,
        False,
        "your function overwrites its argument x",
    ),
    "x overwritten in a primitive": (Primitive(lambda x: (np.exp(x, out=x), None)), None, False, "its argument x"),
    "dy overwritten in a primitive's VJP": (
        with_vjp(primitive_forward, lambda dy, y, x: (np.multiply(dy, y, out=dy),)),
        None,
        False,
        "the VJP overwrites its argument dy",
    ),
    "dy overwritten": (np.exp, in_place_dy, False, "exp: case 'matrix': the VJP overwrites its argument dy"),
    "x overwritten in the VJP": (np.exp, in_place_vjp, False, "the VJP overwrites its argument x"),
    "x overwritten in a primitive's VJP": (
        with_vjp(primitive_forward, overwriting_primitive_vjp),
        None,
        False,
        "the VJP overwrites an argument; work on a copy",
    ),
    "a tensor with requires_grad": (leaf, None, True, "the values agree"),
    "a VJP with requires_grad": (np.exp, leaf_vjp, True, "value and gradients agree"),
    "bfloat16": (bfloat16, None, False, "got Tensor, which NumPy cannot convert: TypeError: "),
    "what cannot be converted": (
        lambda x: Unconvertible(RuntimeError),
        None,
        False,
        "got Unconvertible, which NumPy cannot convert: RuntimeError: no numbers",
    ),
    "what exits when converted": (
        lambda x: Unconvertible(SystemExit),
        None,
        False,
        "got Unconvertible, which NumPy cannot convert: SystemExit: no numbers",
    ),
    "a gradient that cannot be converted": (
        np.exp,
        lambda dy, x: Unconvertible(RuntimeError),
        False,
        "gradient of argument 0: expected an array of shape (3, 4), got Unconvertible, which",
    ),
    "a complex gradient": (
        np.exp,
        lambda dy, x: dy * np.exp(x) + 1j,
        False,
        "gradient of argument 0: expected real numbers, got complex128",
    ),
    "a boolean gradient": (np.exp, lambda dy, x: dy > 0, False, "gradient of argument 0: expected numbers, got boo"),
    "sys.exit": (quits, None, False, "case 'matrix' raised SystemExit: enough"),
    "sys.exit in the VJP": (np.exp, lambda dy, x: quits(x), False, "the VJP raised SystemExit: enough"),
    "an error without words": (raises_untold, None, False, "case 'matrix' raised Untold"),
    "an error without words in the VJP": (np.exp, raises_untold, False, "the VJP raised Untold"),
    "no return": (forgets_to_return, None, False, "expected an array of shape (3, 4), got NoneType"),
    "a primitive without return": (
        Primitive(forgets_to_return),
        None,
        False,
        "returned NoneType; a primitive returns two things, its value and what its derivative needs",
    ),
    "a primitive that returns its value alone": (Primitive(np.exp), None, False, "returned ndarray; a primitive"),
    "nothing but ...": (..., None, None, "exp: not attempted"),
    "a body of ...": (empty, None, None, "exp: not attempted"),
    "a docstring and ...": (documented, None, None, "exp: not attempted"),
    "..., None": (lambda x: (..., None), None, None, "exp: not attempted"),
    "a line of ...": (with_a_gap, None, None, "exp: not attempted"),
    "[...]": (lambda x: [...], None, None, "exp: not attempted"),
    "a primitive with a body of ...": (Primitive(empty), None, None, "exp: not attempted"),
    "a primitive that returns ...": (Primitive(lambda x: ...), None, None, "exp: not attempted"),
    "a primitive that returns ..., None": (Primitive(lambda x: (..., None)), None, None, "exp: not attempted"),
    "no VJP but ...": (np.exp, ..., None, "the value agrees with PyTorch; the VJP is not attempted"),
    "a VJP with a body of ...": (np.exp, empty_vjp, None, "the VJP is not attempted"),
    "a VJP that returns [...]": (np.exp, lambda dy, x: [...], None, "the VJP is not attempted"),
    "a VJP with a line of ...": (np.exp, lambda dy, x: dy * ..., None, "the VJP is not attempted"),
    "a primitive's VJP with a body of ...": (
        with_vjp(primitive_forward, empty_primitive_vjp),
        None,
        None,
        "the VJP is not attempted",
    ),
    "a primitive's VJP that returns ...": (
        with_vjp(primitive_forward, lambda dy, y, x: ...),
        None,
        None,
        "the VJP is not attempted",
    ),
    "a primitive's VJP that returns (...,)": (
        with_vjp(primitive_forward, lambda dy, y, x: (...,)),
        None,
        None,
        "the VJP is not attempted",
    ),
    "a primitive's VJP that puts ... off": (
        with_vjp(primitive_forward, lambda dy, y, x: (lambda: ...,)),
        None,
        None,
        "the VJP is not attempted",
    ),
    "a primitive's VJP with a line of ...": (
        with_vjp(primitive_forward, lambda dy, y, x: (... * y,)),
        None,
        None,
        "the VJP is not attempted",
    ),
}
"""What is handed in: candidate, VJP, verdict, words."""


@pytest.mark.parametrize(("candidate", "vjp", "ok", "text"), ANSWERS.values(), ids=ANSWERS.keys())
@pytest.mark.filterwarnings("error")
def test_check_says_what_is_wrong_with_any_answer(candidate, vjp, ok, text):
    """Never an exception, never a wrong answer passed, and no input that one call has spoiled for the next."""
    before = [[a.copy() for a in verify.sample(EXP, case, "float64").args] for case in EXP.cases]
    first = verify.check(candidate, "exp", vjp)
    assert text in repr(first)
    assert first.ok is ok
    assert repr(verify.check(candidate, "exp", vjp)) == repr(first)
    for case, args in zip(EXP.cases, before, strict=True):
        np.testing.assert_equal(verify.sample(EXP, case, "float64").args, args)
    assert verify.check(np.exp, "exp", exp_vjp).ok


def test_check_takes_lists_of_numbers():
    reference = dataclasses.replace(EXP, cases=EXP.cases[:2])
    assert verify.check(lambda x: np.exp(x).tolist(), reference).ok
    assert verify.check(lambda x: [[math.exp(v) for v in row] for row in x], Reference(EXP.torch, EXP.cases[:1])).ok


@pytest.mark.parametrize(
    ("name", "candidate", "text"),
    [
        ("relu", lambda x: np.maximum(x, 0, out=x), "overwrites its argument x"),
        ("add", lambda a, b: np.add(a, b, out=a) if a.shape == b.shape else a + b, "overwrites its argument a"),
        ("add", lambda a, b: (a + b, np.copyto(b, 0))[0], "overwrites its argument b"),
        ("softplus", lambda x, beta=1.0: np.logaddexp(0, beta * x) / beta + 5j, "expected real numbers"),
        ("step", lambda x: x > 0, "expected numbers, got booleans"),
        ("getitem", lambda x, *, index: (x[index], np.copyto(index, 0) if isinstance(index, np.ndarray) else 0)[0], ""),
    ],
)
def test_check_names_what_is_wrong_in_other_functions(name, candidate, text):
    result = verify.check(candidate, name)
    assert result.ok is False
    assert text in repr(result)
    assert verify.check(PRIMITIVES[name], name).ok, "nothing of it is left behind"


@pytest.mark.parametrize("where", ["function", "VJP", "conversion"])
def test_ctrl_c_stops_a_check(where):
    def stopped(*arguments):
        raise KeyboardInterrupt

    candidate, vjp = {
        "function": (stopped, None),
        "VJP": (np.exp, stopped),
        "conversion": (lambda x: Unconvertible(KeyboardInterrupt), None),
    }[where]
    with pytest.raises(KeyboardInterrupt):
        verify.check(candidate, "exp", vjp)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((None, "exp"), "the candidate must be a function, not NoneType"),
        ((3, "exp"), "the candidate must be a function, not int"),
        (("exp", "exp"), "the candidate must be a function, not str"),
        ((np.exp, "exp", 3), "the VJP must be a function, not int"),
        ((np.exp, 3), "name must be one of REFERENCES or a Reference, not int"),
        ((np.exp, ["exp"]), "name must be one of REFERENCES or a Reference, not list"),
        ((np.exp, None), "name must be one of REFERENCES or a Reference, not NoneType"),
    ],
)
def test_check_refuses_what_is_no_function_and_no_reference(arguments, message):
    with pytest.raises(ValueError, match=message):
        verify.check(*arguments)


def test_check_leaves_out_cases_whose_arguments_the_function_lacks():
    result = verify.check(np.linalg.norm, Reference(lambda torch: torch.norm, (Case("one", normal((3,))),)))
    assert result.ok
    result = verify.check(_sum_of_everything, "sum")
    assert result.ok
    assert re.search(r"agree with PyTorch in \d+ cases \(\d+ need arguments it lacks\)", repr(result))


def _sum_of_everything(x):
    return np.sum(x)


def test_check_takes_a_function_without_a_signature():
    """NumPy before 2.4 gave its ufuncs none."""

    class Unsigned:
        __name__ = "unsigned"
        __signature__ = "no signature"

        def __call__(self, x):
            return np.exp(x)

    assert verify.check(Unsigned(), "exp").ok


def test_check_compares_the_gradients_of_float_arguments_only():
    def where_vjp(dz, condition, x, y):
        zero = 0.0
        return None, *(
            backprop.unbroadcast(np.where(c, dz, zero), np.shape(a)) for c, a in ((condition, x), (~condition, y))
        )

    assert verify.check(np.where, "where", where_vjp).ok


def test_check_takes_a_reference_for_what_the_book_does_not_have():
    def mish(x):
        return x * np.tanh(np.logaddexp(0, x))

    cases = (Case("vector", normal((7,))),)
    assert repr(verify.check(mish, Reference(lambda torch: torch.nn.functional.mish, cases))).startswith(
        "mish: the values"
    )


def test_check_of_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"'no such' is not among .*exp"):
        verify.check(np.exp, "no such")


# ---------------------------------------------------------------------------------------------------------------------
# Source code on the page
# ---------------------------------------------------------------------------------------------------------------------


def test_source_of_a_primitive_is_its_value_and_its_vjp():
    text = repr(verify.source(backprop.exp))
    assert text.startswith("@primitive\ndef exp(x):")
    assert "@exp.defvjp\ndef exp_vjp(dy, y, x):" in text
    assert "eq-exp" in text


def test_source_without_docstrings():
    assert repr(verify.source(backprop.exp, docstrings=False)) == (
        "@primitive\ndef exp(x):\n    y = np.exp(x)\n    return y, y\n\n\n"
        "@exp.defvjp\ndef exp_vjp(dy, y, x):\n    return (dy * y,)"
    )
    assert '"""' not in repr(verify.source(backprop.power, docstrings=False))


class Documented:
    """Of a class."""

    def method(self):
        """Only a docstring."""

    def other(self):
        """Of a method."""

        # Why it is one.
        return 1


def test_source_of_classes_methods_and_functions():
    text = repr(verify.source(Documented, docstrings=False))
    assert "Of a class" not in text
    assert '"""Only a docstring."""' in text
    assert "def other(self):\n        # Why it is one.\n        return 1" in text
    assert repr(verify.source(Documented.other)).startswith("def other(self):")
    assert repr(verify.source(Primitive(Documented.other), backprop.flatten)).count("def ") == 2


def test_source_is_highlighted_python_in_a_notebook():
    assert verify.source(backprop.exp)._repr_markdown_().startswith("```python\n@primitive\ndef exp(x):")
    assert verify.source(backprop.exp)._repr_markdown_().endswith("\n```")


def test_a_vjp_that_remembers_the_last_call_is_caught():
    last = {}

    def forward(x):
        last["y"] = np.exp(x)
        return last["y"], None

    result = verify.verify(variant("exp", forward, lambda dy, saved, x: (dy * last["y"],)))
    assert "VJP alone" in failed(result)


def test_one_reference_for_several_functions_is_refused():
    with pytest.raises(ValueError, match="one reference cannot serve several"):
        verify.verify(PRIMITIVES["exp"], PRIMITIVES["log"], reference=EXP)
