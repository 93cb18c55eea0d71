"""Changes and queries, a module per subject.

A change validates, writes its audit row in the same transaction, and never commits: the caller owns the transaction
(`registry.db.session_scope`) and publishes afterwards (`registry.publish`). Bad input raises `registry.errors`.
"""
