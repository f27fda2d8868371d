"""The built files, read as files: links that lead somewhere, addresses that are expected, nothing from another host."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

import pytest
import yaml
from built import ROOT, SITE, toc_pages

# Hosts that a reader may be sent to by a link. Nothing is ever loaded from them.
LINKED_HOSTS = {
    "doi.org",
    "arxiv.org",
    "github.com",
    "creativecommons.org",
    "pytorch.org",
    "docs.pytorch.org",
    "numpy.org",
    "scikit-learn.org",
}
LOADING = {("img", "src"), ("script", "src"), ("link", "href"), ("source", "src"), ("iframe", "src"), ("video", "src")}
LOADING |= {("object", "data"), ("embed", "src"), ("audio", "src"), ("form", "action")}


class Page(HTMLParser):
    def __init__(self, path: Path):
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        for name, value in attributes:
            if value is None:
                continue
            if name == "id" or (tag == "a" and name == "name"):
                self.ids.add(value)
            elif (tag, name) in LOADING:
                self.loads.append(value)
            elif tag == "a" and name == "href":
                self.links.append(value)
            elif name == "srcset":
                self.loads += [part.split()[0] for part in value.split(",") if part.strip()]


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[str, Page]:
    built = [path for path in sorted(site.rglob("*.html")) if "_static" not in path.parts]
    return {path.relative_to(site).as_posix(): Page(path) for path in built}


def test_every_page_of_the_table_of_contents_was_built(pages: dict[str, Page]) -> None:
    assert {f"{page}.html" for page in toc_pages()} <= set(pages)


def test_internal_links_lead_to_a_page_and_an_anchor(pages: dict[str, Page]) -> None:
    broken = []
    for place, page in pages.items():
        if place == "index.html":
            continue
        for link in page.links + page.loads:
            if urlsplit(link).scheme or link.startswith("//"):
                continue
            target, anchor = urldefrag(urljoin(place, link)) if not link.startswith("#") else (place, link[1:])
            target = unquote(urlsplit(target).path)
            if not (SITE / target).is_file():
                broken.append(f"{place}: {link}")
            elif anchor and target in pages and unquote(anchor) not in pages[target].ids:
                broken.append(f"{place}: {link} (no such anchor)")
    assert not broken, "\n".join(sorted(set(broken))[:40])


def test_nothing_is_loaded_from_another_host(pages: dict[str, Page], site: Path) -> None:
    foreign = [f"{place}: {url}" for place, page in pages.items() for url in page.loads if urlsplit(url).netloc]
    for sheet in site.rglob("*.css"):
        for url in re.findall(r"url\(\s*['\"]?([^'\")]+)", sheet.read_text(encoding="utf-8")):
            if urlsplit(url).netloc:
                foreign.append(f"{sheet.name}: {url}")
    assert not foreign


def test_links_leave_for_expected_hosts_only(pages: dict[str, Page]) -> None:
    config = yaml.safe_load((ROOT / "book" / "_config.yml").read_text(encoding="utf-8"))
    bibliography = (ROOT / "book" / "references.bib").read_text(encoding="utf-8")
    expected = LINKED_HOSTS | {urlsplit(config["repository"]["url"]).netloc}
    expected |= {urlsplit(url).netloc for url in re.findall(r"https?://[^\s{}\"]+", bibliography)}
    surprising = {
        f"{place}: {link}"
        for place, page in pages.items()
        for link in page.links
        if urlsplit(link).netloc
        and urlsplit(link).netloc.removeprefix("www.") not in expected | {""}
        and urlsplit(link).netloc not in expected
    }
    assert not surprising


def test_mathematics_is_finished_html(pages: dict[str, Page], site: Path) -> None:
    for place in (f"{page}.html" for page in toc_pages()):
        text = (site / place).read_text(encoding="utf-8")
        assert "mathjax" not in text.lower(), place
        assert "katex-error" not in text, place
        assert text.count('class="katex"') == text.count('class="katex-mathml"'), place


def test_no_path_of_the_machine_is_published(pages: dict[str, Page], site: Path) -> None:
    for place in pages:
        assert str(ROOT) not in (site / place).read_text(encoding="utf-8"), place
