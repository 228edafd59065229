/** Holds the parts of the page together: what is asked for, who answers, and what is shown of it. */

import { showAcceptance, showLength, showSpeed, showToken } from "./panels.js";
import { Run } from "./run.js";
import { Refusal, get, getKey, setKey } from "./server.js";
import { Strip } from "./strip.js";
import { TextView } from "./text.js";

const RETRY_MS = 2000;
const ENDS = { stop: "the model ended it", length: "as long as it may be" };
const find = (id) => document.getElementById(id);
const [form, answers, told] = [find("ask"), find("answers"), find("told")];
const fields = form.elements;

/** What is shown: the answer that figures are of, and its run without a draft. */
let shown = null;
let messages = [];
/** The text in which a cycle is marked. */
let marked = null;
const strip = new Strip(find("strip"), (cycle) => {
  point(shown.view, null, cycle);
  shown.view.reveal();
});

/** One answer in the page, `run` as it comes. */
class Answer {
  constructor(run, element) {
    this.run = run;
    this.element = element;
    this.text = element.appendChild(made("div", "text"));
    this.text.setAttribute("role", "group");
    this.text.setAttribute("aria-label", "tokens of the answer; arrow keys walk through them");
    this.view = new TextView(this.text, (token) => point(this.view, token, token.cycle));
    // Figures are those of the answer in which one walks.
    element.addEventListener("focusin", () => {
      if (isBusy() || shown === this) return;
      shown = this;
      update();
    });
    this.note = element.appendChild(made("p", "note"));
    this.plain = null;
    this.numShown = 0;
  }

  /** Shows what came since the last time. */
  update() {
    const isAtEnd = answers.scrollTop + answers.clientHeight >= answers.scrollHeight - 40;
    this.view.add(this.run.tokens.slice(this.numShown));
    this.numShown = this.run.tokens.length;
    this.plain?.update();
    if (isAtEnd) answers.scrollTop = answers.scrollHeight;
  }
}

/** The same request once more, without a draft. */
class Plain {
  constructor(answer) {
    const settings = { ...answer.run.settings, mode: "off", max_tokens: answer.run.tokens.length };
    this.first = answer.run;
    this.run = new Run(answer.run.asked, settings, later);
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

function made(name, className = "") {
  const element = document.createElement(name);
  element.className = className;
  return element;
}

const isBusy = () => Boolean(shown?.run.isRunning || shown?.plain?.run.isRunning);
let isDue = false;

/** Shows all that has changed, once for each picture that the browser draws. */
function later() {
  if (isDue) return;
  isDue = true;
  requestAnimationFrame(() => {
    isDue = false;
    update();
  });
}

function update() {
  if (!shown) return;
  const { run, plain } = shown;
  shown.update();
  strip.show(run.cycles);
  showSpeed(run, plain?.run);
  showAcceptance(run);
  showLength(run);
  find("go").disabled = find("clear").disabled = isBusy();
  find("stop").disabled = !isBusy();
  find("switch").disabled = !run.isRunning || run.settings.mode === "off";
  find("switch").textContent = run.isDrafting || !run.isRunning ? "Go on without draft" : "Go on with draft";
  find("compare").disabled = isBusy() || !run.tokens.length;
  shown.text.setAttribute("aria-busy", run.isRunning);
}

/** Points at a token or a cycle, everywhere where it is shown. */
function point(view, token, cycle) {
  if (marked !== view) marked?.mark(null);
  marked = view;
  view.mark(cycle);
  strip.mark(cycle);
  showToken(token, cycle);
}

function pointNowhere() {
  marked?.mark(null);
  marked = null;
  strip.mark(null);
  showToken(null, null);
}

function tell(sentence, isBad = false) {
  told.textContent = sentence;
  told.classList.toggle("bad", isBad);
}

/** Runs what a button asks for, and tells what goes wrong. */
async function attempt(work) {
  const working = work();
  update();
  try {
    await working;
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    tell(error.message, true);
    if (error.status === 401) askForKey();
  } finally {
    update();
  }
}

function askForKey() {
  find("settings").open = true;
  fields.key.focus();
}

function settings() {
  const number = (name) => fields[name].valueAsNumber;
  return {
    max_tokens: number("max_tokens"),
    temperature: number("temperature"),
    // Drawn here where it is left open, as the rest of an answer may have to be asked for with it.
    seed: fields.seed.value ? number("seed") : Math.floor(Math.random() * 2 ** 53),
    mode: fields.mode.value,
    num_draft_tokens: number("num_draft_tokens"),
    drafter: fields.drafter.value,
    probabilities: fields.probabilities.checked,
  };
}

async function generate() {
  const prompt = fields.prompt.value;
  const isChat = fields.kind.value === "chat";
  const asked = isChat ? { messages: [...messages, { role: "user", content: prompt }] } : { prompt };
  const run = new Run(asked, settings(), later);
  find("welcome")?.remove();
  const element = answers.appendChild(made("article", isChat ? "chat" : "completion"));
  const said = made(isChat ? "p" : "span", "asked");
  said.textContent = prompt;
  if (isChat) element.append(said);
  shown = new Answer(run, element);
  if (!isChat) shown.view.begin(said);
  answers.scrollTop = answers.scrollHeight;
  if (isChat) fields.prompt.value = "";
  tell("generating …");
  find("verdict").textContent = "";
  pointNowhere();
  const answer = shown;
  try {
    await run.go();
  } catch (error) {
    if (!run.tokens.length) {
      element.remove();
      if (isChat) fields.prompt.value = prompt;
    }
    throw error;
  } finally {
    answer.update();
    if (isChat && run.tokens.length) messages = [...asked.messages, answerOf(run)];
  }
  showEnd(answer);
}

function answerOf({ content, reasoning }) {
  return { role: "assistant", content, ...(reasoning ? { reasoning_content: reasoning } : {}) };
}

/** Says of an answer what its end tells. */
function showEnd({ run, note }) {
  const { summary } = run;
  tell(summary ? "done" : "stopped");
  const parts = [`${run.tokens.length} tokens`, ENDS[summary?.finish_reason] ?? "stopped", `seed ${run.settings.seed}`];
  if (summary?.exact) parts.push("exact to the bit");
  if (summary?.draft_problem && run.isDrafting) parts.push(summary.draft_problem);
  note.textContent = parts.join(" · ");
  if (summary?.trace_url) {
    const link = made("a");
    Object.assign(link, { href: summary.trace_url, textContent: "trace", target: "_blank", rel: "noreferrer" });
    note.append(" · ", link);
  } else if (summary?.trace_id) {
    note.append(` · trace ${summary.trace_id}`);
  }
}

async function compare() {
  const answer = shown;
  answer.element.querySelector(".again")?.remove();
  answer.plain = new Plain(answer);
  tell("the same without a draft …");
  try {
    await answer.plain.run.go();
  } finally {
    answer.update();
  }
  find("verdict").textContent = answer.plain.verdict;
  tell("done");
}

/** Waits until the server answers, and says which models it has. */
async function connect() {
  for (;;) {
    try {
      const { data } = await get("v1/models");
      const [target, draft] = data;
      find("models").textContent = `target ${target.id}${draft ? ` · draft ${draft.meta.name}` : " · no draft model"}`;
      const [plain, chat] = fields.kind;
      chat.disabled = !target.meta.has_chat_template;
      chat.parentElement.title = chat.disabled ? "this model has no chat template" : "";
      if (chat.disabled) plain.checked = true;
      find("go").disabled = false;
      tell("ready");
      return;
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      tell(error.message, true);
      if (error.status === 401) {
        askForKey();
        return;
      }
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
    }
  }
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (!find("go").disabled) attempt(generate);
});
fields.prompt.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.isComposing || event.shiftKey) return;
  // Lines of a prompt are part of it; in a chat they need the shift key.
  if (fields.kind.value !== "chat" && !event.ctrlKey && !event.metaKey) return;
  event.preventDefault();
  form.requestSubmit();
});
fields.mode.addEventListener("change", () => {
  fields.num_draft_tokens.disabled = fields.mode.value !== "fixed";
});
fields.key.value = getKey();
fields.key.addEventListener("change", () => {
  setKey(fields.key.value.trim());
  connect();
});
find("stop").addEventListener("click", () => {
  shown.run.stop();
  shown.plain?.run.stop();
});
find("switch").addEventListener("click", () => {
  const { run } = shown;
  run.setDrafting(!run.isDrafting);
  tell(run.isDrafting ? "going on with a draft …" : "going on without a draft: the rest is asked for anew, after the tokens that came");
});
find("compare").addEventListener("click", () => attempt(compare));
find("clear").addEventListener("click", () => {
  answers.replaceChildren();
  messages = [];
  shown = null;
  strip.show([]);
  pointNowhere();
  find("compare").disabled = true;
});
connect();
