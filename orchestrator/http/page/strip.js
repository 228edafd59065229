/** The cycles of an answer as bars: up what each one took, down what was drafted. */

const STEP = 12; // of one cycle, in CSS pixels
const BAR = 9;
const AXIS = 36;
const MOST_SHOWN = 16; // draft tokens of a cycle; more are drawn as so many
const NICE = [1, 2, 5, 10];

/** The parts of a cycle's time in ms, in the order in which they are drawn. */
export function partsOf(cycle) {
  const { drafting, verifying } = cycle;
  const wire = (timings) => Math.max(0, timings.waited_ms - timings.queued_ms - timings.computed_ms);
  return {
    drafting: drafting.computed_ms,
    wire: (drafting.waited_ms ? wire(drafting) : 0) + wire(verifying),
    queued: drafting.queued_ms + verifying.queued_ms,
    verifying: verifying.computed_ms,
  };
}

const totalOf = (cycle) => Object.values(partsOf(cycle)).reduce((sum, ms) => sum + ms, 0);
const plainOf = (cycle) => (cycle.plain_ms ?? 0) * cycle.tokens.length;

export class Strip {
  #element;
  #canvas;
  #spacer;
  #cycles = [];
  #marked = null;
  #onPoint;
  #colours = {};

  /** Draws in `element`, which scrolls; `onPoint` is told which cycle is pointed at or walked to. */
  constructor(element, onPoint) {
    this.#element = element;
    this.#canvas = element.querySelector("canvas");
    this.#spacer = element.querySelector(".spacer");
    this.#onPoint = onPoint;
    element.addEventListener("scroll", () => this.draw());
    element.addEventListener("keydown", (event) => this.#walk(event));
    for (const kind of ["pointermove", "pointerdown"]) {
      element.addEventListener(kind, (event) => this.#point(this.#cycles[this.#indexAt(event.clientX)]));
    }
    new ResizeObserver(() => this.draw()).observe(element);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#readColours());
    this.#readColours();
  }

  /** Shows these cycles, to which others may be added; it follows them unless it was scrolled back. */
  show(cycles) {
    const { scrollLeft, clientWidth, scrollWidth } = this.#element;
    const isAtEnd = cycles !== this.#cycles || scrollLeft + clientWidth >= scrollWidth - STEP;
    this.#cycles = cycles;
    this.#spacer.style.width = `${AXIS + cycles.length * STEP}px`;
    this.#element.ariaValueMax = Math.max(0, cycles.length - 1);
    if (isAtEnd) this.#element.scrollLeft = this.#element.scrollWidth;
    this.draw();
  }

  /** Marks a cycle, null none; where it is one of those shown and out of sight, it comes into sight. */
  mark(cycle) {
    this.#marked = cycle;
    if (cycle && this.#cycles[cycle.number] === cycle) {
      const left = cycle.number * STEP;
      const { scrollLeft, clientWidth } = this.#element;
      if (left < scrollLeft || left + STEP > scrollLeft + clientWidth - AXIS) {
        this.#element.scrollLeft = left - (clientWidth - AXIS) / 2;
      }
      this.#element.ariaValueNow = cycle.number;
      this.#element.ariaValueText = sentenceOf(cycle);
    }
    this.draw();
  }

  #point(cycle) {
    if (cycle && cycle !== this.#marked) this.#onPoint(cycle);
  }

  #walk(event) {
    const step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, Home: -Infinity, End: Infinity }[event.key];
    if (!step || !this.#cycles.length) return;
    event.preventDefault();
    const last = this.#cycles.length - 1;
    const from = this.#marked && this.#cycles[this.#marked.number] === this.#marked ? this.#marked.number : last + 1;
    this.#point(this.#cycles[Math.max(0, Math.min(last, from + step))]);
  }

  #indexAt(clientX) {
    const x = clientX - this.#element.getBoundingClientRect().left - AXIS;
    return x < 0 ? -1 : Math.floor((x + this.#element.scrollLeft) / STEP);
  }

  #readColours() {
    const style = getComputedStyle(this.#element);
    const names = ["ink", "faint", "line", "surface", "remote", "ngram", "prediction", "drafting", "wire", "queued"];
    for (const name of [...names, "verifying"]) this.#colours[name] = style.getPropertyValue(`--${name}`).trim();
    this.draw();
  }

  draw() {
    const { clientWidth: width, clientHeight: height, scrollLeft } = this.#element;
    const scale = devicePixelRatio || 1;
    const canvas = this.#canvas;
    if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
      canvas.width = Math.round(width * scale);
      canvas.height = Math.round(height * scale);
      canvas.style.width = `${width}px`;
      canvas.style.height = `${height}px`;
    }
    const context = canvas.getContext("2d");
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.clearRect(0, 0, width, height);
    const first = Math.max(0, Math.floor((scrollLeft - AXIS) / STEP));
    const shown = this.#cycles.slice(first, first + Math.ceil(width / STEP) + 1);
    const layout = this.#layout(shown, height);
    this.#drawScale(context, layout, width);
    context.save();
    context.beginPath();
    context.rect(AXIS, 0, width - AXIS, height);
    context.clip();
    shown.forEach((cycle) => this.#drawCycle(context, cycle, layout, AXIS + cycle.number * STEP - scrollLeft));
    context.restore();
  }

  /** Where zero is, and how many pixels a millisecond and a draft token have. */
  #layout(shown, height) {
    const drafted = Math.min(MOST_SHOWN, Math.max(4, ...shown.map((cycle) => cycle.num_draft_tokens)));
    const token = Math.min(6, Math.floor((height * 0.4) / drafted));
    const zero = height - drafted * token - 10;
    // One that takes much longer than the others, as the first does, which reads the prompt, is cut.
    const values = shown.map((cycle) => Math.max(totalOf(cycle), plainOf(cycle))).sort((a, b) => a - b);
    const usual = values[Math.floor(0.9 * (values.length - 1))] ?? 1;
    const top = Math.min(values.at(-1) ?? 1, 1.5 * usual) || 1;
    const tick = niceBelow(top / 2);
    return { zero, token, perMs: (zero - 12) / top, tick };
  }

  #drawScale(context, { zero, perMs, tick }, width) {
    const { line, faint } = this.#colours;
    context.font = "11px system-ui, sans-serif";
    context.textAlign = "right";
    context.textBaseline = "middle";
    for (let ms = 0; zero - ms * perMs >= 6; ms += tick) {
      const y = Math.round(zero - ms * perMs) + 0.5;
      context.fillStyle = ms ? line : faint;
      context.fillRect(AXIS, y - 0.5, width - AXIS, 1);
      context.fillStyle = faint;
      context.fillText(shortMs(ms), AXIS - 6, y);
    }
  }

  #drawCycle(context, cycle, { zero, token, perMs }, x) {
    const colours = this.#colours;
    if (cycle === this.#marked) {
      context.fillStyle = colours.line;
      context.fillRect(x - 1.5, 0, STEP, zero + MOST_SHOWN * token + 4);
    }
    if (cycle.isFirst && cycle.number) {
      context.fillStyle = colours.ink;
      for (let y = 0; y < zero; y += 6) context.fillRect(x - 2, y, 1, 3);
    }
    let y = zero;
    for (const [name, ms] of Object.entries(partsOf(cycle))) {
      const height = ms * perMs;
      context.fillStyle = colours[name];
      context.fillRect(x, y - height, BAR, height);
      y -= height;
    }
    if (y < 2) this.#drawCut(context, x);
    this.#drawEstimate(context, x, zero - plainOf(cycle) * perMs);
    this.#drawDraft(context, cycle, x, zero + 3, token);
  }

  #drawCut(context, x) {
    context.fillStyle = this.#colours.surface;
    for (let place = 0; place < 3; place += 1) context.fillRect(x + 3 * place, 6 + 2 * (place % 2), 3, 2);
  }

  #drawEstimate(context, x, y) {
    context.fillStyle = this.#colours.surface;
    context.fillRect(x - 1, y - 2, BAR + 2, 4);
    context.fillStyle = this.#colours.ink;
    context.fillRect(x - 1, y - 1, BAR + 2, 2);
  }

  #drawDraft(context, cycle, x, top, size) {
    context.fillStyle = this.#colours[cycle.drafter] ?? this.#colours.remote;
    context.strokeStyle = this.#colours.faint;
    for (let place = 0; place < Math.min(MOST_SHOWN, cycle.num_draft_tokens); place += 1) {
      const y = top + place * size;
      if (place < cycle.num_accepted) context.fillRect(x, y, BAR, size - 1);
      else context.strokeRect(x + 0.5, y + 0.5, BAR - 1, Math.max(1, size - 2));
    }
  }
}

/** What a cycle did, for who does not see it. */
export function sentenceOf(cycle) {
  const times = Object.entries(partsOf(cycle)).map(([name, ms]) => `${name} ${shortMs(ms)} ms`);
  return `cycle ${cycle.number}: ${cycle.num_accepted} of ${cycle.num_draft_tokens} draft tokens accepted, ${times.join(", ")}`;
}

export const shortMs = (ms) => (ms >= 100 ? ms.toFixed(0) : ms >= 10 ? ms.toFixed(1) : ms.toFixed(2)).replace(/\.0+$/, "");

function niceBelow(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return NICE.findLast((each) => each * power <= value) * power;
}
