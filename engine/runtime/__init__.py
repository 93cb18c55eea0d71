"""Turning a process into one SGLang stage: by a fork of the warm runtime, or by a plain start."""
