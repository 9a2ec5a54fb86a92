"""The status of a profile: written when it says something new, by the version of the object that was read."""

from __future__ import annotations

from typing import Any

from kernelsearch.controller.nodes import Node
from kernelsearch.controller.profiles import status_of

Object = dict[str, Any]

NODE = Node("a", {}, (), {"cpu": "2", "memory": "8Gi", "ephemeral-storage": "50Gi"}, is_available=True)
NOW, LATER = "2030-01-01T00:00:00Z", "2030-01-02T00:00:00Z"


def a_profile(generation: int = 1, **scheduling: Any) -> Object:
    return {
        "apiVersion": "kernelsearch.dev/v1alpha1",
        "kind": "AcceleratorProfile",
        "metadata": {"name": "mine", "generation": generation, "resourceVersion": "7", "uid": "u"},
        "spec": {
            "vendor": "cpu",
            "arch": "x86-64-v3",
            "scheduling": scheduling,
            "toolchains": [{"language": "cpp", "image": "judge"}],
        },
    }


def written(profile: Object, nodes: list[Node], now: str = NOW) -> Object:
    status = status_of(profile, nodes, now)
    assert status is not None
    return status


def test_the_status_says_how_many_nodes_and_whether_that_is_enough() -> None:
    assert written(a_profile(), [NODE]) == {
        "observedGeneration": 1,
        "matchingNodes": 1,
        "conditions": [
            {
                "type": "Ready",
                "status": "True",
                "observedGeneration": 1,
                "lastTransitionTime": NOW,
                "reason": "NodesMatch",
                "message": "1 node matches",
            }
        ],
    }


def test_a_status_that_says_it_already_is_not_written_again() -> None:
    profile = a_profile()
    profile["status"] = written(profile, [NODE])
    assert status_of(profile, [NODE], LATER) is None


def test_the_transition_time_moves_with_the_status_only() -> None:
    profile = a_profile()
    profile["status"] = written(profile, [NODE])
    more = written(profile, [NODE, NODE], LATER)
    assert more["matchingNodes"] == 2
    assert more["conditions"][0]["lastTransitionTime"] == NOW
    assert written(profile, [], LATER)["conditions"][0]["lastTransitionTime"] == LATER


def test_a_new_generation_is_told_to_be_seen() -> None:
    profile = a_profile()
    profile["status"] = written(profile, [NODE])
    profile["metadata"]["generation"] = 2
    assert written(profile, [NODE], LATER)["observedGeneration"] == 2


def test_a_profile_that_this_version_cannot_read_is_not_ready_and_says_why() -> None:
    unreadable, wrong = a_profile(), a_profile(resources={"requests": {"memory": "1mi"}})
    del unreadable["spec"]["arch"]
    for profile, why in ((unreadable, "Field required"), (wrong, "'1mi' is not a quantity")):
        (ready,) = written(profile, [NODE])["conditions"]
        assert (ready["status"], ready["reason"]) == ("False", "ProfileInvalid")
        assert why in ready["message"]


def test_a_status_that_this_version_cannot_read_is_replaced() -> None:
    profile = a_profile()
    profile["status"] = {"matchingNodes": "many"}
    assert written(profile, [NODE])["matchingNodes"] == 1
