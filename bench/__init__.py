"""Benchmarks: not part of what is installed."""
