"""A node's weights: fetched by byte range into shared memory, verified, shared by content, read by the engine.

`spec`, `progress`, `segment`, `load_spec` and `reader` use the standard library only (and torch, in `reader`): they
also run inside the engine's environment. `source`, `fetch`, `files`, `stage` and `store` run in noded.
"""
