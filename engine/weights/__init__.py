"""A node's weights: fetched by byte range into shared memory, verified, shared by content, read by the engine.

`spec`, `progress`, `segment`, `load_spec`, `reader` and `pinned_ring` use the standard library only (and torch, in the
last two): they also run inside the engine's environment. `source`, `fetch`, `files`, `stage` and `store` run in noded.
"""
