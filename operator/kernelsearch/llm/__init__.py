"""Models behind OpenAI-compatible endpoints: the client, what a call may cost, and where a key may travel."""
