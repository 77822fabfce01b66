// A server's page: asks for a text, and draws its canvas while it is written.

const FIRST_OPTIONS = ["steps", "block_length", "temperature"];
const MOST_TRACES = 6; // of a prompt, to be looked at side by side

// The events of a response's stream, as they come.
async function* eventsOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const {value, done} = await reader.read();
    if (done) return;
    text += value;
    const parts = text.split("\n\n");
    text = parts.pop();
    for (const part of parts) if (part.startsWith("data: ")) yield JSON.parse(part.slice(6));
  }
}

// A field for an option, by its JSON schema; empty is the default.
function fieldOf(name, schema, defaults) {
  const kinds = schema.anyOf || [schema];
  const choices = kinds.flatMap((kind) => kind.enum || (kind.const !== undefined ? [kind.const] : kind.type === "boolean" ? [true, false] : []));
  const unset = name in defaults ? defaults[name] : schema.default;
  const shown = unset === null || unset === undefined ? "" : String(unset);
  const numbers = kinds.some((kind) => ["integer", "number"].includes(kind.type));
  const control = choices.length && !numbers
    ? make("select", {name, title: schema.description}, make("option", {value: ""}, shown || "default"), ...choices.map((each) => make("option", {value: JSON.stringify(each)}, String(each))))
    : make("input", {name, title: schema.description, placeholder: shown || "default", inputmode: numbers ? "decimal" : null, autocomplete: "off"});
  control.dataset.option = "";
  return make("label", {class: "field"}, name.replaceAll("_", " "), control);
}

// What was written into a field: JSON where it is some, else text.
function valueOf(text) {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

class ServerPage {
  constructor() {
    const byId = (id) => document.getElementById(id);
    [this.form, this.options, this.more, this.status, this.live, this.traces, this.write, this.stop, this.token, this.tokenField] =
      ["ask", "options", "more", "status", "live", "traces", "write", "stop", "token", "token-field"].map(byId);
    this.groups = [];
    this.models = [];
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.ask();
    });
    this.stop.addEventListener("click", () => this.running && this.running.abort());
    this.token.addEventListener("change", () => this.models.length || this.begin());
    this.form.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.ask();
    });
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && this.running) this.running.abort();
    });
    this.begin();
  }

  say(text, broken = false) {
    this.status.textContent = plainly(text);
    this.status.classList.toggle("broken", broken);
  }

  // The response to a request, or an error that says what the server says.
  async fetch(path, options = {}) {
    const headers = {...options.headers};
    if (this.token.value) headers.Authorization = `Bearer ${this.token.value}`;
    const response = await fetch(path, {...options, headers});
    if (response.ok) return response;
    if (response.status === 401) this.tokenField.hidden = false;
    const {error} = await response.json();
    throw new Error(error.message);
  }

  async begin() {
    try {
      const {data} = await (await this.fetch("/v1/models")).json();
      this.models = data;
    } catch (error) {
      this.say(error.message, true);
      return;
    }
    this.say("");
    this.model = make("select", {name: "model"}, ...this.models.map(({id}) => make("option", {value: id}, plainly(id))));
    this.sampler = make("select", {name: "sampler"});
    this.model.addEventListener("change", () => this.openModel());
    this.sampler.addEventListener("change", () => this.openSampler());
    this.openModel();
  }

  get chosen() {
    return this.models.find(({id}) => id === this.model.value);
  }

  openModel() {
    const {samplers, default_sampler: own} = this.chosen;
    this.sampler.replaceChildren(make("option", {value: ""}, `${own} (default)`), ...Object.keys(samplers).map((name) => make("option", {value: name}, plainly(name))));
    this.openSampler();
  }

  openSampler() {
    const {samplers, decoder, default_sampler: own, default_options: defaults, context_length: context} = this.chosen;
    const unset = this.sampler.value ? {} : defaults;
    const written = Object.fromEntries([...this.form.querySelectorAll("[data-option]")].map((each) => [each.name, each.value]));
    const tokens = fieldOf("max_tokens", {type: "integer", description: `how many tokens to write; all together, up to ${context}`}, {max_tokens: unset.max_new_tokens ?? decoder.max_new_tokens.default});
    const seed = fieldOf("seed", {type: "integer", description: "the same seed writes the same text; by default a new one"}, {seed: "a new one"});
    const field = (name) => fieldOf(name, decoder[name], unset);
    const others = Object.keys(decoder).filter((name) => !FIRST_OPTIONS.includes(name) && name !== "max_new_tokens");
    const ofSampler = Object.entries(samplers[this.sampler.value || own] || {}).map(([name, schema]) => fieldOf(name, schema, unset));
    this.options.replaceChildren(
      make("label", {class: "field", hidden: this.models.length < 2}, "model", this.model),
      make("label", {class: "field"}, "sampler", this.sampler),
      tokens, ...FIRST_OPTIONS.map(field), ...ofSampler, seed,
    );
    this.more.replaceChildren(...others.map(field));
    for (const each of this.form.querySelectorAll("[data-option]")) if (written[each.name]) each.value = written[each.name];
  }

  get asked() {
    const {prompt, suffix} = this.form.elements;
    const asked = {model: this.model.value, prompt: prompt.value};
    if (suffix.value) asked.suffix = suffix.value;
    if (this.sampler.value) asked.sampler = this.sampler.value;
    for (const each of this.form.querySelectorAll("[data-option]")) if (each.value.trim()) asked[each.name] = valueOf(each.value.trim());
    return asked;
  }

  async ask() {
    if (this.running || !this.models.length) return;
    this.running = new AbortController();
    this.write.disabled = true;
    this.stop.disabled = false;
    this.traces.replaceChildren();
    this.live.replaceChildren();
    this.trace = null;
    this.say("Waiting...");
    try {
      const body = JSON.stringify(this.asked);
      const response = await this.fetch("/denoise", {method: "POST", body, headers: {"Content-Type": "application/json"}, signal: this.running.signal});
      for await (const event of eventsOf(response)) this.take(event);
      if (!this.trace || this.trace.text === undefined) throw new Error("the server has ended this");
      this.keep();
      this.say(`Done: ${this.trace.tokens} tokens in ${this.trace.forward_passes} forward passes.`);
    } catch (error) {
      this.say(error.name === "AbortError" ? "Stopped." : error.message, error.name !== "AbortError");
    } finally {
      this.running = null;
      this.write.disabled = false;
      this.stop.disabled = true;
    }
  }

  take({start, step, end, vocabulary, error}) {
    if (error) throw new Error(error.message);
    if (start) {
      this.trace = {...start, vocabulary, steps: [], forward_passes: null, label: `${start.sampler}, seed ${start.seed}`};
      this.live.replaceChildren();
      this.pane = new Pane(this.live);
      this.pane.show(this.trace);
      this.say("Writing...");
    } else if (step) {
      const {frames} = this.pane;
      Object.assign(this.trace.vocabulary, vocabulary);
      this.trace.steps.push(step);
      frames.push(frameAfter(frames[frames.length - 1].cells, step, this.trace.steps.length, this.trace.mask_token_id));
    } else if (end) Object.assign(this.trace, end);
    this.drawSoon();
  }

  // Steps may come faster than a screen shows them.
  drawSoon() {
    if (this.drawing) return;
    this.drawing = requestAnimationFrame(() => {
      this.drawing = null;
      this.pane.range = confidenceRange(this.pane.frames.slice(-1)) || this.pane.range;
      this.pane.draw(this.pane.steps, "confidence");
    });
  }

  // What is written can be played again, beside what was written before.
  keep() {
    const {prompt, suffix} = this.trace;
    let group = this.groups.find((each) => each.prompt === prompt && each.suffix === suffix);
    if (!group) {
      group = {prompt, suffix, label: prompt.trim().slice(-60) || "(empty)", traces: []};
      this.groups.unshift(group);
    }
    group.traces = [this.trace, ...group.traces].slice(0, MOST_TRACES);
    this.groups = [group, ...this.groups.filter((each) => each !== group)];
    cancelAnimationFrame(this.drawing);
    this.drawing = null;
    this.live.replaceChildren();
    const holder = make("div");
    this.traces.replaceChildren(holder);
    const viewer = new TraceViewer(holder, this.groups);
    viewer.moveTo(viewer.steps);
  }
}

new ServerPage();
