/** One answer: asked for, taken in as it comes, and gone on with where its draft is stopped on the way. */

import { events, post } from "./server.js";

const NUM_TOP = 3;

/** What is asked for: `{messages}` of a chat or a `{prompt}`. `settings` are those of the form, with a seed. */
export class Run {
  tokens = [];
  cycles = [];
  content = "";
  reasoning = "";
  /** What the end of the answer says of it: why it ended, its seed, whether it is exact, its trace. */
  summary = null;
  isRunning = false;

  #abort = null;
  #isStopped = false;
  #promptTokens = null;
  // Of each request: when its first and its last tokens came.
  #parts = [];

  constructor(asked, settings, onChange) {
    this.asked = asked;
    this.settings = settings;
    this.isDrafting = settings.mode !== "off";
    this.onChange = onChange;
  }

  /** Returns when it has ended, or was stopped. Throws Refusal. */
  async go() {
    this.isRunning = true;
    try {
      while (!(await this.#ask()));
    } finally {
      this.isRunning = false;
      this.onChange();
    }
  }

  stop() {
    this.#isStopped = true;
    this.#abort?.abort();
  }

  /**
   * Goes on with a draft, or without. A request cannot be changed: this one is given up, and the rest of its text asked
   * for after the tokens that came, with the same seed.
   */
  setDrafting(isDrafting) {
    this.isDrafting = isDrafting;
    this.#abort?.abort();
  }

  /** Tokens per second as they came, and as plain decoding is taken to bring them; null where that is not known. */
  get speed() {
    const sum = (value) => this.#parts.reduce((total, part) => total + value(part), 0);
    const perSecond = (tokens, ms) => (tokens && ms > 0 ? (1e3 * tokens) / ms : null);
    return {
      asItCame: perSecond(sum((part) => part.tokens), sum((part) => part.lastMs - part.firstMs)),
      plain: perSecond(sum((part) => part.plainTokens), sum((part) => part.plainMs)),
    };
  }

  /** Asks for what is left; returns whether that was all. */
  async #ask() {
    this.#abort = new AbortController();
    const part = { tokens: 0, plainTokens: 0, plainMs: 0, firstMs: 0, lastMs: 0, isDrafting: this.isDrafting };
    this.#parts.push(part);
    try {
      const { path, body } = await this.#request();
      for await (const event of events(path, body, this.#abort.signal)) this.#take(event, part);
      return true;
    } catch (error) {
      if (!this.#abort.signal.aborted) throw error;
      return this.#isStopped || this.tokens.length >= this.settings.max_tokens;
    }
  }

  async #request() {
    const { asked, settings } = this;
    const body = {
      stream: true,
      seed: settings.seed,
      temperature: settings.temperature,
      outrider: { report_cycles: true, ...this.#speculation() },
    };
    if (this.isDrafting && settings.prediction) body.prediction = { type: "content", content: settings.prediction };
    const top = settings.probabilities;
    if (this.tokens.length) {
      body.prompt = [...(await this.#promptIds()), ...this.tokens.map((token) => token.id)];
    } else if (asked.messages) {
      const logprobs = top ? { logprobs: true, top_logprobs: NUM_TOP } : {};
      const chat = { ...body, ...logprobs, messages: asked.messages, max_completion_tokens: settings.max_tokens };
      return { path: "v1/chat/completions", body: chat };
    } else {
      body.prompt = asked.prompt;
    }
    body.max_tokens = settings.max_tokens - this.tokens.length;
    return { path: "v1/completions", body: { ...body, ...(top ? { logprobs: NUM_TOP } : {}) } };
  }

  #speculation() {
    const { mode, drafter, num_draft_tokens } = this.settings;
    if (!this.isDrafting) return { mode: "off" };
    return { mode, ...(drafter ? { drafter } : {}), ...(mode === "fixed" ? { num_draft_tokens } : {}) };
  }

  /** The prompt as the target reads it. */
  async #promptIds() {
    const { messages, prompt } = this.asked;
    this.#promptTokens ??= messages
      ? await post("apply-template", { messages, with_tokens: true }, this.#abort.signal)
      : await post("tokenize", { content: prompt, add_special: true, parse_special: false }, this.#abort.signal);
    return this.#promptTokens.tokens;
  }

  #take(event, part) {
    const choice = event.choices[0];
    if (choice) {
      this.content += choice.delta?.content ?? choice.text ?? "";
      this.reasoning += choice.delta?.reasoning_content ?? "";
      if (choice.outrider) this.#takeCycle(choice.outrider.cycles[0], probabilitiesOf(choice.logprobs), part);
      if (choice.finish_reason) this.summary = { finish_reason: choice.finish_reason };
    }
    if (event.outrider) this.summary = { ...this.summary, ...event.outrider };
    this.onChange();
  }

  #takeCycle(cycle, probabilities, part) {
    part.lastMs = performance.now();
    if (part.firstMs) {
      // All but the first one, for which the prompt was read.
      part.tokens += cycle.tokens.length;
      part.plainTokens += cycle.plain_ms ? cycle.tokens.length : 0;
      part.plainMs += cycle.tokens.length * (cycle.plain_ms ?? 0);
    }
    cycle.isFirst = !part.firstMs;
    part.firstMs ||= part.lastMs;
    cycle.number = this.cycles.length;
    cycle.firstToken = this.tokens.length;
    cycle.isDrafting = part.isDrafting;
    this.cycles.push(cycle);
    cycle.tokens.forEach((token, place) => {
      const kind = kindOf(token, cycle);
      this.tokens.push({ ...token, kind, cycle, place, number: this.tokens.length, ...probabilities?.[place] });
    });
  }
}

/** Where a token came from, in more words than its origin has. */
function kindOf(token, cycle) {
  if (token.origin === "accepted") return cycle.drafter;
  return token.origin === "bonus" && !cycle.num_draft_tokens ? "plain" : token.origin;
}

/** What the target held of each token, in the forms of chats and of completions. */
function probabilitiesOf(logprobs) {
  const alternatives = (top) => top.map(([text, value]) => ({ text, probability: Math.exp(value) }));
  if (logprobs?.content) {
    return logprobs.content.map(({ logprob, top_logprobs }) => ({
      probability: Math.exp(logprob),
      top: alternatives(top_logprobs.map((each) => [each.token, each.logprob])),
    }));
  }
  return logprobs?.token_logprobs?.map((value, place) => ({
    probability: Math.exp(value),
    top: alternatives(Object.entries(logprobs.top_logprobs?.[place] ?? {})),
  }));
}
