/** Holds the parts of the page together: what is asked for, who answers, and what is shown of it. */

import { Answer, made } from "./answer.js";
import { showAcceptance, showLength, showSpeed, showToken } from "./panels.js";
import { Run } from "./run.js";
import { Refusal, get, getKey, setKey } from "./server.js";
import { Strip } from "./strip.js";

const RETRY_MS = 2000;
const find = (id) => document.getElementById(id);
const [form, answers, told] = [find("ask"), find("answers"), find("told")];
const fields = form.elements;

/** What is shown: the answer that figures are of, and its run without a draft. */
let shown = null;
let messages = [];
let isConnected = false;
/** The text in which a cycle is marked. */
let marked = null;
const strip = new Strip(find("strip"), (cycle) => {
  point(shown.view, null, cycle);
  shown.view.reveal();
});

const isBusy = () => Boolean(shown?.isRunning);
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
  showButtons();
  if (!shown) return;
  const { run, plain, text, verdict } = shown;
  shown.update();
  find("verdict").textContent = verdict;
  strip.show(run.cycles);
  showSpeed(run, plain?.run);
  showAcceptance(run);
  showLength(run);
  text.setAttribute("aria-busy", run.isRunning);
}

/** Lets be pressed what has a meaning now. */
function showButtons() {
  const run = shown?.run;
  find("go").disabled = isBusy() || !isConnected;
  find("stop").disabled = !isBusy();
  find("clear").disabled = isBusy();
  find("switch").disabled = !run?.isRunning || run.settings.mode === "off";
  find("switch").textContent = run?.isRunning && !run.isDrafting ? "Go on with draft" : "Go on without draft";
  find("compare").disabled = isBusy() || !run?.tokens.length;
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
    prediction: fields.prediction.value,
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
  const before = shown;
  const answer = new Answer(run, element, point);
  if (!isChat) answer.view.begin(said);
  // Figures are those of the answer in which one walks, before anything is pointed at in them.
  element.addEventListener("focusin", () => show(answer), { capture: true });
  shown = answer;
  answers.scrollTop = answers.scrollHeight;
  if (isChat) fields.prompt.value = "";
  tell("generating …");
  pointNowhere();
  try {
    await run.go();
  } catch (error) {
    answer.note.textContent = error.message;
    if (!run.tokens.length) {
      element.remove();
      shown = before;
      if (isChat) fields.prompt.value = prompt;
    }
    throw error;
  } finally {
    answer.update();
    if (isChat && run.tokens.length) messages = [...asked.messages, answerOf(run)];
  }
  answer.showEnd();
  tell(run.summary ? "done" : "stopped");
}

function show(answer) {
  if (isBusy() || shown === answer) return;
  shown = answer;
  update();
}

function answerOf({ content, reasoning }) {
  return { role: "assistant", content, ...(reasoning ? { reasoning_content: reasoning } : {}) };
}

async function compare() {
  tell("the same without a draft …");
  await shown.compare(later);
  tell("done");
}

/** Waits until the server answers, and says which models it has. */
async function connect() {
  for (;;) {
    try {
      const { data } = await get("v1/models");
      const [target, draft] = data;
      find("models").textContent = `target ${target.id}${draft ? ` · draft ${draft.meta.name}` : " · no draft model"}`;
      offerChat(target.meta.has_chat_template);
      isConnected = true;
      showButtons();
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

/** A model that has a template for chats was made for them. */
function offerChat(hasTemplate) {
  const [plain, chat] = fields.kind;
  chat.disabled = !hasTemplate;
  chat.parentElement.title = hasTemplate ? "" : "this model has no chat template";
  (hasTemplate ? chat : plain).checked = true;
  if (hasTemplate && fields.prompt.value === fields.prompt.defaultValue) fields.prompt.value = "";
}

// The browser says what is wrong with a field only where that can be seen.
form.addEventListener("invalid", (event) => event.target.closest("details")?.setAttribute("open", ""), true);
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
  showButtons();
});
connect();
