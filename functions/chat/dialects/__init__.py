"""How model servers are spoken to: OpenAI's protocol in its variants, and Anthropic's."""
