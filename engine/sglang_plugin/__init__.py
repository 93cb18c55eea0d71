"""Hydrant inside SGLang: the CPU platform, and the hooks that bring weights in and readiness out."""
