"""Anthropic's API: https://docs.anthropic.com/en/api/messages. Coding agents speak it.

`fields.py` has what its requests mean, `messages.py` the paths and the events.
"""
