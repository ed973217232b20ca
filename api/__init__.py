"""The HTTP API: thin, asynchronous, without a provider SDK."""
