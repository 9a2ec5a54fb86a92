"""A judge that does what it is told, for tests of the controller: it speaks the protocol, in a real pod, in a second.

What it does stands in comments of the reference (for every batch) and of a candidate: `judge: seconds=3 exit=75`.

    seconds    how long a batch takes (reference), or a candidate
    exit       exit code, after what was judged so far
    verdict    of a candidate; its speedup is its constant SPEED, in percent
    memory     MiB that it allocates and touches
    cut        leaves without saying bye

Only the standard library, so that its image is small; tests/harness is where the real judge is tested.
"""

import hashlib
import json
import math
import re
import sys
import time
from pathlib import Path

arguments = dict(zip(sys.argv[2::2], sys.argv[3::2], strict=True))
batch = json.loads("".join(part.read_text() for part in sorted(Path(arguments["--batch"]).glob("part-*"))))
written = []


def told(text):
    return dict(re.findall(r"(\w+)=(\S+)", " ".join(re.findall(r"judge: (.*)", text))))


def say(**message):
    line = json.dumps(message) + "\n"
    sys.stdout.write(line)
    sys.stdout.flush()
    written.append(line)


def obey(orders):
    time.sleep(float(orders.get("seconds", 0)))
    if "memory" in orders:
        bytearray(b"x") * (int(orders["memory"]) << 20)
    if "cut" in orders:
        sys.exit(0)
    if "exit" in orders:
        sys.exit(int(orders["exit"]))


def judge(candidate):
    source = candidate["files"][0]["content"]
    orders = told(source)
    obey(orders)
    result = {"type": "result", "candidate": candidate["id"], "stage": "timing", "verdict": orders.get("verdict", "OK")}
    if result["verdict"] == "OK":
        speedup = int(re.search(r"SPEED = (\d+)", source)[1]) / 100
        times = {"ns": round(1e6 / speedup), "baseline_ns": 1000000, "low": speedup, "high": speedup, "samples": 10}
        case = {"case": "default", "speedup": speedup, "mean_log_ratio": math.log(speedup), "standard_error": 0.001}
        result |= {"cases": [case | times], "speedup": speedup, "low": speedup, "high": speedup}
    digest = hashlib.sha256(source.encode()).hexdigest()
    say(**result, summary="as told", source_hash=digest, binary_hash=digest)


started = time.monotonic()
print("a library says something on standard error", file=sys.stderr, flush=True)
say(type="hello", protocol="v1", harness="scripted", device="scripted device", driver="1", node="")
tensor = {"name": "x", "shape": [4], "dtype": "float32"}
say(type="problem", verdict="OK", cases=[{"case": "default", "inputs": [tensor], "outputs": [tensor]}])
say(type="baseline", case="default", arm="eager", ns=1000000, noise_percent=0.5)
obey(told("".join(file["content"] for file in batch["problem"]["files"])))
for each in batch["candidates"]:
    judge(each)
proof = {"count": len(written), "sha256": hashlib.sha256("".join(written).encode()).hexdigest()}
say(type="bye", device_seconds=round(time.monotonic() - started, 3), **proof)
Path(arguments["--termination-message"]).write_text(json.dumps(proof))
