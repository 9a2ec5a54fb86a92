"""dev/llm chooses replies by reading the prompts that a search really sends."""

from __future__ import annotations

from pathlib import Path

import pytest
from kernelsearch.search.actions import CallModel
from kernelsearch.search.edits import ReplyError, find_tunables, parse_reply
from kernelsearch.search.journal import Operator
from kernelsearch.search.prompts import ChatMessage, PromptContext, build_prompt, needed_sources, retry_messages
from kernelsearch.search.state import State, fold
from replies import Scripted, load_problems, load_replies, retry_of, source_of
from script import UNKNOWN, Script, Turn, current_kernel, operator_of

from ..search.world import World, llm_limits

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "dev/llm/replies"
PROBLEMS = sorted(load_problems(FOLDER))
REPLIES = {name: load_replies(FOLDER / name) for name in PROBLEMS}
ALL = [(name, reply) for name in PROBLEMS for reply in REPLIES[name]]


def by_name(problem: str, name: str) -> Scripted:
    return next(reply for reply in REPLIES[problem] if reply.name == name)


@pytest.fixture(scope="module")
def asked() -> dict[Operator, tuple[State, CallModel]]:
    """For each operator, a state of a whole search in which it was asked for, and the ask."""
    found: dict[Operator, tuple[State, CallModel]] = {}
    state = State()
    for event in World(limits=llm_limits(candidates=150), fails=0.3).run():
        if event.type == "llm_reserved":
            call = CallModel(event.ask_no, event.target, event.operator, event.lane, event.parent, event.model)
            found.setdefault(event.operator, (state, call))
        state = fold([event], state)
    return found


def prompt(ask: tuple[State, CallModel], problem: str, current: str = "int current;\n") -> tuple[ChatMessage, ...]:
    """The chat that a search sends for this problem, its parent being `current`."""
    state, call = ask
    context = PromptContext(
        reference=(ROOT / f"examples/problems/{problem}.py").read_text(),
        header="struct KernelContext;",
        language="cpp",
        arch="x86-64-v3",
        device="a CPU",
        sources={id: current if id == call.parent else "// another kernel" for id in needed_sources(state, call)},
    )
    return build_prompt(state, call, context)


def turns(messages: tuple[ChatMessage, ...]) -> list[Turn]:
    return [{"role": message.role, "content": message.content} for message in messages]


@pytest.mark.parametrize("operator", [Operator.DRAFT, Operator.EDIT, Operator.REPAIR, Operator.REWRITE])
def test_the_task_and_the_current_kernel_are_read_from_a_real_prompt(
    asked: dict[Operator, tuple[State, CallModel]], operator: Operator
) -> None:
    kernel = "// ```\nint first;\n\n\nint last;\n"
    text = prompt(asked[operator], "rmsnorm", kernel)[-1].content
    assert operator_of(text) == operator.value
    if operator in (Operator.EDIT, Operator.REPAIR):
        assert current_kernel(text) == kernel


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("operator", [Operator.DRAFT, Operator.EDIT, Operator.REPAIR, Operator.REWRITE])
def test_every_request_has_answers_that_fit(
    asked: dict[Operator, tuple[State, CallModel]], problem: str, operator: Operator
) -> None:
    script = Script(FOLDER)
    known = {reply.text: reply for reply in REPLIES[problem]}
    kernel = source_of(by_name(problem, REPLIES[problem][0].name), REPLIES[problem])
    for _ in range(40):
        text = script.answer(turns(prompt(asked[operator], problem, kernel)))
        reply = known[text]
        assert reply.operator == operator.value
        if reply.kind != "malformed":
            parse_reply(text, kernel if operator in (Operator.EDIT, Operator.REPAIR) else None)


@pytest.mark.parametrize(("problem", "reply"), ALL, ids=lambda value: getattr(value, "name", value))
def test_a_reply_leads_to_a_kernel_unless_it_is_malformed(problem: str, reply: Scripted) -> None:
    if reply.kind != "malformed":
        assert '#include "problem.h"' in source_of(reply, REPLIES[problem])
        return
    with pytest.raises(ReplyError):
        parse_reply(reply.text, source_of(REPLIES[problem][0], REPLIES[problem]))
    assert reply.expect == ("malformed",)


@pytest.mark.parametrize(
    ("problem", "reply"),
    [(problem, reply) for problem, reply in ALL if reply.operator == "repair" and reply.base],
    ids=lambda value: getattr(value, "name", value),
)
def test_a_failing_kernel_gets_the_repair_that_was_written_for_it(
    asked: dict[Operator, tuple[State, CallModel]], problem: str, reply: Scripted
) -> None:
    assert reply.base is not None
    failing = source_of(by_name(problem, reply.base), REPLIES[problem])
    chat = prompt(asked[Operator.REPAIR], problem, failing)
    assert Script(FOLDER).answer(turns(chat)) == reply.text


@pytest.mark.parametrize("problem", PROBLEMS)
def test_a_malformed_reply_is_followed_by_its_second_try(
    asked: dict[Operator, tuple[State, CallModel]], problem: str
) -> None:
    first = next(reply for reply in REPLIES[problem] if retry_of(reply, REPLIES[problem]))
    second = retry_of(first, REPLIES[problem])
    assert second is not None
    chat = prompt(asked[Operator(first.operator)], problem)
    with pytest.raises(ReplyError) as caught:
        parse_reply(first.text, None)
    again = retry_messages(chat, first.text, caught.value)
    assert Script(FOLDER).answer(turns(again)) == second.text
    parse_reply(second.text, None)


def test_the_same_questions_in_the_same_order_have_the_same_answers(
    asked: dict[Operator, tuple[State, CallModel]],
) -> None:
    def said() -> list[str]:
        script = Script(FOLDER)
        return [script.answer(turns(prompt(asked[o], p))) for p in PROBLEMS for o in asked for _ in range(8)]

    assert said() == said()


def test_no_reply_is_given_twice_while_there_are_others(asked: dict[Operator, tuple[State, CallModel]]) -> None:
    script = Script(FOLDER)
    drafts = [reply for reply in REPLIES["rmsnorm"] if reply.operator == "draft"]
    said = [script.answer(turns(prompt(asked[Operator.DRAFT], "rmsnorm"))) for _ in drafts]
    assert said == [reply.text for reply in drafts]


def test_about_an_unknown_problem_it_says_that_it_is_a_script(asked: dict[Operator, tuple[State, CallModel]]) -> None:
    chat = turns(prompt(asked[Operator.DRAFT], "rmsnorm"))
    other = [{**turn, "content": turn["content"].replace("mean_square", "variance")} for turn in chat]
    python = [{**turn, "content": turn["content"].replace('"problem.h"', "ModelNew")} for turn in chat]
    for unknown in (other, python, []):
        assert Script(FOLDER).answer(unknown) == UNKNOWN  # type: ignore[arg-type]
    with pytest.raises(ReplyError):
        parse_reply(UNKNOWN, None)


def test_a_folder_without_replies_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no folder with replies"):
        Script(tmp_path)


@pytest.mark.parametrize("problem", PROBLEMS)
def test_a_problem_is_recognised_by_a_line_of_its_own(problem: str) -> None:
    line = load_problems(FOLDER)[problem]
    holders = [path.stem for path in (ROOT / "examples/problems").glob("*.py") if line in path.read_text()]
    assert holders == [problem]


@pytest.mark.parametrize("problem", PROBLEMS)
def test_there_is_enough_of_every_kind(problem: str) -> None:
    judged = [reply for reply in REPLIES[problem] if reply.kind != "malformed"]
    assert len(judged) >= 20
    assert {reply.kind for reply in REPLIES[problem]} >= {"good", "slow", "wrong", "subtle", "broken", "hostile"}
    assert len({source_of(reply, REPLIES[problem]) for reply in judged}) == len(judged), "two replies are one kernel"
    good = [source_of(reply, REPLIES[problem]) for reply in judged if reply.kind == "good"]
    assert sum(1 for source in good if find_tunables(source)) >= 2


def test_a_script_in_cuda_has_an_answer_to_each_request_and_its_repairs_fit() -> None:
    replies = load_replies(FOLDER.parent / "replies_cuda" / "rmsnorm")
    assert load_problems(FOLDER.parent / "replies_cuda") == {"rmsnorm": load_problems(FOLDER)["rmsnorm"]}
    assert {reply.operator for reply in replies} == {"draft", "edit", "repair", "rewrite", "retry"}
    sources = [source_of(reply, replies) for reply in replies if reply.kind != "malformed"]
    assert len(set(sources)) == len(sources)
    assert all('#include "problem.h"' in source and "__global__" in source for source in sources)


def test_each_folder_fits_a_config_map() -> None:
    for folder in (FOLDER.parent, *(FOLDER / name for name in PROBLEMS)):
        assert sum(path.stat().st_size for path in folder.iterdir() if path.is_file()) < 900_000
