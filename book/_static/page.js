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
// An exercise says how long it takes.
document.addEventListener("DOMContentLoaded", () => {
  for (const exercise of document.querySelectorAll("div.exercise[class*=minutes-]")) {
    const told = document.createElement("span"), [, minutes] = exercise.className.match(/minutes-(\d+)/);
    Object.assign(told, { className: "minutes", textContent: `about ${minutes} minutes` });
    exercise.querySelector(".admonition-title").append(told);
  }
});
// Blocks that tell one thing twice, from the record and from this page's run, become tabs.
(() => {
  const panelsOf = runs => [...runs.querySelectorAll(":scope > .run")];
  const show = (tabs, panels, chosen) => panels.forEach((panel, number) => {
    panel.hidden = number !== chosen;
    tabs[number].setAttribute("aria-selected", number === chosen);
    tabs[number].tabIndex = number === chosen ? 0 : -1;
  });
  document.addEventListener("DOMContentLoaded", () => document.querySelectorAll(".runs").forEach((runs, place) => {
    const panels = panelsOf(runs), list = document.createElement("div");
    list.setAttribute("role", "tablist");
    list.setAttribute("aria-label", "Where the figure comes from");
    const tabs = panels.map((panel, number) => {
      const tab = document.createElement("button"), name = panel.querySelector(".run-name");
      Object.assign(tab, { type: "button", textContent: name.textContent, id: `run-${place}-${number}` });
      tab.setAttribute("role", "tab");
      panel.id = `${tab.id}-shown`;
      tab.setAttribute("aria-controls", panel.id);
      panel.setAttribute("role", "tabpanel");
      panel.setAttribute("aria-labelledby", tab.id);
      tab.addEventListener("click", () => show(tabs, panels, number));
      name.hidden = true;
      list.append(tab);
      return tab;
    });
    list.addEventListener("keydown", event => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      const next = (tabs.indexOf(document.activeElement) + step + tabs.length) % tabs.length;
      show(tabs, panels, next);
      tabs[next].focus();
    });
    runs.prepend(list);
    show(tabs, panels, 0);
  }));
})();
