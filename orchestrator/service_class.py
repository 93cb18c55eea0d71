"""How soon a tenant's requests should be answered by a model that sleeps: a share of the model's own service level.

A tighter one takes more nodes at once, and goes before others that wait; a looser one is content with one node.
"""

from collections.abc import Mapping
from enum import StrEnum


class ServiceClass(StrEnum):
    """What a tenant has been given."""

    FAST = "fast"
    STANDARD = "standard"
    CHEAP = "cheap"


PERCENT: Mapping[ServiceClass, int] = {ServiceClass.FAST: 50, ServiceClass.STANDARD: 100, ServiceClass.CHEAP: 400}
"""Of a model's time to first token."""


_BY_NAME: Mapping[str, ServiceClass] = {one.value: one for one in ServiceClass}


def named(name: str) -> ServiceClass:
    """The class of that name; one that this version does not know counts as standard."""
    return _BY_NAME.get(name, ServiceClass.STANDARD)


def slo_ms(model_slo_ms: int, service_class: ServiceClass) -> int:
    """The time to first token that a request of that class should have."""
    return max(1, model_slo_ms * PERCENT[service_class] // 100)
