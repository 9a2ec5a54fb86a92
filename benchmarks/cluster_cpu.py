"""What a batch costs in a cluster beside its judging, and how soon the first verified kernel is there.

    make demo-cluster && eval "$(dev/cluster/env)" && python benchmarks/cluster_cpu.py [NAMESPACE/NAME]

Reads the journal of a search that ended (default/demo-cpu) out of the controller's pod, so it measures what a user got
and disturbs nothing. Prints and writes benchmarks/results/cluster_cpu.json. A batch's overhead is its wall time in
the journal, from the decision to submit it to its results being stored, less what its judge counts from its own start.
"""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

RESULT = Path(__file__).resolve().parent / "results" / "cluster_cpu.json"
CONTROLLER = ("-n", "kernelsearch", "deploy/kernelsearch")
READ_JOURNAL = """
import json, os, sqlite3, sys
from kernelsearch.search.journal import load_event
from kernelsearch.search.state import State, apply
path = os.environ["KERNELSEARCH_DATABASE"].removeprefix("sqlite:///")
rows = sqlite3.connect(f"file:{path}?mode=ro", uri=True).execute(
    "SELECT body FROM events WHERE uid = ? ORDER BY seq", (sys.argv[1],))
state, batches, verified_ns = State(), {}, None
for (body,) in rows:
    event = load_event(body)
    state = apply(state, event)
    if event.type == "batch_submitted":
        batches[event.id] = {"purpose": event.purpose, "candidates": len(event.candidates), "begin": event.at_ns}
    elif event.type == "batch_done":
        batches[event.id] |= {"end": event.at_ns, "judge": event.device_seconds}
    if verified_ns is None and any(each.verified for each in state.candidates.values()):
        verified_ns = event.at_ns
device = next(iter(state.targets.values())).probed.device
print(json.dumps({"batches": list(batches.values()), "verified_ns": verified_ns, "device": device}))
"""


def kubectl(*arguments: str) -> str:
    return subprocess.run(["kubectl", *arguments], check=True, capture_output=True, text=True).stdout


def main() -> None:
    namespace, name = (sys.argv[1] if len(sys.argv) > 1 else "default/demo-cpu").split("/")
    search = json.loads(kubectl("-n", namespace, "get", "kernelsearch", name, "-o", "json"))
    applied = datetime.fromisoformat(search["metadata"]["creationTimestamp"]).timestamp()
    read = kubectl("exec", *CONTROLLER, "--", "python", "-c", READ_JOURNAL, search["metadata"]["uid"])
    found: dict[str, Any] = json.loads(read)
    batches = [batch for batch in found["batches"] if "end" in batch]
    overheads = [(batch["end"] - batch["begin"]) / 1e9 - batch["judge"] for batch in batches]
    server = json.loads(kubectl("version", "-o", "json"))["serverVersion"]["gitVersion"]
    result = {
        "date": datetime.now(UTC).date().isoformat(),
        "device": found["device"],
        "kubernetes": server,
        "search": name,
        "seconds_from_apply_to_the_first_verified_kernel": round(found["verified_ns"] / 1e9 - applied, 1),
        "seconds_of_pod_overhead_per_batch": {
            "median": round(median(overheads), 2), "least": round(min(overheads), 2), "most": round(max(overheads), 2),
        },
        "batches": [
            {
                "purpose": batch["purpose"],
                "candidates": batch["candidates"],
                "seconds": round((batch["end"] - batch["begin"]) / 1e9, 1),
                "seconds_of_the_judge": round(batch["judge"], 1),
            }
            for batch in batches
        ],
    }  # fmt: skip
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
