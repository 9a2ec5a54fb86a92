"""The arms that need torch: E and A (the reference, eager), C (the reference under torch.compile), U in Python.

E also produces what T cannot: inputs, parameters, expected outputs; it writes them onto the desk, memory of T. All arms
read their inputs from the same slots. Neighbours: runner.py (the loop), problem.py, facts.py, languages/pytorch.py.
"""

from __future__ import annotations

import json
import os
import traceback
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from kernelharness import profiling
from kernelharness.channel import (
    BOARD_TEXT_BYTES,
    Board,
    Failure,
    Order,
    OrderKind,
    OutputReport,
    Reply,
    ReplyKind,
    pack_report,
)
from kernelharness.deferred import Deferred
from kernelharness.facts import describe, parameter_tensors
from kernelharness.gradients import TrainingCall, leaf_names, make_cotangents
from kernelharness.hidden import derive_hidden_case
from kernelharness.languages.base import get_language
from kernelharness.languages.native import CUDA
from kernelharness.languages.pytorch import CandidateError, load_model
from kernelharness.layout import Layout, layout_of, widened
from kernelharness.problem import LoadedCase, UnsupportedProblem, flatten_outputs, load_case, run_float64, run_model
from kernelharness.protocol import Case, CaseFact, Problem
from kernelharness.runner import ArmError, Memory
from kernelharness.secret import Secret
from kernelharness.slots import tensor_at

Call = Callable[[Sequence[Any]], list[Tensor]]


class TorchArm:
    """What E, C and a Python U share: slots as tensors, results as lists of tensors, reports of where they lie."""

    def __init__(self, config: dict[str, Any], memory: Memory) -> None:
        self.problem = Problem.model_validate(config["problem"])
        self.cases = [Case.model_validate(case) for case in config["cases"]]
        self.memory = memory
        self.facts: dict[int, CaseFact] = {}
        self.arguments: dict[int, list[Any]] = {}
        """By case: forward()'s arguments, tensors as None."""
        self.loaded: dict[int, LoadedCase] = {}
        self.calls: dict[int, Call] = {}
        self.deferred: Deferred | None = None
        """Backward passes of the run; none when each follows its forward, as in timed runs."""
        self.seed: int = config["model_seed"]
        self.device = "cuda" if memory.device_type == CUDA else "cpu"
        self.call: Call = _not_loaded
        # It makes as many that idle, all of which are woken for every run. docs/decisions/0013.
        if self.device == "cpu" or torch.get_num_threads() != config["threads"]:
            torch.set_num_threads(config["threads"])
        torch.set_grad_enabled(False)
        warnings.filterwarnings("ignore", message="The given buffer is not writable")
        for index, known in enumerate(config.get("known", ())):
            self.facts[index] = CaseFact.model_validate(known["fact"])
            self.arguments[index] = known["arguments"]

    def load_problem(self, case: int) -> LoadedCase:
        if case not in self.loaded:
            try:
                self.loaded[case] = load_case(self.problem, self.cases[case], self.device)
            except UnsupportedProblem as error:
                raise ArmError(Failure.UNSUPPORTED, str(error)) from error
        return self.loaded[case]

    def make_values(self, case: int, seed: int) -> list[Any]:
        """What a slot holds: forward()'s arguments, then cotangents."""
        values = self.load_problem(case).make_inputs(seed)
        self._require_gradients(case, [value for value in values if isinstance(value, Tensor)])
        return [*values, *make_cotangents(self.facts[case], seed, self.device)]

    def _require_gradients(self, case: int, tensors: Sequence[Tensor]) -> None:
        """Of forward()'s arguments, which come first, where the case asks for them: they become autograd's leaves."""
        fact = self.facts[case]
        leaves = leaf_names(fact)
        for tensor, argument in zip(tensors, fact.arguments, strict=False):
            tensor.requires_grad_(argument.name in leaves)

    def load(self, case: int, state_offset: int) -> None:
        if case not in self.calls:
            self.calls[case] = self.make_call(case, state_offset)
        self.call = self.calls[case]

    def make_call(self, case: int, state_offset: int) -> Call:
        raise NotImplementedError

    def calling(self, case: int, model: Callable[..., Any], owner: nn.Module) -> Call:
        """The model as a function of a slot's values. `owner`: the module itself, when `model` wraps it."""
        fact = self.facts[case]
        if not fact.backward:
            return _eager(model, fact)
        training = TrainingCall(model, owner, fact, len(self.arguments[case]))
        return lambda values: training(values, self.deferred)

    def prepare(self, case: int, memory: str, offsets: Sequence[int]) -> list[list[Any]]:
        mapped = self.memory.map(memory)
        self.deferred = Deferred() if memory == "gallery" else None
        fields = layout_of(self.facts[case].inputs).fields
        prepared: list[list[Any]] = []
        for offset in offsets:
            tensors = [tensor_at(mapped, field, offset) for field in fields]
            self._require_gradients(case, tensors)
            rest = iter(tensors)
            arguments = [next(rest) if value is None else value["value"] for value in self.arguments[case]]
            prepared.append([*arguments, *rest])  # with backward, cotangents are left
        return prepared

    def copy(self, result: list[Tensor]) -> list[Tensor]:
        return result if self.deferred else [tensor.clone() for tensor in result]

    def report(self, results: list[list[Tensor]]) -> tuple[bytes, int]:
        if self.deferred:
            self.deferred.run()
        parts = [pack_report(self.where(tensor)) for result in results for tensor in result]
        return b"".join(parts), len(parts)

    def where(self, tensor: Tensor) -> OutputReport:
        """Where an output lies. Raise ArmError when it is no plain tensor on the device."""
        if type(tensor) is not Tensor and type(tensor) is not nn.Parameter:
            text = f"forward() returned a {type(tensor).__name__}, not a plain torch.Tensor"
            raise ArmError(Failure.NOT_A_TENSOR, text)
        if tensor.device.type != self.device:
            text = f"forward() returned a tensor on {tensor.device}, not on {self.device}"
            raise ArmError(Failure.NOT_A_TENSOR, text)
        dtype = str(tensor.dtype).removeprefix("torch.")
        return OutputReport(tensor.data_ptr(), dtype, tuple(tensor.shape), tensor.stride())

    def handle(self, order: Order, results: list[Any]) -> Reply:
        raise ArmError(Failure.ERROR, f"this runner does not know {order.kind.name}")

    def state(self, case: int, state_offset: int) -> dict[str, Tensor]:
        """The reference's parameters and buffers as T keeps them: views of read-only memory."""
        fact = self.facts[case]
        if not fact.parameters:
            return {}
        mapped = self.memory.map("gallery")
        fields = layout_of(fact.parameters).fields
        return {
            tensor.name: tensor_at(mapped, field, state_offset)
            for tensor, field in zip(fact.parameters, fields, strict=True)
        }


class ReferenceArm(TorchArm):
    """E and A."""

    def __init__(self, config: dict[str, Any], memory: Memory, board: Board) -> None:
        super().__init__(config, memory)
        self.board = board
        self.models: dict[int, nn.Module] = {}

    def make_call(self, case: int, state_offset: int) -> Call:
        model = self.model(case)
        return self.calling(case, model, model)

    def model(self, case: int) -> nn.Module:
        if case not in self.models:
            self.models[case] = self.load_problem(case).make_model(self.seed)
        return self.models[case]

    def handle(self, order: Order, results: list[Any]) -> Reply:
        if order.kind == OrderKind.DESCRIBE:
            return self._describe(order.a)
        if order.kind == OrderKind.HIDDEN:
            return self._derive_hidden(order.b)
        if order.kind == OrderKind.GENERATE:
            self._generate(order.a, Secret.of(order.b), order.c)
        elif order.kind == OrderKind.STATE:
            tensors = parameter_tensors(self.model(order.a))
            self._deliver(list(tensors.values()), layout_of(self.facts[order.a].parameters), 0)
        elif order.kind == OrderKind.COLLECT:
            layout = layout_of(self.facts[order.a].outputs)
            for index, tensors in enumerate(results):
                self._deliver(tensors, layout, index)
        elif order.kind == OrderKind.EXACT:
            return self._exact(order)
        else:
            return super().handle(order, results)
        return Reply(ReplyKind.READY)

    def _generate(self, case: int, secret: Secret, count: int) -> None:
        layout = layout_of(self.facts[case].inputs)
        for index in range(count):
            tensors = [value for value in self.make_values(case, secret.draw()) if isinstance(value, Tensor)]
            self._deliver(tensors, layout, index)

    def _describe(self, case: int) -> Reply:
        loaded = self.load_problem(case)
        try:
            fact = describe(loaded, self.seed)
        except UnsupportedProblem as error:
            raise ArmError(Failure.UNSUPPORTED, str(error)) from error
        except Exception as error:
            raise ArmError(Failure.UNSUPPORTED, f"the reference fails: {type(error).__name__}: {error}") from error
        values = loaded.make_inputs(self.seed)
        arguments = [None if isinstance(value, Tensor) else {"value": value} for value in values]
        self.facts[case], self.arguments[case] = fact, arguments
        del values
        working = self._working_bytes(case) if self.device == "cuda" else 0
        known = {"fact": fact.model_dump(mode="json"), "arguments": arguments, "working_bytes": working}
        text = json.dumps(known)
        if len(text.encode()) > BOARD_TEXT_BYTES:
            raise ArmError(
                Failure.UNSUPPORTED, f"too many tensors: {len(fact.parameters)} parameters; take a part of it"
            )
        return Reply(ReplyKind.READY, a=self.board.write_text(text))

    def _working_bytes(self, case: int) -> int:
        """What one call takes of the device beside its inputs and results, at its peak."""
        model = self.model(case)
        call, values = self.calling(case, model, model), self.make_values(case, self.seed)
        torch.cuda.reset_peak_memory_stats()
        result = call(values)
        working = torch.cuda.max_memory_allocated() - torch.cuda.memory_allocated()
        del result  # it counts until here
        return working

    def _derive_hidden(self, seed: int) -> Reply:
        """A case that nobody was shown, as one more case of this runner; no text when there can be none."""
        try:
            case = derive_hidden_case(self.problem, seed, self.device)
        except Exception:  # the reference itself fails: describing its cases will say how
            case = None
        if case is None:
            return Reply(ReplyKind.READY, a=0)
        self.cases.append(case)
        return Reply(ReplyKind.READY, a=self.board.write_text(case.model_dump_json()))

    def _exact(self, order: Order) -> Reply:
        values = self.prepare(order.a, order.memory, [order.b])[0]
        self.deferred = None
        exact = run_float64(self.model(order.a), values, lambda wide, given: self.calling(order.a, wide, wide)(given))
        if exact is None:
            return Reply(ReplyKind.READY, a=0)
        self._deliver(exact, layout_of(widened(self.facts[order.a].outputs)), 0)
        return Reply(ReplyKind.READY, a=1)

    def _deliver(self, tensors: list[Tensor], layout: Layout, slot: int) -> None:
        desk = self.memory.map("desk")
        for tensor, field in zip(tensors, layout.fields, strict=True):
            tensor_at(desk, field, slot * layout.stride).copy_(tensor)


class CompiledArm(TorchArm):
    """C. Its compiled code is kept in a folder that no candidate can write: warm, it is there in 3 s instead of 10."""

    def __init__(self, config: dict[str, Any], memory: Memory) -> None:
        super().__init__(config, memory)
        os.environ.update(
            TORCHINDUCTOR_CACHE_DIR=config["code"],
            TMPDIR=config["scratch"],
            TORCHINDUCTOR_COMPILE_THREADS="1",
            # Both pay off after many kernels only; here they are half of a cold start (18 s on two cores).
            TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS="0",
            TORCHINDUCTOR_VEC_ISA_OK="1",
        )

    def make_call(self, case: int, state_offset: int) -> Call:
        loaded = self.load_problem(case)
        model = loaded.make_model(self.seed)
        compiled = torch.compile(model, dynamic=False)
        call = self.calling(case, compiled, model)
        values = self.make_values(case, self.seed)
        try:
            call(values)
            call(values)
        except Exception as error:
            raise ArmError(Failure.NOT_COMPILED, traceback.format_exception_only(error)[-1].strip()) from error
        del values
        if self.device == "cuda":
            torch.cuda.empty_cache()  # compiling and its inputs took more than timed calls will
        return call


class CandidateArm(TorchArm):
    """U of a Python language."""

    def __init__(self, config: dict[str, Any], memory: Memory, board: Board) -> None:
        super().__init__(config, memory)
        self.board = board
        self.source: str = config["source"]
        self.filename: str = config["filename"]
        self.stand_in: dict[str, str] | None = config.get("stand_in")
        """Language and arch, where there is no device: what is compiled for it is not launched."""

    def make_call(self, case: int, state_offset: int) -> Call:
        loaded = self.load_problem(case)
        try:
            with self._standing_in():
                model = load_model(self.source, self.filename, loaded, self.seed, self.state(case, state_offset))
            call = self.calling(case, model, model)
            return call if self.stand_in is None else lambda values: self._call_standing_in(call, values)
        except CandidateError as error:
            raise ArmError(Failure.LOAD, str(error)) from error
        except (ArmError, MemoryError):
            raise
        except Exception as error:
            raise ArmError(Failure.LOAD, traceback.format_exc()) from error

    def handle(self, order: Order, results: list[Any]) -> Reply:
        if order.kind != OrderKind.PROFILE:
            return super().handle(order, results)
        values = self.prepare(order.a, order.memory, [order.b])[0]
        self.deferred = None
        call = self.calls[order.a]
        table = profiling.record(lambda: call(values), order.c, on_device=self.device == "cuda")
        return Reply(ReplyKind.READY, a=self.board.write_bytes(table))

    def _standing_in(self) -> AbstractContextManager[None]:
        if self.stand_in is None:
            return nullcontext()
        return get_language(self.stand_in["language"]).stand_in(self.stand_in["arch"])

    def _call_standing_in(self, call: Call, values: Sequence[Any]) -> list[Tensor]:
        with self._standing_in():
            return call(values)


def make(config: dict[str, Any], memory: Memory, board: Board) -> TorchArm:
    match config["arm"]:
        case "reference":
            return ReferenceArm(config, memory, board)
        case "compiled":
            return CompiledArm(config, memory)
        case "python":
            return CandidateArm(config, memory, board)
        case other:
            raise ValueError(f"no arm is called {other!r}")


def _eager(model: Any, fact: CaseFact) -> Call:
    """The model as a function of its arguments. Buffers that it changes are outputs too, and are put back."""
    if any(tensor.name.endswith("_out") for tensor in fact.outputs):

        def with_buffers(arguments: Sequence[Any]) -> list[Tensor]:
            outputs, changed = run_model(model, arguments)
            return [*outputs, *changed.values()]

        return with_buffers

    def plain(arguments: Sequence[Any]) -> list[Tensor]:
        result = model(*arguments)
        return [result] if type(result) is Tensor else flatten_outputs(result)

    return plain


def _not_loaded(arguments: Sequence[Any]) -> list[Tensor]:
    raise ArmError(Failure.ERROR, "RUN before LOAD")
