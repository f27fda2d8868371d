// What the page needs of script beyond the theme's: none of it is needed to read.
"use strict";

// A box that scrolls sideways must be reachable by keyboard; one that does not must not stop it.
function reachScrollingBoxes() {
  for (const box of document.querySelectorAll(".math-scroll, .bd-article pre, .cell_output > .output, .pst-scrollable-table-container, .bd-article .text_html")) {
    const scrolls = box.scrollWidth > box.clientWidth + 1;
    const overflow = getComputedStyle(box).overflowX;
    if (scrolls && (overflow === "auto" || overflow === "scroll")) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
  }
}

// The theme's script hides the right sidebar when margin notes come into view and takes for granted that there is one.
if (!document.querySelector("div.bd-sidebar-secondary")) {
  const stand_in = document.createElement("div");
  stand_in.className = "bd-sidebar-secondary";
  stand_in.hidden = true;
  document.querySelector(".bd-content")?.append(stand_in);
}

addEventListener("load", reachScrollingBoxes);
addEventListener("resize", reachScrollingBoxes);
document.addEventListener("toggle", reachScrollingBoxes, true);

// On paper solutions are open, and all is black on white.
const folded = [];
let theme = null;
addEventListener("beforeprint", () => {
  theme = document.documentElement.dataset.theme;
  document.documentElement.dataset.theme = "light";
  for (const block of document.querySelectorAll("details:not([open], .hide)")) {
    folded.push(block);
    block.open = true;
  }
});
addEventListener("afterprint", () => {
  if (theme) document.documentElement.dataset.theme = theme;
  for (const block of folded.splice(0)) block.open = false;
});

// The search page quotes the pages it found: each formula once, not as drawing, speech and source in a row.
if (typeof Search !== "undefined") {
  const textOf = Search.htmlToText;
  Search.htmlToText = (html, anchor) => {
    const page = new DOMParser().parseFromString(html, "text/html");
    for (const part of page.querySelectorAll(".katex-html, .katex annotation")) part.remove();
    return textOf(page.documentElement.outerHTML, anchor);
  };
}
