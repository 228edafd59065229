/** An answer in the page, and what becomes of it without a draft. */

import { Run } from "./run.js";
import { TextView } from "./text.js";

const ENDS = { stop: "the model ended it", length: "as long as it may be" };

export function made(name, className = "") {
  const element = document.createElement(name);
  element.className = className;
  return element;
}

/** One answer in the page, `run` as it comes; `onPoint` is told which of its tokens is pointed at. */
export class Answer {
  constructor(run, element, onPoint) {
    this.run = run;
    this.element = element;
    this.text = element.appendChild(made("div", "text"));
    this.text.setAttribute("role", "group");
    this.text.setAttribute("aria-label", "tokens of the answer; arrow keys walk through them");
    this.view = new TextView(this.text, (token) => onPoint(this.view, token, token.cycle));
    this.note = element.appendChild(made("p", "note"));
    this.plain = null;
    /** What it was compared with came to, in a sentence. */
    this.verdict = "";
    this.numShown = 0;
  }

  get isRunning() {
    return this.run.isRunning || Boolean(this.plain?.run.isRunning);
  }

  /** Shows what came since the last time, and goes along with it unless one has scrolled back. */
  update() {
    const answers = this.element.parentElement;
    if (!answers) return;
    const isAtEnd = answers.scrollTop + answers.clientHeight >= answers.scrollHeight - 40;
    this.view.add(this.run.tokens.slice(this.numShown));
    this.numShown = this.run.tokens.length;
    this.plain?.update();
    if (isAtEnd) answers.scrollTop = answers.scrollHeight;
  }

  /** Says what its end tells. */
  showEnd() {
    const { summary, settings, tokens, isDrafting } = this.run;
    const parts = [`${tokens.length} tokens`, ENDS[summary?.finish_reason] ?? "stopped", `seed ${settings.seed}`];
    if (summary) parts.push(summary.exact ? "exact to the bit" : "not exact");
    if (summary?.draft_problem && isDrafting) parts.push(summary.draft_problem);
    this.note.textContent = parts.join(" · ");
    if (summary?.trace_url) {
      const link = made("a");
      Object.assign(link, { href: summary.trace_url, textContent: "trace", target: "_blank", rel: "noreferrer" });
      this.note.append(" · ", link);
    } else if (summary?.trace_id) {
      this.note.append(` · trace ${summary.trace_id}`);
    }
  }

  /** Asks for the same once more, without a draft. Throws Refusal. */
  async compare(onChange) {
    this.element.querySelector(".again")?.remove();
    this.plain = new Plain(this, onChange);
    this.verdict = "";
    await this.plain.run.go();
    this.update();
    this.verdict = this.plain.verdict;
  }
}

/** The same request once more, without a draft. */
class Plain {
  constructor(answer, onChange) {
    const settings = { ...answer.run.settings, mode: "off", max_tokens: answer.run.tokens.length };
    this.first = answer.run;
    this.run = new Run(answer.run.asked, settings, onChange);
    const block = answer.element.appendChild(made("details", "again"));
    block.open = true;
    this.line = block.appendChild(made("summary"));
    this.text = block.appendChild(made("div", "text tokens"));
    this.numEqual = this.numShown = 0;
  }

  update() {
    for (const token of this.run.tokens.slice(this.numShown)) {
      const isEqual = token.number === this.numEqual && this.first.tokens[token.number]?.id === token.id;
      this.numEqual += isEqual;
      const span = this.text.appendChild(made("span", isEqual ? "equal" : "unequal"));
      span.textContent = token.text;
    }
    this.numShown = this.run.tokens.length;
    this.line.textContent = `Without a draft: ${this.numEqual} of ${this.first.tokens.length} tokens equal`;
  }

  /** What the comparison came to, in a sentence. */
  get verdict() {
    const { first, run, numEqual } = this;
    if (numEqual < run.tokens.length) {
      const why = first.summary?.exact
        ? ""
        : " This answer was not exact: batches of other shapes are rounded otherwise, which can flip a choice.";
      return `The texts differ from token ${numEqual + 1} on.${why}`;
    }
    const isWhole = numEqual === first.tokens.length;
    return `${isWhole ? "The same text" : "The same as far as it came"}: ${numEqual} of ${first.tokens.length} tokens equal.`;
  }
}
