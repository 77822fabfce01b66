// The samples: a list of which only the rows in sight are in the page, filters, and one answer beside the others'.

const ROW_HEIGHT = 44;
const SPARE_ROWS = 6;
const SIGNS = {passed: "✓", failed: "✗", partly: "◐", "not asked": "–", "not scored": "·", scored: "·"};
const FIELDS = ["benchmark", "variant", "task", "setting", "sample", "prefix", "suffix", "reference", "text", "verdict", "reason"];

class SampleBrowser {
  constructor(root, data) {
    this.data = data;
    this.texts = data.entries.filter((entry) => typeof entry === "string");
    this.rows = data.entries.filter((entry) => typeof entry !== "string")
      .map((row) => Object.fromEntries(row.map((value, index) => [FIELDS[index], value])));
    this.rows.sort((one, other) => one.benchmark - other.benchmark || one.variant - other.variant);
    this.found = this.rows;
    this.selected = 0;
    this.build(root);
    this.filter();
  }

  build(root) {
    const every = (name, values) => make("select", {class: name, "aria-label": name}, make("option", {value: ""}, `every ${name}`),
      ...values.map((value) => make("option", {value}, plainly(value))));
    const settings = [...new Set(this.rows.map((row) => row.setting))];
    const verdicts = [...new Set(this.rows.map((row) => row.verdict))];
    this.filters = {
      benchmark: every("benchmark", this.data.benchmarks),
      variant: every("variant", this.data.variants),
      setting: every("setting", settings),
      verdict: every("verdict", verdicts),
    };
    this.filters.setting.hidden = settings.length < 2;
    this.filters.benchmark.hidden = this.data.benchmarks.length < 2;
    this.search = make("input", {type: "search", class: "search", placeholder: "search task, prompt, answer, reason", "aria-label": "search the samples"});
    this.count = make("p", {class: "small faint count", role: "status"});
    this.spacer = make("div", {class: "spacer"});
    this.list = make("div", {class: "list", role: "listbox", tabindex: "0", "aria-label": "samples"}, this.spacer);
    this.detail = make("div", {class: "detail", "aria-live": "polite"});
    root.append(make("div", {class: "filters"}, ...Object.values(this.filters), this.search), this.count,
      make("div", {class: "browser"}, this.list, this.detail));
    for (const select of Object.values(this.filters)) select.addEventListener("change", () => this.filter());
    this.search.addEventListener("input", () => this.filter());
    this.list.addEventListener("scroll", () => this.drawRows());
    this.list.addEventListener("click", (event) => {
      const option = event.target.closest("[role=option]");
      if (option) this.select(Number(option.dataset.index));
    });
    this.list.addEventListener("keydown", (event) => this.onKey(event));
    new ResizeObserver(() => this.drawRows()).observe(this.list);
  }

  text(index) {
    return index < 0 ? null : this.texts[index];
  }

  filter() {
    const wanted = Object.fromEntries(Object.entries(this.filters).map(([name, select]) => [name, select.value]));
    const benchmark = this.data.benchmarks.indexOf(wanted.benchmark);
    const variant = this.data.variants.indexOf(wanted.variant);
    const word = this.search.value.toLowerCase();
    this.found = this.rows.filter((row) =>
      (benchmark < 0 || row.benchmark === benchmark) && (variant < 0 || row.variant === variant) &&
      (!wanted.setting || row.setting === wanted.setting) && (!wanted.verdict || row.verdict === wanted.verdict) &&
      (!word || [row.task, row.text, row.reason, this.text(row.prefix)].some((text) => text && text.toLowerCase().includes(word))));
    const left = this.data.left_out ? `; ${this.data.left_out.toLocaleString("en")} more are in the samples files` : "";
    this.count.textContent = `${this.found.length.toLocaleString("en")} of ${this.rows.length.toLocaleString("en")} samples${left}`;
    this.spacer.style.height = `${this.found.length * ROW_HEIGHT}px`;
    this.list.scrollTop = 0;
    this.drawn = null;
    this.select(0);
  }

  select(index) {
    this.selected = Math.max(0, Math.min(index, this.found.length - 1));
    const top = this.selected * ROW_HEIGHT;
    if (top < this.list.scrollTop) this.list.scrollTop = top;
    if (top + ROW_HEIGHT > this.list.scrollTop + this.list.clientHeight) this.list.scrollTop = top + ROW_HEIGHT - this.list.clientHeight;
    this.drawn = null;
    this.drawRows();
    this.drawDetail(this.found[this.selected]);
  }

  onKey(event) {
    const page = Math.max(1, Math.floor(this.list.clientHeight / ROW_HEIGHT) - 1);
    const steps = {ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -this.found.length, End: this.found.length};
    if (!(event.key in steps)) return;
    event.preventDefault();
    this.select(this.selected + steps[event.key]);
  }

  drawRows() {
    const first = Math.max(0, Math.floor(this.list.scrollTop / ROW_HEIGHT) - SPARE_ROWS);
    const last = Math.min(this.found.length, Math.ceil((this.list.scrollTop + this.list.clientHeight) / ROW_HEIGHT) + SPARE_ROWS);
    const drawn = `${first} ${last}`;
    if (drawn === this.drawn) return;
    this.drawn = drawn;
    this.spacer.replaceChildren(...this.found.slice(first, last).map((row, offset) => this.option(row, first + offset)));
    if (this.found.length) this.list.setAttribute("aria-activedescendant", `sample-${this.selected}`);
    else this.list.removeAttribute("aria-activedescendant");
  }

  option(row, index) {
    const answer = isBlank(row.text) ? (row.text === "" ? "nothing" : "white space") : plainly(row.text.trim().slice(0, 120)).replace(/\s+/g, " ");
    const setting = row.setting === "default" ? "" : `${row.setting} · `;
    const option = make("div", {
      role: "option", id: `sample-${index}`, "data-index": index, "aria-selected": String(index === this.selected),
      "aria-setsize": this.found.length, "aria-posinset": index + 1, class: row.verdict.replace(" ", "-"),
    },
    make("span", {class: "sign", title: row.verdict}, SIGNS[row.verdict] || "·"),
    make("span", {class: "what"},
      make("span", {class: "task"}, plainly(`${this.data.variants[row.variant]} · ${setting}${row.task}${row.sample ? ` #${row.sample}` : ""}`)),
      make("span", {class: "answer-line"}, answer)));
    option.style.top = `${index * ROW_HEIGHT}px`;
    return option;
  }

  drawDetail(row) {
    this.detail.replaceChildren();
    if (!row) {
      this.detail.append(make("p", {class: "faint"}, "No sample is like that."));
      return;
    }
    const same = this.rows.filter((other) => other.benchmark === row.benchmark && other.task === row.task && other.setting === row.setting && other.sample === row.sample && other !== row);
    const setting = row.setting === "default" ? "" : `, ${row.setting}`;
    this.detail.append(
      make("h3", {}, plainly(`${row.task} (${this.data.benchmarks[row.benchmark]}${setting}, sample ${row.sample})`)),
      this.answer(row, true));
    const reference = this.text(row.reference);
    if (reference !== null) this.detail.append(make("h4", {}, "reference"), this.block(reference));
    if (same.length) this.detail.append(make("h4", {}, "the others' answers"), ...same.map((other) => this.answer(other, false)));
  }

  answer(row, whole) {
    const reason = row.reason ? `: ${plainly(row.reason)}` : "";
    const head = make("p", {class: `verdict ${row.verdict.replace(" ", "-")}`},
      make("strong", {}, plainly(this.data.variants[row.variant])), ` ${SIGNS[row.verdict] || ""} ${row.verdict}${reason}`);
    if (!whole) return make("div", {class: "answer"}, head, this.block(row.text));
    const code = make("code");
    const prefix = this.text(row.prefix);
    const suffix = this.text(row.suffix);
    if (prefix) code.append(this.part("span", prefix, "prompt"));
    code.append(row.text === "" ? make("mark", {class: "empty"}, "nothing") : this.part("mark", row.text));
    if (suffix) code.append(this.part("span", suffix, "prompt"));
    return make("div", {class: "answer"}, head, make("pre", {tabindex: "0"}, code));
  }

  part(tag, text, kind) {
    const element = make(tag, {class: kind});
    appendText(element, text);
    return element;
  }

  block(text) {
    return make("pre", {tabindex: "0"}, make("code", {}, text === "" ? make("mark", {class: "empty"}, "nothing") : this.part("span", text)));
  }
}
