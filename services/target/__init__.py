"""The target service: it verifies drafts, and has the one tokenizer and the chat templates of a pair.

Read `verification.py` first: `accept` is the heart of speculative decoding here. `text_servicer.py` and what it uses
(`texts`, `chat`, `chat_templates`, `answer_format`) need no engine. In `chat.py` what a message says must never become
a token that steers the model: read its tests before you touch the marks.
"""
