"""The management API: `/admin/v1` and the routes that LiteLLM's scripts call, for programs with a management token."""
