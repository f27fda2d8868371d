"""Puts the explorables of the chapters on the page: evaluates their grids, and renders their controls.

A notebook stores ``<div data-explorable="module:name">`` where an explorable stands; the same line works in any page.
Here each is evaluated over its declared grid, in parallel, into banks (:mod:`nnbook.explore.bank`) that the page's
script draws. What was evaluated is kept in ``_build/explorables`` under a number for all of ``nnbook``, so that an
unchanged package costs nothing.
"""

from __future__ import annotations

import hashlib
import html
import importlib
import json
import multiprocessing
import os
import re
import shutil
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import numpy as np
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util import logging
from sphinx.util.display import status_iterator

ROOT = Path(__file__).resolve().parents[2]
PLACEHOLDER = re.compile(r'<div data-explorable="([\w.]+:\w+)">')
WHOLE_PLACEHOLDER = re.compile(PLACEHOLDER.pattern + r"[^<]*</div>")
SHARD_LIMIT, EXPLORABLE_LIMIT = 300_000, 4_000_000  # bytes
WIDE, NARROW = 690, 340  # CSS pixels of the static pictures
ROW, STACKED_ROW = 340, 320  # height of a panel side by side, and one above the other
FROM_FILE = (
    "The controls of this widget do nothing, because this page was opened as a file, and a browser loads no data from "
    "files. Run “make serve” in the folder of the book and open the address that it prints."
)
NOT_LOADED = "The controls of this widget do nothing, because its script could not be loaded. Load the page again."
# A module is data too: of a page that was opened as a file no browser runs the script of the widgets. This one stands
# in the page itself, and when all is loaded and no widget lives it says so in the place of each.
WHY_NOTHING_MOVES = f"""addEventListener("load", () => {{
  if (document.documentElement.dataset.explorables) return;
  for (const section of document.querySelectorAll(".explorable")) {{
    const message = section.querySelector(".explorable-message");
    message.textContent = location.protocol === "file:" ? {json.dumps(FROM_FILE)} : {json.dumps(NOT_LOADED)};
    message.hidden = false;
    section.querySelector(".explorable-title").after(message);
    section.dataset.state = "failed";
  }}
}});"""
logger = logging.getLogger(__name__)


def fingerprint() -> str:
    """One number for everything that the banks and pictures are made of."""
    import matplotlib
    import numpy
    import sklearn

    versions = f"{sys.version_info} {numpy.__version__} {matplotlib.__version__} {sklearn.__version__}"
    digest = hashlib.sha256(versions.encode() + Path(__file__).read_bytes())
    for file in sorted((ROOT / "nnbook").rglob("*")):
        if file.is_file() and "__pycache__" not in file.parts:
            digest.update(file.relative_to(ROOT).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]


def find(where: str):
    from nnbook.explore.core import Explorable

    module, _, name = where.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ExtensionError(f"a page asks for the explorable {where}, which there is not: {error}") from None
    if not isinstance(found, Explorable):
        raise ExtensionError(f"a page asks for the explorable {where}, which is a {type(found).__name__}")
    return found


# ---------------------------------------------------------------------------------------------------------------------
# Evaluation
# ---------------------------------------------------------------------------------------------------------------------


def evaluate(where: str, number: int, folder: str) -> dict[str, Any]:
    """Write shard ``number`` of an explorable and return what the page must know of it. Runs in a worker."""
    from nnbook.explore.bank import pack
    from nnbook.explore.figures import check

    explorable = find(where)
    figures, longest = [], 0
    for setting in explorable.settings(list(explorable.shards())[number]):
        try:
            figures.append(explorable(**setting))
            check(figures[-1])
        except Exception as error:
            raise RuntimeError(f"it fails for {setting}: {type(error).__name__}: {error}") from error
        texts = [figures[-1]["text"], *(moment.get("text", "") for moment in figures[-1]["frames"])]
        longest = max(longest, *map(len, texts))
    data = pack(figures)
    Path(folder, f"{number}.bank").write_bytes(data)
    return {"bytes": len(data), "longest": longest, "panels": max(len(f["layout"]["meta"]["shares"]) for f in figures)}


def draw(where: str, folder: str) -> dict[str, Any]:
    """Write the static pictures of an explorable at its defaults. Runs in a worker."""
    from nnbook.explore.figures import at_frame
    from nnbook.explore.picture import picture

    figure = find(where)()
    rows = len(figure["layout"]["meta"]["shares"])
    Path(folder, "wide.svg").write_bytes(picture(figure, WIDE, ROW))
    Path(folder, "narrow.svg").write_bytes(picture(figure, NARROW, STACKED_ROW * rows, stacked=True))
    return {"text": at_frame(figure)[1], "frames": [moment["name"] for moment in figure["frames"]]}


def check_sizes(where: str, sizes: list[int]) -> None:
    """Raises: ExtensionError: a bank is larger than the page should have to load."""
    largest = max(range(len(sizes)), key=sizes.__getitem__)
    if sizes[largest] > SHARD_LIMIT:
        raise ExtensionError(
            f"{where}: shard {largest} has {sizes[largest]:,} bytes, more than {SHARD_LIMIT:,}. "
            "Round its arrays, give its controls fewer stops, or make one of them a Choice."
        )
    if sum(sizes) > EXPLORABLE_LIMIT:
        raise ExtensionError(
            f"{where}: its banks have {sum(sizes):,} bytes together, more than {EXPLORABLE_LIMIT:,}. "
            "Round its arrays, or give its controls fewer stops."
        )


def finish(where: str, folder: Path, drawn: dict[str, Any], shards: list[dict[str, Any]]) -> None:
    """Check the banks of an explorable and put them where the next build will find them."""
    sizes = [facts["bytes"] for facts in shards]
    check_sizes(where, sizes)
    facts = {key: max(shard[key] for shard in shards) for key in ("longest", "panels")}
    (folder / "facts.json").write_text(json.dumps({**drawn, **facts, "sizes": sizes}), encoding="utf-8")
    folder.rename(folder.with_suffix(""))


def build(wanted: list[str], store: Path) -> dict[str, dict[str, Any]]:
    """Banks, pictures and facts of all wanted explorables, those not in ``store`` evaluated in parallel."""
    jobs: dict[str, list] = {}
    for where in wanted:
        if not (store / where.replace(":", ".") / "facts.json").is_file():
            jobs[where] = list(range(len(list(find(where).shards()))))
    if jobs:
        start = time.perf_counter()
        where = ""
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
            os.environ.setdefault(name, "1")  # the workers together use every core already
        folders = {where: store / (where.replace(":", ".") + ".part") for where in jobs}
        for folder in folders.values():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
            drawn = {where: pool.submit(draw, where, str(folders[where])) for where in jobs}
            # those that train first, so that no core waits for a long one at the end
            order = sorted(jobs, key=lambda where: not find(where).trains)
            shards = {
                where: [pool.submit(evaluate, where, i, str(folders[where])) for i in jobs[where]] for where in order
            }
            try:
                for where in status_iterator(order, "evaluating explorables... ", "brown", len(order)):
                    done = [future.result() for future in shards[where]]
                    finish(where, folders[where], drawn[where].result(), done)
            except Exception as error:
                pool.shutdown(cancel_futures=True)
                raise ExtensionError(f"{where}: {error}") from error
        logger.info("explorables evaluated in %.1f s", time.perf_counter() - start)
    return {
        where: json.loads((store / where.replace(":", ".") / "facts.json").read_text(encoding="utf-8"))
        for where in wanted
    }


# ---------------------------------------------------------------------------------------------------------------------
# HTML
# ---------------------------------------------------------------------------------------------------------------------


def attribute(value: Any) -> str:
    return html.escape(str(value), quote=True)


def thumbnail(sample) -> str:
    """A data set as a small picture, its classes told apart by fill."""
    points, classes = sample()
    low, high = points.min(axis=0), points.max(axis=0)
    places = 4 + 40 * (points - low) / max((high - low).max(), 1e-9)
    dots = (
        f'<circle cx="{x:.1f}" cy="{48 - y:.1f}" r="1.7" class="class-{int(c)}"/>'
        for (x, y), c in zip(places[:90], classes[:90], strict=True)
    )
    return f'<svg viewBox="0 0 48 48" width="48" height="48" aria-hidden="true">{"".join(dots)}</svg>'


def small_picture(stored) -> str:
    """A stored drawing in four shades, each of them one path of squares."""
    ink = np.rint(4 * np.asarray(stored())).astype(int)
    shades = []
    for shade in range(1, 5):
        runs = []
        for row, line in enumerate(ink == shade):
            edges = np.flatnonzero(np.diff(np.pad(line.astype(int), 1)))
            runs += [f"M{a} {row}h{b - a}v1h{a - b}z" for a, b in zip(edges[::2], edges[1::2], strict=True)]
        if runs:
            shades.append(f'<path fill-opacity="{shade / 4:g}" d="{"".join(runs)}"/>')
    return f'<svg viewBox="0 0 {len(ink)} {len(ink)}" width="48" height="48" aria-hidden="true">{"".join(shades)}</svg>'


def control_html(name: str, key: str, control) -> str:
    """One labelled native input."""
    id_, label = f"{name}-{key}", html.escape(control.label)
    default = control.stops.index(control.default)
    help_ = f'<small id="{id_}-help">{html.escape(control.help)}</small>' if control.help else ""
    described = f' aria-describedby="{id_}-help"' if control.help else ""
    if control.kind == "choice":
        options = "".join(
            f'<option value="{i}"{" selected" if i == default else ""}>{html.escape(stop)}</option>'
            for i, stop in enumerate(control.stops)
        )
        body = f'<label for="{id_}">{label}</label><select id="{id_}" name="{key}"{described}>{options}</select>'
    elif control.kind == "toggle":
        checked = " checked" if control.default else ""
        body = f'<label><input type="checkbox" id="{id_}" name="{key}"{checked}{described}> {label}</label>'
    elif control.kind in ("data", "drawing"):
        picture = thumbnail if control.kind == "data" else small_picture
        radios = "".join(
            f'<label class="explorable-set"><input type="radio" name="{key}" value="{i}"'
            f"{' checked' if i == default else ''}>"
            f"{picture(control.samples[stop])}<span>{html.escape(stop)}</span></label>"
            for i, stop in enumerate(control.stops)
        )
        body = f"<fieldset{described}><legend>{label}</legend>{radios}</fieldset>"
    else:
        shown = attribute(control.show(control.default))
        longest = max(len(control.show(stop)) for stop in control.stops)  # so that no value moves the label
        body = (
            f'<label for="{id_}"><span>{label}</span> '
            f'<output for="{id_}" style="min-width:{longest}ch">{shown}</output></label>'
            f'<input type="range" id="{id_}" name="{key}" min="0" max="{len(control.stops) - 1}" step="1" '
            f'value="{default}" aria-valuetext="{shown}"{described}>'
        )
    return f'<div class="explorable-control" data-kind="{control.kind}">{body}{help_}</div>'


def coarse_note(explorable) -> str:
    """Where the page offers fewer values than Jupyter, in words."""
    coarse = [c.label for c in explorable.controls.values() if c.is_coarse]
    draws = any(c.kind == "drawing" for c in explorable.controls.values())
    note = " On this page you choose among stored pictures; in Jupyter you draw your own." if draws else ""
    if not coarse:
        return note
    listed = coarse[0] if len(coarse) == 1 else ", ".join(coarse[:-1]) + " and " + coarse[-1]
    verb = "moves" if len(coarse) == 1 else "move"
    return f"{note} On this page {html.escape(listed)} {verb} in coarse steps, in Jupyter in fine ones."


def address(name: str, parameters: dict[str, Any], frame: int | None = None) -> str:
    """The part of an address that sets an explorable, and its moment if that is not the last one."""
    words = {k: str(v).lower() if isinstance(v, bool) else v for k, v in parameters.items()}
    words |= {} if frame is None else {"frame": frame}
    return "?" + urlencode({f"{name}.{k}": v for k, v in words.items()}, quote_via=quote) + f"#{name}"


def widget_html(explorable, facts: dict[str, Any], base: str, library: str) -> str:
    """The explorable as it stands on the page before any script runs."""
    name, e = explorable.name, html.escape
    controls = "".join(control_html(name, key, control) for key, control in explorable.controls.items())
    spec = {
        "controls": [
            {
                "name": key,
                "kind": c.kind,
                "label": c.label,
                "stops": c.stops,
                "default": c.stops.index(c.default),
                "shown": [c.show(stop) for stop in c.stops],
            }
            for key, c in explorable.controls.items()
        ],
        "bank": base,
        "library": library,
    }
    data = json.dumps(spec, ensure_ascii=False).replace("<", "\\u003c")
    last = len(facts["frames"]) - 1
    moments = ""
    if last > 0:
        moments = (
            '<fieldset class="explorable-time" disabled><legend class="explorable-hidden">Time</legend>'
            '<button type="button" data-do="play">Play</button>'
            '<button type="button" data-do="back" aria-label="One step back">◀</button>'
            '<button type="button" data-do="on" aria-label="One step on">▶</button>'
            f'<input type="range" aria-label="Time" min="0" max="{last}" step="1" value="{last}" data-do="time" '
            f'aria-valuetext="{attribute(facts["frames"][-1])}"><output>{e(facts["frames"][-1])}</output></fieldset>'
        )
    trials = "".join(
        f'<li>{e(t.do)} <a href="{attribute(address(name, t.parameters, t.frame))}">Show it'
        f'<span class="explorable-hidden">: {e(t.do)}</span></a> <em>{e(t.shows)}</em></li>'
        for t in explorable.experiments
    )
    wide, narrow = (max(1, -(-facts["longest"] // columns)) for columns in (84, 40))
    sizes = f"--rows:{facts['panels']};--lines:{wide};--narrow-lines:{narrow}"
    return f"""<section class="explorable" id="{name}" aria-labelledby="{name}-title" style="{sizes}">
<p class="explorable-title" id="{name}-title">{e(explorable.title)}</p>
<form class="explorable-controls" autocomplete="off">
<fieldset disabled><legend class="explorable-hidden">Controls</legend>
{controls}<button type="reset">Reset</button></fieldset></form>
<div class="explorable-drawing"><picture><source media="(max-width: 640px)" srcset="{base}/narrow.svg">
<img src="{base}/wide.svg" alt="{attribute(explorable.title)}: {attribute(facts["text"])}" loading="lazy"></picture>
<div class="explorable-plot" role="img" aria-label="{attribute(explorable.title)}, drawn"
aria-describedby="{name}-words"></div></div>
{moments}<p class="explorable-words" id="{name}-words">{e(facts["text"])}</p>
<p class="explorable-message" hidden></p><p class="explorable-hidden" role="status"></p>
<noscript><p class="explorable-caption">The picture shows one setting. With JavaScript, or in Jupyter, it
follows the controls.</p></noscript>
<p class="explorable-caption">{e(explorable.caption)}{coarse_note(explorable)}</p>
<div class="explorable-trials"><p id="{name}-try">What to try</p><ol aria-labelledby="{name}-try">{trials}</ol></div>
<script type="application/json">{data}</script></section>"""


# ---------------------------------------------------------------------------------------------------------------------
# Sphinx
# ---------------------------------------------------------------------------------------------------------------------


def pages(env) -> dict[str, list[str]]:
    if not hasattr(env, "nnbook_explorables"):
        env.nnbook_explorables = {}
    return env.nnbook_explorables


def note_explorables(app: Sphinx, doctree: nodes.document) -> None:
    found: list[str] = []
    for raw in doctree.findall(nodes.raw):
        text = raw.astext()
        here = PLACEHOLDER.findall(text)
        if text.count("data-explorable") != len(here):
            raise ExtensionError(
                f'{app.env.docname}: an explorable is written <div data-explorable="module:name">, not\n{text[:200]}'
            )
        found += here
    if twice := {where for where in found if found.count(where) > 1}:
        raise ExtensionError(f"{app.env.docname}: {', '.join(sorted(twice))} stands there twice; once is possible")
    if found:
        pages(app.env)[app.env.docname] = found


def purge(app: Sphinx, env, docname: str) -> None:
    pages(env).pop(docname, None)


def merge(app: Sphinx, env, docnames, other) -> None:
    pages(env).update({name: found for name, found in pages(other).items() if name in docnames})


def record(app: Sphinx) -> Path:
    """The file that says what the widgets on the written pages are made of."""
    return Path(app.outdir) / "_static" / "explorables.made_of"


def made_of() -> str:
    return fingerprint() + hashlib.sha256((ROOT / "package-lock.json").read_bytes()).hexdigest()


def outdated(app: Sphinx, env, added, changed, removed) -> list[str]:
    """Pages are written again when what stands on them may draw otherwise, or when writing them was cut off."""
    if app.builder.format != "html":
        return []
    file = record(app)
    if file.is_file() and file.read_text(encoding="utf-8") == made_of():
        return []
    file.unlink(missing_ok=True)
    return [name for name in pages(env) if name not in removed]


def pages_are_written(app: Sphinx, exception: Exception | None) -> None:
    if exception is None and app.builder.format == "html" and pages(app.env):
        record(app).write_text(made_of(), encoding="utf-8")


def evaluate_all(app: Sphinx, env) -> list[str]:
    if app.builder.format != "html":
        return []
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    start = time.perf_counter()
    store = Path(app.outdir).parent / "explorables" / fingerprint()
    for old in store.parent.glob("*") if store.parent.is_dir() else ():
        if old != store:
            shutil.rmtree(old, ignore_errors=True)
    wanted = sorted({where for found in pages(env).values() for where in found})
    names = [where.partition(":")[2] for where in wanted]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ExtensionError(f"two explorables have the name {', '.join(sorted(twice))}; the address needs one each")
    facts = build(wanted, store)
    copies = Path(app.outdir) / "_static" / "explorables"
    shutil.rmtree(copies, ignore_errors=True)
    app.nnbook_widgets = {}  # type: ignore[attr-defined]
    for where in wanted:
        source = store / where.replace(":", ".")
        digest = hashlib.sha256(b"".join(file.read_bytes() for file in sorted(source.iterdir()))).hexdigest()[:8]
        place = f"{where.partition(':')[2]}-{digest}"
        shutil.copytree(source, copies / place, ignore=shutil.ignore_patterns("facts.json"))
        app.nnbook_widgets[where] = facts[where], f"_static/explorables/{place}"  # type: ignore[attr-defined]
    if wanted:
        import npm_packages

        package = npm_packages.ensure() / "plotly.js-cartesian-dist-min"
        version = json.loads((package / "package.json").read_text(encoding="utf-8"))["version"]
        app.nnbook_plotly = f"_static/plotly/plotly-cartesian-{version}.min.js"  # type: ignore[attr-defined]
        target = Path(app.outdir) / app.nnbook_plotly  # type: ignore[attr-defined]
        shutil.rmtree(target.parent, ignore_errors=True)
        target.parent.mkdir(parents=True)
        shutil.copy2(package / "plotly-cartesian.min.js", target)
        shutil.copy2(package / "LICENSE", target.parent / "LICENSE")
        logger.info("explorables: %d ready after %.1f s", len(wanted), time.perf_counter() - start)
    return []


def place_widgets(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    if app.builder.format != "html" or docname not in pages(app.env):
        return
    up = "../" * docname.count("/")

    def widget(found: re.Match[str]) -> str:
        facts, base = app.nnbook_widgets[found[1]]  # type: ignore[attr-defined]
        return widget_html(find(found[1]), facts, up + base, up + app.nnbook_plotly)  # type: ignore[attr-defined]

    for raw in list(doctree.findall(nodes.raw)):
        if raw.get("format") == "html" and PLACEHOLDER.search(raw.astext()):
            raw.children = [nodes.Text(WHOLE_PLACEHOLDER.sub(widget, raw.astext()))]


def add_script(app: Sphinx, pagename: str, templatename: str, context: dict, doctree) -> None:
    if doctree is not None and pagename in pages(app.env):
        app.add_js_file("explorables.js", type="module")
        app.add_js_file(None, body=WHY_NOTHING_MOVES)
        app.add_css_file("explorables.css")


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("doctree-read", note_explorables)
    app.connect("env-purge-doc", purge)
    app.connect("env-merge-info", merge)
    app.connect("env-get-outdated", outdated)
    app.connect("env-updated", evaluate_all)
    app.connect("doctree-resolved", place_widgets)
    app.connect("html-page-context", add_script)
    app.connect("build-finished", pages_are_written)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
