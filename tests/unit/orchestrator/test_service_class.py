"""A tenant's class: how soon its requests are due, who goes first by it, and what a start may cost."""

from dataclasses import replace

import pytest
from support.clusters import NOW, a_model, a_node
from support.control_state import SMALL, model, state

from orchestrator.control import Start
from orchestrator.reconcile import reconcile
from orchestrator.service_class import PERCENT, ServiceClass, named, slo_ms
from registry.ops.tenants import SERVICE_CLASSES

FAST, STANDARD, CHEAP = ServiceClass.FAST, ServiceClass.STANDARD, ServiceClass.CHEAP


def held(name="m", spec=SMALL, **ages_ms):
    """One request of each named class, for so long."""
    oldest = {ServiceClass(one): NOW - age for one, age in ages_ms.items()}
    return model(name, spec, waiting=len(oldest), oldest_waiting_ms=min(oldest.values()), oldest_by_class=oldest)


def started(*models, nodes=None):
    return [one for one in reconcile(state(models=models, nodes=nodes)) if isinstance(one, Start)]


def test_the_registry_and_the_orchestrator_know_the_same_classes():
    assert [one.value for one in ServiceClass] == list(SERVICE_CLASSES)
    assert PERCENT.keys() == set(ServiceClass)


@pytest.mark.parametrize(("one", "ms"), [(FAST, 5_000), (STANDARD, 10_000), (CHEAP, 40_000)])
def test_a_class_is_a_share_of_the_models_service_level(one, ms):
    assert slo_ms(10_000, one) == ms
    assert slo_ms(1, one) >= 1


def test_a_class_of_another_version_counts_as_standard():
    assert named("fast") is FAST
    assert named("platinum") is STANDARD


def test_the_request_that_is_due_first_speaks_for_its_model():
    slo = SMALL.slo_ttft_ms
    assert held(standard=1_000).most_urgent == (NOW - 1_000, slo)
    assert held(cheap=1_000, fast=10).most_urgent == (NOW - 10, slo // 2)
    assert held(cheap=4 * slo, fast=10).most_urgent == (NOW - 4 * slo, 4 * slo)
    assert model(waiting=1, oldest_waiting_ms=NOW - 5).most_urgent == (NOW - 5, slo)
    assert model().most_urgent is model().due_ms is None


def test_a_fast_tenants_request_goes_before_one_that_has_waited_longer():
    (start,) = started(held("a", standard=20_000), held("z", fast=10))
    assert start.model == "z"
    (start,) = started(held("a", cheap=20_000), held("z", standard=10))
    assert start.model == "z"


def test_nobody_is_passed_over_for_ever():
    overdue = held("a", cheap=4 * SMALL.slo_ttft_ms)
    (start,) = started(overdue, held("z", fast=10))
    assert start.model == "a"


def test_a_tighter_class_takes_more_nodes_and_a_looser_one_fewer():
    spec = replace(a_model(13), slo_ttft_ms=12_000)
    nodes = [a_node(f"n{i}", gbps=16) for i in range(4)]
    sizes = {one: started(held("m", spec, **{one.value: 0}), nodes=nodes)[0].plan.s for one in ServiceClass}
    assert sizes[FAST] > sizes[STANDARD] >= sizes[CHEAP] == 1
