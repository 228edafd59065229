// What a terminal gets of a text: all of it, and nothing that it would obey.

// C0 but tab and line feed, DEL, C1, line and paragraph separator, overrides and isolates of direction.
const ACTING = /[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]/g;

/** Return the text with whatever acts on a terminal spelled out, as in `\x9b`. */
export function printable(text) {
  return text.replace(ACTING, (character) => {
    const code = character.charCodeAt(0).toString(16);
    return code.length <= 2 ? `\\x${code.padStart(2, '0')}` : `\\u${code}`;
  });
}

/** Write text to stdout, as it is unless that is a terminal. */
export function write(text) {
  process.stdout.write(process.stdout.isTTY ? printable(text) : text);
}

process.stdout.on('error', (error) => {
  if (error.code !== 'EPIPE') console.error(`cannot write to stdout: ${error.message}`);
  process.exit(1);
});
