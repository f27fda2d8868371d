"""Chapter 7 as statements about mathematics: recurrences transcribed with loops, cases worked by hand, PyTorch."""

import gc
import itertools
import math
import tracemalloc
from typing import Any, NamedTuple

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from nnbook import twins
from nnbook.backprop import Primitive, Traced, concatenate, flatten, unflatten, value_and_grad, vjp
from nnbook.losses import cross_entropy
from nnbook.optimizers import adam, adam_init
from nnbook.regularization import dropout_mask, orthogonal
from nnbook.rnn import (
    GATES,
    ar_fit,
    ar_forecast,
    ar_predict,
    bits_per_character,
    cell_of,
    char_rnn,
    char_rnn_init,
    chunks,
    decode,
    embedding,
    encode,
    generate,
    gradients_through_time,
    greedy_decode,
    gru,
    gru_cell,
    length_mask,
    linear_recurrence,
    lstm,
    lstm_cell,
    most_similar,
    negative_samples,
    ngram_fit,
    ngram_nll,
    ngram_probabilities,
    ngram_search,
    perplexity,
    recurrent,
    recurrent_classifier,
    recurrent_classifier_init,
    recurrent_init,
    rnn,
    rnn_cell,
    sample,
    seq2seq,
    seq2seq_init,
    sequence_cross_entropy,
    skip_gram_init,
    skip_gram_loss,
    skip_gram_pairs,
    spectral_radius,
    stop_gradient,
    streams,
    truncated_bptt,
    value_and_grad_with_state,
    vocabulary,
    windows,
    with_spectral_radius,
)
from nnbook.training import from_torch, to_torch
from nnbook.verify import error, rejects, verify

PRIMITIVES = [embedding, rnn, lstm, gru, linear_recurrence]
LAYERS = {"rnn": rnn, "gru": gru, "lstm": lstm}
CELLS = list(GATES)
STATES = {"rnn": 1, "gru": 1, "lstm": 2}


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def pulled(f, *args, dy, **static):
    """The value and the cotangents for the upstream ``dy``."""
    y, pull = vjp(f, *args, **static)
    return y, *pull(np.asarray(dy, float))


def weights_of(cell, rng, D, H):
    rows = GATES[cell] * H
    return [rng.normal(size=shape) for shape in ((rows, D), (rows, H), (rows,), (rows,))]


def close(a, b, tolerance=1e-12):
    return error(np.asarray(a), np.asarray(b)) <= tolerance


@pytest.mark.parametrize("op", PRIMITIVES, ids=lambda op: op.__name__)
def test_three_ways(op):
    result = verify(op)
    assert result.ok, result.details()


# Cases worked by hand ------------------------------------------------------------------------------------------------


def test_two_steps_of_a_linear_region_by_hand():
    """ReLU with w = 2, u = 3 from h0 = 1: h1 = 2*1 + 3*1 = 5, h2 = 2*1 + 3*5 = 17; dh2 = 1 gives dh1 = 3, dh0 = 9."""
    x, h0 = np.ones((2, 1, 1)), np.ones((1, 1))
    y, dx, dh0, dw, du = pulled(
        rnn, x, h0, np.array([[2.0]]), np.array([[3.0]]), dy=[[[0]], [[0]], [[1]]], nonlinearity="relu"
    )
    assert y.ravel().tolist() == [5, 17, 17]
    assert dx.ravel().tolist() == [6, 2]
    assert dh0.item() == 9
    assert dw.item() == 3 * 1 + 1  # each step's input, times how far it reaches
    assert du.item() == 3 * 1 + 5


def test_one_step_of_an_lstm_by_hand():
    """All pre-activations 0: gates 1/2, candidate 0, so c = c0 / 2 and h = tanh(c) / 2."""
    y = lstm(np.zeros((1, 1, 1)), None, np.array([[1.0]]), np.zeros((4, 1)), np.zeros((4, 1)))
    assert close(y.ravel(), [math.tanh(0.5) / 2, math.tanh(0.5) / 2, 0.5])


def test_the_cell_path_carries_a_gradient_by_the_forget_gate_alone():
    """With zero weights dc_{t-1} = f dc_t, f = 1/2, so that after three steps an eighth arrives."""
    x, zero = np.zeros((3, 1, 1)), np.zeros((1, 1))
    dy = np.zeros((5, 1, 1))
    dy[-1] = 1
    _, _, _, dc0, *_ = pulled(lstm, x, zero, zero, np.zeros((4, 1)), np.zeros((4, 1)), dy=dy)
    assert dc0.item() == 1 / 8


def test_one_step_of_a_gru_by_hand():
    """All pre-activations 0: z = 1/2 and n = 0, so the state is halved."""
    y = gru(np.zeros((1, 1, 1)), np.array([[3.0]]), np.zeros((3, 1)), np.zeros((3, 1)))
    assert y.ravel().tolist() == [1.5, 1.5]


def test_the_two_reset_conventions_by_hand():
    """r = 1/2, W_hn = 1, b_hn = 1, h = 2: after the product tanh(3/2), before it tanh(2)."""
    w_hh, b_hh = np.array([[0.0], [0.0], [1.0]]), np.array([0.0, 0.0, 1.0])
    args = (np.zeros((1, 1, 1)), np.array([[2.0]]), np.zeros((3, 1)), w_hh, None, b_hh)
    assert close(gru(*args)[0].item(), math.tanh(1.5) / 2 + 1)
    assert close(gru(*args, reset_after=False)[0].item(), math.tanh(2) / 2 + 1)


def test_a_diagonal_recurrence_by_hand():
    """a = (2, 3, 4), b = (1, 1, 1), h0 = 1: 3, 10, 41; a cotangent 1 at the end reaches h0 as 2*3*4."""
    y, da, db, dh0 = pulled(linear_recurrence, np.array([2.0, 3.0, 4.0]), np.ones(3), np.array(1.0), dy=[0, 0, 1])
    assert y.tolist() == [3, 10, 41]
    assert db.tolist() == [12, 4, 1]
    assert da.tolist() == [12 * 1, 4 * 3, 1 * 10]
    assert dh0 == 24


def test_an_embedding_adds_up_what_a_token_received_by_hand():
    _, dw = pulled(lambda w: embedding(np.array([1, 0, 1]), w), np.zeros((3, 1)), dy=[[1], [2], [4]])
    assert dw.ravel().tolist() == [2, 5, 0]


# Loops: every entry by itself ----------------------------------------------------------------------------------------


def sigma(a):
    return 1 / (1 + math.exp(-a))


def step_in_loops(cell, x, h, c, w_ih, w_hh, b_ih, b_hh, *, reset_after=True):
    """One sequence, one step, unit by unit: the equations as they are written on paper."""
    H, D = len(h), len(x)

    def from_x(row):
        return b_ih[row] + sum(w_ih[row, d] * x[d] for d in range(D))

    def from_h(row, state=h):
        return b_hh[row] + sum(w_hh[row, k] * state[k] for k in range(H))

    new_h, new_c = np.zeros(H), np.zeros(H)
    if cell == "gru":
        r = [sigma(from_x(j) + from_h(j)) for j in range(H)]
    for j in range(H):
        if cell == "rnn":
            new_h[j] = math.tanh(from_x(j) + from_h(j))
        elif cell == "lstm":
            i, f, g, o = (from_x(k * H + j) + from_h(k * H + j) for k in range(4))
            new_c[j] = sigma(f) * c[j] + sigma(i) * math.tanh(g)
            new_h[j] = sigma(o) * math.tanh(new_c[j])
        else:
            z = sigma(from_x(H + j) + from_h(H + j))
            heard = r[j] * from_h(2 * H + j) if reset_after else from_h(2 * H + j, [r[k] * h[k] for k in range(H)])
            n = math.tanh(from_x(2 * H + j) + heard)
            new_h[j] = (1 - z) * n + z * h[j]
    return new_h, new_c


def run_in_loops(cell, x, h0, c0, mask, weights, *, reverse=False, **options):
    T, N, _ = x.shape
    y = np.zeros((T, *h0.shape))
    h, c = h0.copy(), c0.copy()
    for t in reversed(range(T)) if reverse else range(T):
        for n in range(N):
            if mask[t, n]:
                h[n], c[n] = step_in_loops(cell, x[t, n], h[n], c[n], *weights, **options)
                y[t, n] = h[n]
    return np.concatenate([y, h[None], *([c[None]] if cell == "lstm" else [])])


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("cell", "options"), [("rnn", {}), ("lstm", {}), ("gru", {}), ("gru", {"reset_after": False})])
def test_layers_with_loops(cell, options, reverse, rng):
    T, N, D, H = 5, 3, 2, 4
    x, weights = rng.normal(size=(T, N, D)), weights_of(cell, rng, D, H)
    h0, c0 = rng.normal(size=(2, N, H))
    start = (h0, c0)[: STATES[cell]]
    for mask in (np.ones((T, N), bool), length_mask([5, 2, 3]), rng.random((T, N)) < 0.5):
        ours = LAYERS[cell](x, *start, *weights, mask, reverse=reverse, **options)
        assert close(ours, run_in_loops(cell, x, h0, c0, mask, weights, reverse=reverse, **options))


@pytest.mark.parametrize(
    ("cell", "options"),
    [("rnn", {}), ("rnn", {"nonlinearity": "relu"}), ("lstm", {}), ("gru", {}), ("gru", {"reset_after": False})],
)
@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_is_its_cell_step_by_step_with_every_gradient(cell, options, bias, rng):
    """The fused VJP against the engine's, which differentiates the single steps."""
    T, N, D, H = 6, 3, 2, 4
    x, weights = rng.normal(size=(T, N, D)), weights_of(cell, rng, D, H)
    weights = weights if bias else weights[:2]
    start = rng.normal(size=(STATES[cell], N, H))
    step = {"rnn": rnn_cell, "gru": gru_cell, "lstm": lstm_cell}[cell]

    def composed(x, *rest):
        states, weights = rest[: STATES[cell]], rest[STATES[cell] :]
        outputs = []
        for t in range(T):
            states = step(x[t], *states, *weights, **options)
            states = states if cell == "lstm" else (states,)
            outputs.append(states[0][None])
        return concatenate(*outputs, *(s[None] for s in states))

    dy = rng.normal(size=(T + STATES[cell], N, H))
    ours = pulled(LAYERS[cell], x, *start, *weights, dy=dy, **options)
    theirs = pulled(composed, x, *start, *weights, dy=dy)
    for a, b in zip(ours, theirs, strict=True):
        assert close(a, b)


@pytest.mark.parametrize("cell", CELLS)
def test_cells_are_pytorchs(cell, rng):
    twin = getattr(torch.nn, cell.upper() + "Cell")(3, 4).double()
    weights = [p.detach().numpy() for p in twin.parameters()]
    x, h, c = rng.normal(size=(2, 3)), *rng.normal(size=(2, 2, 4))
    if cell == "lstm":
        theirs = twin(torch.tensor(x), (torch.tensor(h), torch.tensor(c)))
        assert all(close(a, b.detach()) for a, b in zip(lstm_cell(x, h, c, *weights), theirs, strict=True))
    else:
        step = rnn_cell if cell == "rnn" else gru_cell
        assert close(step(x, h, *weights), twin(torch.tensor(x), torch.tensor(h)).detach())


def test_cells_refuse_weights_of_another_cell(rng):
    weights = weights_of("gru", rng, 2, 4)
    x, h = rng.normal(size=(3, 2)), rng.normal(size=(3, 4))
    with pytest.raises(ValueError, match="4 gates"):
        lstm_cell(x, h, h, *weights)
    with pytest.raises(ValueError, match="3 gates"):
        gru_cell(x, h, *weights_of("lstm", rng, 2, 4))
    with pytest.raises(ValueError, match="'relu', not 'sine'"):
        rnn_cell(x, h, *weights_of("rnn", rng, 2, 4), nonlinearity="sine")


# PyTorch's layers, all options ---------------------------------------------------------------------------------------


def torch_layer(cell, params, D, H, *, layers, bidirectional, bias, batch_first, nonlinearity="tanh"):
    extra = {"nonlinearity": nonlinearity} if cell == "rnn" else {}
    twin = getattr(torch.nn, cell.upper())(
        D, H, layers, bias=bias, bidirectional=bidirectional, batch_first=batch_first, **extra
    )
    twin = twin.to(torch.float64 if params["weight_hh_l0"].dtype == np.float64 else torch.float32)
    twin.load_state_dict(to_torch(params))  # strict: the names are exactly PyTorch's
    return twin


@settings(deadline=None, max_examples=60)
@given(
    cell=st.sampled_from(CELLS),
    layers=st.integers(1, 3),
    bidirectional=st.booleans(),
    bias=st.booleans(),
    batch_first=st.booleans(),
    padded=st.booleans(),
    start=st.booleans(),
    relu=st.booleans(),
    sizes=st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(1, 3), st.integers(1, 4)),
    dtype=st.sampled_from([np.float64, np.float32]),
    seed=st.integers(0, 999),
)
def test_layers_are_pytorchs_in_outputs_states_and_every_gradient(
    cell, layers, bidirectional, bias, batch_first, padded, start, relu, sizes, dtype, seed
):
    T, N, D, H = sizes
    rng = np.random.default_rng(seed)
    params = recurrent_init(rng, cell, D, H, num_layers=layers, bias=bias, bidirectional=bidirectional, dtype=dtype)
    nonlinearity = "relu" if relu and cell == "rnn" else "tanh"
    twin = torch_layer(
        cell, params, D, H, layers=layers, bidirectional=bidirectional, bias=bias, batch_first=batch_first,
        nonlinearity=nonlinearity,
    )  # fmt: skip
    x = rng.normal(size=(N, T, D) if batch_first else (T, N, D)).astype(dtype)
    lengths = np.append(rng.integers(1, T + 1, N - 1), T)  # the longest one fills all T steps
    initial = rng.normal(size=(STATES[cell], layers * (1 + bidirectional), N, H)).astype(dtype)
    count = STATES[cell] if start else 0

    def ours(params, x, *states):
        state = None if not states else states if cell == "lstm" else states[0]
        mask = length_mask(lengths) if padded else None
        if mask is not None and batch_first:
            mask = mask.T
        y, final = recurrent(params, x, state, mask, batch_first=batch_first, nonlinearity=nonlinearity)
        final = final if cell == "lstm" else (final,)
        assert all(s.shape == initial[0].shape for s in final)
        return concatenate(y.reshape(-1), *(s.reshape(-1) for s in final))

    xt = torch.tensor(x, requires_grad=True)
    initial_t = [torch.tensor(s, requires_grad=True) for s in initial[:count]]
    hx = None if not start else tuple(initial_t) if cell == "lstm" else initial_t[0]
    inputs = xt
    if padded:
        inputs = torch.nn.utils.rnn.pack_padded_sequence(
            xt, torch.tensor(lengths), batch_first=batch_first, enforce_sorted=False
        )
    y, final = twin(inputs, hx)
    if padded:
        y, _ = torch.nn.utils.rnn.pad_packed_sequence(y, batch_first=batch_first)
    theirs = torch.cat([y.reshape(-1), *(s.reshape(-1) for s in (final if cell == "lstm" else (final,)))])

    value, pull = vjp(ours, params, x, *initial[:count])
    assert value.dtype == dtype
    tolerance = 1e-10 if dtype == np.float64 else 1e-4
    assert close(value, theirs.detach(), tolerance)
    dy = rng.normal(size=value.shape).astype(dtype)
    dparams, *others = pull(dy)
    theirs.backward(torch.tensor(dy))
    scale = max(float(p.grad.abs().max()) for p in twin.parameters())
    assert set(dparams) == {name for name, _ in twin.named_parameters()}
    for name, p in twin.named_parameters():
        assert dparams[name].dtype == dtype
        assert np.abs(dparams[name] - p.grad.numpy()).max() <= tolerance * max(scale, 1), name
    for a, b in zip(others, [xt, *initial_t], strict=True):
        assert np.abs(a - b.grad.numpy()).max() <= tolerance * max(scale, 1)


@pytest.mark.parametrize("cell", CELLS)
def test_dropout_stands_between_the_layers(cell, rng):
    """PyTorch's mask is not at hand, so its layers are run one by one with ours between them."""
    params = recurrent_init(rng, cell, 3, 4, num_layers=2, dtype=np.float64)
    x = rng.normal(size=(5, 2, 3))
    mask = dropout_mask(rng, (5, 2, 4), p=0.4)
    ours, _ = recurrent(params, x, dropout_masks=[mask], p=0.4)
    first = torch_layer(
        cell, {k: v for k, v in params.items() if "l0" in k}, 3, 4,
        layers=1, bidirectional=False, bias=True, batch_first=False,
    )  # fmt: skip
    second = torch_layer(
        cell, {k.replace("l1", "l0"): v for k, v in params.items() if "l1" in k}, 4, 4,
        layers=1, bidirectional=False, bias=True, batch_first=False,
    )  # fmt: skip
    middle = first(torch.tensor(x))[0] * torch.tensor(mask / 0.6)
    assert close(ours, second(middle)[0].detach())
    assert not close(ours, recurrent(params, x)[0], 1e-3)


def test_a_wrong_gate_order_would_be_caught(rng):
    """Rows i, f, o, g instead of i, f, g, o; rows z, r, n instead of r, z, n."""
    x = rng.normal(size=(4, 2, 3))
    for cell, order in (("lstm", [0, 1, 3, 2]), ("lstm", [1, 0, 2, 3]), ("gru", [1, 0, 2])):
        params = recurrent_init(rng, cell, 3, 4, dtype=np.float64)
        twin = torch_layer(cell, params, 3, 4, layers=1, bidirectional=False, bias=True, batch_first=False)
        theirs = twin(torch.tensor(x))[0].detach().numpy()
        assert close(recurrent(params, x)[0], theirs)
        rows = np.concatenate([np.arange(4) + 4 * k for k in order])
        mixed = {name: leaf[rows] for name, leaf in params.items()}
        assert not close(recurrent(mixed, x)[0], theirs, 1e-3)


def broken(op, vjp):
    mutant = Primitive(op.forward)
    mutant.vjp = vjp
    return mutant


def test_the_harness_catches_the_common_mistakes():
    """The cell path dropped, dh not carried over a step, the padding's gradient, the reset gate forgotten."""

    def no_cell_path(dy, saved, *args, **static):
        z, hs, cs = saved
        return lstm.vjp(dy, (z, hs, np.zeros_like(cs)), *args, **static)

    def last_step_only(dy, hs, *args, **static):
        return rnn.vjp(np.where(np.arange(len(dy))[:, None, None] == len(dy) - 1, 0, dy), hs, *args, **static)

    def padding_ignored(dy, hs, *args, **static):
        return rnn.vjp(dy, hs, *args[:6], **static)

    def no_reset(dy, saved, *args, **static):
        z, inner, hs = saved
        return gru.vjp(dy, (z, np.zeros_like(inner), hs), *args, **static)

    for op, wrong in ((lstm, no_cell_path), (rnn, last_step_only), (rnn, padding_ignored), (gru, no_reset)):
        assert rejects(broken(op, wrong), reference_named(op)), wrong.__name__


def reference_named(op):
    from nnbook.references import REFERENCES

    return REFERENCES[op.__name__]


# Masks ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_padding_does_not_matter(cell, reverse, rng):
    """Whatever number stands in the padding, neither outputs nor states nor gradients change."""
    T, N, D, H = 5, 3, 2, 3
    x, weights = rng.normal(size=(T, N, D)), weights_of(cell, rng, D, H)
    start = rng.normal(size=(STATES[cell], N, H))
    mask = length_mask([2, 5, 3])
    dy = rng.normal(size=(T + STATES[cell], N, H))
    right = pulled(LAYERS[cell], x, *start, *weights, mask, dy=dy, reverse=reverse)
    garbled = np.where(mask[:, :, None], x, 1e3)
    again = pulled(LAYERS[cell], garbled, *start, *weights, mask, dy=dy, reverse=reverse)
    for a, b in zip(right[:-1], again[:-1], strict=True):
        assert close(a, b)
    assert not right[0][:T][~mask].any()
    assert not right[1][~mask].any()
    assert again[-1] is None


@pytest.mark.parametrize("cell", CELLS)
def test_a_padded_sequence_is_the_short_one_alone(cell, rng):
    x, weights = rng.normal(size=(6, 2, 3)), weights_of(cell, rng, 3, 4)
    start = [None] * STATES[cell]
    for reverse in (False, True):
        together = LAYERS[cell](x, *start, *weights, length_mask([6, 4]), reverse=reverse)
        alone = LAYERS[cell](x[:4, 1:], *start, *weights, reverse=reverse)
        assert close(together[:4, 1:], alone[:4])
        assert close(together[6:, 1:], alone[4:])


def test_a_sequence_of_length_zero_keeps_its_state(rng):
    x, h0, weights = rng.normal(size=(3, 2, 2)), rng.normal(size=(2, 4)), weights_of("gru", rng, 2, 4)
    y = gru(x, h0, *weights, length_mask([3, 0]))
    assert close(y[-1, 1], h0[1])


def test_length_mask():
    assert length_mask([2, 0, 3]).T.tolist() == [[True, True, False], [False] * 3, [True] * 3]
    assert length_mask(np.array([1]), 3).shape == (3, 1)
    for lengths, steps in (([3], 2), ([-1], None), ([1.5], None), (2, None), ([], None)):
        with pytest.raises(ValueError, match="length_mask"):
            length_mask(lengths, steps)


# Layers: parameters and errors ---------------------------------------------------------------------------------------


def test_initial_weights_are_uniform_and_carry_the_forget_bias(rng):
    params = recurrent_init(rng, "lstm", 30, 64, num_layers=2, bidirectional=True, forget_bias=1.5)
    drawn = np.concatenate([leaf.ravel() for key, leaf in params.items() if key.startswith("weight")])
    assert drawn.dtype == np.float32
    assert np.abs(drawn).max() <= np.float32(1 / 8)
    assert scipy.stats.kstest(drawn[:20000] * 8, "uniform", (-1, 2)).pvalue > 1e-6
    for key, leaf in params.items():
        if key.startswith("bias"):
            assert np.array_equal(leaf[64:128], np.full(64, 1.5 if "ih" in key else 0, np.float32))
            assert np.abs(leaf[:64]).max() <= 1 / 8
    assert cell_of(params) == "lstm"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda r: recurrent_init(r, "elman", 2, 2), "one of rnn, gru, lstm, not 'elman'"),
        (lambda r: recurrent_init(r, "rnn", 2, 0), "at least 1"),
        (lambda r: recurrent_init(r, "gru", 2, 2, forget_bias=1.0), "needs an LSTM"),
        (lambda r: recurrent_init(r, "lstm", 2, 2, forget_bias=1.0, bias=False), "with biases"),
        (lambda r: recurrent_init(0, "lstm", 2, 2), "numpy.random.Generator"),
        (lambda r: cell_of({"weight_hh_l0": np.zeros((4, 2))}), "no parameters of a recurrent network"),
        (lambda r: cell_of({}), "no parameters of a recurrent network"),
        (lambda r: recurrent(LSTM, X[0]), r"x has shape \(4, 3\), expected three axes"),
        (lambda r: recurrent(LSTM, X, nonlinearity="relu"), "these are parameters of lstm"),
        (lambda r: recurrent(LSTM, X, reset_after=False), "these are parameters of lstm"),
        (lambda r: recurrent(LSTM, X, dropout_masks=[1, 2]), "2 dropout masks for 1 layers, expected 0"),
        (lambda r: recurrent(LSTM, X, (np.zeros((2, 4, 5)),) * 2), r"expected \(1, 4, 5\)"),
        (lambda r: perplexity(sequence_cross_entropy(np.zeros((3, 2, 5)), np.zeros((2, 3), int))), r"\(2, 3\)"),
        (lambda r: sequence_cross_entropy(np.zeros((3, 2, 5)), np.zeros((3, 2), int), np.ones((3, 2))), "float64"),
        (
            lambda r: sequence_cross_entropy(np.zeros((1, 1, 5)), np.zeros((1, 1), int), np.zeros((1, 1), bool)),
            "no tok",
        ),
        (lambda r: list(chunks(0, X)), "length >= 1"),
        (lambda r: list(chunks(2, X, X[:2])), "same number of steps"),
        (lambda r: encode("abc", ["a", "b"]), r"not in the vocabulary: \['c'\]"),
        (lambda r: decode([2], ["a", "b"]), "allowed is 0 to 1"),
        (lambda r: streams(np.arange(3), 4), "3 tokens do not fill 4 columns"),
        (lambda r: sample(r, np.zeros(3), temperature=-1), "temperature must be >= 0 and finite, not -1"),
        (lambda r: sample(r, np.zeros((2, 0))), r"no token in logits of shape \(2, 0\)"),
        (lambda r: generate(r, {}, [], 3), "need a prompt"),
        (lambda r: ngram_fit([0, 1], order=0, vocab_size=2), "order 0"),
        (lambda r: ngram_fit([0, 1], order=40, vocab_size=100), "63 bits"),
        (lambda r: ngram_fit([0, 2], order=1, vocab_size=2), "tokens run from 0 to 2"),
        (lambda r: ngram_nll(ngram_fit([0], order=1, vocab_size=2), []), "dtype float64|no token"),
        (lambda r: ngram_nll(ngram_fit([0], order=1, vocab_size=2), np.array([], int)), "no token"),
        (lambda r: ngram_nll(ngram_fit([0], order=1, vocab_size=2), [0], concentration=0), "must be positive, not 0"),
        (lambda r: windows(np.zeros(3), 3), r"shape \(3,\) has no 3 values"),
        (lambda r: ar_forecast({"weight": np.ones(3), "bias": 0}, np.ones(2), 1), "shorter than the order 3"),
        (lambda r: skip_gram_pairs([1, 2], window=0), "window must be at least 1"),
        (lambda r: negative_samples(r, [0, 0], 3), "not all zero"),
        (lambda r: skip_gram_loss(skip_gram_init(r, 3, 2), [0, 1], [1], [[0], [1]]), r"\(2,\), \(1,\) and \(2, 1\)"),
        (lambda r: most_similar(np.ones((3, 2)), 3), "row 3"),
        (lambda r: most_similar(np.ones((3, 2)), 0, count=3), "3 neighbours among 3 rows"),
        (lambda r: spectral_radius(np.ones((2, 3))), r"\(2, 3\) is not square"),
        (lambda r: with_spectral_radius(np.zeros((2, 2)), 1.0), "from the radius 0"),
        (lambda r: with_spectral_radius(np.eye(2), -1.0), "to -1.0"),
        (lambda r: gradients_through_time(LSTM, X, np.zeros((3, 5))), r"dh of shape \(3, 5\)"),
    ],
)
def test_bad_arguments_are_refused(call, message, rng):
    with pytest.raises(ValueError, match=message):
        call(rng)


LSTM = recurrent_init(np.random.default_rng(0), "lstm", 3, 5, dtype=np.float64)
X = np.random.default_rng(1).normal(size=(6, 4, 3))


# State, truncation ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", CELLS)
@given(st.integers(1, 7))
@settings(deadline=None, max_examples=10)
def test_a_state_carried_on_makes_two_halves_a_whole(cell, cut):
    rng = np.random.default_rng(cut)
    params = recurrent_init(rng, cell, 3, 4, num_layers=2, dtype=np.float64)
    x = rng.normal(size=(8, 2, 3))
    whole, end = recurrent(params, x)
    first, state = recurrent(params, x[:cut])
    second, state = recurrent(params, x[cut:], state)
    assert close(np.concatenate([first, second]), whole)
    assert close(np.stack(state), np.stack(end))


def torch_truncated(twin, tokens, targets, length):
    """The loop that everybody writes: forward, backward, detach."""
    state, total = None, 0.0
    for t in range(0, len(tokens), length):
        logits, state = twin(torch.tensor(tokens[t : t + length]), state)
        loss = torch.nn.functional.cross_entropy(
            logits.reshape(-1, logits.shape[-1]), torch.tensor(targets[t : t + length].reshape(-1)), reduction="sum"
        )
        (loss / targets.size).backward()
        total += loss.item() / targets.size
        state = tuple(s.detach() for s in state) if isinstance(state, tuple) else state.detach()
    return total, state


def language_loss(params, x, y, state):
    logits, state = char_rnn(params, x, state)
    return sequence_cross_entropy(logits, y), state


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("length", [1, 3, 4, 12])
def test_truncated_gradients_are_those_of_the_detached_loop(cell, length, rng):
    params = char_rnn_init(rng, 5, 6, cell=cell, embedding_size=4, num_layers=2, dtype=np.float64)
    twin = twins.char_rnn(5, 6, cell=cell, embedding_size=4, num_layers=2).double()
    twin.load_state_dict(to_torch(params))
    text = rng.integers(0, 5, (13, 3))
    value, grads, state = truncated_bptt(language_loss, params, text[:-1], text[1:], None, length=length)
    theirs, end = torch_truncated(twin, text[:-1], text[1:], length)
    assert close(value, theirs)
    for name, p in twin.named_parameters():
        assert close(flatten(grads)[name], p.grad, 1e-10), name
    end = torch.stack(end) if isinstance(end, tuple) else end
    assert close(np.stack(state) if isinstance(state, tuple) else state, end)
    whole, exact = value_and_grad(lambda p: language_loss(p, text[:-1], text[1:], None)[0])(params)
    assert close(value, whole), "truncation changes no loss"
    same = close(flatten(grads)["rnn.weight_hh_l0"], flatten(exact)["rnn.weight_hh_l0"], 1e-10)
    assert same == (length == 12), "and the gradient is whole only if nothing was cut"


def test_a_chunk_knows_nothing_of_the_chunks_before_by_hand():
    """h_t = u h_{t-1}, h_0 = 1, loss h_2 alone: dL/du = 2 u in one chunk, h_1 = u in two."""
    u = {"u": np.array([[3.0]])}

    def loss(params, x, y, state):
        h = rnn(x, state, np.zeros((1, 1)), params["u"], nonlinearity="relu")
        return (h[:-1] * y).mean(), h[-1]

    x, y = np.zeros((2, 1, 1)), np.array([[[0.0]], [[2.0]]])  # the mean over two steps halves it again
    for length, expected in ((2, 6.0), (1, 3.0)):
        value, grads, state = truncated_bptt(loss, u, x, y, np.ones((1, 1)), length=length)
        assert (value, state.item()) == (9.0, 9.0)
        assert grads["u"].item() == expected


def test_stop_gradient_gives_plain_arrays_of_the_same_numbers():
    seen = []

    def f(x):
        stopped = stop_gradient((x * 2, {"a": x, "b": None}, [x]))
        seen.append(stopped)
        return (x * stopped[0]).sum()

    value, pull = vjp(f, np.array([1.0, 2.0]))
    assert value == 10
    assert pull(1.0)[0].tolist() == [2, 4]  # not 4 x
    assert isinstance(seen[0], tuple)
    assert type(seen[0][0]) is type(seen[0][1]["a"]) is type(seen[0][2][0]) is np.ndarray
    assert seen[0][1]["b"] is None


def test_the_state_comes_back_off_the_tape(rng):
    params = char_rnn_init(rng, 4, 3, cell="lstm")
    text = rng.integers(0, 4, (6, 2))
    _, grads, state = value_and_grad_with_state(language_loss)(params, text[:-1], text[1:], None)
    assert all(type(s) is np.ndarray and s.dtype == np.float32 for s in state)
    assert all(g.dtype == np.float32 for g in flatten(grads).values())
    value_and_grad_with_state(language_loss)(params, text[:-1], text[1:], state)


def test_float32_stays_float32_through_truncation(rng):
    params = char_rnn_init(rng, 4, 3, cell="gru")
    text = rng.integers(0, 4, (8, 2))
    _, grads, _ = truncated_bptt(language_loss, params, text[:-1], text[1:], None, length=3)
    assert {g.dtype for g in flatten(grads).values()} == {np.dtype(np.float32)}


def test_chunks_cover_everything_once():
    a = np.arange(7)
    assert [part.tolist() for (part,) in chunks(3, a)] == [[0, 1, 2], [3, 4, 5], [6]]
    assert all(x is not y and len(x) == len(y) for x, y in chunks(2, a, a * 2))


@pytest.mark.parametrize("cell", CELLS)
def test_gradients_through_time_are_those_of_the_states(cell, rng):
    """Cut the sequence after t steps: the cotangent of the state there is that of the second part's initial state."""
    params = recurrent_init(rng, cell, 3, 4, dtype=np.float64)
    weights = [params[f"{name}_l0"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
    x, dh = rng.normal(size=(6, 2, 3)), rng.normal(size=(2, 4))
    start = tuple(rng.normal(size=(STATES[cell], 2, 4)))
    by_h, by_c = gradients_through_time(params, x, dh, start if cell == "lstm" else start[0])
    assert by_h.shape == (7, 2, 4)
    for t in range(6):
        before = LAYERS[cell](x[:t], *start, *weights) if t else None
        state = start if before is None else before[t:]
        dy = np.zeros((6 - t + STATES[cell], 2, 4))
        dy[6 - t] = dh
        _, _, *found = pulled(LAYERS[cell], x[t:], *state, *weights, dy=dy)
        assert close(by_h[t], found[0])
        if cell == "lstm":
            assert close(by_c[t], found[1])
    assert close(by_h[6], dh)
    assert (by_c is None) == (cell != "lstm")


# Linear recurrences --------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 3), st.booleans(), st.integers(0, 99))
def test_the_scan_is_the_loop(T, size, start, seed):
    rng = np.random.default_rng(seed)
    a, b, h0, dy = *rng.uniform(-1.2, 1.2, (2, T, size)), rng.normal(size=size), rng.normal(size=(T, size))
    args = (a, b, h0) if start else (a, b)
    ours = pulled(linear_recurrence, *args, dy=dy)
    loop = pulled(linear_recurrence, *args, dy=dy, method="loop")
    h, plain = h0 if start else np.zeros(size), []
    for t in range(T):
        h = a[t] * h + b[t]
        plain.append(h)
    assert close(ours[0], plain)
    for x, y in zip(ours, loop, strict=True):
        assert close(x, y, 1e-10)


def test_steps_compose_associatively(rng):
    def then(first, second):
        return second[0] * first[0], second[0] * first[1] + second[1]

    p, q, r = rng.normal(size=(3, 2))
    assert close(then(then(p, q), r), then(p, then(q, r)))
    assert not close(then(p, q), then(q, p), 1e-3)


# Losses and figures of merit -----------------------------------------------------------------------------------------


def test_padding_does_not_count_in_the_loss(rng):
    logits, targets = rng.normal(size=(4, 3, 5)), rng.integers(0, 5, (4, 3))
    mask = length_mask([4, 1, 2])
    targets = np.where(mask, targets, -100)

    def ours(logits):
        return sequence_cross_entropy(logits, targets, mask)

    value, pull = vjp(ours, logits)
    grad = pull(1.0)[0]
    lt = torch.tensor(logits, requires_grad=True)
    theirs = torch.nn.functional.cross_entropy(lt.reshape(-1, 5), torch.tensor(targets.reshape(-1)), ignore_index=-100)
    theirs.backward()
    assert close(value, theirs.detach())
    assert close(grad, lt.grad)
    assert not grad[~mask].any()
    assert close(sequence_cross_entropy(logits, targets, mask, reduction="sum"), 7 * value)
    by_hand = -np.mean(
        [logits[t, n, targets[t, n]] - math.log(sum(math.exp(v) for v in logits[t, n])) for t, n in np.argwhere(mask)]
    )
    assert close(value, by_hand)


@given(st.integers(1, 200))
def test_the_perplexity_of_a_uniform_model_is_the_number_of_tokens(K):
    nll = sequence_cross_entropy(np.zeros((2, 3, K)), np.zeros((2, 3), int))
    assert np.isclose(perplexity(nll), K, rtol=1e-12)
    assert np.isclose(2 ** bits_per_character(nll), K, rtol=1e-12)


# Characters ----------------------------------------------------------------------------------------------------------


@given(st.text(min_size=1))
def test_encoding_can_be_undone(text):
    tokens = vocabulary(text)
    indices = encode(text, tokens)
    assert decode(indices, tokens) == text
    assert indices.dtype == np.int64
    assert tokens == sorted(set(text))


def test_words_are_tokens_too():
    words = ["the", "cat", "saw", "the", "dog"]
    tokens = vocabulary(words)
    assert tokens == ["cat", "dog", "saw", "the"]
    assert decode(encode(words, tokens), tokens) == "the cat saw the dog"


def test_streams_are_contiguous_columns():
    assert streams(np.arange(11), 3).T.tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_samples_have_the_frequencies_of_the_softmax(temperature, rng):
    logits = np.array([1.0, -1.0, 0.0, 2.0, -np.inf])
    drawn = sample(rng, np.broadcast_to(logits, (200, 100, 5)), temperature=temperature)
    p = np.exp(logits / temperature)
    p /= p.sum()
    counts = np.bincount(drawn.ravel(), minlength=5)
    assert counts[4] == 0
    assert scipy.stats.chisquare(counts[:4], 20000 * p[:4]).pvalue > 1e-4
    wrong = np.exp(logits[:4] / (1.1 * temperature))
    assert scipy.stats.chisquare(counts[:4], 20000 * wrong / wrong.sum()).pvalue < 1e-4, "the test has teeth"


def test_at_temperature_zero_the_likeliest_is_taken(rng):
    logits = rng.normal(size=(50, 7))
    assert np.array_equal(sample(rng, logits, temperature=0), logits.argmax(1))
    assert sample(rng, 1e4 * logits[0]).shape == ()
    assert np.array_equal(sample(rng, logits, temperature=1e-3), logits.argmax(1))


def test_rows_are_drawn_independently(rng):
    drawn = sample(rng, np.zeros((20000, 2, 2)))
    table = np.array([[np.sum((drawn[:, 0] == i) & (drawn[:, 1] == j)) for j in (0, 1)] for i in (0, 1)])
    assert scipy.stats.chi2_contingency(table).pvalue > 1e-4


@pytest.mark.parametrize("cell", CELLS)
def test_generation_step_by_step_is_the_whole_sequence_at_once(cell, rng):
    """At temperature 0 every drawn token is the likeliest after prompt and drawn tokens, all read in one go."""
    params = char_rnn_init(rng, 6, 8, cell=cell, num_layers=2, dtype=np.float64)
    prompt = rng.integers(0, 6, (3, 2))
    drawn = generate(rng, params, prompt, 7, temperature=0)
    assert drawn.shape == (7, 2)
    logits, _ = char_rnn(params, np.concatenate([prompt, drawn]))
    assert np.array_equal(logits[2:-1].argmax(-1), drawn)
    assert np.array_equal(generate(rng, params, prompt[:, 0], 7, temperature=0), drawn[:, 0])
    assert generate(rng, params, prompt, 0).shape == (0, 2)


@pytest.mark.parametrize("cell", CELLS)
def test_the_character_model_is_its_twin(cell, rng):
    params = char_rnn_init(rng, 7, 5, cell=cell, embedding_size=3, num_layers=2, dtype=np.float64)
    twin = twins.char_rnn(7, 5, cell=cell, embedding_size=3, num_layers=2).double()
    twin.load_state_dict(to_torch(params))
    tokens, targets = rng.integers(0, 7, (2, 6, 4))
    value, grads = value_and_grad(lambda p: language_loss(p, tokens, targets, None)[0])(params)
    loss = torch.nn.functional.cross_entropy(
        twin(torch.tensor(tokens))[0].reshape(-1, 7), torch.tensor(targets.reshape(-1))
    )
    loss.backward()
    assert close(value, loss.detach())
    for name, p in twin.named_parameters():
        assert close(flatten(grads)[name], p.grad, 1e-10), name
    back = from_torch(twin.state_dict())
    assert all(np.array_equal(a, flatten(params)[name]) for name, a in flatten(back).items())


def test_a_character_model_learns_a_cycle(rng):
    """0 1 2 3 0 1 2 3: after training the next character is sure."""
    params = char_rnn_init(rng, 4, 16, cell="gru")
    text = np.tile(np.arange(4), 8)[:, None]
    state = adam_init(params)
    for _ in range(60):
        _, grads, _ = value_and_grad_with_state(language_loss)(params, text[:-1], text[1:], None)
        params, state = adam(params, grads, state, lr=0.03)
    assert language_loss(params, text[:-1], text[1:], None)[0] < 0.2
    assert generate(rng, params, [0, 1], 6, temperature=0).tolist() == [2, 3, 0, 1, 2, 3]


# Sequence to sequence, classifiers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", CELLS)
def test_sequence_to_sequence_is_its_twin(cell, rng):
    params = seq2seq_init(rng, 6, 5, 4, cell=cell, embedding_size=3, num_layers=2, dtype=np.float64)
    twin = twins.seq2seq(6, 5, 4, cell=cell, embedding_size=3, num_layers=2).double()
    twin.load_state_dict(to_torch(params))
    source, target = rng.integers(0, 6, (7, 3)), rng.integers(0, 5, (4, 3))
    lengths = np.array([7, 2, 5])
    dy = rng.normal(size=(4, 3, 5))
    for given_lengths in (None, lengths):
        mask = None if given_lengths is None else length_mask(given_lengths)
        value, pull = vjp(lambda p, mask=mask: seq2seq(p, source, target, mask), params)
        lt = None if given_lengths is None else torch.tensor(given_lengths)
        twin.zero_grad()
        theirs = twin(torch.tensor(source), torch.tensor(target), lt)
        theirs.backward(torch.tensor(dy))
        assert close(value, theirs.detach())
        grads = flatten(pull(dy)[0])
        for name, p in twin.named_parameters():
            assert close(grads[name], p.grad, 1e-10), name


def test_greedy_decoding_feeds_back_its_own_answers(rng):
    params = seq2seq_init(rng, 6, 5, 8, dtype=np.float64)
    source = rng.integers(0, 6, (4, 3))
    mask = length_mask([4, 2, 3])
    answer = greedy_decode(params, source, 5, start=0, source_mask=mask)
    read = np.concatenate([np.zeros((1, 3), int), answer[:-1]])
    assert np.array_equal(seq2seq(params, source, read, mask).argmax(-1), answer)
    other = np.where(mask, source, 5)  # what stands in the padding does not matter
    assert np.array_equal(greedy_decode(params, other, 5, start=0, source_mask=mask), answer)


def test_all_that_the_decoder_knows_is_the_last_state(rng):
    """Two sources with the same state would give the same answer: cut the state, and the source is forgotten."""
    params = seq2seq_init(rng, 6, 5, 8, dtype=np.float64)
    one, other = rng.integers(0, 6, (2, 4, 1))
    target = np.zeros((3, 1), int)
    assert not close(seq2seq(params, one, target), seq2seq(params, other, target), 1e-3)
    params["encoder"]["rnn"] = {name: 0 * leaf for name, leaf in params["encoder"]["rnn"].items()}
    assert close(seq2seq(params, one, target), seq2seq(params, other, target))


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_the_classifier_is_its_twin(cell, bidirectional, rng):
    params = recurrent_classifier_init(rng, cell, 3, 4, 2, num_layers=2, bidirectional=bidirectional, dtype=np.float64)
    twin = twins.recurrent_classifier(cell, 3, 4, 2, num_layers=2, bidirectional=bidirectional).double()
    twin.load_state_dict(to_torch(params))
    x, y = rng.normal(size=(5, 3, 3)), np.array([0, 1, 1])
    lengths = np.array([5, 2, 3])
    for given_lengths in (None, lengths):
        mask = None if given_lengths is None else length_mask(given_lengths)
        value, grads = value_and_grad(lambda p, m=mask: cross_entropy(recurrent_classifier(p, x, m), y))(params)
        twin.zero_grad()
        lt = None if given_lengths is None else torch.tensor(given_lengths)
        loss = torch.nn.functional.cross_entropy(twin(torch.tensor(x), lt), torch.tensor(y))
        loss.backward()
        assert close(value, loss.detach())
        for name, p in twin.named_parameters():
            assert close(flatten(grads)[name], p.grad, 1e-10), name


# n-grams -------------------------------------------------------------------------------------------------------------


def counted(tokens, order, K, context, m):
    """The definition, by counting through the text for every token and every order."""
    p = [1 / K] * K
    for n in range(1, order + 1):
        if n - 1 > len(context):
            break
        u = list(context[len(context) - n + 1 :])
        places = [i for i in range(len(tokens) - n + 1) if list(tokens[i : i + n - 1]) == u]
        p = [(sum(tokens[i + n - 1] == c for i in places) + m * p[c]) / (len(places) + m) for c in range(K)]
    return p


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=30),
    st.integers(1, 4),
    st.lists(st.integers(0, 3), max_size=5),
    st.floats(0.1, 10),
)
def test_interpolated_counts_with_loops(tokens, order, context, m):
    model = ngram_fit(tokens, order=order, vocab_size=4)
    p = ngram_probabilities(model, context, concentration=m)
    assert np.allclose(p, counted(tokens, order, 4, context, m), rtol=1e-12, atol=0)
    assert np.isclose(p.sum(), 1, rtol=1e-12)
    assert p.min() > 0


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=30),
    st.lists(st.integers(0, 3), min_size=1, max_size=12),
    st.integers(1, 4),
)
def test_the_likelihood_of_a_text_is_that_of_its_tokens(tokens, text, order):
    model = ngram_fit(tokens, order=order, vocab_size=4)
    one_by_one = [ngram_probabilities(model, text[:i], concentration=2.0)[c] for i, c in enumerate(text)]
    assert np.isclose(ngram_nll(model, text, concentration=2.0), -np.mean(np.log(one_by_one)), rtol=1e-12)


def test_a_bigram_by_hand():
    """abab a: after a comes b twice; p_1(b) = (2 + 1/2) / (5 + 1), p(b | a) = (2 + p_1(b)) / (2 + 1)."""
    model = ngram_fit([0, 1, 0, 1, 0], order=2, vocab_size=2)
    p1 = (2 + 0.5) / 6
    assert np.isclose(ngram_probabilities(model, [0])[1], (2 + p1) / 3)
    assert np.isclose(ngram_probabilities(model, [])[1], p1)


def test_the_search_takes_what_is_best_on_validation_data(rng):
    p = rng.dirichlet(np.full(5, 0.3), size=5)  # a Markov chain: bigrams know all there is to know
    chain = [0]
    for _ in range(6000):
        chain.append(int(rng.choice(5, p=p[chain[-1]])))
    train, validation = chain[:5000], chain[5000:]
    best = ngram_search(train, validation, vocab_size=5, orders=(1, 2, 3, 4), concentrations=(1, 4, 16))
    assert best["order"] == 2 or best["nll"] > best["table"][1].min() - 0.01
    assert best["nll"] == best["table"].min()
    model = ngram_fit(train, order=best["order"], vocab_size=5)
    assert np.isclose(ngram_nll(model, validation, concentration=best["concentration"]), best["nll"], rtol=1e-12)
    assert best["table"][0].min() > best["table"][1].min() + 0.1


def test_the_default_grid_of_the_search_fits_every_vocabulary(rng):
    """Nine of a thousand tokens do not fit into 63 bits; six do."""
    for size, orders in ((5, 9), (103, 9), (1000, 6)):
        text = rng.integers(0, 5, 300)
        assert ngram_search(text, text[:50], vocab_size=size)["table"].shape == (orders, 9)


def test_a_unigram_of_uniform_chance_has_perplexity_near_the_vocabulary(rng):
    train, test = rng.integers(0, 10, (2, 20000))
    nll = ngram_nll(ngram_fit(train, order=1, vocab_size=10), test)
    assert 9.99 < perplexity(nll) < 10.1


# Autoregression ------------------------------------------------------------------------------------------------------


def test_windows_stand_before_their_values():
    X, y = windows(np.arange(5), 2)
    assert X.tolist() == [[0, 1], [1, 2], [2, 3]]
    assert y.tolist() == [2, 3, 4]


def test_autoregression_finds_the_law_of_a_series(rng):
    s = [1.0, 2.0]
    for _ in range(60):
        s.append(0.5 + 1.6 * s[-1] - 0.9 * s[-2])
    params = ar_fit(s[:40], order=2)
    assert close(params["weight"], [-0.9, 1.6], 1e-9)
    assert np.isclose(params["bias"], 0.5)
    assert close(ar_predict(params, s), s[2:], 1e-9)
    assert close(ar_forecast(params, s[:40], 20), s[40:60], 1e-6)


def test_autoregression_is_least_squares(rng):
    s = rng.normal(size=50).cumsum()
    params = ar_fit(s, order=3)
    residual = s[3:] - ar_predict(params, s)
    X, _ = windows(s, 3)
    assert np.abs(X.T @ residual).max() < 1e-9 * np.abs(X).sum()
    assert abs(residual.sum()) < 1e-9


# Skip-gram -----------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 5), min_size=1, max_size=12), st.integers(1, 4))
def test_pairs_are_all_neighbours(tokens, window):
    centers, contexts = skip_gram_pairs(tokens, window=window)
    n = len(tokens)
    expected = [(tokens[i], tokens[j]) for i in range(n) for j in range(n) if 0 < abs(i - j) <= window]
    assert sorted(zip(centers.tolist(), contexts.tolist(), strict=True)) == sorted(expected)


def test_negative_samples_have_the_flattened_frequencies(rng):
    counts = np.array([100, 10, 0, 1])
    p = counts**0.75 / (counts**0.75).sum()
    drawn = np.bincount(negative_samples(rng, counts, (100, 200)).ravel(), minlength=4)
    assert drawn[2] == 0
    assert scipy.stats.chisquare(drawn[[0, 1, 3]], 20000 * p[[0, 1, 3]]).pvalue > 1e-4
    equal = np.bincount(negative_samples(rng, counts, 3000, power=0), minlength=4)
    assert equal[2] == 0
    assert scipy.stats.chisquare(equal[[0, 1, 3]]).pvalue > 1e-4


def test_the_loss_of_negative_sampling_with_loops(rng):
    params = skip_gram_init(rng, 6, 3, dtype=np.float64)
    params["output"]["weight"] = rng.normal(size=(6, 3))
    centers, contexts, negatives = rng.integers(0, 6, 5), rng.integers(0, 6, 5), rng.integers(0, 6, (5, 2))
    total = 0.0
    for c, o, drawn in zip(centers, contexts, negatives, strict=True):
        v = params["input"]["weight"][c]
        total -= math.log(sigma(params["output"]["weight"][o] @ v))
        total -= sum(math.log(sigma(-params["output"]["weight"][k] @ v)) for k in drawn)
    assert close(skip_gram_loss(params, centers, contexts, negatives), total / 5)
    start = skip_gram_init(rng, 6, 3)
    assert np.isclose(skip_gram_loss(start, centers, contexts, negatives), 3 * math.log(2))
    assert np.abs(start["input"]["weight"]).max() <= 1 / 6
    value, grads = value_and_grad(skip_gram_loss)(params, centers, contexts, negatives)
    tensors = {name: torch.tensor(leaf, requires_grad=True) for name, leaf in flatten(params).items()}
    v, u = tensors["input.weight"][centers], tensors["output.weight"]
    scores = torch.cat([(u[contexts] * v).sum(1, keepdim=True), -(u[negatives] * v[:, None]).sum(2)], 1)
    loss = -torch.nn.functional.logsigmoid(scores).sum(1).mean()
    loss.backward()
    assert close(value, loss.detach())
    assert all(close(g, tensors[name].grad) for name, g in flatten(grads).items())


def test_most_similar_is_by_the_angle():
    vectors = np.array([[1.0, 0.0], [5.0, 0.1], [0.0, 1.0], [-1.0, 0.0], [0.0, 0.0]])
    nearest, cosines = most_similar(vectors, 0, count=4)
    assert nearest.tolist() == [1, 2, 4, 3]
    assert np.isclose(cosines[0], 5 / math.hypot(5, 0.1))
    assert cosines[1:].tolist() == [0, 0, -1]


# Recurrent matrices --------------------------------------------------------------------------------------------------


def test_spectral_radius_by_hand():
    assert np.isclose(spectral_radius(np.array([[0.0, 2.0], [-2.0, 0.0]])), 2)  # eigenvalues +-2i
    assert spectral_radius(np.array([[0.5, 100.0], [0.0, -0.25]])) == 0.5  # not a norm


def test_a_matrix_can_be_given_a_radius(rng):
    W = rng.normal(size=(20, 20)).astype(np.float32)
    scaled = with_spectral_radius(W, 0.9)
    assert scaled.dtype == np.float32
    assert np.isclose(spectral_radius(scaled), 0.9, rtol=1e-4)
    assert np.isclose(spectral_radius(orthogonal(rng, (8, 8), dtype=np.float64)), 1)


@pytest.mark.parametrize("rho", [0.9, 1.0, 1.1])
def test_a_gradient_vanishes_or_explodes_by_the_radius(rho, rng):
    """At h = 0 the slope of tanh is 1, so that T steps of rho times a rotation change the norm by rho^T exactly."""
    params = {
        "weight_ih_l0": np.zeros((6, 2)),
        "weight_hh_l0": rho * orthogonal(rng, (6, 6), dtype=np.float64),
    }
    by_h, _ = gradients_through_time(params, np.zeros((50, 1, 2)), rng.normal(size=(1, 6)))
    norms = np.linalg.norm(by_h[:, 0], axis=1)
    assert np.allclose(norms / norms[-1], rho ** np.arange(50, -1, -1.0), rtol=1e-10)


# Memory --------------------------------------------------------------------------------------------------------------


def peaks(cell, T, layers=1):
    """Bytes above the start: held after the forward pass, at the peak of the backward sweep, and left after it.

    Many sequences and few steps: the bytes of a long recurrence without its time.
    """
    rng = np.random.default_rng(0)
    params = recurrent_init(rng, cell, SIZE, SIZE, num_layers=layers)
    x = rng.normal(size=(T, SEQUENCES, SIZE)).astype(np.float32)
    gc.freeze()  # what exists already need not be searched
    tracemalloc.start()
    y, pull = vjp(lambda p: recurrent(p, x)[0], params)
    held = tracemalloc.get_traced_memory()[0]
    dy = np.ones_like(y)
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    grads = pull(dy)
    peak = tracemalloc.get_traced_memory()[1]
    del grads, y, dy, pull
    gc.collect()
    left = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    gc.unfreeze()
    return held, peak - before, left


SEQUENCES, SIZE = 40, 32
STEP = SEQUENCES * SIZE * 4
"""Bytes of one state of all sequences."""


@pytest.mark.parametrize("cell", CELLS)
def test_memory_grows_linearly_with_the_number_of_steps(cell):
    short, long = peaks(cell, 20), peaks(cell, 80)
    for a, b in zip(short[:2], long[:2], strict=True):
        assert b <= 4.2 * a + 1e5
    assert long[0] <= (2 * GATES[cell] + 6) * 80 * STEP


@pytest.mark.parametrize("cell", CELLS)
def test_memory_is_freed_during_the_backward_sweep(cell):
    """Six layers: were nothing freed, the sweep's own arrays would come on top, six layers of them."""
    held, extra, left = peaks(cell, 60, layers=6)
    one = peaks(cell, 60)
    assert extra <= 0.5 * held
    assert extra <= one[1] + 2.5 * 60 * STEP * GATES[cell]
    assert left < 0.05 * held


def test_inputs_of_other_shapes_are_refused_by_composed_models(rng):
    params = char_rnn_init(rng, 5, 4)
    with pytest.raises(ValueError, match="tokens run from 5 to 5"):
        char_rnn(params, np.full((2, 2), 5))
    with pytest.raises(ValueError, match="expected integers"):
        char_rnn(params, np.zeros((2, 2)))


def test_parameters_say_which_cell_they_are(rng):
    for cell, bias in itertools.product(CELLS, (True, False)):
        assert cell_of(recurrent_init(rng, cell, 2, 3, bias=bias)) == cell


# The order of a dict means nothing --------------------------------------------------------------------------------


def shuffled(tree, rng):
    """The same tree with its keys in another order, at every level."""
    if not isinstance(tree, dict):
        return tree
    keys = list(tree)
    return {keys[i]: shuffled(tree[keys[i]], rng) for i in rng.permutation(len(keys))}


def through_a_file(tree, path):
    """As safetensors gives it back: by its own order of the names."""
    save_file({name: np.array(leaf) for name, leaf in flatten(tree).items()}, path)
    return unflatten(load_file(path))


DEEP = {"num_layers": 11, "dtype": np.float64}
DEEP_NETWORKS = {
    **{
        f"recurrent {cell}{', both ways' * ends}": (
            lambda r, cell=cell, ends=ends: recurrent_init(r, cell, 3, 2, bidirectional=ends, **DEEP),
            lambda p, r: recurrent(p, r.normal(size=(4, 2, 3)), None, length_mask([4, 2])),
        )
        for cell in CELLS
        for ends in (False, True)
    },
    "recurrent_classifier": (
        lambda r: recurrent_classifier_init(r, "lstm", 3, 2, 4, bidirectional=True, **DEEP),
        lambda p, r: recurrent_classifier(p, r.normal(size=(4, 2, 3))),
    ),
    "char_rnn": (
        lambda r: char_rnn_init(r, 5, 3, cell="gru", **DEEP),
        lambda p, r: char_rnn(p, r.integers(0, 5, (4, 2))),
    ),
    "seq2seq": (
        lambda r: seq2seq_init(r, 5, 6, 3, **DEEP),
        lambda p, r: seq2seq(p, r.integers(0, 5, (4, 2)), r.integers(0, 6, (3, 2))),
    ),
    "greedy_decode": (
        lambda r: seq2seq_init(r, 5, 6, 3, **DEEP),
        lambda p, r: greedy_decode(p, r.integers(0, 5, (4, 2)), 5, start=0),
    ),
    "generate": (
        lambda r: char_rnn_init(r, 5, 3, **DEEP),
        lambda p, r: generate(r, p, [1, 2], 9),
    ),
    "gradients_through_time": (
        lambda r: recurrent_init(r, "lstm", 3, 2, dtype=np.float64),
        lambda p, r: gradients_through_time(p, r.normal(size=(4, 2, 3)), r.normal(size=(2, 2))),
    ),
    "skip_gram_loss": (
        lambda r: {"input": {"weight": r.normal(size=(5, 3))}, "output": {"weight": r.normal(size=(5, 3))}},
        lambda p, r: skip_gram_loss(p, [0, 1], [2, 3], [[4], [0]]),
    ),
}


def arrays_of(result):
    return [a for part in result for a in arrays_of(part)] if isinstance(result, tuple) else [np.asarray(result)]


@pytest.mark.parametrize("name", DEEP_NETWORKS)
def test_a_network_takes_its_order_from_the_names(name, tmp_path):
    init, run = DEEP_NETWORKS[name]
    params = init(np.random.default_rng(0))
    right = arrays_of(run(params, np.random.default_rng(1)))
    others = [
        through_a_file(params, tmp_path / "file"),
        *(shuffled(params, np.random.default_rng(s)) for s in range(6)),
    ]
    assert any(list(flatten(other)) != list(flatten(params)) for other in others)
    for other in others:
        for a, b in zip(arrays_of(run(other, np.random.default_rng(1))), right, strict=True):
            assert np.array_equal(a, b)


# A mask leaves out --------------------------------------------------------------------------------------------------

BAD_NUMBERS = [np.nan, np.inf, -np.inf, 1e300]


@pytest.mark.parametrize("bad", BAD_NUMBERS)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("cell", [*CELLS, "rnn relu", "gru reset before"])
def test_whatever_stands_in_masked_steps_is_left_out(cell, reverse, bad, rng):
    """Outputs, states and all gradients are those of each sequence alone, cut to its length."""
    options = {"rnn relu": {"nonlinearity": "relu"}, "gru reset before": {"reset_after": False}}.get(cell, {})
    cell = cell.split()[0]
    lengths, T, D, H, S = [4, 2, 0, 3], 4, 3, 2, STATES[cell]
    mask, N = length_mask(lengths), len(lengths)
    x, weights, start = rng.normal(size=(T, N, D)), weights_of(cell, rng, D, H), rng.normal(size=(S, N, H))
    dy = rng.normal(size=(T + S, N, H))
    dy[:T][~mask] = bad  # what a later layer may send back to the padding
    x[~mask] = bad
    y, dx, *rest = pulled(LAYERS[cell], x, *start, *weights, mask, dy=dy, reverse=reverse, **options)
    dstart, dweights = rest[:S], rest[S : S + 4]
    sums = [np.zeros_like(w) for w in weights]
    assert not y[:T][~mask].any()
    assert not dx[~mask].any()
    for n, length in enumerate(lengths):
        if not length:
            assert close(y[T:, n], start[:, n])
            assert all(close(d[n], dy[T + s, n]) for s, d in enumerate(dstart))
            continue
        one = slice(n, n + 1)
        cut = np.concatenate([dy[:length, one], dy[T:, one]])
        alone = pulled(LAYERS[cell], x[:length, one], *start[:, one], *weights, dy=cut, reverse=reverse, **options)
        assert close(np.concatenate([y[:length, one], y[T:, one]]), alone[0])
        assert close(dx[:length, one], alone[1])
        assert all(close(d[one], a) for d, a in zip(dstart, alone[2 : 2 + S], strict=True))
        for total, part in zip(sums, alone[2 + S : 6 + S], strict=True):
            total += part
    assert all(close(a, b) for a, b in zip(dweights, sums, strict=True))


@pytest.mark.parametrize("cell", CELLS)
def test_a_state_of_nan_stays_with_its_empty_sequence(cell, rng):
    """A sequence without a step keeps its state, whatever that is, and has no share in outputs and gradients."""
    S, weights = STATES[cell], weights_of(cell, rng, 3, 2)
    x, start = rng.normal(size=(3, 2, 3)), rng.normal(size=(S, 2, 2))
    start[:, 1] = np.nan
    dy = rng.normal(size=(3 + S, 2, 2))
    y, *grads = pulled(LAYERS[cell], x, *start, *weights, length_mask([3, 0]), dy=dy)
    alone, *right = pulled(LAYERS[cell], x[:, :1], *start[:, :1], *weights, dy=dy[:, :1])
    assert close(y[:, :1], alone)
    assert not y[:3, 1].any()
    assert all(close(a, b) for a, b in zip(grads[1 + S : 5 + S], right[1 + S : 5 + S], strict=True))
    assert all(np.isfinite(g).all() for g in grads[:-1])


@pytest.mark.parametrize("bad", BAD_NUMBERS[:2])
@pytest.mark.parametrize("cell", CELLS)
def test_gradients_beside_padding_are_those_of_packed_sequences(cell, bad, rng):
    """Two layers, both ways, as ``pack_padded_sequence`` has them, although the padding is not finite."""
    params = recurrent_init(rng, cell, 3, 4, num_layers=2, bidirectional=True, dtype=np.float64)
    twin = torch_layer(cell, params, 3, 4, layers=2, bidirectional=True, bias=True, batch_first=False)
    x, lengths = rng.normal(size=(4, 2, 3)), [4, 2]
    x[2:, 1] = bad
    upstream = rng.normal(size=(4, 2, 8))
    upstream[2:, 1] = 0

    def loss(params):
        y, _ = recurrent(params, x, None, length_mask(lengths))
        return (y * upstream).sum()

    value, grads = value_and_grad(loss)(params)
    packed = torch.nn.utils.rnn.pack_padded_sequence(torch.tensor(x), lengths)
    y, _ = torch.nn.utils.rnn.pad_packed_sequence(twin(packed)[0])
    theirs = (y * torch.tensor(upstream)).sum()
    theirs.backward()
    assert close(value, theirs.item())
    for name, p in twin.named_parameters():
        assert close(grads[name], p.grad), name


@pytest.mark.parametrize("cell", CELLS)
def test_a_token_of_nan_in_the_padding_is_left_out(cell, rng):
    """Embedding, network, output layer and loss together: neither value nor gradient sees the padding's vector."""
    tokens, targets = rng.integers(0, 4, (2, 4, 2))
    mask = length_mask([4, 2])
    tokens[~mask] = 4
    params = char_rnn_init(rng, 5, 3, cell=cell, num_layers=2, dtype=np.float64)

    def loss(params):
        return sequence_cross_entropy(char_rnn(params, tokens, None, mask)[0], targets, mask)

    right = value_and_grad(loss)(params)
    for bad in BAD_NUMBERS:
        params["embedding"]["weight"][4] = bad
        value, grads = value_and_grad(loss)(params)
        assert value == right[0]
        assert all(
            np.array_equal(a, b) for a, b in zip(flatten(grads).values(), flatten(right[1]).values(), strict=True)
        )


@pytest.mark.parametrize("cell", CELLS)
def test_an_encoder_leaves_padding_out(cell, rng):
    source, target = rng.integers(0, 4, (4, 2)), rng.integers(0, 6, (3, 2))
    mask = length_mask([4, 2])
    source[~mask] = 4
    params = seq2seq_init(rng, 5, 6, 3, cell=cell, dtype=np.float64)

    def loss(params):
        return cross_entropy(seq2seq(params, source, target, mask).reshape((6, 6)), target.reshape(-1))

    right = value_and_grad(loss)(params)
    params["encoder"]["embedding"]["weight"][4] = np.nan
    value, grads = value_and_grad(loss)(params)
    assert value == right[0]
    assert all(np.array_equal(a, b) for a, b in zip(flatten(grads).values(), flatten(right[1]).values(), strict=True))


@pytest.mark.parametrize("bad", BAD_NUMBERS[:3])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_logits_of_nan_in_the_padding_are_left_out(reduction, bad, rng):
    logits, targets, mask = rng.normal(size=(4, 2, 5)), rng.integers(0, 5, (4, 2)), length_mask([4, 2])
    logits[~mask], targets[~mask] = bad, -100
    y, dlogits = pulled(lambda z: sequence_cross_entropy(z, targets, mask, reduction=reduction), logits, dy=1.0)
    right, dright = pulled(lambda z: cross_entropy(z, targets[mask], reduction=reduction), logits[mask], dy=1.0)
    assert close(y, right)
    assert close(dlogits[mask], dright)
    assert not dlogits[~mask].any()


# Two ways, one result -----------------------------------------------------------------------------------------------

COEFFICIENTS = [0.0, 1.0, -1.0, 0.5, 2.0, -3.0, 1e-30, 1e-20, 1e20, 1e30, np.inf, -np.inf, np.nan]


def bound_of(a, b):
    """What rounding may do: the recurrence of the sizes, in numbers that do not overflow."""
    a, b = a.astype(np.longdouble), b.astype(np.longdouble)
    with np.errstate(all="ignore"):
        h = [np.abs(b[0])]
        for t in range(1, len(a)):
            h.append(np.where(a[t] == 0, 0, np.abs(a[t]) * h[-1]) + np.abs(b[t]))
    return np.array(h)


@settings(deadline=None, max_examples=300)
@given(st.data(), st.integers(1, 40), st.sampled_from([np.float32, np.float64]))
def test_the_scan_is_the_loop_over_the_whole_range(data, T, dtype):
    """Huge and tiny coefficients, zeros and infinities: where one of the two is a number, both are, and the same."""
    kind = data.draw(st.sampled_from(["any", "finite", "below 1", "growing"]))
    pool = {"any": COEFFICIENTS, "finite": COEFFICIENTS[:10], "below 1": COEFFICIENTS[:4], "growing": [2.0, 1.5]}[kind]
    a = np.array(data.draw(st.lists(st.sampled_from(pool), min_size=T, max_size=T)), dtype)[:, None]
    sizes = st.sampled_from([0.0, 0.0, 1.0, -1.0, 0.3, 1e10, float(np.finfo(dtype).max)])
    b = np.array(data.draw(st.lists(sizes, min_size=T, max_size=T)), dtype)[:, None]
    dy = np.array(data.draw(st.lists(sizes, min_size=T, max_size=T)), dtype)[:, None]
    found = {}
    with np.errstate(all="ignore"):
        for method in ("scan", "loop"):
            y, pull = vjp(linear_recurrence, a, b, method=method)
            found[method] = (y, *pull(dy))
    with np.errstate(all="ignore"):
        forwards, backwards = bound_of(a, b), bound_of(np.concatenate([a[:1], a[:0:-1]]), dy[::-1])[::-1]
        before = np.concatenate([np.zeros_like(forwards[:1]), forwards[:-1]])
        bounds = (forwards, backwards * before, backwards)
        scale = [np.maximum.accumulate(forwards), np.nanmax(backwards * before, initial=0), backwards[::-1].max()]
    for scan, loop, bound, most, product in zip(*[found[m] for m in found], bounds, scale, (0, 1, 0), strict=True):
        good = np.isfinite(loop)
        with np.errstate(all="ignore"):
            fits = bound < np.finfo(dtype).max / 2  # beyond, rounding alone may decide what overflows
            allowed = 8 * T * np.finfo(dtype).eps * (bound + np.finfo(dtype).tiny * np.maximum(1, most))
            apart = np.abs(scan.astype(np.longdouble) - loop.astype(np.longdouble))
        assert np.array_equal(np.isfinite(scan)[fits], good[fits])
        assert product or np.isfinite(scan)[good].all()  # a product of two results may overflow by their rounding
        assert not (apart > allowed)[good & np.isfinite(scan)].any()


def test_two_hundred_doublings_by_hand():
    """1 by the loop; the products of the scan, 2 to the 199th in single precision, are infinite."""
    a, b = np.full(200, 2.0, np.float32), np.zeros(200, np.float32)
    b[-1] = 1
    for method in ("scan", "loop"):
        assert linear_recurrence(a, b, method=method)[-1] == 1
    up_and_down = np.repeat([1e30, 1e-30, 1e-30, 1e30], 3).astype(np.float32)
    b = np.full(12, 1e-30, np.float32)
    with np.errstate(over="ignore"):
        scan, loop = (linear_recurrence(up_and_down, b, method=method) for method in ("scan", "loop"))
    assert np.array_equal(scan, loop)


# Shapes are those of the documentation -----------------------------------------------------------------------------


def other_shapes(shape):
    """One more and one less along every axis, an axis of one, one axis more and one less."""
    for i, n in enumerate(shape):
        for m in {n + 1, n - 1, 1} - {n}:
            yield (*shape[:i], m, *shape[i + 1 :])
    yield (1, *shape)
    yield (*shape, 1)
    yield shape[1:]


STEPS = {"rnn": rnn_cell, "lstm": lstm_cell, "gru": gru_cell}


@pytest.mark.parametrize("options", [{}, {"reset_after": False}])
@pytest.mark.parametrize("function", ["cell", "layer"])
@pytest.mark.parametrize("cell", CELLS)
def test_every_shape_is_checked_and_named(cell, function, options, rng):
    if options and cell != "gru":
        options = {"nonlinearity": "relu"} if cell == "rnn" else {}
    D, H, N, T = 3, 4, 2, 5
    x = rng.normal(size=(N, D) if function == "cell" else (T, N, D))
    args = [x, *rng.normal(size=(STATES[cell], N, H)), *weights_of(cell, rng, D, H)]
    if function == "layer":
        args.append(np.ones((T, N), bool))
    f = (STEPS if function == "cell" else LAYERS)[cell]
    f(*args, **options)
    count = 0
    for i, right in enumerate(args):
        for shape in other_shapes(right.shape):
            if function == "layer" and i == 0 and shape == (T + 1, N, D):
                continue
            wrong = [*args[:i], np.ones(shape, right.dtype), *args[i + 1 :]]
            if i == 0 and function == "layer" and len(shape) == 3 and shape[1:] == (N, D) and len(args[-1]) == shape[0]:
                continue
            with pytest.raises(ValueError, match=r"\(.*\)"):
                f(*wrong, **options)
            count += 1
    assert count > 25


# What is not finite ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    "call",
    [
        lambda r, v: sample(r, [v if v != -np.inf else np.nan, 1.0, 2.0]),
        lambda r, v: sample(r, [v] * 3, temperature=0),
        lambda r, v: sample(r, [[0.0, 1.0], [v, v]]),
        lambda r, v: sample(r, [0.0, 1.0], temperature=v),
        lambda r, v: ar_fit([1.0, 2.0, v, 3.0, 4.0, 5.0, 6.0], order=2),
        lambda r, v: ar_predict({"weight": np.ones(2), "bias": 0.0}, [1.0, v, 2.0, 3.0]),
        lambda r, v: ar_forecast({"weight": np.ones(2), "bias": 0.0}, [1.0, v], 2),
        lambda r, v: negative_samples(r, [1.0, v, 2.0], 3),
        lambda r, v: negative_samples(r, [1.0, 3.0], 3, power=v if v != -np.inf else np.nan),
        lambda r, v: spectral_radius([[1.0, v], [0.0, 1.0]]),
        lambda r, v: with_spectral_radius(np.array([[1.0, v], [0.0, 1.0]]), 0.5),
        lambda r, v: with_spectral_radius(np.eye(2), v),
        lambda r, v: most_similar([[1.0, v], [0.0, 1.0], [1.0, 1.0]], 2, count=1),
        lambda r, v: ngram_nll(ngram_fit([0, 1, 1], order=2, vocab_size=2), [0, 1], concentration=v),
        lambda r, v: ngram_probabilities(ngram_fit([0, 1, 1], order=2, vocab_size=2), [0], concentration=v),
        lambda r, v: ngram_search([0, 1, 1], [0, 1], vocab_size=2, concentrations=(1.0, v)),
    ],
)
def test_numbers_that_mean_nothing_are_refused(call, bad, rng):
    with pytest.raises(ValueError, match=r"[a-z]{3}"):
        call(rng, bad)


def test_minus_infinity_is_a_token_that_is_never_drawn(rng):
    logits = np.array([-np.inf, 0.0, -np.inf, 0.0, -np.inf])
    for temperature in (5e-324, 1e-3, 1.0, 1e308):
        drawn = sample(rng, np.tile(logits, (200, 1)), temperature=temperature)
        assert set(drawn.tolist()) == {1, 3}


def test_the_angle_does_not_depend_on_the_length(rng):
    vectors = rng.normal(size=(6, 3))
    right = most_similar(vectors, 2, count=3)
    for scale in (1e-250, 1e250):
        found = most_similar(scale * vectors, 2, count=3)
        assert np.array_equal(found[0], right[0])
        assert close(found[1], right[1])


# States that depend on the parameters ------------------------------------------------------------------------------


class Pair(NamedTuple):
    h: Any
    c: Any


def test_a_state_of_any_form_comes_back_off_the_tape():
    def of_any_form(w):
        return {"a": [w * 2, (w + 1, None)], "b": {"c": Pair(w, 3)}, "d": "text"}

    def loss(params, x, y=None, state=None):
        return (params["w"] * x).sum(), of_any_form(params["w"])

    params, right = {"w": np.array([1.0, 2.0])}, of_any_form(np.array([1.0, 2.0]))

    def look(found, expected):
        assert type(found) is not Traced
        assert type(found) is type(expected)
        if isinstance(expected, dict):
            assert list(found) == list(expected)
            [look(found[key], expected[key]) for key in expected]
        elif isinstance(expected, (list, tuple)):
            [look(a, b) for a, b in zip(found, expected, strict=True)]
        elif isinstance(expected, np.ndarray):
            assert np.array_equal(found, expected)

    look(value_and_grad_with_state(loss)(params, np.ones(2))[2], right)
    look(truncated_bptt(loss, params, np.ones((4, 2)), np.ones((4, 2)), None, length=2)[2], right)


def test_a_loss_without_a_state_is_refused(rng):
    with pytest.raises(ValueError, match=r"pair \(value, state\)"):
        value_and_grad_with_state(lambda w: (w * w).sum())(np.ones(2))
    with pytest.raises(ValueError, match="no step"):
        truncated_bptt(language_loss, {}, np.zeros((0, 2), int), np.zeros((0, 2), int), None, length=3)
