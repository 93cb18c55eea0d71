"""What a request's body asks for: read, checked, and bounded before anything is spent on it. Pure."""
