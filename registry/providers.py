"""Hosted providers: which are known, and what a model's entry may say of one. Pure.

A provider's URL is the operator's alone: no tenant reaches this. Its key never is in the registry, only the name of the
variable of the hosted process that holds it.
"""

import ipaddress
import re
from urllib.parse import urlsplit

from typing_extensions import TypedDict

from registry.errors import InvalidError

PROVIDERS = ("openai", "anthropic", "gemini", "mistral", "groq", "together_ai", "openrouter")
"""Those whose own figures are read, and billed (gateway/hosted/readers.py); a test holds the two together."""
EMBEDDING_PROVIDERS = ("openai", "mistral", "together_ai", "openrouter")
"""Those of them that make embeddings and tell what they have used."""

_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,199}")
# Only keys of providers: whoever may add a model must not be able to send the process' other secrets anywhere.
_KEY_ENV = re.compile(r"(?!HYDRANT_)[A-Z][A-Z0-9_]{0,100}_API_KEY")


class ProviderDoc(TypedDict):
    """`model`: litellm's name, provider first. `api_base`: None is the provider's own address."""

    model: str
    api_base: str | None
    key_env: str


def check_provider(
    model: object, key_env: object, api_base: object = None, *, embedding: bool = False, allow_http: bool = False
) -> ProviderDoc:
    """The checked entry. `allow_http`: plain HTTP to this machine is fine. Raises InvalidError naming the field."""
    if not isinstance(model, str) or not _MODEL.fullmatch(model) or "/" not in model:
        raise InvalidError(
            "provider_model must look like openai/gpt-4.1-mini: provider, slash, model", "provider_model"
        )
    provider = model.split("/", 1)[0]
    if provider not in PROVIDERS:
        raise InvalidError(
            f"{provider} is not a known provider; known: {', '.join(PROVIDERS)}. Whatever speaks OpenAI's protocol "
            "can be added as openai/MODEL with its own api_base",
            "provider_model",
        )
    if embedding and provider not in EMBEDDING_PROVIDERS:
        raise InvalidError(
            f"{provider} makes no embeddings whose usage it tells; known: {', '.join(EMBEDDING_PROVIDERS)}",
            "provider_model",
        )
    if not isinstance(key_env, str) or not _KEY_ENV.fullmatch(key_env):
        raise InvalidError(
            "key_env must name a variable of the hosted process that ends in _API_KEY, such as OPENAI_API_KEY",
            "key_env",
        )
    return {"model": model, "api_base": None if not api_base else _base(api_base, allow_http), "key_env": key_env}


def _base(value: object, allow_http: bool) -> str:
    if not isinstance(value, str) or not value.isascii() or not value.isprintable() or " " in value or len(value) > 300:
        raise InvalidError("api_base must be a URL", "api_base")
    try:
        parts = urlsplit(value)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise InvalidError("api_base must be a URL", "api_base") from None
    if not host or "?" in value or "#" in value or "@" in parts.netloc:
        raise InvalidError("api_base must be a URL of host and path, without a password or query", "api_base")
    if parts.scheme == "http" and not (allow_http and _is_loopback(host)):
        raise InvalidError(
            "api_base must be https; plain http is possible to this machine alone, with HYDRANT_PROVIDER_HTTP=1",
            "api_base",
        )
    if parts.scheme not in ("http", "https"):
        raise InvalidError("api_base must begin with https://", "api_base")
    return value.rstrip("/")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
