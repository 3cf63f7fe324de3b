"""OpenAI's Images API over the gateway's own jobs."""
