"""`python kernel.py --check`: is the kernel equal to the reference on this machine, and how fast is it here?

For every verified case of every kernel that this machine can run: fresh inputs from a fresh seed, every element
compared under the search's own tolerance, then reference and kernel timed in turns, as they were judged: some calls in
a row, each with inputs of its own, and results that are kept, so that neither is in a cache. Beside that the same with
each result freed at once, as where the next call finds the memory of the last one's in a cache. Exit code 0: equal
everywhere; 1: not; 2: no kernel of the bundle can run here.
"""

from __future__ import annotations

import argparse
import ctypes
import math
import secrets
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from types import ModuleType
from typing import Any

import torch

_DEFAULT_TOLERANCE = {torch.float64: 1e-7, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 1e-2}
_SPREAD_SHARE = 0.05
_SWEEP_BYTES = 128 << 20
"""More than a processor keeps for a few cores."""
_MOST_IN_A_ROW = 16
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def main(kernel: ModuleType, arguments: Sequence[str]) -> int:
    """Run from kernel.py, which gives itself."""
    parser = argparse.ArgumentParser(prog="kernel.py", description="What this bundle holds, and whether it works here.")
    parser.add_argument("--check", action="store_true", help="prove equality with the reference and time both here")
    parser.add_argument("--seconds", type=float, default=2.0, help="time to measure each case for")
    options = parser.parse_args(arguments)
    search = kernel.MANIFEST["search"]
    print(f"search {search['name']} ({search['uid']}), torch {torch.__version__}, {torch.get_num_threads()} threads")
    if not options.check:
        for target in kernel.MANIFEST["targets"]:
            print(f"target {target['name']}: {target['language']} for {target['arch']}, {_speedup(target)}")
        return 0
    return _check(kernel, options.seconds)


def _check(kernel: ModuleType, seconds: float) -> int:
    equal, ran = True, False
    _retain_memory()
    for target in kernel.targets():
        if target.kernel is None:
            print(f"target {target.name}: not here: {target.refusal}")
            continue
        for case in target.known["cases"]:
            ran = True
            with torch.inference_mode(not case["gradients"]):
                equal = _check_case(kernel, target, case, seconds) and equal
    if not ran:
        print("no kernel of this bundle can run here; the reference is used")
        return 2
    print("every output equals the reference's" if equal else "NOT EQUAL: do not use this bundle here")
    return 0 if equal else 1


def _check_case(kernel: ModuleType, target: Any, case: dict[str, Any], seconds: float) -> bool:
    module = kernel.load_reference(case["dims"], f"kernelsearch_case_{case['case'].replace('-', '_')}")
    seed = secrets.randbits(48)
    dtype = getattr(torch, case["dtype"]) if case["dtype"] else None
    args, kwargs = _arguments(module)
    models = []
    with torch.device(target.device):
        for cls in (module.Model, kernel.make_class(module.Model)):
            torch.manual_seed(seed)
            models.append(cls(*args, **kwargs).to(device=target.device, dtype=dtype))
        reference, model = models
        model.load_state_dict(reference.state_dict())
        torch.manual_seed(seed + 1)
        inputs = [_cast(value, target.device, dtype) for value in module.get_inputs()]
    name = f"target {target.name}, case {case['case']}"
    if (chosen := model.explain(*inputs)) != name:
        print(f"{name}: FAILED: {chosen}")
        return False
    tolerance = kernel.MANIFEST["problem"]["tolerance"]
    calls = _calls(models, case, inputs, target.device)
    want, got = (_tensors(call()) for call in calls)
    wrong, largest = _differences(got, want, tolerance)
    if wrong:
        print(f"{name}: NOT EQUAL: {wrong}")
        return False
    nbytes = sum(value.nbytes for value in (*inputs, *want) if isinstance(value, torch.Tensor))
    copies = range(min(_MOST_IN_A_ROW, _SWEEP_BYTES // max(1, nbytes)) - 1)
    rows = [calls, *(_calls(models, case, [_copy(value) for value in inputs], target.device) for _ in copies)]
    kept, freed = (_measure(rows, target.device, seconds / 2, keep=keep) for keep in (True, False))
    here = f"{kept:.2f}x faster than the eager reference here, {freed:.2f}x when each result is freed at once"
    was = f"published {case['speedup']:.2f}x over {case['baseline']}"
    print(f"{name}: equal (max abs error {largest:.3g}); {here} ({was})")
    return True


def _calls(models: Sequence[Any], case: dict[str, Any], inputs: list[Any], device: str) -> list[Callable[[], Any]]:
    """One of each model."""
    if case["gradients"]:
        return _both_passes(models, case, inputs, device)
    return [partial(each, *inputs) for each in models]


def _copy(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, torch.Tensor) else value


def _both_passes(
    models: Sequence[Any], case: dict[str, Any], inputs: list[Any], device: str
) -> list[Callable[[], list[torch.Tensor]]]:
    """Both passes of each model, for equal gradients by outputs: outputs, then gradients in the manifest's order."""
    cotangents = [
        torch.randn(fact["shape"], dtype=getattr(torch, fact["dtype"]), device=device) for fact in case["cotangents"]
    ]
    known = [fact["name"] for fact in case["outputs"]]
    roots = [known.index(_of(fact)) for fact in case["cotangents"]]
    tensors = (value for value in inputs if isinstance(value, torch.Tensor))
    of_inputs = dict(zip((fact["name"] for fact in case["inputs"]), tensors, strict=True))

    def passes(model: Any, leaves: list[torch.Tensor]) -> list[torch.Tensor]:
        outputs = _tensors(model(*inputs))
        torch.autograd.backward([outputs[root] for root in roots], cotangents, inputs=leaves)
        gradients = [leaf.grad for leaf in leaves if leaf.grad is not None]
        for leaf in leaves:
            leaf.grad = None
        return [*(output.detach() for output in outputs), *gradients]

    calls: list[Callable[[], list[torch.Tensor]]] = []
    for model in models:
        groups = {"input": of_inputs, "parameter": dict(model.named_parameters())}
        leaves = [groups[fact["gradient_of"]][_of(fact)].requires_grad_() for fact in case["gradients"]]
        calls.append(partial(passes, model, leaves))
    return calls


def _of(fact: dict[str, Any]) -> str:
    """The tensor that a gradient is of."""
    name: str = fact["name"]
    return name.removeprefix("grad_")


def _arguments(module: ModuleType) -> tuple[list[Any], dict[str, Any]]:
    torch.manual_seed(42)
    values = list(module.get_init_inputs()) if hasattr(module, "get_init_inputs") else []
    if len(values) == 2 and isinstance(values[0], list | tuple) and isinstance(values[1], dict):
        return list(values[0]), values[1]
    return values, {}


def _cast(value: Any, device: str, dtype: torch.dtype | None) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to(device=device, dtype=dtype if value.is_floating_point() else None).contiguous()
    return value


def _tensors(result: Any) -> list[torch.Tensor]:
    return [result] if isinstance(result, torch.Tensor) else list(result)


def _differences(got: list[torch.Tensor], want: list[torch.Tensor], tolerance: dict[str, Any]) -> tuple[str, float]:
    """(what is wrong or nothing, the largest absolute error)."""
    largest = 0.0
    if len(got) != len(want):
        return f"{len(got)} outputs, the reference has {len(want)}", math.nan
    for index, (mine, reference) in enumerate(zip(got, want, strict=True)):
        if mine.shape != reference.shape or mine.dtype != reference.dtype:
            return f"output {index} is {mine.dtype}{list(mine.shape)}", math.nan
        default = _DEFAULT_TOLERANCE.get(reference.dtype, 0.0)
        left, right = mine.double(), reference.double()
        spread = float((right - right.mean()).square().mean().sqrt()) if right.numel() > 1 else float(right.abs().max())
        rtol = default if tolerance["rtol"] is None else tolerance["rtol"]
        atol = default if tolerance["atol"] is None else tolerance["atol"]
        if reference.is_floating_point():
            atol = min(atol, _SPREAD_SHARE * spread)
        bad = int((~torch.isclose(left, right, rtol=rtol, atol=atol, equal_nan=True)).sum())
        if bad * 1_000_000 > tolerance["max_mismatch_ppm"] * left.numel():
            return f"{bad} of {left.numel()} elements of output {index} differ", math.nan
        error = (left - right).abs()
        largest = (
            max(largest, float(error[torch.isfinite(error)].max())) if bool(torch.isfinite(error).any()) else largest
        )
    return "", largest


def _retain_memory() -> None:
    """The C library's allocator gives nothing back, as it did for the judge: no timed call pays for page faults."""
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        for option, value in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, (1 << 31) - 1), (_M_TOP_PAD, 16 << 20)):
            mallopt(option, value)


def _measure(calls: Sequence[Sequence[Callable[[], Any]]], device: str, seconds: float, *, keep: bool) -> float:
    """Median of reference time / kernel time; `calls`: the two, for each set of inputs. `keep` results of a row."""
    sweep = torch.ones(_SWEEP_BYTES // 8, dtype=torch.int64, device=device)
    reference, kernel = zip(*calls, strict=True)
    for row in (reference, kernel, reference, kernel):
        _timed(row, sweep, keep)
    ratios: list[float] = []
    end = time.perf_counter() + seconds
    while len(ratios) < 10 or (time.perf_counter() < end and len(ratios) < 1000):
        first, second = (_timed(row, sweep, keep) for row in (reference, kernel))
        fourth, third = (_timed(row, sweep, keep) for row in (kernel, reference))
        ratios.append((first + third) / (second + fourth))
    return statistics.median(ratios)


def _timed(row: Sequence[Callable[[], Any]], sweep: torch.Tensor, keep: bool) -> float:
    sweep.sum()
    _finish(sweep.device)
    results = []
    begin = time.perf_counter()
    for call in row:
        result = call()
        if keep:
            results.append(result)
        del result
    _finish(sweep.device)
    return time.perf_counter() - begin


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _speedup(target: dict[str, Any]) -> str:
    return f"{target['speedup']:.2f}x ({target['low']:.2f} to {target['high']:.2f}) over {target['device']}'s baseline"
