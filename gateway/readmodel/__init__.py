"""What the registry and the controller have published: keys, tenants, models, policies; routes and cold starts."""
