"""A simulated judge for the tests of the local evaluator: it follows a script instead of judging.

Every candidate's file holds one step as JSON: {"wait": fifo}, {"exit": code}, {"child": pid file} (a descendant in a
session of its own), {"cut": true} (end without bye), {"kill": true}, {"environ": true}; then its result is written.
The problem's file names a journal of starts, so that a test can count them.
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from kernelharness.protocol import Batch, Bye, CaseFact, Hello, ProblemFact, Result, Stage, TensorFact, Verdict

batch = Batch.model_validate_json(Path(sys.argv[sys.argv.index("--batch") + 1]).read_text())
with open(batch.problem.files[0].content, "a") as starts:
    starts.write(f"{os.getpid()}\n")

digest, count = hashlib.sha256(), 0


def say(message) -> None:
    global count
    line = message.model_dump_json() + "\n"
    sys.stdout.write(line)
    sys.stdout.flush()
    digest.update(line.encode())
    count += 1


say(Hello(harness="simulated", device="simulated", node="node-1"))
tensor = TensorFact(name="x", shape=[1], dtype="float32")
say(ProblemFact(cases=[CaseFact(case="default", inputs=[tensor], outputs=[tensor])]))
code = 0
for candidate in batch.candidates:
    step = json.loads(candidate.files[0].content)
    summary = ""
    if "child" in step:
        child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"], start_new_session=True)
        Path(step["child"]).write_text(str(child.pid))
    if "wait" in step:
        with open(step["wait"]) as gate:
            gate.read()
    if "environ" in step:
        summary = json.dumps(dict(os.environ))
    if "kill" in step:
        os.kill(os.getpid(), signal.SIGKILL)
    if "cut" in step:
        sys.exit(0)
    code = step.get("exit", code)
    say(Result(candidate=candidate.id, verdict=Verdict.OK, stage=Stage.TIMING, summary=summary))
print("simulated trouble", file=sys.stderr)
sys.stdout.write(Bye(count=count, sha256=digest.hexdigest(), device_seconds=1.5).model_dump_json() + "\n")
sys.exit(code)
