#!/usr/bin/env bash
# openai 3.57.0 (Python): `get_final_response` of a `responses.stream` raises RuntimeError where the stream ended with
# `response.incomplete`, as every answer does that reaches `max_output_tokens`. One expects the response, with its
# status and the text so far: that last event holds it, and `responses.create` without a stream returns the same one
# without complaint. Only `response.completed` counts as an end. Seen:
#   completed: create gives 'Hello'; the last event holds 'Hello'; get_final_response gives 'Hello'
#   incomplete: create gives 'Hello'; the last event holds 'Hello'; get_final_response raises RuntimeError
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check openai==3.57.0
"$folder/venv/bin/python" - <<'END'
import http.server, json, threading
import openai

PART = {"type": "output_text", "text": "Hello", "annotations": []}

def message(status, *parts):
    return {"id": "msg_1", "type": "message", "role": "assistant", "status": status, "content": list(parts)}

def response(status, *items):
    reason = {"reason": "max_output_tokens"} if status == "incomplete" else None
    about = {"id": "resp_1", "object": "response", "created_at": 1, "model": status, "incomplete_details": reason}
    about |= {"tools": [], "tool_choice": "auto", "parallel_tool_calls": True}
    return about | {"status": status, "output": list(items)}

def events(end):
    item = message(end, PART)
    yield "response.created", {"response": response("in_progress")}
    yield "response.output_item.added", {"output_index": 0, "item": message("in_progress")}
    at = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    yield "response.content_part.added", at | {"part": PART | {"text": ""}}
    yield "response.output_text.delta", at | {"delta": "Hello", "logprobs": []}
    yield "response.output_text.done", at | {"text": "Hello", "logprobs": []}
    yield "response.content_part.done", at | {"part": PART}
    yield "response.output_item.done", {"output_index": 0, "item": item}
    yield f"response.{end}", {"response": response(end, item)}

class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        end, kind = request["model"], "application/json"  # the model's name says how the answer ends
        body = json.dumps(response(end, message(end, PART)))
        if request.get("stream"):
            kind, lines = "text/event-stream", []
            for number, (name, fields) in enumerate(events(end)):
                event = {"type": name, "sequence_number": number} | fields
                lines.append(f"event: {name}\ndata: {json.dumps(event)}\n\n")
            body = "".join(lines)
        self.send_response(200)
        self.send_header("Content-Type", kind), self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_):
        pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
client = openai.OpenAI(base_url=f"http://127.0.0.1:{server.server_port}/v1", api_key="none")

seen = []
for end in ("completed", "incomplete"):
    whole = client.responses.create(model=end, input="Hi").output_text
    with client.responses.stream(model=end, input="Hi") as stream:
        *_, last = stream
        try:
            final = f"gives {stream.get_final_response().output_text!r}"
        except RuntimeError as error:
            final = f"raises {type(error).__name__}"
    held = last.response.output_text
    print(f"{end}: create gives {whole!r}; the last event holds {held!r}; get_final_response {final}")
    seen.append((whole, last.type, held, final))
assert seen[0] == ("Hello", "response.completed", "Hello", "gives 'Hello'")
assert seen[1] == ("Hello", "response.incomplete", "Hello", "raises RuntimeError")
END
