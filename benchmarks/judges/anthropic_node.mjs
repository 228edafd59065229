// Anthropic's client for Node.js.

import assert from "node:assert/strict";
import { test } from "node:test";
import Anthropic from "@anthropic-ai/sdk";

const client = new Anthropic({ baseURL: process.env.OUTRIDER_URL, apiKey: "none", maxRetries: 0 });
const model = "target";
const messages = [{ role: "user", content: "def main(argv):\n" }];
const asked = { model, messages, max_tokens: 32, temperature: 0.8, seed: 3 };

// Tokens that were cached count apart.
const numPromptTokens = ({ usage }) =>
  usage.input_tokens + usage.cache_creation_input_tokens + usage.cache_read_input_tokens;
const textOf = (message) => message.content.map((block) => block.text ?? "").join("");

test("drafts change no text", async () => {
  const plain = await client.messages.create({ ...asked, outrider: { mode: "off" } });
  const drafted = await client.messages.create({ ...asked, outrider: { num_draft_tokens: 5, drafter: "remote" } });
  assert.equal(textOf(drafted), textOf(plain));
  assert.equal(plain.stop_reason, "max_tokens");
  assert.equal(plain.usage.output_tokens, 32);
  assert.ok(drafted.timings.draft_n_accepted > 0);
});

test("the client's own stream puts it together", async () => {
  const stream = client.messages.stream(asked);
  let text = "";
  stream.on("text", (delta) => (text += delta));
  const message = await stream.finalMessage();
  const whole = await client.messages.create(asked);
  assert.equal(text, textOf(whole));
  assert.equal(textOf(message), text);
  assert.equal(numPromptTokens(message), numPromptTokens(whole));
  assert.equal(message.usage.output_tokens, 32);
});

test("a stop sequence is named", async () => {
  const text = textOf(await client.messages.create(asked));
  const stop = text.slice(10, 13);
  const message = await client.messages.create({ ...asked, stop_sequences: [stop] });
  assert.equal(message.stop_reason, "stop_sequence");
  assert.equal(message.stop_sequence, stop);
  assert.equal(textOf(message), text.slice(0, text.indexOf(stop)));
});

test("tokens are counted", async () => {
  const counted = await client.messages.countTokens({ model, messages });
  const message = await client.messages.create(asked);
  assert.equal(counted.input_tokens, numPromptTokens(message));
});

test("a tool is called, whole and as a stream", async () => {
  const caller = new Anthropic({ baseURL: process.env.OUTRIDER_CALLER_URL, apiKey: "none", maxRetries: 0 });
  const input_schema = { type: "object", properties: { city: { type: "string" }, days: { type: "integer" } } };
  const tools = [{ name: "get_weather", input_schema }];
  const question = { model, max_tokens: 100, tools, messages: [{ role: "user", content: "Will it rain in Zürich?" }] };
  const whole = await caller.messages.create(question);
  const streamed = await caller.messages.stream(question).finalMessage();
  for (const message of [whole, streamed]) {
    assert.equal(message.stop_reason, "tool_use");
    assert.deepEqual(message.content[1].input, { city: "Zürich", days: 3 });
  }
});

test("errors are of the client's classes", async () => {
  const refused = client.messages.create({ ...asked, grammar: "x" });
  await assert.rejects(refused, (error) => error instanceof Anthropic.BadRequestError && /grammar/.test(error.message));
  const missing = client.messages.create({ ...asked, model: "claude-3" });
  await assert.rejects(missing, Anthropic.NotFoundError);
});

for (const [path, body] of JSON.parse(process.env.OUTRIDER_EXAMPLES)) {
  if (path !== "/v1/messages") continue;
  test("an example of the docs", async () => {
    const message = await client.messages.create(body);
    assert.ok(message.outrider.seed >= 0);
    assert.ok(message.usage.output_tokens <= body.max_tokens);
  });
}
