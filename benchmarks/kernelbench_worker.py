"""One candidate through KernelBench's own evaluator, in a process of its own: started early, it waits for its turn.

    python kernelbench_worker.py CHECKOUT    then one line of JSON on stdin: reference, candidate, backend, result

Writes to the file `result` what KernelBench said. Holds nothing of this project, so that a candidate finds in this
process what it would find in KernelBench's. Neighbour: kernelbench_column.py, which starts and ends it.
"""

from __future__ import annotations

import json
import os
import sys
import types
from pathlib import Path
from typing import Any

CORRECT_TRIALS, TIMED_TRIALS = 5, 100
"""What KernelBench's own scripts ask for."""
CLIENTS = {"openai": ["OpenAI"], "litellm": ["completion"], "dotenv": ["load_dotenv"]}
"""Of language models: utils.py imports them beside what the evaluator needs, which makes no use of them."""


def stand_in_for_clients() -> None:
    """Empty modules in place of clients that are not installed."""
    for name, members in CLIENTS.items():
        try:
            __import__(name)
        except ImportError:
            module = types.ModuleType(name)
            for member in members:
                setattr(module, member, lambda *arguments, **named: None)
            sys.modules[name] = module


def evaluate(evaluator: Any, task: dict[str, str]) -> dict[str, Any]:
    """KernelBench's result as plain data; `metadata` as text, because it holds exceptions."""
    import torch

    found = evaluator.eval_kernel_against_ref(
        task["reference"],
        task["candidate"],
        num_correct_trials=CORRECT_TRIALS,
        num_perf_trials=TIMED_TRIALS,
        measure_performance=True,
        device=torch.device("cuda:0"),
        backend=task["backend"],
    )
    if found is None:
        return {}
    return {
        "compiled": found.compiled,
        "correct": found.correctness,
        "runtime_ms": found.runtime,
        "reference_ms": found.ref_runtime,
        "metadata": {key: str(value)[:400] for key, value in found.metadata.items()},
    }


def main() -> None:
    sys.path.insert(0, str(Path(sys.argv[1]) / "src"))
    stand_in_for_clients()
    import kernelbench.eval as evaluator

    me = os.getpid()
    task = json.loads(sys.stdin.readline())
    result = json.dumps(evaluate(evaluator, task))
    if os.getpid() == me:  # not a process that the candidate made
        Path(task["result"]).write_text(result)
        os._exit(0)  # what the candidate left behind in this process does not matter any more


if __name__ == "__main__":
    main()
