"""The index of groups: found by id, model and parent, and forgotten in all three."""

from support.control_state import group

from orchestrator.groups import Groups
from orchestrator.lifecycle import GroupState


def test_groups_are_found_by_id_model_and_the_pipeline_that_they_replace():
    pipeline = group(GroupState.PIPELINE, group_id="a")
    heir = group(GroupState.STARTING, group_id="b", parent_id="a")
    other = group(GroupState.STANDALONE, group_id="c", model="n")
    groups = Groups([pipeline, heir, other])
    assert [one.group_id for one in groups] == ["a", "b", "c"]
    assert groups["a"] is pipeline
    assert groups.get("z") is None
    assert groups.of("m") == [pipeline, heir]
    assert groups.replacing("a") == [heir]
    assert groups.models() == ["m", "n"]


def test_what_is_dropped_is_found_nowhere():
    groups = Groups([group(GroupState.PIPELINE, group_id="a"), group(GroupState.STARTING, group_id="b", parent_id="a")])
    groups.drop("b")
    groups.drop("a")
    assert (len(groups), groups.of("m"), groups.replacing("a"), groups.models()) == (0, [], [], [])


def test_what_is_put_again_takes_the_place_of_what_was():
    groups = Groups([group(GroupState.STARTING, group_id="a"), group(GroupState.STANDALONE, group_id="b")])
    groups.put(group(GroupState.STANDALONE, group_id="a"))
    assert [(one.group_id, one.state) for one in groups.of("m")] == [("a", "standalone"), ("b", "standalone")]
