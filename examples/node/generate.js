// Streams a generation: the text to stdout as it comes, one line of statistics to stderr at the end.

import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';

import grpc from '@grpc/grpc-js';

import { connect, detailsOf, retryDelayMs } from './outrider.js';
import { printable, write } from './terminal.js';

const USAGE = 'usage: node generate.js [--address A] [--max-tokens N] [--temperature T] [--seed S] [--timeout S] PROMPT';

/** Yield the messages of an answer. While nothing has come, tries again where the server says when. */
async function* generate(client, request, { deadline, signal }) {
  let told;
  for (;;) {
    let hasBegun = false;
    const call = client.Generate(request, { deadline });
    const cancel = () => call.cancel();
    signal.addEventListener('abort', cancel);
    try {
      for await (const message of call) {
        hasBegun = true;
        yield message;
      }
      return;
    } catch (error) {
      const delayMs = retryDelayMs(error);
      if (hasBegun || delayMs === undefined) throw error;
      if (told !== error.details) console.error(`waiting: ${(told = error.details)}`);
      await sleep(delayMs, undefined, { signal });
    } finally {
      signal.removeEventListener('abort', cancel);
      cancel();
    }
  }
}

function statistics({ usage, timings, speculation, seed }) {
  const numTokens = usage.num_generated_tokens;
  const { num_draft_tokens: numDrafted, num_accepted_tokens: numAccepted } = speculation;
  return [
    `${numTokens} tokens`,
    `${((numTokens / timings.total_ms) * 1e3).toFixed(1)} tokens/s`,
    `${numAccepted} of ${numDrafted} draft tokens accepted`,
    `seed ${seed}`,
  ].join(', ');
}

/** Return the settings. Throws where they cannot be understood. */
function readArguments() {
  const { values, positionals } = parseArgs({
    options: {
      address: { type: 'string', default: '127.0.0.1:50050' },
      'max-tokens': { type: 'string', default: '128' },
      temperature: { type: 'string', default: '0' },
      seed: { type: 'string' },
      timeout: { type: 'string', default: '120' },
    },
    allowPositionals: true,
  });
  if (positionals.length !== 1) throw new Error(USAGE);
  const [maxTokens, temperature, timeoutS] = ['max-tokens', 'temperature', 'timeout'].map((name) => {
    const number = Number(values[name] || NaN);
    if (Number.isNaN(number)) throw new Error(`--${name} takes a number, not '${values[name]}'\n${USAGE}`);
    return number;
  });
  // A seed has 64 bits, more than a number holds exactly.
  if (!/^\d*$/.test(values.seed ?? '')) throw new Error(`--seed takes a whole number, not '${values.seed}'\n${USAGE}`);
  return {
    address: values.address,
    timeoutS,
    request: { text: positionals[0], max_tokens: maxTokens, sampling: { temperature }, seed: values.seed },
  };
}

async function main() {
  let settings;
  try {
    settings = readArguments();
  } catch (error) {
    console.error(error.message);
    return 2;
  }
  const interrupted = new AbortController();
  process.once('SIGINT', () => interrupted.abort());
  const client = connect(settings.address);
  const limits = { deadline: Date.now() + settings.timeoutS * 1e3, signal: interrupted.signal };
  try {
    for await (const message of generate(client, settings.request, limits)) {
      if (message.chunk) write(message.chunk.text);
      else process.stderr.write(`\n${statistics(message.summary)}\n`);
    }
    return 0;
  } catch (error) {
    if (interrupted.signal.aborted) return 130;
    if (!(error.code in grpc.status)) throw error;
    const reason = detailsOf(error).ErrorInfo?.reason;
    console.error(`${grpc.status[error.code]}${reason ? ` (${reason})` : ''}: ${printable(error.details)}`);
    return 1;
  } finally {
    client.close();
  }
}

process.exitCode = await main();
