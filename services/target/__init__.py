"""The target service: it verifies drafts, and has the one tokenizer and the chat templates of a pair.

Read `verification.py` first: `accept` is the heart of speculative decoding here. `text_servicer.py` and what it uses
(`texts`, `chat`, `chat_templates`, `answer_format`, `tool_call_formats`) need no engine. `template_needs` finds out
what a template wants, `chat_shape` brings a chat into that form. What a message says must never become a token that
steers the model: read the tests of `chat.py` before you touch `marks.py`.
"""
