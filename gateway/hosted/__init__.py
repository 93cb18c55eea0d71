"""The litellm process: loopback only, without tenants' secrets or a database.

It has its own process because importing litellm takes seconds and 160 MiB, and because every token through it costs
about a hundred times the CPU of passing bytes on. It serves `/v1/messages` for all models, and models whose lane is
`litellm`.
"""
