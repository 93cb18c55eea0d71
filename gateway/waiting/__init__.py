"""A worker's place for a request: at once, or after waiting in line; and the demand that starts a cold model."""
