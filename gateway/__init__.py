"""The data plane: an OpenAI-compatible API in front of workers that may not be running yet."""
