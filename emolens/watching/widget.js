// The page of `el.Widget`: controls, lines over the tokens, the text in colour. All text is set as text.

const SVG = "http://www.w3.org/2000/svg";
const CHART = { height: 180, left: 46, right: 10, top: 12, foot: 20 };
let widgets = 0;

function node(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function shape(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(made, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

const rounded = (value, digits) => value.toFixed(digits).replace("-", "−");
const signed = (value) => (value < 0 ? "−" : "+") + Math.abs(value).toFixed(3);
const control = (sign) => ({ "\n": "↵", "\t": "⇥" })[sign] || String.fromCharCode(0x2400 + sign.charCodeAt(0));
const visible = (piece) => piece.replace(/[\0-\x1f]/g, control) || "…"; // "…" goes on in the next token

// --- controls ---

function makeControls(about) {
  const option = (name) => Object.assign(node("option"), { value: name, textContent: name });
  const number = (least, step) => node("input", { type: "number", min: least, step });
  const select = (names) => node("select", {}, ...names.map(option));
  const range = { type: "range", min: -about.largest, max: about.largest, step: 0.01 };
  const inputs = {
    prompt: node("textarea", { rows: 2, spellcheck: "false" }),
    chat: node("input", { type: "checkbox" }),
    steer: select(about.choices),
    strength: node("input", range),
    side_by_side: node("input", { type: "checkbox" }),
    seed: number("", 1),
    max_new_tokens: number(1, 1),
    temperature: number(0, 0.1),
    colour: select(about.names),
  };
  const shown = node("span"); // an output would take the label
  const start = Object.assign(node("button", { type: "button", class: "first" }), { textContent: "Start" });
  const stop = Object.assign(node("button", { type: "button" }), { textContent: "Stop" });
  const keep = Object.assign(node("button", { type: "button" }), { textContent: "Save as page" });
  return { inputs, shown, start, stop, keep };
}

function layOut(about, controls) {
  const { inputs, shown, start, stop, keep } = controls;
  const label = (text, input, kind = "", ...more) => node("label", { class: kind }, node("span", {}, text, ...more), input);
  const check = (text, input) => node("label", { class: "check" }, input, text);
  const turn = ([role, text]) => node("li", {}, node("b", {}, role), text);
  const asked = about.turns.length
    ? node("ol", { class: "turns", "aria-label": "conversation" }, ...about.turns.map(turn))
    : node("div", {}, label("Prompt", inputs.prompt, "wide"), check("send as a chat message", inputs.chat));
  return [
    node("header", {}, node("b", {}, about.model), node("small", {}, about.how)),
    asked,
    node(
      "div", { class: "bar" },
      label("Steer with", inputs.steer),
      label("Strength ", inputs.strength, "", shown),
      check("beside the unsteered reply", inputs.side_by_side),
      label("Tokens", inputs.max_new_tokens), label("Temperature", inputs.temperature), label("Seed", inputs.seed),
    ),
    node("div", { class: "bar" }, start, stop, keep),
  ];
}

function valueOf(input) {
  if (input.type === "checkbox") return input.checked;
  if (input.type === "number" || input.type === "range") return Number.isNaN(input.valueAsNumber) ? null : input.valueAsNumber;
  return input.value;
}

function setValue(input, value) {
  if (input.type === "checkbox") input.checked = Boolean(value);
  else if (input.value !== String(value)) input.value = value;
}

// --- chart ---

class Chart {
  constructor(about, name) {
    this.about = about;
    this.axes = shape("g");
    this.lines = about.strokes.slice(0, about.names.length).map(([colour, dash]) =>
      shape("polyline", { stroke: colour, "stroke-dasharray": dash }));
    this.marks = shape("g");
    this.cursor = shape("path", { class: "cursor" });
    this.svg = shape("svg", { class: "chart", role: "img" }, this.axes, ...this.lines, this.marks, this.cursor);
    this.name = name;
  }

  draw(steps, alarms, longest, low, high) {
    const { left, right, top, foot, height } = CHART;
    const width = this.svg.clientWidth || 480;
    this.x = (at) => left + ((Math.max(at, -0.5) + 0.5) / longest) * (width - left - right);
    this.at = (x) => Math.round(((x - left) / (width - left - right)) * longest - 0.5);
    const y = (value) => top + ((high - value) / (high - low)) * (height - top - foot);
    this.lines.forEach((line, column) => {
      line.setAttribute("points", steps.map((step, at) => `${this.x(at).toFixed(1)},${y(curve(step)[column]).toFixed(1)}`).join(" "));
    });
    this.axes.replaceChildren(...this.frame(y, width, low, high));
    this.marks.replaceChildren(...alarms.map((alarm) => {
      const mark = shape("path", { class: "mark", d: `M${this.x(alarm.at)} ${y(alarm.height) - 3}l-5 -9h10z` });
      mark.append(shape("title", {}, `alarm: ${alarm.name}, ${alarm.height.toFixed(1)} sd`));
      return mark;
    }));
    this.svg.setAttribute("aria-label", this.summary(steps, alarms));
  }

  frame(y, width, low, high) {
    const { left, right, height } = CHART;
    const across = (value, kind) => shape("path", { class: kind, d: `M${left} ${y(value)}H${width - right}` });
    const number = (value) => shape("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, rounded(value, 2));
    const threshold = this.about.threshold;
    const parts = [across(0, "axis"), number(0)];
    for (const end of [low, high]) if (Math.abs(y(end) - y(0)) > 14) parts.push(number(end));
    const unit = threshold === null ? "score" : "height, in sd of quiet tokens";
    parts.push(shape("text", { x: left, y: height - 4 }, `${unit}, over the tokens of the reply`));
    if (threshold !== null) {
      const name = shape("text", { x: width - right, y: y(threshold) - 4, "text-anchor": "end" }, "alarm");
      parts.push(across(threshold, "threshold"), name);
    }
    return parts;
  }

  summary(steps, alarms) {
    const last = steps.at(-1);
    const now = last ? this.about.names.map((name, column) => `${name} ${signed(curve(last)[column])}`).join(", ") : "nothing yet";
    return `${this.name}: ${steps.length} tokens; at the last one ${now}; alarms: ${alarms.length}. Numbers: in the table below.`;
  }

  point(at) {
    const { top, foot, height } = CHART;
    const here = at === null || !this.x ? "" : `M${this.x(at)} ${top}V${height - foot}`;
    this.cursor.setAttribute("d", here);
  }
}

const curve = (step) => step.heights || step.scores;

// --- a reply ---

class Reply {
  constructor(about, name) {
    this.about = about;
    this.name = name;
    this.steps = [];
    this.alarms = [];
    this.spans = [];
    this.chart = new Chart(about, name);
    this.tokens = node("div", { class: "tokens", role: "listbox", "aria-label": `reply, ${name}: arrow keys go from token to token, Enter holds one` });
    this.said = node("ul", { class: "alarms", "aria-live": "polite", "aria-label": `alarms, ${name}`, tabindex: 0, hidden: "" });
    this.element = node("section", {}, node("h5", {}, name), this.chart.svg, this.tokens, this.said);
  }

  add(step) {
    const at = this.steps.length;
    this.steps.push(step);
    for (const [token, text, name, height] of step.alarms) {
      const place = token - this.steps[0].rank;
      this.alarms.push({ at: place, name, height });
      const where = place < 0 ? "in the prompt" : `at token ${place}`;
      this.said.append(node("li", {}, `▲ alarm: ${name} ${where}, “${visible(text)}”, ${height.toFixed(1)} sd above quiet tokens`));
      this.said.hidden = false;
    }
    const span = node("span", { role: "option", tabindex: at ? -1 : 0, "data-at": at });
    span.textContent = step.piece;
    this.spans.push(span);
    this.tokens.append(span);
  }

  // Colour the tokens from the one on that was not coloured yet.
  colour(column, from) {
    const centre = this.about.centres[column];
    for (let at = from; at < this.spans.length; at++) {
      const [span, far] = [this.spans[at], this.steps[at].scores[column] - centre];
      span.className = (far < 0 ? "down" : "up") + (this.alarms.some((alarm) => alarm.at === at) ? " alarm" : "");
      span.style.setProperty("--far", Math.abs(far).toFixed(5));
      span.dataset.score = this.steps[at].scores[column].toFixed(4);
      span.setAttribute("aria-label", `${visible(this.steps[at].piece)}, ${this.about.names[column]} ${signed(this.steps[at].scores[column])}`);
    }
  }
}

// --- all of it ---

class View {
  constructor(model, el) {
    this.model = model;
    this.about = model.get("about");
    this.controls = makeControls(this.about);
    this.replies = [];
    this.count = this.drawn = this.limit = 0;
    this.scale = 1;
    this.running = false;
    this.frozen = this.pending = null;
    this.status = node("span", { role: "status", class: "soft" });
    this.error = node("div", { role: "alert", class: "error", hidden: "" });
    this.legend = node("div", { class: "legend", role: "radiogroup", "aria-label": "colour the text by" });
    this.key = node("small");
    this.rows = node("div", { class: "rows" });
    this.panel = node("div", { class: "panel", "aria-live": "polite" });
    this.table = node("details", {}, node("summary", {}, "Numbers as a table"), node("div", { class: "scroll", tabindex: 0 }));
    this.root = node("div", { class: "emolens-w", "data-lm-suppress-shortcuts": "true" }, ...layOut(this.about, this.controls));
    this.root.querySelectorAll(".bar")[1].append(this.status);
    this.root.append(this.error, this.legend, this.key, this.rows, this.panel, this.table);
    for (const name of ["red", "blue", "strongest"]) this.root.style.setProperty(`--${name}`, this.about[name]);
    el.append(this.root);
    this.makeLegend();
    this.listen();
    this.showControls();
    this.show(null);
    model.send({ kind: "hello" });
  }

  listen() {
    const { inputs, start, stop, keep } = this.controls;
    this.hear = (message) => this.receive(message);
    this.change = () => this.showControls();
    this.model.on("msg:custom", this.hear);
    this.model.on("change:controls", this.change);
    for (const input of Object.values(inputs)) input.addEventListener("change", () => this.setControls());
    inputs.strength.addEventListener("input", () => this.sayStrength());
    start.addEventListener("click", () => this.model.send({ kind: "start", controls: this.setControls() }));
    stop.addEventListener("click", () => this.model.send({ kind: "stop" }));
    keep.addEventListener("click", () => this.model.send({ kind: "page", controls: this.setControls() }));
    this.table.addEventListener("toggle", () => this.makeTable());
    this.root.addEventListener("keydown", (event) => event.stopPropagation());
    this.sizes = new ResizeObserver(() => this.later(true));
    this.sizes.observe(this.rows);
  }

  remove() {
    this.model.off("msg:custom", this.hear);
    this.model.off("change:controls", this.change);
    this.sizes.disconnect();
    if (this.pending !== null) cancelAnimationFrame(this.pending);
  }

  // --- controls ---

  setControls() {
    const inputs = Object.entries(this.controls.inputs);
    const controls = { ...this.model.get("controls"), ...Object.fromEntries(inputs.map(([name, input]) => [name, valueOf(input)])) };
    this.model.set("controls", controls);
    this.model.save_changes();
    return controls;
  }

  showControls() {
    const controls = this.model.get("controls");
    for (const [name, input] of Object.entries(this.controls.inputs)) setValue(input, controls[name]);
    this.sayStrength();
    const column = Math.max(0, this.about.names.indexOf(controls.colour));
    if (column !== this.column) {
      this.column = column;
      [...this.legend.querySelectorAll("button")].forEach((button, number) => {
        button.setAttribute("aria-checked", number === column);
        button.tabIndex = number === column ? 0 : -1;
      });
      for (const reply of this.replies) reply.colour(column, 0);
      this.show(this.here ?? null);
      this.later(true);
    }
  }

  sayStrength() {
    const { strength } = this.controls.inputs;
    const value = strength.valueAsNumber;
    this.controls.shown.textContent = value ? (value < 0 ? "−" : "+") + Math.abs(value).toFixed(2) : "0, unsteered";
    strength.setAttribute("aria-valuetext", this.controls.shown.textContent);
  }

  makeLegend() {
    this.legend.append(node("span", { class: "soft" }, "Colour the text by"));
    this.now = this.about.names.map((name, column) => {
      const [colour, dash] = this.about.strokes[column];
      const sample = shape("svg", { width: 26, height: 10, "aria-hidden": "true" },
        shape("path", { d: "M0 5H26", stroke: colour, "stroke-width": 2.5, "stroke-dasharray": dash, fill: "none" }));
      const button = node("button", { type: "button", role: "radio" }, sample, node("span", {}, name));
      button.addEventListener("click", () => this.choose(column));
      button.addEventListener("keydown", (event) => {
        const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
        if (!by) return;
        event.preventDefault();
        this.choose((column + by + this.about.names.length) % this.about.names.length);
        this.legend.querySelectorAll("button")[this.column].focus();
      });
      this.legend.append(button);
      return button;
    });
  }

  choose(column) {
    this.controls.inputs.colour.value = this.about.names[column];
    this.setControls();
    this.showControls();
  }

  // --- messages ---

  receive(message) {
    if (message.kind === "begin" || message.kind === "all") this.begin(message);
    if (message.kind === "all") this.take(0, message.steps);
    if (message.kind === "steps") {
      if (message.from > this.count) this.model.send({ kind: "hello" }); // something was missed
      else this.take(message.from, message.steps);
    }
    if (message.kind === "page") download(message.name, message.html);
    if ("running" in message) this.sayState(message);
  }

  begin({ rows, limit }) {
    this.replies = rows.map((name) => new Reply(this.about, name));
    this.replies.forEach((reply, row) => this.follow(reply, row));
    this.rows.replaceChildren(...this.replies.map((reply) => reply.element));
    this.count = this.drawn = 0;
    this.limit = limit;
    this.frozen = null;
    this.show(null);
    this.later();
  }

  take(from, steps) {
    for (const step of steps.slice(this.count - from)) {
      this.replies[step.row].add(step);
      this.count += 1;
    }
    this.later();
  }

  sayState({ running, said, error }) {
    this.running = running;
    this.controls.start.setAttribute("aria-disabled", running);
    this.controls.stop.setAttribute("aria-disabled", !running);
    this.status.textContent = said || (running ? "Writing …" : "");
    this.error.textContent = error;
    this.error.hidden = !error;
    this.later(true);
    if (!running) this.makeTable();
  }

  // --- drawing, once a frame at most ---

  later(whole = false) {
    this.whole = this.whole || whole;
    if (this.pending === null) this.pending = requestAnimationFrame(() => this.draw());
  }

  draw() {
    this.pending = null;
    this.whole = false;
    if (!this.replies.length) return;
    const threshold = this.about.threshold;
    let [low, high, longest, sizes] = [0, threshold ?? 0, 1, []];
    for (const { steps, alarms } of this.replies) {
      longest = Math.max(longest, steps.length);
      for (const step of steps) {
        for (const value of curve(step)) [low, high] = [Math.min(low, value), Math.max(high, value)];
        sizes.push(Math.abs(step.scores[this.column] - this.about.centres[this.column]));
      }
      for (const { height } of alarms) high = Math.max(high, height);
    }
    if (high === low) high = low + 1;
    if (this.running) longest = Math.max(longest, this.limit);
    this.setScale(sizes);
    for (const reply of this.replies) {
      reply.chart.draw(reply.steps, reply.alarms, longest, low, high);
      reply.colour(this.column, reply.coloured || 0);
      reply.coloured = reply.steps.length;
      reply.chart.point(this.here && this.replies[this.here.row] === reply ? this.here.at : null);
    }
    this.drawn = this.count;
    this.root.dataset.drawn = this.drawn;
  }

  // Full colour: the 99th percentile of the distance from the centre, as in the heat maps.
  setScale(sizes) {
    sizes.sort((a, b) => a - b);
    const scale = sizes[Math.floor(0.99 * (sizes.length - 1))] || sizes.at(-1) || 1;
    this.rows.style.setProperty("--scale", scale);
    const centre = this.about.centres[this.column];
    const white = centre ? `the quiet mean, ${rounded(centre, 3)}` : "0";
    const name = this.about.names[this.column];
    this.key.textContent = `${name}: red above ${white}; blue and underlined below; full colour ${scale.toPrecision(2)} away`;
  }

  // --- the token under the mouse or the cursor ---

  follow(reply, row) {
    const at = (event) => event.target.closest?.("[data-at]")?.dataset.at;
    const over = (event) => at(event) !== undefined && !this.frozen && this.show({ row, at: Number(at(event)) });
    const hold = (event) => at(event) !== undefined && this.hold({ row, at: Number(at(event)) });
    reply.tokens.addEventListener("mouseover", over);
    reply.tokens.addEventListener("focusin", over);
    reply.tokens.addEventListener("click", hold);
    reply.tokens.addEventListener("keydown", (event) => this.key_(event, reply, hold));
    const inChart = (event) => {
      const found = reply.chart.at?.(event.clientX - reply.chart.svg.getBoundingClientRect().left);
      return found >= 0 && found < reply.steps.length ? { row, at: found } : null;
    };
    reply.chart.svg.addEventListener("mousemove", (event) => !this.frozen && inChart(event) && this.show(inChart(event)));
    reply.chart.svg.addEventListener("click", (event) => inChart(event) && this.hold(inChart(event)));
  }

  key_(event, reply, hold) {
    const now = Number(event.target.dataset.at);
    const last = reply.spans.length - 1;
    const next = { ArrowRight: now + 1, ArrowLeft: now - 1, Home: 0, End: last }[event.key];
    if (next !== undefined) {
      event.preventDefault();
      const to = reply.spans[Math.min(last, Math.max(0, next))];
      event.target.tabIndex = -1;
      to.tabIndex = 0;
      to.focus();
    } else if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      hold(event);
    } else if (event.key === "Escape") {
      this.frozen = null;
      this.show(this.here);
    }
  }

  hold(place) {
    const same = this.frozen && this.frozen.row === place.row && this.frozen.at === place.at;
    this.frozen = same ? null : place;
    this.show(place);
  }

  show(place) {
    this.root.querySelector(".tokens .here")?.classList.remove("here");
    for (const reply of this.replies) reply.chart.point(null);
    this.here = place;
    if (!place) {
      this.panel.replaceChildren(node("span", { class: "soft" }, "Point at a token for its numbers; a click holds them."));
      return;
    }
    const reply = this.replies[place.row];
    const step = reply.steps[place.at];
    reply.spans[place.at].classList.add("here");
    reply.chart.point(place.at);
    const said = this.about.names.map((name, column) => {
      const height = step.heights ? ` (${rounded(step.heights[column], 1)} sd)` : "";
      return node("span", {}, `${name} ${signed(step.scores[column])}${height}`);
    });
    const state = this.frozen ? "held; click it again, or Escape, to let go" : "";
    this.panel.replaceChildren(
      node("span", {}, node("code", {}, visible(step.piece)), ` token ${place.at} (${reply.name})`),
      ...said, node("span", {}, `log-probability ${rounded(step.log_prob, 2)}`), node("small", {}, state),
    );
  }

  makeTable() {
    if (!this.table.open) return;
    const cells = (kind, texts) => node("tr", {}, ...texts.map((text) => node(kind, {}, text)));
    const head = cells("th", ["reply", "token", "text", "log-probability", ...this.about.names]);
    const rows = this.replies.flatMap((reply) => reply.steps.map((step, at) =>
      cells("td", [reply.name, String(at), visible(step.piece), rounded(step.log_prob, 2), ...step.scores.map(signed)])));
    this.table.lastChild.replaceChildren(node("table", {}, head, ...rows));
  }
}

function download(name, text) {
  const link = node("a", { download: name, href: URL.createObjectURL(new Blob([text], { type: "text/html" })) });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

function render({ model, el }) {
  const view = new View(model, el);
  return () => view.remove();
}

export default { render };
