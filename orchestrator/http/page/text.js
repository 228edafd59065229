/** Tokens as a text in which each can be pointed at, focused and walked through. */

// Closed blocks are not laid out again when the text grows, nor painted while they are out of sight.
const LEAST_BLOCK = 64;
const STEPS = { ArrowRight: 1, ArrowLeft: -1 };

export class TextView {
  #element;
  #block = null;
  #spans = [];
  #tokens = [];
  #marked = [];
  #tabStop = 0;

  /** Shows tokens in `element`; `onPoint` is told which one is pointed at or has the focus. */
  constructor(element, onPoint) {
    this.#element = element;
    element.classList.add("tokens");
    const of = (event) => this.#tokens[event.target.closest?.(".token")?.dataset.number];
    for (const kind of ["pointerover", "focusin"]) {
      element.addEventListener(kind, (event) => {
        const token = of(event);
        if (token) onPoint(token);
      });
    }
    element.addEventListener("focusin", (event) => this.#moveTabStop(event.target));
    element.addEventListener("keydown", (event) => this.#walk(event));
  }

  /** Begins with an element that is no token, in the line of the first one. */
  begin(element) {
    this.#block = this.#newBlock();
    this.#block.append(element);
    this.#element.append(this.#block);
  }

  add(tokens) {
    const parts = document.createDocumentFragment();
    let block = this.#block;
    for (const token of tokens) {
      if (!block) parts.append((block = this.#newBlock()));
      block.append(this.#span(token));
      if (token.text.endsWith("\n") && block.childElementCount >= LEAST_BLOCK) {
        block.classList.add("closed");
        block = null;
      }
    }
    this.#block = block;
    this.#element.append(parts);
  }

  /** Marks the tokens of a cycle, those of no other; null marks none. */
  mark(cycle) {
    for (const span of this.#marked) span.classList.remove("marked");
    const first = cycle?.firstToken;
    const isHere = cycle && this.#tokens[first]?.cycle === cycle;
    this.#marked = isHere ? this.#spans.slice(first, first + cycle.tokens.length) : [];
    for (const span of this.#marked) span.classList.add("marked");
  }

  /** Scrolls to the marked tokens. */
  reveal() {
    this.#marked[0]?.scrollIntoView({ block: "nearest" });
  }

  #newBlock() {
    const block = document.createElement("div");
    block.className = "block";
    return block;
  }

  #span(token) {
    const span = document.createElement("span");
    const isFirstWithout = token.cycle.isFirst && token.number && !token.place;
    span.className = `token ${token.kind}${isFirstWithout ? " switched" : ""}`;
    span.textContent = token.text;
    span.tabIndex = token.number === this.#tabStop ? 0 : -1;
    span.dataset.number = token.number;
    if (!token.text) span.dataset.mark = "·";
    else if (token.text.startsWith("\n")) span.dataset.mark = "↵";
    this.#spans.push(span);
    this.#tokens.push(token);
    return span;
  }

  #moveTabStop(span) {
    const number = Number(span.dataset.number);
    this.#spans[this.#tabStop].tabIndex = -1;
    this.#tabStop = number;
    span.tabIndex = 0;
  }

  /** By token, with up and down by cycle. */
  #walk(event) {
    const last = this.#spans.length - 1;
    let next = this.#tabStop;
    if (event.key in STEPS) next += STEPS[event.key];
    else if (event.key === "Home") next = 0;
    else if (event.key === "End") next = last;
    else if (event.key === "ArrowDown" || event.key === "ArrowUp") next = this.#nextCycle(event.key === "ArrowDown");
    else return;
    event.preventDefault();
    this.#spans[Math.max(0, Math.min(last, next))]?.focus();
  }

  #nextCycle(isForward) {
    const { cycle } = this.#tokens[this.#tabStop];
    const step = isForward ? 1 : -1;
    let next = this.#tabStop;
    while (this.#tokens[next]?.cycle === cycle) next += step;
    return next;
  }
}
