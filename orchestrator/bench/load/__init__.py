"""What is asked of every system: prompts, and streams that go on with them at once."""
