// What the page needs of script beyond the theme's: none of it is needed to read.
"use strict";

// A box that scrolls sideways must be reachable by keyboard; one that does not must not stop it. First everything is
// measured, then everything is set: the page is laid out once.
const BOXES = ".math-scroll, .bd-article pre, .cell_output > .output, .pst-scrollable-table-container";
function reachScrollingBoxes() {
  const boxes = [...document.querySelectorAll(BOXES)];
  const scrolling = boxes.map(
    (box) => box.scrollWidth > box.clientWidth + 1 && /auto|scroll/.test(getComputedStyle(box).overflowX)
  );
  boxes.forEach((box, index) => {
    if (scrolling[index]) box.tabIndex = 0;
    else if (box.hasAttribute("tabindex")) box.removeAttribute("tabindex");
  });
}
let pending = 0;
function soon() {
  cancelAnimationFrame(pending);
  pending = requestAnimationFrame(reachScrollingBoxes);
}

// The theme's script hides the right sidebar when margin notes come into view and takes for granted that there is one.
if (!document.querySelector("div.bd-sidebar-secondary")) {
  const standIn = document.createElement("div");
  standIn.className = "bd-sidebar-secondary";
  standIn.hidden = true;
  document.querySelector(".bd-content")?.append(standIn);
}

addEventListener("load", soon);
addEventListener("resize", soon);
document.addEventListener("toggle", soon, true);

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
