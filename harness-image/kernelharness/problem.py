"""A KernelBench problem file, loaded for one case: inputs, model, and what the model answers.

The file is used unchanged: `Model`, `get_inputs`, `get_init_inputs`. A case's `dims` are assigned right after the
top-level statement that binds the name, so constants derived from it follow. Everything is a function of the seed.
Runs in the reference runner and, for Python languages, in the candidate's; never in the judge: the file is code.
`facts.py` describes what is loaded here, `hidden.py` derives the case that the model never sees.
"""

from __future__ import annotations

import ast
import copy
import importlib.abc
import importlib.machinery
import importlib.util
import inspect
import linecache
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from kernelharness.protocol import Case, Problem

Scalar = int | float | bool
Value = Tensor | Scalar | str | None | Sequence[Scalar]
"""What one argument of `forward` or `Model.__init__` may be."""

DEFAULT_CASE = Case(name="default")
INIT_SEED = 42
"""`get_init_inputs` is called with this seed always: a constructor's arguments are part of the problem, not secret."""

_Found = TypeVar("_Found")

_DTYPES = {
    "float32": torch.float32,
    "fp32": torch.float32,
    "float16": torch.float16,
    "fp16": torch.float16,
    "bfloat16": torch.bfloat16,
    "bf16": torch.bfloat16,
    "float64": torch.float64,
    "fp64": torch.float64,
}


class UnsupportedProblem(ValueError):
    """The problem cannot be judged whatever the candidate; the text names the argument, name or file at fault."""


def cases_of(problem: Problem) -> list[Case]:
    """The cases, or the one that is the file as it stands."""
    return list(problem.cases) or [DEFAULT_CASE]


@dataclass(frozen=True)
class LoadedCase:
    """One case of a problem, ready to run on `device`."""

    case: Case
    module: ModuleType
    constants: dict[str, int]
    """Top-level integers of the file in this case, in the file's order."""
    device: str
    dtype: torch.dtype | None

    def init_arguments(self) -> tuple[list[Any], dict[str, Any]]:
        """Positional and keyword arguments of `Model` (and `ModelNew`). `[[..], {..}]` is understood too."""
        seed_everything(INIT_SEED)
        with torch.device(self.device):
            values = list(self.module.get_init_inputs()) if hasattr(self.module, "get_init_inputs") else []
        if len(values) == 2 and isinstance(values[0], list | tuple) and isinstance(values[1], dict):
            return list(values[0]), dict(values[1])
        return values, {}

    def make_model(self, seed: int) -> nn.Module:
        """A new `Model` whose random weights are a function of `seed`; floating tensors have the case's dtype."""
        return self.construct(self.module.Model, seed)

    def construct(self, cls: type[nn.Module], seed: int) -> nn.Module:
        """`cls(*init inputs)` under the seed, on the device, cast: the same for `Model` and for a `ModelNew`."""
        args, kwargs = self.init_arguments()
        seed_everything(seed)
        with torch.device(self.device):
            model = cls(*args, **kwargs)
        return model.to(device=self.device, dtype=self.dtype)

    def make_inputs(self, seed: int) -> list[Value]:
        """`get_inputs()` under the seed; tensors contiguous on the device, floating ones of the case's dtype."""
        seed_everything(seed)
        with torch.device(self.device):
            values = list(self.module.get_inputs())
        return [self._place(value) for value in values]

    def reference(self, model: nn.Module, inputs: Sequence[Value], seed: int = 0) -> list[Tensor]:
        """The outputs of one call, then the new value of every buffer that the call changed."""
        outputs, changed = run_model(model, inputs, seed)
        return [*outputs, *changed.values()]

    def _place(self, value: Any) -> Value:
        if not isinstance(value, Tensor):
            return value  # type: ignore[no-any-return]
        if value.layout != torch.strided:
            raise UnsupportedProblem(f"get_inputs() returns a {value.layout} tensor; only dense tensors can be judged")
        dtype = self.dtype if value.is_floating_point() else None
        return value.detach().to(device=self.device, dtype=dtype).contiguous()


def load_case(problem: Problem, case: Case, device: str = "cpu") -> LoadedCase:
    """Execute the problem's entry file with the case's dims. Raises UnsupportedProblem, with what to change."""
    dtype = None
    if case.dtype is not None and (dtype := _DTYPES.get(case.dtype.removeprefix("torch."))) is None:
        raise UnsupportedProblem(f"case {case.name!r}: unknown dtype {case.dtype!r}; known: {', '.join(_DTYPES)}")
    sources = {file.path: file.content for file in problem.files}
    if problem.entry not in sources:
        raise UnsupportedProblem(f"the problem has no file {problem.entry!r}; it has {', '.join(sources)}")
    use_full_precision()
    tree = _parse(problem.entry, sources[problem.entry])
    names = _set_dims(tree, case)
    module = ModuleType(f"kernelsearch_problem_{case.name.replace('-', '_')}")
    module.__file__ = f"<{problem.entry}>"
    _remember_source(module.__file__, sources[problem.entry])
    sys.modules[module.__name__] = module
    try:
        with _importable(sources):
            exec(compile(tree, module.__file__, "exec"), module.__dict__)
    except UnsupportedProblem:
        raise
    except Exception as error:
        raise UnsupportedProblem(f"{problem.entry} cannot be executed: {type(error).__name__}: {error}") from error
    for name in ("Model", "get_inputs"):
        if not callable(getattr(module, name, None)):
            raise UnsupportedProblem(f"{problem.entry} defines no {name}; a KernelBench file has Model and get_inputs")
    constants = {name: value for name in names if type(value := getattr(module, name, None)) is int}
    return LoadedCase(case, module, constants, device, dtype)


def run_model(model: nn.Module, inputs: Sequence[Value], seed: int = 0) -> tuple[list[Tensor], dict[str, Tensor]]:
    """One forward call: (outputs, new values of changed buffers by name). The model is left as it was.

    Used alike for references and for `ModelNew`. Raises UnsupportedProblem when the outputs are no tensors.
    """
    seed_everything(seed)
    with torch.no_grad(), buffers_put_back(model) as changes:
        outputs = flatten_outputs(model(*inputs))
        changed = changes()
        if changed:
            outputs = [output.clone() for output in outputs]  # one may be a buffer that is put back now
    return outputs, changed


def run_float64(
    model: nn.Module, values: Sequence[Value], run: Callable[[nn.Module, list[Value]], _Found]
) -> _Found | None:
    """What `run` makes of the model in float64, for PRECISION; None when the model's code does not run in that type."""
    wide = copy.deepcopy(model).double()
    try:
        return run(wide, [_widened(value) for value in values])
    except (RuntimeError, TypeError, ValueError):
        return None


def _widened(value: Value) -> Value:
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return value
    return value.detach().double().requires_grad_(value.requires_grad)


@contextmanager
def buffers_put_back(model: nn.Module) -> Iterator[Callable[[], dict[str, Tensor]]]:
    """Gives a function that returns the buffers that changed so far, by name; all are put back at the end."""
    before = dict(model.named_buffers())
    versions = {name: buffer._version for name, buffer in before.items()}
    saved = {name: buffer.detach().clone() for name, buffer in before.items()}

    def changes() -> dict[str, Tensor]:
        return {
            name: buffer.detach().clone()
            for name, buffer in model.named_buffers()
            if name in saved
            and (buffer is not before[name] or buffer._version != versions[name] or differs(buffer, saved[name]))
        }

    yield changes
    with torch.no_grad():
        for name in changes():
            owner, _, leaf = name.rpartition(".")
            before[name].copy_(saved[name])
            setattr(model.get_submodule(owner), leaf, before[name])


def differs(tensor: Tensor, other: Tensor) -> bool:
    """True when any bit does. Some operators (batch_norm's running statistics) write without a change of version."""
    return not torch.equal(*(each.contiguous().reshape(-1).view(torch.uint8) for each in (tensor, other)))


def adopt_state(model: nn.Module, state: Mapping[str, Tensor]) -> bool:
    """Copy the reference's state_dict into a `ModelNew` when keys and shapes match; False when they do not."""
    own = model.state_dict()
    if own.keys() != state.keys() or any(own[key].shape != state[key].shape for key in own):
        return False
    with torch.no_grad():
        for key, tensor in own.items():
            tensor.copy_(state[key])
    return True


def flatten_outputs(result: Any) -> list[Tensor]:
    """The tensors of a result, in order. Raises UnsupportedProblem naming the part that is no plain tensor."""
    parts: list[Any] = [result]
    if isinstance(result, list | tuple):
        parts = [leaf for part in result for leaf in (part if isinstance(part, list | tuple) else (part,))]
    for index, part in enumerate(parts):
        if not isinstance(part, Tensor):
            raise UnsupportedProblem(
                f"output {index} of forward() is a {type(part).__name__}; it must be a tensor, or a tuple of tensors"
            )
        if part.layout != torch.strided:
            raise UnsupportedProblem(f"output {index} of forward() is a {part.layout} tensor; it must be dense")
    if not parts:
        raise UnsupportedProblem("forward() returns nothing; there is nothing to compare")
    return parts


def bind_arguments(function: Any, args: Sequence[Any], kwargs: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Arguments by their names in the function's signature; `*rest` becomes rest_0, rest_1, ..

    Raises UnsupportedProblem when they do not fit.
    """
    signature = inspect.signature(function)
    try:
        bound = signature.bind(*args, **(kwargs or {}))
    except TypeError as error:
        raise UnsupportedProblem(f"{getattr(function, '__qualname__', function)}: {error}") from error
    named: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        kind = signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            named.update({f"{name}_{index}": part for index, part in enumerate(value)})
        elif kind is inspect.Parameter.VAR_KEYWORD:
            named.update(value)
        else:
            named[name] = value
    return named


def seed_everything(seed: int) -> None:
    """Seed what a problem file may draw from: torch, random, and numpy when it is there.

    `torch.manual_seed` remembers a stack trace for every kind of device that is not in use, which takes longer than
    making a small set of inputs.
    """
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed_all(seed)
    random.seed(seed)
    if (numpy := sys.modules.get("numpy")) is not None:
        numpy.random.seed(seed % 2**32)


def use_full_precision() -> None:
    """No TF32 and no reduced-precision fp32 products, in every arm alike."""
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False


# -- executing the file ---------------------------------------------------------------------------------------------


def _parse(path: str, source: str) -> ast.Module:
    try:
        return ast.parse(source, f"<{path}>")
    except SyntaxError as error:
        raise UnsupportedProblem(f"{path}, line {error.lineno}: {error.msg}") from error


def _set_dims(tree: ast.Module, case: Case) -> list[str]:
    """Assign each dim right after every top-level statement that binds its name; return all names bound there."""
    body: list[ast.stmt] = []
    names: dict[str, None] = {}
    for statement in tree.body:
        body.append(statement)
        bound = [] if isinstance(statement, ast.FunctionDef | ast.ClassDef) else list(_stores(statement))
        names.update(dict.fromkeys(bound))
        for name in bound:
            if name in case.dims:
                _require_integer(statement, name, case)
                assignment = ast.parse(f"{name} = {case.dims[name]}").body[0]
                body.append(ast.copy_location(assignment, statement))
    if unknown := sorted(set(case.dims) - set(names)):
        known = ", ".join(names) or "none"
        raise UnsupportedProblem(
            f"case {case.name!r}: no top-level constant is named {unknown[0]!r}; there are: {known}"
        )
    tree.body = body
    ast.fix_missing_locations(tree)
    return list(names)


def _stores(statement: ast.stmt) -> Iterator[str]:
    for node in ast.walk(statement):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id


def _require_integer(statement: ast.stmt, name: str, case: Case) -> None:
    value = getattr(statement, "value", None)
    if isinstance(value, ast.Constant) and type(value.value) is not int:
        raise UnsupportedProblem(
            f"case {case.name!r}: {name!r} is {value.value!r} in the file; dims can only replace integers"
        )


def _remember_source(filename: str, source: str) -> None:
    """So that tracebacks and torch.compile can show lines of a file that is not on disk."""
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)


class _SiblingFiles(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Lets the entry file import the problem's other files by their module names, packages included."""

    def __init__(self, sources: Mapping[str, str]) -> None:
        python = {path: source for path, source in sources.items() if path.endswith(".py")}
        self.sources = {path[:-3].replace("/", "."): (path, source) for path, source in python.items()}
        self.loaded: list[str] = []

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        package = f"{fullname}.__init__" in self.sources
        if fullname in self.sources or package:
            return importlib.util.spec_from_loader(fullname, self, is_package=package)
        if any(name.startswith(f"{fullname}.") for name in self.sources):
            self.loaded.append(fullname)
            return importlib.machinery.ModuleSpec(fullname, None, is_package=True)
        return None

    def exec_module(self, module: ModuleType) -> None:
        self.loaded.append(module.__name__)
        key = module.__name__ if module.__name__ in self.sources else f"{module.__name__}.__init__"
        path, source = self.sources[key]
        _remember_source(f"<{path}>", source)
        exec(compile(source, f"<{path}>", "exec"), module.__dict__)


@contextmanager
def _importable(sources: Mapping[str, str]) -> Iterator[None]:
    finder = _SiblingFiles(sources)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in finder.loaded:
            sys.modules.pop(name, None)
