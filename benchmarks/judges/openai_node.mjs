// OpenAI's client for Node.js.

import assert from "node:assert/strict";
import { test } from "node:test";
import OpenAI from "openai";

const client = new OpenAI({ baseURL: `${process.env.OUTRIDER_URL}/v1`, apiKey: "none", maxRetries: 0 });
const model = "target";
const prompt = "def main(argv):\n";
const messages = [{ role: "user", content: prompt }];
const warm = { model, max_tokens: 32, temperature: 0.8, seed: 3 };
const plain = { outrider: { mode: "off" } };
const drafted = { outrider: { num_draft_tokens: 5, drafter: "remote" } };

async function collected(events) {
  const all = [];
  for await (const event of events) all.push(event);
  return all;
}

test("models are listed and found", async () => {
  const listed = await collected(await client.models.list());
  assert.equal(listed.length, 2);
  assert.deepEqual(await client.models.retrieve(listed[0].id), listed[0]);
});

test("drafts change no text", async () => {
  const one = await client.completions.create({ ...warm, ...plain, prompt });
  const other = await client.completions.create({ ...warm, ...drafted, prompt });
  assert.equal(one.choices[0].text, other.choices[0].text);
  assert.equal(one.usage.completion_tokens_details.accepted_prediction_tokens, 0);
  assert.ok(other.usage.completion_tokens_details.accepted_prediction_tokens > 0);
});

test("a completion streams the same text, and its usage", async () => {
  const whole = await client.completions.create({ ...warm, prompt });
  const asked = { ...warm, prompt, stream: true, stream_options: { include_usage: true } };
  const chunks = await collected(await client.completions.create(asked));
  const text = chunks.flatMap((chunk) => chunk.choices).map((choice) => choice.text).join("");
  assert.equal(text, whole.choices[0].text);
  assert.equal(chunks.at(-1).usage.completion_tokens, 32);
});

test("a chat says what a completion says", async () => {
  const completion = await client.completions.create({ ...warm, prompt });
  const chat = await client.chat.completions.create({ ...warm, messages });
  assert.equal(chat.choices[0].message.content, completion.choices[0].text);
  assert.equal(chat.choices[0].finish_reason, "length");
});

test("the client's own stream of a chat puts it together", async () => {
  const whole = await client.chat.completions.create({ ...warm, messages });
  const stream = client.chat.completions.stream({ ...warm, messages, stream_options: { include_usage: true } });
  let content = "";
  stream.on("content", (delta) => (content += delta));
  const completion = await stream.finalChatCompletion();
  assert.equal(content, whole.choices[0].message.content);
  assert.equal(completion.choices[0].message.content, content);
  assert.equal(completion.usage.completion_tokens, 32);
});

test("several choices with log-probabilities", async () => {
  const asked = { ...warm, max_tokens: 8, messages, n: 2, logprobs: true, top_logprobs: 2 };
  const { choices } = await client.chat.completions.create(asked);
  assert.deepEqual(choices.map((choice) => choice.index), [0, 1]);
  for (const { message, logprobs } of choices) {
    assert.equal(logprobs.content.map((each) => each.token).join(""), message.content);
    assert.ok(logprobs.content.every((each) => each.top_logprobs.length === 2));
  }
});

test("a stop is not in the text", async () => {
  const text = (await client.completions.create({ ...warm, prompt })).choices[0].text;
  const stop = text.slice(10, 13);
  const [choice] = (await client.completions.create({ ...warm, prompt, stop })).choices;
  assert.equal(choice.finish_reason, "stop");
  assert.equal(choice.text, text.slice(0, text.indexOf(stop)));
});

test("a response, whole and as events", async () => {
  const asked = { model, input: prompt, max_output_tokens: 32, temperature: 0.8, seed: 3 };
  const whole = await client.responses.create(asked);
  assert.equal(whole.status, "incomplete");
  const events = await collected(await client.responses.create({ ...asked, stream: true }));
  assert.equal(events[0].type, "response.created");
  const deltas = events.filter((event) => event.type === "response.output_text.delta");
  assert.equal(deltas.map((event) => event.delta).join(""), whole.output_text);
  assert.equal(events.at(-1).response.usage.output_tokens, 32);
});

test("a tool is called, whole and as a stream", async () => {
  const caller = new OpenAI({ baseURL: `${process.env.OUTRIDER_CALLER_URL}/v1`, apiKey: "none", maxRetries: 0 });
  const parameters = { type: "object", properties: { city: { type: "string" }, days: { type: "integer" } } };
  const tools = [{ type: "function", function: { name: "get_weather", parameters } }];
  const question = { model, tools, messages: [{ role: "user", content: "Will it rain in Zürich?" }] };
  const whole = await caller.chat.completions.create(question);
  const streamed = await caller.chat.completions.stream(question).finalChatCompletion();
  for (const { choices } of [whole, streamed]) {
    assert.equal(choices[0].finish_reason, "tool_calls");
    const [call] = choices[0].message.tool_calls;
    assert.equal(call.function.name, "get_weather");
    assert.deepEqual(JSON.parse(call.function.arguments), { city: "Zürich", days: 3 });
  }
});

test("errors are of the client's classes", async () => {
  const refused = client.chat.completions.create({ ...warm, messages, grammar: "x" });
  await assert.rejects(refused, (error) => error instanceof OpenAI.BadRequestError && error.param === "grammar");
  const missing = client.chat.completions.create({ ...warm, messages, model: "gpt-4" });
  await assert.rejects(missing, (error) => error instanceof OpenAI.NotFoundError && error.code === "model_not_found");
});

test("a stream that is left frees what it holds", async () => {
  for (let time = 0; time < 6; time++) {
    const stream = await client.chat.completions.create({ ...warm, messages, max_tokens: 400, stream: true });
    for await (const _ of stream) break;
  }
  const after = await client.chat.completions.create({ ...warm, messages, max_tokens: 1 });
  assert.equal(after.usage.completion_tokens, 1);
});

const creators = {
  "/v1/completions": client.completions,
  "/v1/chat/completions": client.chat.completions,
  "/v1/responses": client.responses,
};
for (const [path, body] of JSON.parse(process.env.OUTRIDER_EXAMPLES)) {
  if (!(path in creators)) continue;
  test(`an example of the docs: ${path}`, async () => {
    const answer = await creators[path].create({ model, ...body });
    const last = body.stream ? (await collected(answer)).at(-1) : answer;
    assert.ok(last.outrider.seed >= 0);
  });
}
