"""Calls to workers and to the hosted process: HTTP, their streams and answers, and what these have used."""
