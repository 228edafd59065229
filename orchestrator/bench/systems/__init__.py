"""What can be measured: the services of a checkout, llama-server, and any server that speaks OpenAI's protocol.

Read `system` first: what each of them has to offer.
"""
