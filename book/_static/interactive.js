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
    (x, y) => `M${x - 2} ${y - 5}h4v3h3v4h-3v3h-4v-3h-3v-4h3z`,
    (x, y) => `M${x - 4} ${y - 2}l2-2l2 2l2-2l2 2l-2 2l2 2l-2 2l-2-2l-2 2l-2-2l2-2z`,
    (x, y) => `M${x} ${y - 6}l2 4l4 .5l-3 3l1 4.5l-4-2l-4 2l1-4.5l-3-3l4-.5z`,
  ];
  const SPACE = { left: 58, right: 12, top: 10, bottom: 46 };
  const HEIGHT = 320;
  let count = 0;

  const make = (tag, attributes = {}, text) => {
    const isDrawn = ["svg", "g", "path", "line", "text", "circle"].includes(tag);
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
    const least = Math.min(...values.filter((value) => scale !== "log" || value > 0));
    const hasZero = scale === "log" && values.some((value) => value <= 0);  // has a place of its own below the least
    const shown = (value) => (scale !== "log" ? value : Math.log10(value > 0 ? value : least / 4));
    let [low, high] = [shown(Math.min(...values)), shown(Math.max(...values))];
    const pad = (high - low || 1) * 0.04;
    [low, high] = [low - pad, high + pad];
    const place = (value) => from + ((shown(value) - low) / (high - low)) * (to - from);
    const ticks = hasZero ? [0] : [];
    if (scale === "log") {
      const factors = high - low > 2.5 ? [1] : [1, 2, 5];
      for (let power = Math.floor(low); power <= high; power += 1)
        factors.map((factor) => factor * 10 ** power).forEach((tick) => tick >= least / 1.5 && ticks.push(tick));
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

  const MANY = 30; // points from which on a line has no marks but the chosen one

  const series = (svg, told, points, number, x, y, at) => {
    const group = make("g", { class: `series s${told.places[number]}` });
    const line = points.filter((point) => !point.open);
    const dashes = DASHES[number % DASHES.length];
    group.append(make("path", { class: "line", d: lineOf(line, x, y), "stroke-dasharray": dashes }));
    points.forEach((point) => {
      if (point[4] && told.scales.y !== "log") {
        const [low, high] = [y(point[3] - point[4]), y(point[3] + point[4])];
        group.append(make("path", { class: "line", d: `M${x(point[2])} ${low}V${high}` }));
      }
      const isChosen = told.cursor && point[0] === at;
      if (points.length > MANY && !isChosen) return;
      const mark = MARKS[point.open ? 2 : told.marks[number]];
      const kind = `mark${isChosen ? " chosen" : ""}${point.open ? " unreached" : ""}`;
      group.append(make("path", { class: kind, d: mark(x(point[2]), y(point[3])) }));
    });
    svg.append(group);
  };

  // The words beside a line: its value where the slider stands, or all of a few values, or from where to where it goes.
  const words = (told, points, at) => {
    const one = (point) => `${point.open ? "more than " : ""}${said(point[3])}`;
    if (told.cursor) {
      const here = points.find((point) => point[0] === at);
      return here ? one(here) : "no value";
    }
    if (!points.length) return "no value";
    const some = points.length <= 6 ? points : [points[0], points[points.length - 1]];
    return some.map((point) => `${one(point)} at ${said(point[2])}`).join(", ");
  };

  // Atomic tasks in a row, the composite above them, each filled as far as it is learned (loss from 1 bit to 0).
  const tree = (told, chosen, at) => {
    const width = 64 * (told.series.length - 1) + 20;
    const svg = make("svg", { class: "tree", width, height: 118, role: "img" });
    const atomic = told.series.map((_, number) => number).filter((number) => !told.tree[number]);
    const middle = (32 + 32 + 64 * (atomic.length - 1)) / 2;
    const learned = (number) => {
      const here = chosen[number].find((point) => point[0] === at);
      return here ? Math.min(1, Math.max(0, 1 - here[3])) : 0;
    };
    const spots = told.series.map((_, number) => (told.tree[number] ? [middle, 28] : [32 + 64 * atomic.indexOf(number), 84]));
    atomic.forEach((number) => {
      const [x, y] = spots[number];
      svg.append(make("line", { class: "grid", x1: x, y1: y, x2: middle, y2: 28 }));
    });
    spots.forEach(([x, y], number) => {
      const group = make("g", { class: `s${told.places[number]}` });
      group.append(make("circle", { class: "ground", cx: x, cy: y, r: 14 }));
      group.append(make("circle", { class: "node", cx: x, cy: y, r: 14, "fill-opacity": learned(number).toFixed(2) }));
      group.append(make("text", { x: told.tree[number] ? x + 20 : x, y: told.tree[number] ? y + 4 : y + 30,
        "text-anchor": told.tree[number] ? "start" : "middle" }, told.series[number]));
      svg.append(group);
    });
    const done = told.series.filter((_, number) => learned(number) > 0.5);
    svg.setAttribute("aria-label", `learned so far: ${done.join(", ") || "nothing"}`);
    return svg;
  };

  // A control with its name; what it changes is drawn again.
  const sliderFor = (label, last, value, draw) => {
    const id = `slider-${(count += 1)}`;
    const slider = make("input", { id, type: "range", min: 0, max: last, step: 1 });
    slider.value = value;
    slider.addEventListener("input", draw);
    return [make("label", { for: id }, label), slider, make("output", { for: id })];
  };

  // A finger that is lifted leaves too: what it pointed at stays.
  const whenLeft = (svg, call) => (svg.onpointerleave = (event) => event.pointerType === "touch" || call());

  const chart = (told, stage) => {
    told.open.forEach((number) => (told.points[number].open = true));
    told.points.sort((a, b) => a[2] - b[2]);
    const svg = make("svg", { class: "chart", role: "img", height: HEIGHT });
    const draw = () => {
      const width = Math.max(260, stage.clientWidth || 640);
      const at = Number(slider.value);
      const chosen = told.series.map((_, number) =>
        told.points.filter((point) => point[1] === number && (told.cursor || point[0] === at)),
      );
      const ends = (point) => (point[4] && told.scales.y !== "log" ? [point[3] - point[4], point[3] + point[4]] : [point[3]]);
      const x = axis(told.points.map((point) => point[2]), told.scales.x, SPACE.left, width - SPACE.right);
      const y = axis(told.points.flatMap(ends), told.scales.y, HEIGHT - SPACE.bottom, SPACE.top);
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
            const others = told.points.filter((point) => point[0] === value && point[1] === number && !point.open);
            const ghost = { class: `ghost s${told.places[number]}`, d: lineOf(others, x.place, y.place) };
            if (value !== at) svg.append(make("path", ghost));
          }),
        );
      }
      chosen.forEach((points, number) => series(svg, told, points, number, x.place, y.place, at));
      const value = `${told.labels.slider}: ${said(told.slider[at])}`;
      slider.setAttribute("aria-valuetext", said(told.slider[at]));
      svg.setAttribute("aria-label", `${told.labels.y} against ${told.labels.x}, ${told.series.join(", ")}. ${value}`);
      output.replaceChildren(make("b", {}, value));
      chosen.forEach((points, number) => {
        const entry = make("span", { class: `entry s${told.places[number]}` });
        const key = make("svg", { width: 30, height: 12, "aria-hidden": "true" });
        key.append(make("path", { class: "line", d: "M0 6H30", "stroke-dasharray": DASHES[number % DASHES.length] }));
        key.append(make("path", { class: "mark", d: MARKS[told.marks[number]](15, 6) }));
        entry.append(key, ` ${told.series[number]}: ${words(told, points, at)}`);
        output.append(" ", entry);
      });
      if (told.tree) {
        stage.querySelector(".tree")?.remove();
        stage.append(tree(told, chosen, at));
      }
      // The value nearest to a pointer: on a chart that is moved along x, the slider goes there.
      svg.onpointermove = svg.onpointerdown = (event) => {
        const box = svg.getBoundingClientRect();
        const [px, py] = [((event.clientX - box.left) * width) / box.width, event.clientY - box.top];
        if (told.cursor && (event.buttons || event.type === "pointerdown")) {
          const away = told.slider.map((value) => Math.abs(x.place(value) - px));
          slider.value = away.indexOf(Math.min(...away));
          draw();
        }
        const far = (point) => Math.hypot(x.place(point[2]) - px, y.place(point[3]) - py);
        const near = chosen.flat().reduce((one, other) => (far(other) < far(one) ? other : one), chosen.flat()[0]);
        svg.querySelectorAll(".tip").forEach((tip) => tip.remove());
        if (!near || far(near) > 40) return;
        const at = [x.place(near[2]), y.place(near[3])];
        svg.append(make("circle", { class: "tip ring", cx: at[0], cy: at[1], r: 9 }));
        const side = at[0] > width / 2 ? "end" : "start";
        const place = { class: "tip", x: at[0] + (side === "end" ? -12 : 12), y: Math.max(24, at[1] - 10), "text-anchor": side };
        svg.append(make("text", place, `${told.series[near[1]]}: ${said(near[2])}, ${near.open ? "more than " : ""}${said(near[3])}`));
      };
      whenLeft(svg, () => svg.querySelectorAll(".tip").forEach((tip) => tip.remove()));
    };
    const [label, slider, output] = sliderFor(told.labels.slider, told.slider.length - 1, Math.floor(told.slider.length / 2), draw);
    return { parts: [svg], controls: [label, slider], output, draw };
  };

  // A sample of the task: every bit a button, and what the flips do to the labels.
  const bits = (told) => {
    const first = [...told.bits];
    const output = make("output");
    const board = make("div", { class: "bits", role: "group", "aria-label": "bits of the sample" });
    const names = Object.keys(told.subtasks);
    const parity = (values, places) => places.reduce((sum, place) => sum ^ values[place], 0);
    const buttons = told.bits.map((_, place) => {
      const role = told.roles[place];
      const number = names.indexOf(role);
      const button = make("button", { type: "button", class: number < 0 ? role : `owned s${number}` });
      button.setAttribute("aria-label", `${role}, bit ${place - told.roles.indexOf(role) + 1}`);
      button.addEventListener("click", () => {
        told.bits[place] ^= 1;
        draw();
      });
      board.append(button);
      return button;
    });
    board.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      const here = buttons.indexOf(document.activeElement);
      if (step && here >= 0) buttons[(here + step + buttons.length) % buttons.length].focus();
    });
    const draw = () => {
      const asked = names.filter((_, number) => told.bits[number]); // by the control bits, which come first
      const isAsked = (role) => asked.includes(role);
      buttons.forEach((button, place) => {
        button.textContent = told.bits[place];
        button.setAttribute("aria-pressed", String(Boolean(told.bits[place])));
        button.classList.toggle("counts", told.roles[place] === "control" || isAsked(told.roles[place]));
      });
      const all = [...names.map((name) => [name, [name]]), [names.join(" \u2295 "), names], ["this sample", asked]];
      output.replaceChildren();
      all.forEach(([name, parts]) => {
        const places = parts.flatMap((part) => told.subtasks[part]);
        const [now, before] = [parity(told.bits, places), parity(first, places)];
        const number = names.indexOf(name);
        const entry = make("span", { class: `entry${number < 0 ? "" : ` s${number}`}${now === before ? "" : " changed"}` });
        const what = name === "this sample" ? `this sample asks for ${asked.join(", ") || "nothing"}` : name;
        entry.append(make("b", {}, what), `: label ${now}${now === before ? "" : ", changed"}`);
        output.append(" ", entry);
      });
    };
    const again = make("button", { type: "button" }, "as at first");
    again.addEventListener("click", () => {
      told.bits.splice(0, told.bits.length, ...first);
      draw();
    });
    return { parts: [board], controls: [again], output, draw };
  };

  // A network whose neurons go, the shortest weight vectors first; a neuron under the pointer shows its weights alone.
  const LETTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ";
  const ZERO = 17;
  const network = (told, stage) => {
    const svg = make("svg", { role: "img", height: HEIGHT });
    const weight = (layer, source, target) =>
      (LETTERS.indexOf(layer.weights[source * layer.shape[1] + target]) - ZERO) / ZERO;
    told.states.forEach((state) => {
      const { layers } = state;
      state.sizes = [layers[0].shape[0], ...layers.map((layer) => layer.shape[1])];
      state.norms = state.sizes.map((size, level) => Array.from({ length: size }, (_, unit) => {
        let sum = 0;
        if (level > 0) for (let s = 0; s < state.sizes[level - 1]; s += 1) sum += (weight(layers[level - 1], s, unit) * layers[level - 1].most) ** 2;
        if (level < layers.length) for (let t = 0; t < state.sizes[level + 1]; t += 1) sum += (weight(layers[level], unit, t) * layers[level].most) ** 2;
        return Math.sqrt(sum);
      }));
      const hidden = state.norms.slice(1, -1);
      state.order = hidden.map((norms) => norms.map((_, unit) => unit).sort((a, b) => norms[b] - norms[a]));
    });
    const draw = () => {
      const width = Math.max(260, stage.clientWidth || 640);
      const state = told.states[Number(states.value)];
      const share = 1 - Number(slider.value) / 20;
      const last = state.sizes.length - 1;
      const keep = state.sizes.map((size, level) => level === 0 || level === last
        ? [...Array(size).keys()] : state.order[level - 1].slice(0, Math.max(1, Math.round(size * share))).sort((a, b) => a - b));
      const place = keep.map((units, level) => new Map(units.map((unit, number) => [unit,
        [16 + ((number + 0.5) / units.length) * (width - 32), HEIGHT - 40 - (level / last) * (HEIGHT - 60)]])));
      const units = place.flatMap((of, level) => [...of.keys()].map((unit) => [level, unit]));
      one.max = units.length;
      const lit = units[Number(one.value) - 1];
      svg.replaceChildren();
      svg.setAttribute("width", width);
      svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
      state.layers.forEach((layer, level) => {
        const lines = keep[level].flatMap((source) => keep[level + 1].map((target) => [weight(layer, source, target), source, target]));
        const own = ([, source, target]) => !lit || (lit[0] === level && lit[1] === source) || (lit[0] === level + 1 && lit[1] === target);
        const some = lines.filter((line) => Math.abs(line[0]) > 0.06 && own(line)).sort((a, b) => Math.abs(b[0]) - Math.abs(a[0]));
        some.slice(0, 400).reverse().forEach(([value, source, target]) => {
          const [[x1, y1], [x2, y2]] = [place[level].get(source), place[level + 1].get(target)];
          const size = Math.abs(value);
          svg.append(make("line", { class: value > 0 ? "positive" : "negative", x1, y1, x2, y2,
            "stroke-width": (0.4 + 2 * size).toFixed(2), "stroke-opacity": (0.15 + 0.85 * size).toFixed(2) }));
        });
      });
      units.forEach(([level, unit], number) => {
        const [cx, cy] = place[level].get(unit);
        const r = Math.min(5, Math.max(2, 160 / place[level].size)) * (lit && lit[0] === level && lit[1] === unit ? 2 : 1);
        const node = make("circle", { class: "unit", cx, cy, r });
        node.addEventListener("pointerenter", () => light(number + 1));
        svg.append(node);
      });
      const middles = new Map();
      place[0].forEach(([x], unit) => middles.set(state.groups[unit], [...(middles.get(state.groups[unit]) ?? []), x]));
      middles.forEach((xs, name) => svg.append(make("text", { x: xs.reduce((a, b) => a + b) / xs.length, y: HEIGHT - 18, "text-anchor": "middle" }, name)));
      const left = keep.slice(1, -1).map((units) => units.length);
      const told2 = `${state.name}: ${left.join(" and ")} neurons left, ${Math.round(100 - 100 * share)}% of those drawn removed`;
      slider.setAttribute("aria-valuetext", told2);
      svg.setAttribute("aria-label", `a network, ${told2}`);
      output.replaceChildren(make("b", {}, told2));
      const where = lit && (lit[0] === 0 ? "the inputs" : lit[0] === last ? "the labels" : `hidden layer ${lit[0]}`);
      const words = lit ? `one unit of ${where}, weight vector of length ${said(state.norms[lit[0]][lit[1]])}` : "none";
      one.setAttribute("aria-valuetext", words);
      if (lit) output.append(` lit: ${words}`);
    };
    const light = (number) => {
      if (Number(one.value) === number) return; // what is drawn anew under a pointer is entered again
      one.value = number;
      draw();
    };
    whenLeft(svg, () => light(0));
    const [label, slider, output] = sliderFor("remove neurons, the shortest weight vectors first", 19, 0, draw);
    const [named, one] = sliderFor("light one unit", 0, 0, draw);
    const id = `state-${count}`;
    const states = make("select", { id });
    told.states.forEach((state, number) => states.append(make("option", { value: number }, state.name)));
    states.addEventListener("input", draw);
    return { parts: [svg], controls: [make("label", { for: id }, "network"), states, label, slider, named, one], output, draw };
  };

  // Pictures for every size of network.
  const digits = (told) => {
    const shelf = make("div", { class: "digits" });
    const draw = () => {
      const at = Number(slider.value);
      const pictures = told.pictures[at];
      shelf.replaceChildren(...pictures.map((picture) => {
        const side = Math.round(Math.sqrt(picture.ink.length));
        const words = `${picture.label}, read as ${picture.predicted}`;
        const figure = make("div", { class: "digit" });
        const svg = make("svg", { role: "img", "aria-label": words, viewBox: `0 0 ${side} ${side}`, width: 64, height: 64 });
        [...picture.ink].forEach((letter, number) => {
          const ink = LETTERS.indexOf(letter) / 35;
          if (ink > 0.05) svg.append(make("path", { class: "ink", d: `M${number % side} ${Math.floor(number / side)}h1v1h-1z`, "fill-opacity": ink.toFixed(2) }));
        });
        figure.append(svg, make("span", {}, words));
        return figure;
      }));
      slider.setAttribute("aria-valuetext", said(told.slider[at]));
      output.replaceChildren(make("b", {}, `${told.label}: ${said(told.slider[at])}`), ` misread digits: ${pictures.length}`);
    };
    const [label, slider, output] = sliderFor(told.label, told.slider.length - 1, 0, draw);
    return { parts: [shelf], controls: [label, slider], output, draw };
  };

  const KINDS = { chart, bits, network, digits };

  const build = (holder) => {
    const told = JSON.parse(holder.querySelector("script").textContent);
    const figure = document.getElementById(holder.dataset.figure);
    if (!figure || !figure.querySelector("img")) return;
    const stage = make("div", { class: "stage" });
    const made = KINDS[told.kind](told, stage);
    const still = make("button", { type: "button", "aria-pressed": "false" }, "the figure as printed");
    const controls = make("div", { class: "controls" });
    stage.append(...made.parts);
    controls.append(...made.controls, still);
    holder.append(stage, controls, made.output);
    figure.insertBefore(holder, figure.querySelector("figcaption"));
    holder.hidden = false;
    figure.classList.add("moves");
    still.addEventListener("click", () => {
      const isStill = still.getAttribute("aria-pressed") === "false";
      still.setAttribute("aria-pressed", String(isStill));
      figure.classList.toggle("moves", !isStill);
      made.controls.forEach((control) => (control.disabled = isStill));
    });
    let width = 0; // words that take another line change the height only, and what is pointed at stays
    new ResizeObserver(([{ contentRect }]) => {
      if (contentRect.width !== width) made.draw();
      width = contentRect.width;
    }).observe(holder);
    made.draw();
  };

  const start = () => document.querySelectorAll(".interactive-figure").forEach(build);
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();
