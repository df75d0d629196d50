"""Chat: the OpenAI protocol, and that every request is charged once, rightly, or not at all."""
