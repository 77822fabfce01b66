// Plays how texts came to be, one canvas or two side by side.

const SPEEDS = [["0.5", "½×"], ["1", "1×"], ["2", "2×"], ["4", "4×"], ["8", "8×"]];
const STEPS_A_SECOND = 4;
const CHANGES = ["", "commit", "edit", "remask", "insert"];
const CHANGE_NAMES = {commit: "written", edit: "overwritten", remask: "masked again", insert: "put in"};
const MASK = "▒";
const KEYS = "Keys, once a canvas or a button here has the focus (click it, or Tab): Space or k plays and pauses, the arrow keys step, Home and End go to the ends.";

// Every canvas of a trace: per position its token, the step that wrote it, with what confidence, and what the
// step just taken did to it; and how many positions were taken out left of it.
function framesOf(trace) {
  const editable = new Set(trace.editable);
  const cells = trace.start.map((token, column) => ({token, step: 0, confidence: null, editable: editable.has(column), change: 0, gone: 0}));
  const frames = [{cells, counts: {commit: 0, edit: 0, remask: 0, insert: 0, delete: 0}}];
  trace.steps.forEach((step, index) => frames.push(frameAfter(frames[index].cells, step, index + 1, trace.mask_token_id)));
  return frames;
}

// The canvas after a step of that number, from 1.
function frameAfter(cells, step, number, mask) {
  const counts = {commit: 0, edit: 0, remask: 0, insert: 0, delete: (step.delete || []).length};
  const deleted = new Set(step.delete || []);
  let gone = 0;
  const kept = [];
  cells.forEach((cell, column) => {
    if (deleted.has(column)) gone += 1;
    else {
      kept.push(cell.change || cell.gone || gone ? {...cell, change: 0, gone} : cell);
      gone = 0;
    }
  });
  const change = (column, values) => {
    kept[column] = {...kept[column], ...values}; // a cell that doesn't change is shared by its canvases
  };
  if (gone && kept.length) change(kept.length - 1, {gone: kept[kept.length - 1].gone + gone});
  for (const [column, token, confidence] of step.insert || []) {
    kept.splice(column, 0, {token, step: number, confidence, editable: true, change: 4, gone: 0});
    counts.insert += 1;
  }
  for (const name of ["commit", "edit"]) {
    for (const [column, token, confidence] of step[name] || []) {
      change(column, {token, step: number, confidence, change: CHANGES.indexOf(name)});
      counts[name] += 1;
    }
  }
  for (const column of step.remask || []) {
    change(column, {token: mask, confidence: null, change: CHANGES.indexOf("remask")});
    counts.remask += 1;
  }
  return {cells: kept, counts};
}

// The lowest and highest confidence that is stated; probabilities keep their own scale.
function confidenceRange(frames) {
  let low = Infinity;
  let high = -Infinity;
  for (const {cells} of frames) {
    for (const {confidence} of cells) {
      if (confidence !== null) {
        low = Math.min(low, confidence);
        high = Math.max(high, confidence);
      }
    }
  }
  if (low > high) return null;
  return low >= 0 && high <= 1 ? [0, 1] : [low, high];
}

class Pane {
  constructor(holder) {
    this.title = make("h4");
    this.canvas = make("pre", {class: "canvas", tabindex: "0", role: "img"});
    this.counts = make("p", {class: "small faint"});
    this.element = make("section", {class: "pane"}, this.title, this.canvas, this.counts);
    holder.append(this.element);
    this.shown = [];
  }

  show(trace) {
    this.trace = trace;
    this.element.hidden = !trace;
    if (!trace) return;
    this.frames = framesOf(trace);
    this.range = confidenceRange(this.frames);
    this.spellings = new Map();
    this.title.textContent = plainly(trace.label);
    this.canvas.replaceChildren();
    this.shown = [];
  }

  get steps() {
    return this.trace ? this.frames.length - 1 : 0;
  }

  spell(token) {
    if (token === this.trace.mask_token_id) return MASK;
    if (!this.spellings.has(token)) {
      this.spellings.set(token, plainly(this.trace.vocabulary[token]).replace(/\n/g, "⏎\n"));
    }
    return this.spellings.get(token);
  }

  share(cell, colour) {
    if (!cell.editable || cell.token === this.trace.mask_token_id || cell.step === 0) return null;
    if (colour === "step") return this.steps > 1 ? (cell.step - 1) / (this.steps - 1) : 0;
    if (colour !== "confidence" || cell.confidence === null || this.range === null) return null;
    const [low, high] = this.range;
    return high > low ? (cell.confidence - low) / (high - low) : 1;
  }

  draw(step, colour) {
    if (!this.trace) return;
    const at = Math.min(step, this.steps);
    const {cells, counts} = this.frames[at];
    while (this.shown.length > cells.length) {
      this.canvas.lastChild.remove();
      this.shown.pop();
    }
    cells.forEach((cell, column) => {
      const share = this.share(cell, colour);
      const look = `${cell.token} ${cell.change} ${cell.gone} ${cell.editable} ${cell.step === 0} ${share}`;
      if (this.shown[column] === look) return;
      const span = this.canvas.children[column] || this.canvas.appendChild(make("span"));
      this.shown[column] = look;
      const kinds = [cell.editable ? "cell" : "given"];
      if (cell.token === this.trace.mask_token_id && cell.editable) kinds.push("mask");
      else if (cell.editable && cell.step === 0) kinds.push("noise");
      if (cell.change) kinds.push(CHANGES[cell.change]);
      if (cell.gone) kinds.push("gone");
      span.className = kinds.join(" ");
      span.textContent = this.spell(cell.token);
      if (cell.gone) span.dataset.gone = "×".repeat(Math.min(cell.gone, 3));
      if (share === null) span.style.removeProperty("--share");
      else span.style.setProperty("--share", `${Math.round(100 * share)}%`);
      span.classList.toggle("shaded", share !== null);
      span.title = this.about(cell);
    });
    this.counts.textContent = this.said(at, counts, cells);
    this.canvas.setAttribute("aria-label", `${this.title.textContent}, ${this.counts.textContent} ${this.read(cells)}`);
    if (step === 0) this.reveal();
  }

  about(cell) {
    if (!cell.editable) return "given";
    if (cell.token === this.trace.mask_token_id) return "mask";
    if (cell.step === 0) return "noise that the model starts from";
    const confidence = cell.confidence === null ? "" : `, confidence ${cell.confidence.toPrecision(3)}`;
    return `written in step ${cell.step}${confidence}`;
  }

  said(step, counts, cells) {
    const masks = cells.filter((cell) => cell.editable && cell.token === this.trace.mask_token_id).length;
    const changes = Object.entries(CHANGE_NAMES).filter(([name]) => counts[name]).map(([name, word]) => `${counts[name]} ${word}`);
    if (counts.delete) changes.push(`${counts.delete} taken out`);
    const {forward_passes: passes} = this.trace; // null while it is still being written
    const done = step === this.steps && passes !== null ? `; ${passes} forward passes in all` : "";
    return `Step ${step}${passes === null ? "" : ` of ${this.steps}`}: ${changes.join(", ") || "nothing changed"}; ${masks} masks left${done}.`;
  }

  // What a screen reader reads: runs of masks as their number.
  read(cells) {
    let text = "";
    let masks = 0;
    for (const cell of [...cells.filter((each) => each.editable), null]) {
      if (cell && cell.token === this.trace.mask_token_id) masks += 1;
      else {
        if (masks) text += ` [${masks} ${masks === 1 ? "mask" : "masks"}] `;
        masks = 0;
        if (cell) text += plainly(this.trace.vocabulary[cell.token]);
      }
    }
    return text;
  }

  reveal() {
    const first = this.canvas.querySelector(".cell");
    if (first) this.canvas.scrollTop = Math.max(0, first.offsetTop - this.canvas.offsetTop - this.canvas.clientHeight / 3);
  }
}

class TraceViewer {
  constructor(root, groups) {
    this.groups = groups;
    this.step = 0;
    this.timer = null;
    root.classList.add("viewer");
    root.setAttribute("role", "group");
    root.setAttribute("aria-label", "Trace viewer");
    this.build(root);
    this.openGroup(0);
    root.addEventListener("keydown", (event) => this.onKey(event));
  }

  build(root) {
    const labelled = (text, control) => {
      control.id = `viewer-${text}`;
      return make("span", {class: "labelled"}, make("label", {for: control.id}, text), control);
    };
    this.group = make("select", {class: "task"}, ...this.groups.map((group, index) => make("option", {value: index}, plainly(group.label))));
    this.left = make("select", {class: "left"});
    this.right = make("select", {class: "right"});
    this.play = make("button", {type: "button", class: "play"});
    this.back = make("button", {type: "button", class: "back", "aria-label": "one step back"}, "‹");
    this.forward = make("button", {type: "button", class: "forward", "aria-label": "one step forward"}, "›");
    this.scrub = make("input", {type: "range", class: "scrub", min: 0, value: 0, step: 1, "aria-label": "step"});
    this.speed = make("select", {class: "speed"}, ...SPEEDS.map(([value, text]) => make("option", {value, selected: value === "1"}, text)));
    this.colour = make("select", {class: "colour"}, make("option", {value: "confidence"}, "confidence"), make("option", {value: "step"}, "step"));
    this.status = make("p", {class: "unseen-status", role: "status", "aria-live": "polite"});
    this.key = make("p", {class: "key small faint"});
    const panes = make("div", {class: "panes"});
    root.append(
      make("div", {class: "controls"}, labelled("task", this.group), labelled("left", this.left), labelled("right", this.right)),
      make("div", {class: "controls"}, this.play, this.back, this.scrub, this.forward, labelled("speed", this.speed), labelled("colour", this.colour)),
      panes, this.key, make("p", {class: "hint small faint"}, KEYS), this.status,
    );
    this.panes = [new Pane(panes), new Pane(panes)];
    this.group.addEventListener("change", () => this.openGroup(Number(this.group.value)));
    for (const select of [this.left, this.right]) select.addEventListener("change", () => this.openTraces());
    this.play.addEventListener("click", () => this.toggle());
    this.back.addEventListener("click", () => this.moveBy(-1));
    this.forward.addEventListener("click", () => this.moveBy(1));
    this.scrub.addEventListener("input", () => {
      this.stop();
      this.moveTo(Number(this.scrub.value));
    });
    this.speed.addEventListener("change", () => this.timer && this.start());
    this.colour.addEventListener("change", () => this.draw());
    this.showPlaying();
  }

  openGroup(index) {
    const {traces} = this.groups[index];
    const options = () => traces.map((trace, number) => make("option", {value: number}, plainly(trace.label)));
    this.left.replaceChildren(...options());
    this.right.replaceChildren(...options(), make("option", {value: ""}, "none"));
    this.left.value = "0";
    this.right.value = traces.length > 1 ? "1" : "";
    this.right.parentElement.hidden = traces.length < 2;
    this.left.parentElement.hidden = traces.length < 2;
    this.group.parentElement.hidden = this.groups.length < 2;
    this.openTraces();
  }

  openTraces() {
    const {traces} = this.groups[Number(this.group.value) || 0];
    this.stop();
    this.panes[0].show(traces[Number(this.left.value)]);
    this.panes[1].show(this.right.value === "" ? null : traces[Number(this.right.value)]);
    this.steps = Math.max(...this.panes.map((pane) => pane.steps));
    this.scrub.max = this.steps;
    const stated = this.panes.some((pane) => pane.trace && pane.range !== null);
    this.colour.firstChild.disabled = !stated;
    if (!stated) this.colour.value = "step";
    this.moveTo(0);
  }

  moveBy(steps) {
    this.stop();
    this.moveTo(this.step + steps);
  }

  moveTo(step) {
    this.step = Math.max(0, Math.min(step, this.steps));
    this.scrub.value = this.step;
    this.scrub.setAttribute("aria-valuetext", `step ${this.step} of ${this.steps}`);
    this.draw();
  }

  draw() {
    for (const pane of this.panes) pane.draw(this.step, this.colour.value);
    // While it plays a screen reader isn't told of every step.
    if (!this.timer) this.status.textContent = this.panes.filter((pane) => pane.trace).map((pane) => `${pane.title.textContent}: ${pane.counts.textContent}`).join(" ");
    this.showKey();
  }

  showKey() {
    const [pane] = this.panes;
    let ends = ["early", "late"];
    if (this.colour.value === "confidence" && pane.range) ends = pane.range.map((value) => `confidence ${value.toPrecision(2)}`);
    const marks = [["commit", "written now"], ["edit", "overwritten"], ["remask", "masked again"], ["insert", "put in"]];
    this.key.replaceChildren(
      make("span", {class: "scale"}, ends[0], make("i", {"aria-hidden": "true"}), ends[1]),
      ...marks.map(([kind, text]) => make("span", {}, make("b", {class: `cell ${kind}`, "aria-hidden": "true"}, "ab"), ` ${text}`)),
      make("span", {}, make("b", {class: "cell gone", "data-gone": "×", "aria-hidden": "true"}, "ab"), " taken out before"),
    );
  }

  start() {
    clearInterval(this.timer);
    if (this.step >= this.steps) this.moveTo(0);
    this.timer = setInterval(() => {
      if (this.step + 1 >= this.steps) this.stop();
      this.moveTo(this.step + 1);
    }, 1000 / (STEPS_A_SECOND * Number(this.speed.value)));
    this.showPlaying();
  }

  stop() {
    clearInterval(this.timer);
    this.timer = null;
    this.showPlaying();
  }

  toggle() {
    if (this.timer) {
      this.stop();
      this.draw();
    } else this.start();
  }

  showPlaying() {
    this.play.textContent = this.timer ? "❚❚ Pause" : "▶ Play";
  }

  onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || ["SELECT", "INPUT"].includes(event.target.tagName)) return;
    const onButton = event.target.tagName === "BUTTON";
    const actions = {
      ArrowLeft: () => this.moveBy(-1),
      ArrowRight: () => this.moveBy(1),
      Home: () => this.moveBy(-this.steps),
      End: () => this.moveBy(this.steps),
      k: () => this.toggle(),
    };
    if (!onButton) actions[" "] = () => this.toggle();
    if (event.key in actions) {
      event.preventDefault();
      actions[event.key]();
    }
  }
}
