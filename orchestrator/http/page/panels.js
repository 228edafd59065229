/** Figures of an answer, and what is known of one of its tokens. */

import { partsOf, shortMs } from "./strip.js";

const WORDS = {
  remote: ["draft model", "a draft token that equalled the target's own choice"],
  ngram: ["n-gram", "looked up in the text before, and equal to the target's own choice"],
  prediction: ["prediction", "part of what the caller expected, and equal to the target's own choice"],
  recovered: ["recovered", "the target's own token where the draft was wrong"],
  bonus: ["bonus", "the target's own token after a draft that was right to its end"],
  plain: ["plain", "the target's own token, of a cycle without a draft"],
};
const MOST_POSITIONS = 16;
const find = (id) => document.getElementById(id);
const percent = (share) => `${(100 * share).toFixed(share > 0 && share < 0.0995 ? 1 : 0)}%`;
const perSecond = (value) => (value === null ? "–" : value.toFixed(1));

/** Tokens per second of an answer, and of the same without a draft where it was asked for. */
export function showSpeed(run, plainRun) {
  const { asItCame, plain } = run.speed;
  const measured = plainRun?.speed.asItCame ?? null;
  const values = { rate: asItCame, estimate: plain, measured };
  const most = Math.max(...Object.values(values).map((value) => value ?? 0), 1e-9);
  for (const [id, value] of Object.entries(values)) {
    const number = find(id);
    number.value = perSecond(value);
    number.closest("div").querySelector(".bar").style.setProperty("--share", (value ?? 0) / most);
  }
  const reference = measured ?? plain;
  find("speedup").textContent =
    asItCame && reference
      ? `tokens/s; ${(asItCame / reference).toFixed(2)} times plain${measured ? "" : ", by the estimate"}`
      : "tokens/s";
}

/** Of the draft tokens at each position, how many were accepted. */
export function showAcceptance(run) {
  const counts = [];
  let [drafted, accepted] = [0, 0];
  for (const cycle of run.cycles) {
    drafted += cycle.num_draft_tokens;
    accepted += cycle.num_accepted;
    for (let place = 0; place < Math.min(MOST_POSITIONS, cycle.num_draft_tokens); place += 1) {
      counts[place] ??= { drafted: 0, accepted: 0 };
      counts[place].drafted += 1;
      counts[place].accepted += place < cycle.num_accepted;
    }
  }
  const list = find("acceptance").querySelector("ol");
  while (list.childElementCount < MOST_POSITIONS) list.append(document.createElement("li"));
  [...list.children].forEach((item, place) => {
    const share = counts[place] ? counts[place].accepted / counts[place].drafted : 0;
    item.style.setProperty("--share", share);
    item.hidden = !counts[place];
    item.textContent = percent(share).replace("%", "");
    item.title = counts[place] ? `position ${place + 1}: ${counts[place].accepted} of ${counts[place].drafted}` : "";
  });
  const perCycle = run.cycles.length ? run.tokens.length / run.cycles.length : 0;
  find("accepted").textContent = drafted
    ? `${percent(accepted / drafted)} of ${drafted} draft tokens, ${perCycle.toFixed(2)} tokens a cycle`
    : "no draft yet";
}

/** How many draft tokens were wanted last, and why. */
export function showLength(run) {
  const cycle = run.cycles.at(-1);
  if (!cycle) return;
  const { choice } = cycle;
  find("wanted").value = choice?.num_draft_tokens ?? cycle.num_draft_tokens;
  find("why").textContent = whyLength(run, cycle, choice);
  const values = choice && [
    `right with a chance of ${percent(choice.chance)}`,
    `${shortMs(choice.draft_ms)} ms and ${shortMs(choice.token_ms)} ms a token`,
    `${shortMs(choice.row_ms)} ms, at ${choice.tokens_per_s.toFixed(0)} tokens/s`,
  ];
  find("length").querySelectorAll("dd").forEach((value, place) => (value.textContent = values?.[place] ?? "–"));
}

function whyLength(run, cycle, choice) {
  const tokens = `draft ${(choice ?? cycle).num_draft_tokens === 1 ? "token" : "tokens"}`;
  if (!cycle.isDrafting) return `${tokens}: speculation is off`;
  if (run.settings.mode === "fixed") return `${tokens} in this cycle: the number was asked for`;
  if (!choice) return `${tokens} in this cycle: it is being found out what a draft brings and costs`;
  return choice.num_draft_tokens
    ? `${tokens} wanted, which brings ${choice.worth.toFixed(2)} tokens a cycle more than its time`
    : `${tokens} wanted: their time brings more than they do`;
}

/** What is known of a token, or of a cycle alone; of neither how to point at one. */
export function showToken(token, cycle) {
  const about = find("about");
  about.replaceChildren();
  if (!cycle) {
    about.append(element("p", { class: "faint" }, "Point at a token or a cycle."));
    return;
  }
  if (token) {
    const [word, meaning] = WORDS[token.kind] ?? [token.kind, ""];
    const head = element("p", { class: "head" });
    head.append(element("code", { class: `token ${token.kind}` }, JSON.stringify(token.text)), ` ${word}: ${meaning}`);
    about.append(head);
  }
  const list = element("dl");
  for (const [name, ...values] of [...(token ? ofToken(token) : []), ...ofCycle(cycle)]) {
    const row = element("div");
    const told = element("dd");
    told.append(...values.map((value) => element("span", {}, value)));
    row.append(element("dt", {}, name), told);
    list.append(row);
  }
  about.append(list);
}

function* ofToken(token) {
  const drafted = token.cycle.draft_tokens[token.place];
  if (token.probability !== undefined) yield ["probability", percent(token.probability)];
  if (token.top?.length) {
    yield ["likeliest", ...token.top.map(({ text, probability }) => `${JSON.stringify(text)} ${percent(probability)}`)];
  }
  if (drafted) {
    const known = [
      drafted.probability === null ? "" : `probability ${percent(drafted.probability)}`,
      drafted.chance === null ? "" : `chance to be accepted ${percent(drafted.chance)}`,
    ];
    yield ["draft", [JSON.stringify(drafted.text), ...known.filter(Boolean)].join(", ")];
  }
  yield ["token", `${token.number + 1} of the answer, id ${token.id}`];
}

function* ofCycle(cycle) {
  const { num_draft_tokens: drafted, num_accepted: accepted, num_skipped: skipped } = cycle;
  const counts = drafted ? `${accepted} of ${drafted} draft tokens accepted` : "no draft";
  yield ["cycle", `${cycle.number + 1}: ${counts}${skipped ? `, ${skipped} more were not worth their rows` : ""}`];
  yield ["took", Object.entries(partsOf(cycle)).map(([name, ms]) => `${name} ${shortMs(ms)}`).join(", ") + " ms"];
  const others = cycle.num_sessions > 1 ? `, ${cycle.num_sessions} sessions at work` : "";
  yield ["decode", `${cycle.batch_rows} ${cycle.batch_rows === 1 ? "row" : "rows"} in ${shortMs(cycle.verifying.decode_ms)} ms${others}`];
  if (cycle.isFirst && cycle.number) yield ["asked anew", cycle.isDrafting ? "with a draft" : "without a draft"];
  if (cycle.draft_address) yield ["draft at", cycle.draft_address];
}

function element(name, attributes = {}, text = "") {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = text;
  return made;
}
