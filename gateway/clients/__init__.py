"""HTTP with clients: their connections, one request and its answer on them, and how an answer is given."""
