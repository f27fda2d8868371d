"""The widgets of chapter 8: an attention matrix built by hand, and the heads of a trained encoder-decoder."""

from __future__ import annotations

import datetime
from functools import cache, lru_cache
from importlib import resources

import numpy as np

from nnbook import training
from nnbook.attention import (
    alibi_bias,
    causal_mask,
    masked_softmax,
    padding_mask,
    rope,
    scaled_dot_score,
    sinusoidal_positions,
    translator,
)
from nnbook.data import DATE_FORMATS, MONTHS, WEEKDAYS
from nnbook.explore.core import Choice, Integer, Log, experiment, explorable
from nnbook.explore.figures import dots, figure, frame, line, panel, pixels, words
from nnbook.neurons import softmax
from nnbook.plots import BLUE, GREY, PURPLE

# ---------------------------------------------------------------------------------------------------------------------
# A matrix built by hand
# ---------------------------------------------------------------------------------------------------------------------

TOKENS, WIDTH = 10, 32
"""Words in a padded sentence, T; columns of a query and of a key, d."""

PAD = "pad"
SENTENCES = {
    text: [*text.split(), *[PAD] * (TOKENS - len(text.split()))]
    for text in ("the dog saw the cat and it ran", "she gave him a book and he read it", "red blue red blue red blue")
}
TRAITS = ("article", "verb", "noun", "animal", "thing", "male", "female", "colour")
FIRST_TRAIT, FIRST_PLACE = 4, 16
"""Columns 4 to 11 hold what a word means, columns 16 to 31 where it stands, if sinusoidal positions say so."""

MEANINGS = {
    "the": {"article": 1},
    "a": {"article": 1},
    "and": {},
    "dog": {"noun": 1, "animal": 1, "male": 0.5},
    "cat": {"noun": 1, "animal": 1, "female": 0.5},
    "book": {"noun": 1, "thing": 1},
    "saw": {"verb": 1},
    "ran": {"verb": 1, "animal": 0.3},
    "gave": {"verb": 1, "thing": 0.3},
    "read": {"verb": 1, "thing": 0.3},
    "it": {"animal": 0.7, "thing": 0.7},
    "she": {"female": 1},
    "he": {"male": 1},
    "him": {"male": 1, "noun": 0.3},
    "red": {"colour": 1, "male": 0.6},
    "blue": {"colour": 1, "female": 0.6},
    PAD: {},
}
WANTED = {"it": ("animal", "thing"), "she": ("female",), "he": ("male",), "him": ("male",)}
OFFERED = {"dog": ("animal",), "cat": ("animal",), "book": ("thing",), "she": ("female",), "he": ("male",)} | {
    "him": ("male",)
}

MATCH, NEAR, SHARP = 4.0, 4.0, 5.0
"""Scores: of words that match wholly, of equal sinusoidal positions, and of one plane of the previous position."""

HEADS = ("similar words", "what a pronoun means", "previous word")
POSITIONS = ("none", "sinusoidal", "RoPE", "ALiBi")
MASKS = ("none", "padding", "causal")


def _table(rows) -> np.ndarray:
    """(T, d): the traits of each word in their columns."""
    table = np.zeros((TOKENS, WIDTH))
    for row, traits in zip(table, rows, strict=True):
        for trait, strength in traits.items():
            row[FIRST_TRAIT + TRAITS.index(trait)] = strength
    return table


def queries_and_keys(sentence: str, head: str, positions: str):
    """(T, d) queries and keys, written down by hand; RoPE, ALiBi and the division by the root of d come later."""
    tokens = SENTENCES[sentence]
    if head == "similar words":
        q = _table([MEANINGS[word] for word in tokens])
        q /= np.maximum(np.linalg.norm(q, axis=1, keepdims=True), 1)
        k = q.copy()
    elif head == "what a pronoun means":
        q = _table([dict.fromkeys(WANTED.get(word, ()), 1.0) for word in tokens])
        k = _table([dict.fromkeys(OFFERED.get(word, ()), 1.0) for word in tokens])
    else:
        q, k = np.zeros((2, TOKENS, WIDTH))
    root = np.sqrt(WIDTH)
    q, k = np.sqrt(MATCH * root) * q, np.sqrt(MATCH * root) * k
    asks_for = -1 if head == "previous word" else 0
    strength = np.sqrt((SHARP if asks_for else NEAR / 8) * root)
    if positions == "sinusoidal":
        # A position is a pair (sin, cos) a plane, so asking for the one before is to turn each plane: a linear map.
        width = WIDTH - FIRST_PLACE
        q[:, FIRST_PLACE:] = strength * sinusoidal_positions(TOKENS, width, offset=asks_for, dtype=np.float64)
        k[:, FIRST_PLACE:] = strength * sinusoidal_positions(TOKENS, width, dtype=np.float64)
    elif asks_for:
        # RoPE turns plane i by 10000^(-2i/32) a step: every second plane has the frequencies of those 16 columns.
        asked = np.zeros(WIDTH)
        asked[1::4] = strength
        k[:] = asked
        q[:] = rope(asked[None], offset=asks_for)
    return q, k


def weights(sentence: str, head: str, mask: str, positions: str, temperature: float):
    """(T, T) attention weights and (T, T) mask, true where a query may look."""
    q, k = queries_and_keys(sentence, head, positions)
    if positions == "RoPE":
        q, k = rope(q), rope(k)
    scores = scaled_dot_score(q, k)
    if positions == "ALiBi":
        scores = scores + alibi_bias(8, TOKENS, dtype=np.float64)[0]
    length = TOKENS - SENTENCES[sentence].count(PAD)
    seen = np.ones((TOKENS, TOKENS), bool)
    if mask == "padding":
        seen = np.broadcast_to(padding_mask(np.array([length]), TOKENS), seen.shape)
    elif mask == "causal":
        seen = causal_mask(TOKENS)
    return masked_softmax(scores / temperature, seen), seen


def entropy(p):
    """In bits, over the last axis."""
    return -(p * np.log2(np.maximum(p, 1e-300))).sum(axis=-1)


def outline(row: float, left: float, right: float) -> dict:
    """Corners of the box around a row."""
    return {"x": np.array([left, right, right, left, left]), "y": row + np.array([0.0, 0, 1, 1, 0])}


def listed(tokens, weight, count: int) -> str:
    """The heaviest of the tokens with their weights."""
    order = np.argsort(-np.round(weight, 9), kind="stable")[:count]
    return ", ".join(f"“{tokens[j]}” {weight[j]:.2f}" for j in order)


@explorable(
    "An attention matrix",
    caption="Queries and keys that were written down by hand, not learned. Each row of the first panel is a word that "
    "asks, each column a word that may answer: the stronger the colour, the larger the weight, and every row adds up "
    "to 1. Small grey dots are what the mask forbids. The second panel has the entropy of each row, and in grey the "
    "largest that the mask allows. “pad” fills the sentence up to ten words. Temperature divides all scores, after "
    "√d has.",
    experiments=(
        experiment(
            "Take the previous word without positions, then with sinusoidal ones, then with RoPE.",
            "Without positions all words ask the same, and every row is even: 0.10. With either of the two, weight "
            "0.87 lies on the word before, and the matrices are the same: both turn each plane of the query one step "
            "back.",
            head="previous word",
            positions="RoPE",
        ),
        experiment(
            "Take “what a pronoun means”, look at “it”, then add RoPE or ALiBi.",
            "Dog and cat answer alike, 0.47 each, and a word that asks for nothing looks at all words evenly. Now “it” "
            "prefers the nearer one: the cat gets 0.68 under RoPE, 0.72 under ALiBi. ALiBi charges for distance; RoPE "
            "does not, but here query and key point the same way, and turning them apart lowers the score.",
            frame=6,
            head="what a pronoun means",
        ),
        experiment(
            "Back at similar words, take the causal mask and the temperature 0.1, then 10.",
            "At 0.1 the second “the” gives 0.50 to each “the” and nothing to other words. At 10 every row comes within "
            "0.03 bits of its largest entropy, and still what is masked gets exactly 0. The causal mask hides the "
            "padding as well, because it comes later.",
            mask="causal",
            temperature=10.0,
        ),
    ),
    sentence=Choice(*SENTENCES, label="Sentence"),
    head=Choice(*HEADS, label="Head"),
    positions=Choice(*POSITIONS, label="Positions"),
    mask=Choice(*MASKS, label="Mask"),
    temperature=Log(0.1, 10, 1, stops=(0.1, 0.3, 0.5, 1, 2, 3, 10), label="Temperature"),
)
def attention_matrix(sentence, head, positions, mask, temperature):
    tokens = SENTENCES[sentence]
    length = TOKENS - tokens.count(PAD)
    weight, seen = weights(sentence, head, mask, positions, temperature)
    bits, most = entropy(weight), np.log2(seen.sum(axis=1))
    middles = np.arange(TOKENS) + 0.5
    hidden = np.argwhere(~seen)
    above = np.where(np.arange(TOKENS) % 2, -1.15, -0.5)
    data = [
        pixels(np.round(weight, 3)),
        dots(hidden[:, 1] + 0.5, hidden[:, 0] + 0.5, colour=GREY, size=3, opacity=0.6),
        words(np.full(TOKENS, -0.2), middles, tokens, place="middle left", size=11),
        words(middles, above, tokens, size=11),
        line(**outline(length - 1, 0, TOKENS), colour=PURPLE, width=2),
        dots(most, middles, name="largest", colour=GREY, size=7, symbol="diamond", opacity=0.6, on=1),
        dots(bits, middles, name="entropy", colour=BLUE, size=9, on=1),
        line(**outline(length - 1, -0.1, 3.45), colour=PURPLE, width=2, on=1),
    ]
    moments = []
    for i in range(length):
        told = (
            f"“{tokens[i]}”, word {i + 1}, attends to {listed(tokens, weight[i], 3)}. The entropy of its row is "
            f"{abs(bits[i]):.2f} bits of at most {most[i]:.2f}."
        )
        lines = [outline(i, 0, TOKENS), outline(i, -0.1, 3.45)]
        moments.append(frame(f"word {i + 1}", [{}, {}, {}, {}, lines[0], {}, {}, lines[1]], told))
    return figure(
        data,
        panel(
            "Weights: rows ask, columns answer", x=(-1.9, TOKENS + 0.1), y=(TOKENS + 0.1, -1.6), bare=True, share=1.5
        ),
        panel(
            "Entropy of each row",
            x=(-0.1, 3.45),
            y=(TOKENS + 0.1, -1.6),
            xlabel="bits",
            yticks=dict(zip(middles, tokens, strict=True)),
        ),
        text=moments[-1]["text"],
        frames=moments,
    )


# ---------------------------------------------------------------------------------------------------------------------
# Heads that were trained
# ---------------------------------------------------------------------------------------------------------------------

WEIGHTS = "date_translator.safetensors"
"""Made by ``python tools/train_date_translator.py``."""

NHEAD = 4
_LETTERS = "".join(MONTHS + WEEKDAYS)
SOURCE = [PAD, *sorted({*" ,-./0123456789", *_LETTERS, *_LETTERS.lower()})]
TARGET = [*"0123456789-", "start"]
_SOURCE_CODE, _TARGET_CODE = ({token: i for i, token in enumerate(tokens)} for tokens in (SOURCE, TARGET))


def written(day: int, month: int, year: int, form: str) -> str:
    """A date in one of the formats of :func:`nnbook.data.dates`."""
    weekday = WEEKDAYS[datetime.date(year, month, day).weekday()]
    name = MONTHS[month - 1]
    parts = {"day": day, "month": name, "short": name[:3], "number": month, "year": year, "century": year % 100}
    return form.format(weekday=weekday, **parts)


FORMS = {written(14, 3, 1987, DATE_FORMATS[i]): DATE_FORMATS[i] for i in (0, 1, 2, 6, 8, 9)}
"""Six of the ten formats, each called by what it makes of the same day."""


def read_dates(texts: list[str], width: int | None = None) -> np.ndarray:
    """(N, width) tokens of :data:`SOURCE`, padded to the longest or to ``width``."""
    tokens = np.zeros((len(texts), width or max(map(len, texts))), np.int64)
    for row, text in zip(tokens, texts, strict=True):
        row[: len(text)] = [_SOURCE_CODE[character] for character in text]
    return tokens


def read_answers(wanted: list[str]) -> np.ndarray:
    """(N, 11) tokens of :data:`TARGET`: the start token and ten characters."""
    return np.array([[_TARGET_CODE[token] for token in ("start", *text)] for text in wanted])


@cache
def _trained():
    with resources.as_file(resources.files("nnbook") / "_data" / WEIGHTS) as path:
        return training.load(path)


@lru_cache(maxsize=512)
def translated(text: str, wanted: str):
    """What the network writes: (10,) tokens, (10, V) probabilities, (H, 10, S) weights of its look at the source."""
    source, target = read_dates([text]), read_answers([wanted])[:, :-1]
    while True:
        # What is written at a place depends on the places before it alone; so once an answer reproduces itself,
        # it is what would have been written one after another. Nearly always the right answer does at once.
        logits, looks = translator(_trained(), source, target, nhead=NHEAD, padding=0, need_weights=True)
        tokens = logits[0].argmax(axis=-1)
        if np.array_equal(tokens[:-1], target[0, 1:]):
            return tokens, softmax(logits[0]), looks[0]
        target = np.concatenate([target[:, :1], tokens[None, :-1]], axis=1)


@cache
def _widest(form: str) -> int:
    """Characters of the longest date of a form."""
    return max(len(written(day, month, 1987, FORMS[form])) for month in range(1, 13) for day in range(1, 29))


def _shown(character: str) -> str:
    return "␣" if character == " " else character


@explorable(
    "What a trained head attends to",
    caption="A small encoder and decoder that learned to write dates as ISO 8601 wants them. Each row of the first "
    "panel is a character that it writes, each column one that it reads: the stronger the colour, the larger the "
    "weight of that character in the chosen head of its attention to the source. Head 0 is the mean of all four. The "
    "second panel shows the four heads at the moment that the frame marks, what has been written, and the "
    "probabilities from which its last character was taken.",
    experiments=(
        experiment(
            "Step through the ten characters.",
            "For the year most of the attention lies at the end of the text, for the month on its name, and for the "
            "day at the beginning. It follows what is asked for, not the order of reading.",
            frame=0,
        ),
        experiment(
            "Take day 3 and go to character 9, where the answer needs a 0 that is not in the text.",
            "Two thirds of the attention lie on the space behind the 3, and for character 10 on the 3 itself. That is "
            "so in forms that begin with the day; with the weekday or the month first it is not. The chapter hides the "
            "place from the decoder: in the former most of the zeros are lost, in the latter hardly any.",
            frame=8,
            day=3,
        ),
        experiment(
            "Take May, go to character 7, and compare it with March.",
            "Both times the M has the largest weight, though only from their third letter on the names differ. But it "
            "is not needed: with the M hidden from the decoder the chapter finds every month still right, and with "
            "nothing but the M a coin would do as well. A weight says where a head looks, not what it finds there.",
            frame=6,
            month=5,
        ),
    ),
    form=Choice(*FORMS, label="Written as"),
    month=Integer(1, 12, 3, label="Month"),
    day=Integer(1, 28, 14, stops=(3, 14), label="Day"),
    year=Choice("1987", "2009", label="Year"),
    head=Integer(0, NHEAD, 0, label="Head", help="0 is the mean of all heads."),
)
def trained_head(form, month, day, year, head):
    text = written(day, month, int(year), FORMS[form])
    wanted = f"{year}-{month:02d}-{day:02d}"
    tokens, chances, looks = translated(text, wanted)
    answer = [TARGET[token] for token in tokens]
    weight = looks.mean(axis=0) if head == 0 else looks[head - 1]
    across, down = np.arange(len(text)) + 0.5, np.arange(len(answer)) + 0.5
    read = [_shown(character) for character in text]
    wide = max(_widest(form), 11)
    strip = (np.arange(11) + 0.5) * wide / 11
    places, taken = np.round(looks, 2), np.round(chances[:, :11], 2)
    data = [
        pixels(np.round(weight, 2)),
        words(across, np.full(len(text), -0.5), read, size=11),
        words(np.full(len(answer), -0.7), down, answer, size=12),
        line(**outline(9, 0, len(text)), colour=PURPLE, width=2),
        pixels(places[:, -1], on=1),
        words(across, np.full(len(text), -0.5), read, size=11, on=1),
        words(np.full(NHEAD, -0.7), np.arange(NHEAD) + 0.5, [str(i + 1) for i in range(NHEAD)], size=12, on=1),
        words([0], [NHEAD + 0.9], [""], size=13, place="middle right", on=1),
        {**pixels(taken[-1:], at=(0, 6.7), on=1), "x": strip},
        words(strip, np.full(11, 8.2), TARGET[:11], size=11, on=1),
    ]
    moments = []
    for i, character in enumerate(answer):
        likely = chances[i, tokens[i]]
        sofar = "".join(answer[:i])
        when = f"After “{sofar}”" if i else "First"
        sure = "above 0.995" if likely > 0.995 else f"{likely:.2f}"
        who = f"Head {head} attends" if head else "In the mean the heads attend"
        told = f"{when} it writes “{character}” with probability {sure}. {who} most to {_heaviest(text, weight[i])}."
        rows = [
            {"z": places[:, i]},
            {},
            {},
            {"text": [f"written: {sofar}<b>{character}</b>"]},
            {"z": taken[i : i + 1]},
            {},
        ]
        moments.append(frame(f"character {i + 1}", [{}, {}, {}, outline(i, 0, len(text)), *rows], told))
    return figure(
        data,
        panel("Written from top to bottom, read across", x=(-1.3, wide + 0.1), y=(10.1, -1.2), bare=True),
        panel("The heads at this moment", x=(-1.3, wide + 0.1), y=(10.1, -1.2), bare=True),
        text=moments[-1]["text"],
        frames=moments,
    )


def _heaviest(text: str, weight) -> str:
    """The two characters with the largest weights, with their places where a character occurs twice."""
    said = []
    for j in np.argsort(-np.round(weight, 6), kind="stable")[:2]:
        place = f" (place {j + 1})" if text.count(text[j]) > 1 else ""
        said.append(f"“{_shown(text[j])}”{place} {weight[j]:.2f}")
    return " and ".join(said)
