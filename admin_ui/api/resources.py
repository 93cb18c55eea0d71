"""All operations: importing a resource's module declares them."""

from admin_ui.api import (
    aliases,
    budgets,
    cluster,
    cold_policies,
    hosted_models,
    invoices,
    keys,
    litellm,
    litellm_keys,
    litellm_models,
    litellm_spend,
    litellm_teams,
    litellm_users,
    models,
    money,
    tenants,
)
from admin_ui.api.management import api

APIS = (api, litellm.api)

__all__ = [
    "APIS",
    "aliases",
    "budgets",
    "cluster",
    "cold_policies",
    "hosted_models",
    "invoices",
    "keys",
    "litellm_keys",
    "litellm_models",
    "litellm_spend",
    "litellm_teams",
    "litellm_users",
    "models",
    "money",
    "tenants",
]
