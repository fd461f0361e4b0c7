// Figures in which something can be moved. A hidden element beside the figure holds what to draw as json, see
// workflow/companion/interactive.py. Without this script, and on paper, the figure itself is shown.
(() => {
  const DASHES = ["", "7 3", "2 3", "8 3 2 3", "12 3", "4 2"];
  const MARKS = [
    (x, y) => `M${x - 4} ${y}a4 4 0 1 0 8 0a4 4 0 1 0-8 0`,
    (x, y) => `M${x - 3.5} ${y - 3.5}h7v7h-7z`,
    (x, y) => `M${x} ${y - 5}l4.5 8h-9z`,
    (x, y) => `M${x} ${y - 5}l5 5l-5 5l-5-5z`,
    (x, y) => `M${x} ${y + 5}l4.5-8h-9z`,
  ];
  const SPACE = { left: 58, right: 12, top: 10, bottom: 46 };
  const HEIGHT = 320;
  let count = 0;

  const make = (tag, attributes = {}, text) => {
    const isDrawn = ["svg", "g", "path", "line", "text"].includes(tag);
    const node = isDrawn ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
    Object.entries(attributes).forEach(([name, value]) => node.setAttribute(name, value));
    if (text !== undefined) node.textContent = text;
    return node;
  };

  const said = (value) =>
    value !== 0 && Math.abs(value) < 1e-3
      ? value.toExponential().replace(/^(\d\.?\d{0,2})\d*/, "$1")
      : new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 }).format(value);

  // From a column's values to places between two ends, with round numbers to name.
  const axis = (values, scale, from, to) => {
    let [low, high] = [Math.min(...values), Math.max(...values)];
    if (scale === "log") {
      [low, high] = [Math.log10(low), Math.log10(high)];
    }
    const pad = (high - low || 1) * 0.04;
    [low, high] = [low - pad, high + pad];
    const place = (value) => from + (((scale === "log" ? Math.log10(value) : value) - low) / (high - low)) * (to - from);
    const ticks = [];
    if (scale === "log") {
      const factors = high - low > 2.5 ? [1] : [1, 2, 5];
      for (let power = Math.floor(low); power <= high; power += 1)
        factors.forEach((factor) => ticks.push(factor * 10 ** power));
    } else {
      const rough = (high - low) / 5;
      const size = 10 ** Math.floor(Math.log10(rough));
      const step = size * [1, 2, 5, 10].find((factor) => factor * size >= rough);
      for (let tick = Math.ceil(low / step); tick * step <= high; tick += 1) ticks.push(Number((tick * step).toPrecision(9)));
    }
    const inside = (tick) => place(tick) >= Math.min(from, to) && place(tick) <= Math.max(from, to);
    return { place, ticks: ticks.filter(inside) };
  };

  const lineOf = (points, x, y) =>
    points.map((point, number) => `${number ? "L" : "M"}${x(point[2]).toFixed(1)} ${y(point[3]).toFixed(1)}`).join("");

  const frame = (svg, told, x, y, width) => {
    const bottom = HEIGHT - SPACE.bottom;
    x.ticks.forEach((tick) => {
      const at = x.place(tick);
      svg.append(make("line", { class: "grid", x1: at, x2: at, y1: SPACE.top, y2: bottom }));
      svg.append(make("text", { x: at, y: bottom + 18, "text-anchor": "middle" }, said(tick)));
    });
    y.ticks.forEach((tick) => {
      const at = y.place(tick);
      svg.append(make("line", { class: "grid", x1: SPACE.left, x2: width - SPACE.right, y1: at, y2: at }));
      svg.append(make("text", { x: SPACE.left - 8, y: at + 4, "text-anchor": "end" }, said(tick)));
    });
    const middle = (SPACE.top + bottom) / 2;
    svg.append(make("text", { x: (SPACE.left + width - SPACE.right) / 2, y: HEIGHT - 8, "text-anchor": "middle" }, told.labels.x));
    svg.append(
      make("text", { x: 14, y: middle, "text-anchor": "middle", transform: `rotate(-90 14 ${middle})` }, told.labels.y),
    );
  };

  const series = (svg, told, points, number, x, y, at) => {
    const group = make("g", { class: `series s${number % 6}` });
    group.append(make("path", { class: "line", d: lineOf(points, x, y), "stroke-dasharray": DASHES[number % DASHES.length] }));
    points.forEach((point) => {
      if (point[4] && told.scales.y !== "log") {
        const [low, high] = [y(point[3] - point[4]), y(point[3] + point[4])];
        group.append(make("path", { class: "line", d: `M${x(point[2])} ${low}V${high}` }));
      }
      const isChosen = told.cursor && point[0] === at;
      group.append(make("path", { class: isChosen ? "mark chosen" : "mark", d: MARKS[number % MARKS.length](x(point[2]), y(point[3])) }));
    });
    svg.append(group);
  };

  // The words beside a line: its value where the slider stands, or from where to where it goes.
  const words = (told, points, at) => {
    if (told.cursor) {
      const here = points.find((point) => point[0] === at);
      return here ? said(here[3]) : "no value";
    }
    if (!points.length) return "no value";
    const [first, last] = [points[0], points[points.length - 1]];
    return points.length > 1 ? `${said(first[3])} at ${said(first[2])}, ${said(last[3])} at ${said(last[2])}` : said(first[3]);
  };

  const build = (holder) => {
    const told = JSON.parse(holder.querySelector("script").textContent);
    const figure = document.getElementById(holder.dataset.figure);
    const image = figure && figure.querySelector("img");
    if (!image) return;
    told.points.sort((a, b) => a[2] - b[2]);
    const id = `slider-${(count += 1)}`;
    const svg = make("svg", { role: "img", height: HEIGHT });
    const label = make("label", { for: id }, told.labels.slider);
    const slider = make("input", { id, type: "range", min: 0, max: told.slider.length - 1, step: 1 });
    slider.value = Math.floor(told.slider.length / 2);
    const output = make("output", { for: id });
    const still = make("button", { type: "button", "aria-pressed": "false" }, "the figure as printed");
    const controls = make("div", { class: "controls" });
    controls.append(label, slider, still);
    holder.append(svg, controls, output);
    figure.insertBefore(holder, figure.querySelector("figcaption"));
    holder.hidden = false;
    figure.classList.add("moves");

    const draw = () => {
      const width = Math.max(260, holder.clientWidth || 640);
      const at = Number(slider.value);
      const chosen = told.series.map((_, number) =>
        told.points.filter((point) => point[1] === number && (told.cursor || point[0] === at)),
      );
      const ends = (point) => (point[4] && told.scales.y !== "log" ? [point[3] - point[4], point[3] + point[4]] : [point[3]]);
      const heights = told.points.flatMap(ends);
      const x = axis(told.points.map((point) => point[2]), told.scales.x, SPACE.left, width - SPACE.right);
      const y = axis(heights, told.scales.y, HEIGHT - SPACE.bottom, SPACE.top);
      svg.replaceChildren();
      svg.setAttribute("width", width);
      svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
      frame(svg, told, x, y, width);
      if (told.cursor) {
        const place = x.place(told.slider[at]);
        svg.append(make("line", { class: "cursor", x1: place, x2: place, y1: SPACE.top, y2: HEIGHT - SPACE.bottom }));
      } else {
        told.slider.forEach((_, value) =>
          told.series.forEach((_, number) => {
            const others = told.points.filter((point) => point[0] === value && point[1] === number);
            if (value !== at) svg.append(make("path", { class: `ghost s${number % 6}`, d: lineOf(others, x.place, y.place) }));
          }),
        );
      }
      chosen.forEach((points, number) => series(svg, told, points, number, x.place, y.place, at));
      const value = `${told.labels.slider}: ${said(told.slider[at])}`;
      slider.setAttribute("aria-valuetext", said(told.slider[at]));
      svg.setAttribute("aria-label", `${told.labels.y} against ${told.labels.x}, ${told.series.join(", ")}. ${value}`);
      output.replaceChildren(make("b", {}, value));
      chosen.forEach((points, number) => {
        const entry = make("span", { class: `entry s${number % 6}` });
        const key = make("svg", { width: 30, height: 12, "aria-hidden": "true" });
        key.append(make("path", { class: "line", d: "M0 6H30", "stroke-dasharray": DASHES[number % DASHES.length] }));
        key.append(make("path", { class: "mark", d: MARKS[number % MARKS.length](15, 6) }));
        entry.append(key, ` ${told.series[number]}: ${words(told, points, at)}`);
        output.append(" ", entry);
      });
    };
    slider.addEventListener("input", draw);
    still.addEventListener("click", () => {
      const isStill = still.getAttribute("aria-pressed") === "false";
      still.setAttribute("aria-pressed", String(isStill));
      figure.classList.toggle("moves", !isStill);
      slider.disabled = isStill;
    });
    new ResizeObserver(draw).observe(holder);
    draw();
  };

  const start = () => document.querySelectorAll(".interactive-figure").forEach(build);
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();
