#!/usr/bin/env bash
# anthropic 2.14.0 (Python): `messages.create` without a stream and with a `max_tokens` above 21,333 raises ValueError
# and sends nothing, to whatever `base_url` it goes: the client reckons with 128,000 tokens in an hour and refuses what
# would take more than ten minutes of these. One expects the server to judge what it can give, the more so a local
# one. A `timeout` of the call or of the client, even one of these ten minutes, lifts it. Seen:
#   max_tokens 21333: answered; 21334: ValueError; 21334 with a timeout: answered; the server was asked for 21333, 21334
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check anthropic==2.14.0
"$folder/venv/bin/python" - <<'END'
import http.server, json, threading
import anthropic

asked = []

class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["max_tokens"])
        answer = {"id": "msg_1", "type": "message", "role": "assistant", "model": "local", "stop_reason": "end_turn"}
        answer |= {"content": [{"type": "text", "text": "Hello"}], "usage": {"input_tokens": 1, "output_tokens": 1}}
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json"), self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
client = anthropic.Anthropic(base_url=f"http://127.0.0.1:{server.server_port}", api_key="none")

def ask(max_tokens, **options):
    messages = [{"role": "user", "content": "Hi"}]
    try:
        client.messages.create(model="local", max_tokens=max_tokens, messages=messages, **options)
    except ValueError as error:
        return type(error).__name__
    return "answered"

most, above, with_timeout = ask(21333), ask(21334), ask(21334, timeout=600)
print(f"max_tokens 21333: {most}; 21334: {above}; 21334 with a timeout: {with_timeout}; ", end="")
print("the server was asked for", ", ".join(map(str, asked)))
assert (most, above, with_timeout) == ("answered", "ValueError", "answered") and asked == [21333, 21334]
END
