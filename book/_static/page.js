// On paper a page has the light theme, whichever the screen has.
(() => {
  const root = document.documentElement;
  const paper = window.matchMedia("print");
  let onScreen = null;
  const turn = () => {
    if (paper.matches && onScreen === null) {
      onScreen = root.dataset.theme ?? "";
      root.dataset.theme = "light";
    } else if (!paper.matches && onScreen !== null) {
      root.dataset.theme = onScreen;
      onScreen = null;
    }
  };
  paper.addEventListener("change", turn);
  turn();
})();
// What is wider than its frame can be scrolled from the keyboard too.
(() => {
  const FRAMES = "article figure, article .shown-again, article .pst-scrollable-table-container, article div.math, " +
    "article .cell_output .output.text_html";
  const watch = new ResizeObserver(entries => {
    for (const { target } of entries) {
      const scrolls = target.scrollWidth > target.clientWidth && getComputedStyle(target).overflowX === "auto";
      if (scrolls) target.tabIndex = 0;
      else target.removeAttribute("tabindex");
    }
  });
  document.addEventListener("DOMContentLoaded", () => {
    for (const frame of document.querySelectorAll(FRAMES)) {
      watch.observe(frame);
      frame.querySelectorAll("img").forEach(image => image.addEventListener("load", () => {
        watch.unobserve(frame);
        watch.observe(frame);
      }));
    }
  });
})();
