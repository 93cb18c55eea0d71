"""All operations: importing a resource's module declares them."""

from admin_ui.api import cluster, keys, litellm, models, money, tenants
from admin_ui.api.management import api

APIS = (api, litellm.api)

__all__ = ["APIS", "cluster", "keys", "models", "money", "tenants"]
