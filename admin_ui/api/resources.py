"""All operations: importing a resource's module declares them."""

from admin_ui.api import aliases, cluster, keys, litellm, models, money, tenants
from admin_ui.api.management import api

APIS = (api, litellm.api)

__all__ = ["APIS", "aliases", "cluster", "keys", "models", "money", "tenants"]
