"""OpenAI's API: https://platform.openai.com/docs/api-reference, with the fields that other servers have added to it.

`fields.py` has what its requests have in common; each of the others is one path, from its fields to its events.
"""
