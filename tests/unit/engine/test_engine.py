"""The engine on a real store with a simulated evaluator: how a search begins, goes on, is changed, and ends."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable

import pytest
from kernelharness.protocol import ProblemFact, Purpose, Verdict
from kernelsearch.engine import Ended, Engine, ProblemChanged, PublishRefused, SearchInputs, Snapshot
from kernelsearch.evaluate.base import BatchRequest, OnProgress, Progress
from kernelsearch.llm.client import LlmClient
from kernelsearch.search.journal import Paused, Published, Resumed, StopReason
from kernelsearch.store.base import EpochFenced
from kernelsearch.store.sqlite import SqliteStore

from .simulated import BASELINES, SEED, KeepingPublisher, SimulatedEvaluator, inputs


class World:
    """All that an engine stands between; a new engine on the same world is what a restart is."""

    def __init__(self, store: SqliteStore, client: LlmClient) -> None:
        self.store, self.client = store, client
        self.evaluator, self.publisher = SimulatedEvaluator(), KeepingPublisher()
        self.snapshots: list[Snapshot] = []
        self.on_snapshot: Callable[[Snapshot], None] = lambda _: None

    def engine(self, given: SearchInputs | None = None) -> Engine:
        return Engine(
            given or inputs(),
            store=self.store,
            evaluator=self.evaluator,
            client=self.client,
            publisher=self.publisher,
            observe=self._observe,
        )

    async def run(self, given: SearchInputs | None = None) -> Ended:
        return await self.engine(given).run()

    def _observe(self, snapshot: Snapshot) -> None:
        self.snapshots.append(snapshot)
        self.on_snapshot(snapshot)


@pytest.fixture
def world(store: SqliteStore, client: LlmClient) -> World:
    return World(store, client)


def when(engine: Engine, condition: Callable[[Snapshot], bool], then: Callable[[], None]) -> Callable[[Snapshot], None]:
    """An observer that does something once, as soon as a snapshot meets the condition."""
    done = False

    def observe(snapshot: Snapshot) -> None:
        nonlocal done
        if not done and condition(snapshot):
            done = True
            then()

    return observe


async def test_without_a_model_every_setting_is_tried_and_the_best_verified_one_published(world: World) -> None:
    ended = await world.run(inputs(budget={"candidates": 100}))
    assert ended.stopped is not None
    assert ended.stopped.reason is StopReason.EXHAUSTED
    assert ended.state.ledger.evaluations == 8
    winner = ended.state.winners["cpu"]
    assert (await world.store.get_blob(winner.source_ref)).decode() == SEED.replace("= 32", "= 256")
    assert winner.verified
    assert (await world.store.get_blob(winner.artifact_ref)).startswith(b"library of")
    assert world.publisher.published == [{"cpu": winner.id}]
    assert ended.published is not None
    assert ended.published.reference == "folder"


async def test_every_batch_is_forgotten_after_its_outcome_is_in_the_journal(world: World) -> None:
    await world.run()
    assert world.evaluator.forgotten == world.evaluator.runs
    assert world.evaluator.cancelled == ["uid-1"]


async def test_search_batches_are_told_the_compile_baseline_and_confirmations_measure_it(world: World) -> None:
    told: dict[Purpose, list[dict[str, float] | None]] = {}

    def note(request: BatchRequest, on_progress: OnProgress) -> None:
        told.setdefault(request.batch.purpose, []).append(request.batch.compile_ratios)

    world.evaluator.before = note
    await world.run()
    assert told[Purpose.PROBE] == [None]
    assert told[Purpose.SEARCH]
    assert all(ratios == {"default": 1.5} for ratios in told[Purpose.SEARCH])
    assert told[Purpose.CONFIRM]
    assert not any(told[Purpose.CONFIRM])


async def test_a_ratio_from_a_disturbed_probe_is_not_believed(world: World) -> None:
    told: list[dict[str, float] | None] = []

    def note(request: BatchRequest, on_progress: OnProgress) -> None:
        told.append(request.batch.compile_ratios)

    world.evaluator.before = note
    world.evaluator.baselines = tuple(each.model_copy(update={"noise_percent": 25.0}) for each in BASELINES)
    await world.run()
    assert len(told) > 2
    assert not any(told)


async def test_a_finished_search_taken_up_again_says_the_same_and_writes_nothing(world: World) -> None:
    first = await world.run()
    length = len(await world.store.read("uid-1"))
    again = await world.run()
    assert again.stopped == first.stopped
    assert len(await world.store.read("uid-1")) == length
    assert len(world.publisher.published) == 1


async def test_a_changed_problem_is_refused_with_what_to_do(world: World) -> None:
    await world.run()
    changed = inputs(
        problem={
            "source": {"inline": [{"path": "reference.py", "content": "class Model: pass"}]},
            "seeds": [{"language": "cpp", "content": SEED}],
        }
    )
    with pytest.raises(ProblemChanged, match="another name, or start it over"):
        await world.run(changed)


async def test_a_raised_budget_takes_a_finished_search_up_again(world: World) -> None:
    first = await world.run(inputs(budget={"candidates": 4}))
    assert first.state.ledger.candidates == 4
    second = await world.run(inputs(budget={"candidates": 6}, generation=2))
    assert second.state.ledger.candidates == 6
    assert second.state.generation == 2
    assert second.stopped is not None


async def test_a_budget_raised_while_it_runs_takes_effect(world: World) -> None:
    engine = world.engine(inputs(budget={"candidates": 3}))
    raised = inputs(budget={"candidates": 5}, generation=2)
    world.on_snapshot = when(engine, lambda s: s.state.ledger.evaluations >= 1, lambda: engine.update(raised))
    ended = await engine.run()
    assert ended.state.ledger.candidates == 5


async def test_a_target_added_while_it_runs_starts_from_the_seeds_too(world: World) -> None:
    targets = [{"name": name, "profile": "x86-64-v3", "language": "cpp", "batchSize": 2} for name in ("cpu", "second")]
    engine = world.engine()
    added = inputs(targets=targets, generation=2, budget={"candidates": 16})
    world.on_snapshot = when(engine, lambda s: s.state.ledger.evaluations >= 2, lambda: engine.update(added))
    ended = await engine.run()
    assert {candidate.target for candidate in ended.state.winners.values()} == {"cpu", "second"}


async def test_told_to_stop_it_pauses_and_the_next_engine_goes_on(world: World) -> None:
    engine = world.engine()
    world.on_snapshot = when(engine, lambda s: s.state.ledger.evaluations >= 2, engine.stop)
    paused = await engine.run()
    assert paused.stopped is None
    assert world.evaluator.cancelled == ["uid-1"]
    assert isinstance((await world.store.read("uid-1"))[-1], Paused)
    ended = await world.run()
    assert ended.stopped is not None
    assert ended.state.ledger.candidates == 8
    assert sum(isinstance(event, Resumed) for event in await world.store.read("uid-1")) == 1


async def test_an_exiting_controller_leaves_what_is_being_judged_alone(world: World) -> None:
    engine = world.engine()
    world.evaluator.before = lambda *_: engine.stop(keep_batches=True)
    await engine.run()
    assert world.evaluator.cancelled == []


async def test_a_fenced_engine_stops_and_writes_nothing(world: World) -> None:
    async def take_over(request: BatchRequest, on_progress: OnProgress) -> None:
        world.evaluator.before = lambda *_: None
        await world.store.begin("uid-1")

    world.evaluator.before = take_over
    with pytest.raises(EpochFenced):
        await world.run()
    events = await world.store.read("uid-1")
    assert events[-1].type == "batch_submitted"


async def test_a_degenerate_problem_fails_its_target_with_the_reason(world: World) -> None:
    world.evaluator.problem = ProblemFact(verdict=Verdict.DEGENERATE_PROBLEM, reason="the output is constant")
    ended = await world.run()
    assert ended.stopped is not None
    assert ended.stopped.reason is StopReason.NO_TARGET_RAN
    assert "DegenerateProblem" in ended.stopped.message
    assert "the output is constant" in ended.stopped.message
    assert world.publisher.published == []


async def test_a_judge_that_says_nothing_of_the_problem_is_asked_thrice_at_most(world: World) -> None:
    world.evaluator.problem = ProblemFact(verdict=Verdict.HARNESS_ERROR, reason="no free port")
    ended = await world.run()
    assert ended.stopped is not None
    assert "no free port" in ended.stopped.message
    assert len(world.evaluator.runs) == 3


async def test_a_target_without_its_profile_fails_and_the_others_go_on(world: World) -> None:
    targets = [
        {"name": "cpu", "profile": "x86-64-v3", "language": "cpp"},
        {"name": "npu", "profile": "acme-npu2", "language": "cpp"},
    ]
    ended = await world.run(inputs(targets=targets))
    failed = ended.state.targets["npu"].failed
    assert failed is not None
    assert failed.reason == "ProfileNotFound"
    assert list(ended.state.winners) == ["cpu"]


async def test_a_profile_that_goes_while_a_batch_is_in_flight_fails_its_target(world: World) -> None:
    engine = world.engine()
    world.evaluator.before = lambda *_: engine.stop(keep_batches=True)
    await engine.run()
    ended = await world.run(dataclasses.replace(inputs(), profiles={}))
    assert ended.stopped is not None
    assert ended.stopped.reason is StopReason.NO_TARGET_RAN
    assert "ProfileNotFound" in ended.stopped.message
    assert not ended.state.batches_in_flight


async def test_a_target_that_starts_nothing_within_its_pending_timeout_fails(world: World) -> None:
    async def unschedulable(request: BatchRequest, on_progress: OnProgress) -> None:
        on_progress(Progress(request.target, "Unschedulable", "0/3 nodes have a GPU"))
        await asyncio.Event().wait()

    world.evaluator.before = unschedulable
    ended = await world.run(inputs(stop={"pendingTimeout": "1s"}))
    assert ended.stopped is not None
    assert ended.stopped.reason is StopReason.NO_TARGET_RAN
    assert "0/3 nodes have a GPU" in ended.stopped.message
    assert world.evaluator.forgotten == ["cpu-1-0"]


async def test_why_nothing_runs_is_in_the_snapshot(world: World) -> None:
    seen = asyncio.Event()

    async def queued(request: BatchRequest, on_progress: OnProgress) -> None:
        on_progress(Progress(request.target, "Queued", "waiting for quota"))
        await seen.wait()

    world.evaluator.before = queued
    engine = world.engine()
    world.on_snapshot = when(engine, lambda s: "waiting for quota" in s.waiting_for, seen.set)
    await asyncio.wait_for(engine.run(), 60)


async def test_improvements_are_published_as_they_are_verified_when_the_spec_says_so(world: World) -> None:
    ended = await world.run(inputs(output={"publish": "OnImprovement"}, verification={"repeats": 1}))
    events = await world.store.read("uid-1")
    kinds = [event.type for event in events]
    assert kinds.index("published") < kinds.index("stopped")
    last = [event for event in events if isinstance(event, Published)][-1]
    assert last.candidates == {target: candidate.id for target, candidate in ended.state.winners.items()}


async def test_nothing_verified_above_the_reference_publishes_nothing(world: World) -> None:
    slow = SEED.split("//")[0].replace("32", "48") + "\n"
    problem = {
        "source": {"inline": [{"path": "reference.py", "content": "class Model: ..."}]},
        "seeds": [{"language": "cpp", "content": slow}],
    }
    ended = await world.run(inputs(problem=problem))
    assert ended.stopped is not None
    assert not ended.improved
    assert ended.published is None
    assert world.publisher.published == []


async def test_an_approval_is_waited_for_and_then_published(world: World) -> None:
    world.publisher.refusal = PublishRefused("AwaitingApproval", "annotate the digest", final=False)
    engine = world.engine()

    def approve() -> None:
        world.publisher.refusal = None
        engine.wake()

    world.on_snapshot = when(engine, lambda s: s.refused is not None, approve)
    ended = await asyncio.wait_for(engine.run(), 60)
    assert ended.published is not None
    assert ended.refused is None


async def test_a_conflicting_output_ends_the_search_with_the_refusal(world: World) -> None:
    world.publisher.refusal = PublishRefused("OutputConflict", "the ConfigMap belongs to another", final=True)
    ended = await world.run()
    assert ended.stopped is not None
    assert ended.refused is not None
    assert ended.refused.reason == "OutputConflict"
    assert ended.published is None


async def test_an_evaluator_that_breaks_ends_the_engine_and_the_next_one_adopts(world: World) -> None:
    def broken(*_: object) -> None:
        world.evaluator.before = lambda *_: None
        raise ConnectionError("the API server is gone")

    world.evaluator.before = broken
    with pytest.raises(ConnectionError):
        await world.run()
    ended = await world.run()
    assert ended.state.ledger.candidates == 8
    assert len(world.evaluator.runs) == len(set(world.evaluator.runs))
