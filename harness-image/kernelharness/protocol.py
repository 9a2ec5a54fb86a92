"""Wire protocol v1: the nouns that the judge and whoever asked it share.

In: one `Batch` document. Out: one JSON object per line on the judge's standard output (`Message`), at most
`MAX_LINE_BYTES` each, ended by a `Bye` that counts and hashes the lines before it. The same count and hash go to the
termination message, so a reader can prove that the log it holds is complete.

This is the only module of kernelharness that kernelsearch imports; it must stay free of torch and of any I/O.
"""

from __future__ import annotations

import base64
import hashlib
import re
import zlib
from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

PROTOCOL = "v1"
MAX_LINE_BYTES = 8 * 1024
MAX_CANDIDATE_BYTES = 16 * 1024
MAX_PROBLEM_BYTES = 64 * 1024
"""Of the one line that tells what the problem is: networks have hundreds of parameters."""
MAX_LOG_BYTES = 2 * 1024 * 1024
MOST_KERNELS, MOST_NAME = 8, 80
"""Rows of a profile, and characters of a name in it."""
MAX_ARTIFACT_BYTES = 256 * 1024
"""A compressed artifact beyond this is not sent; the result says so."""

EXIT_DONE = 0
EXIT_BAD_INPUT = 64
"""The batch document itself is wrong: retrying cannot help."""
EXIT_DEVICE_FAULT = 75
"""The device or node failed: retry elsewhere."""


class Verdict(StrEnum):
    """What the judge says of one candidate. Only `OK` carries times."""

    OK = "OK"
    COMPILE_ERROR = "COMPILE_ERROR"
    LOAD_ERROR = "LOAD_ERROR"
    WRONG_SHAPE = "WRONG_SHAPE"
    WRONG_DTYPE = "WRONG_DTYPE"
    WRONG_VALUES = "WRONG_VALUES"
    PRECISION = "PRECISION"
    NONDETERMINISTIC = "NONDETERMINISTIC"
    INPUT_MUTATED = "INPUT_MUTATED"
    RUNTIME_ERROR = "RUNTIME_ERROR"
    MEMORY_FAULT = "MEMORY_FAULT"
    TIMEOUT = "TIMEOUT"
    OOM = "OOM"
    LATE_OUTPUT = "LATE_OUTPUT"
    BACKGROUND_WORK = "BACKGROUND_WORK"
    TIMING_MISMATCH = "TIMING_MISMATCH"
    IMPOSSIBLE_SPEED = "IMPOSSIBLE_SPEED"
    TAMPERING = "TAMPERING"
    RESOURCE_ABUSE = "RESOURCE_ABUSE"
    DEGENERATE_PROBLEM = "DEGENERATE_PROBLEM"
    UNSUPPORTED_PROBLEM = "UNSUPPORTED_PROBLEM"
    NOISY_NODE = "NOISY_NODE"
    HARNESS_ERROR = "HARNESS_ERROR"
    COMPILED = "COMPILED"
    """It compiled, and nothing more is known: this machine has no device to run it on (ProblemFact.not_run)."""

    @property
    def is_infrastructure(self) -> bool:
        """True when the candidate is not to blame, and the same candidate should be tried again or elsewhere."""
        return self in (Verdict.NOISY_NODE, Verdict.HARNESS_ERROR, Verdict.COMPILED)

    @property
    def is_problem_fault(self) -> bool:
        """True when no candidate for this problem can get a better verdict."""
        return self in (Verdict.DEGENERATE_PROBLEM, Verdict.UNSUPPORTED_PROBLEM)


class Stage(StrEnum):
    """How far a candidate came."""

    COMPILE = "compile"
    LOAD = "load"
    CORRECTNESS = "correctness"
    TIMING = "timing"


class Purpose(StrEnum):
    """Why a batch runs: `probe` has no candidates, `confirm` has one and takes more samples."""

    PROBE = "probe"
    SEARCH = "search"
    CONFIRM = "confirm"


class Input(BaseModel):
    """Base of what the judge reads: unknown fields are an error, so a misspelt option is never ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Output(BaseModel):
    """Base of what the judge writes: unknown fields are ignored, so an older reader follows a newer judge."""

    model_config = ConfigDict(frozen=True, extra="ignore")


# -- in ---------------------------------------------------------------------------------------------------------------


class File(Input):
    path: str = Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_./-]*$", max_length=128)
    content: str


class Case(Input):
    """One set of shapes. `dims` replace the problem module's top-level constants of that name."""

    name: str = Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)
    weight: int = Field(default=1, ge=0)
    dims: dict[str, int] = {}
    dtype: str | None = None
    """float32 | float16 | bfloat16 (or fp32 | fp16 | bf16); None keeps what the file makes."""
    backward: bool = False
    """Gradients are checked too, and one call is forward and backward."""
    hidden: bool = False
    """Never shown to the model, checked for correctness only."""


class Tolerance(Input):
    """None means the default of the output's dtype (fp32 1e-4, fp16 and bf16 1e-2)."""

    rtol: float | None = Field(default=None, ge=0)
    atol: float | None = Field(default=None, ge=0)
    max_mismatch_ppm: int = Field(default=0, ge=0, le=1_000_000)
    seeds: int = Field(default=5, ge=1, le=64)
    """Secret input sets per case."""


class Problem(Input):
    """A KernelBench-format problem: `Model`, `get_inputs`, `get_init_inputs` in `entry`."""

    files: list[File] = Field(min_length=1)
    entry: str = "reference.py"
    cases: list[Case] = []
    """Empty: one case named `default`, the file as it stands."""
    tolerance: Tolerance = Tolerance()


class Hardware(Input):
    """Facts of the profile; None where unknown. Measured ceilings are preferred where the judge can measure."""

    memory_bytes: int | None = None
    memory_bandwidth_bytes_per_second: int | None = None
    peak_ops_per_second: dict[str, int] = {}
    l2_bytes: int | None = None


class Toolchain(Input):
    language: str
    arch: str
    """The compiler's target: x86-64-v3, sm_90a, gfx942."""
    vendor: str = "cpu"
    command: list[str] = []
    """Empty: the language's own. `{source}`, `{output}`, `{include}` and `{arch}` are replaced."""
    env: dict[str, str] = {}
    file_suffix: str | None = None
    compile_timeout_seconds: int = Field(default=120, ge=1, le=3600)
    run_timeout_seconds: int = Field(default=60, ge=1, le=3600)


class Candidate(Input):
    id: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=63)
    files: list[File] = Field(min_length=1, max_length=8)
    """The first file is the one that is compiled or imported."""


class Batch(Input):
    """One document, one pod: a problem, a toolchain and the candidates to judge in order."""

    protocol: Literal["v1"] = "v1"
    id: str
    purpose: Purpose = Purpose.SEARCH
    problem: Problem
    toolchain: Toolchain
    hardware: Hardware = Hardware()
    candidates: list[Candidate] = Field(default=[], max_length=64)
    compile_ratios: dict[str, float] | None = None
    """Case -> torch.compile's time over eager's, as the probe measured it. Given, torch.compile is not run: compiling
    costs more than a candidate. A case that is missing has no such baseline. None: measure it."""

    def to_json(self) -> str:
        """The canonical form: equal batches give equal text, so `digest` names the batch."""
        return self.model_dump_json(exclude_defaults=False)

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.to_json().encode()).hexdigest()


# -- out --------------------------------------------------------------------------------------------------------------


class Hello(Output):
    type: Literal["hello"] = "hello"
    protocol: str = PROTOCOL
    harness: str
    """Version of kernelharness."""
    device: str
    """As the judge sees it: 'AMD EPYC 7B13, 2 cores', 'NVIDIA H200'."""
    driver: str = ""
    node: str = ""
    isolation: dict[str, str] = {}
    """Layer -> 'on' or why it is off: non-dumpable, seccomp, landlock, rlimits, subreaper."""
    versions: dict[str, str] = {}
    """torch, python, compiler."""


class TensorFact(Output):
    name: str
    shape: list[int]
    dtype: str
    gradient_of: Literal["", "input", "parameter", "output"] = Field(default="", exclude_if=lambda kind: not kind)
    """Not empty: a loss's gradient by the tensor of this kind that `name` says after `grad_`. Those by outputs are
    inputs (cotangents, secret as all inputs are), those by inputs and parameters are outputs."""


class CaseFact(Output):
    """What the reference is in one case; this is what the model is told of its task."""

    case: str
    hidden: bool = False
    weight: int = 1
    inputs: list[TensorFact]
    parameters: list[TensorFact] = []
    outputs: list[TensorFact]
    returns: str = ""
    """tensor | tuple | list: what forward() returns; empty for anything nested."""
    scalars: dict[str, str] = {}
    """Name -> Python literal: those of forward(), then those of Model.__init__."""
    dims: dict[str, int] = {}
    """The file's top-level integers in this case; they name the axes of its tensors."""
    bytes_min: int = 0
    """Inputs once and outputs once."""
    flops: int | None = None
    t_min_ns: int | None = None
    """Speed of light of the function on this device, from measured ceilings."""
    bound: str = ""
    """memory | compute | unknown"""

    @property
    def backward(self) -> bool:
        return any(tensor.gradient_of for tensor in self.outputs)

    @property
    def arguments(self) -> list[TensorFact]:
        """`inputs` that forward() takes; the rest are cotangents."""
        return [tensor for tensor in self.inputs if not tensor.gradient_of]

    @property
    def cotangents(self) -> list[TensorFact]:
        return [tensor for tensor in self.inputs if tensor.gradient_of]

    @property
    def results(self) -> list[TensorFact]:
        """`outputs` that forward() makes, then buffers that it changes; the rest are gradients."""
        return [tensor for tensor in self.outputs if not tensor.gradient_of]

    @property
    def gradients(self) -> list[TensorFact]:
        return [tensor for tensor in self.outputs if tensor.gradient_of]


class ProblemFact(Output):
    """Sent once, before the first baseline. A verdict other than OK means that no candidate can be judged."""

    type: Literal["problem"] = "problem"
    verdict: Verdict = Verdict.OK
    reason: str = ""
    cases: list[CaseFact] = []
    not_run: str = ""
    """Why candidates are compiled here and not run ("this machine has no AMD device"). Then there are no baselines, no
    bounds, and the best verdict is COMPILED. Empty: they are run."""


class Baseline(Output):
    type: Literal["baseline"] = "baseline"
    case: str
    arm: str
    """eager | compile"""
    ns: int | None = None
    """Median time of one call; None: the arm could not run, `note` says why."""
    noise_percent: float | None = None
    """Half-width (P95) of an A/A comparison of this arm with a second copy of itself."""
    note: str = ""


class CaseResult(Output):
    """Times of one case. Speedups are baseline / candidate, with the interval's ends."""

    case: str
    ns: int
    low: float
    high: float
    speedup: float
    baseline: str = "eager"
    """The faster arm, which is the headline."""
    baseline_ns: int
    speedup_eager: float | None = None
    speedup_compile: float | None = None
    samples: int = 0
    mean_log_ratio: float = 0.0
    """ln(speedup), the estimate that the search adds up."""
    standard_error: float = 0.0
    percent_of_bound: float | None = None


class KernelTime(Output):
    name: str = Field(max_length=MOST_NAME)
    calls: float
    """How often it ran in one call of forward."""
    share: float = Field(ge=0, le=1)
    """Of the time of all of them."""
    registers: int | None = None
    """Of one thread, of a kernel."""
    occupancy: float | None = Field(default=None, ge=0, le=1)
    """The share of a multiprocessor's warps that the launch fills at most."""


class Profile(Output):
    """What a right candidate's own process said of a few calls when everything was over: advice, not a measurement."""

    case: str
    on_device: bool
    """True: kernels, copies and fills by their time on the device. False: torch's operators by their own on the CPU."""
    kernels: list[KernelTime] = Field(max_length=MOST_KERNELS)
    """The longest first."""
    others: int = 0
    """How many more names; what is left of the time is theirs."""
    idle: float | None = None
    """The share of the time from the first to the last of them in which the device did nothing."""
    copies: float = 0.0
    """Between host and device, in one call of forward."""


class Result(Output):
    type: Literal["result"] = "result"
    candidate: str
    verdict: Verdict
    stage: Stage
    summary: str = ""
    """One line for a table or a ledger."""
    cases: list[CaseResult] = []
    speedup: float | None = None
    """Weighted geometric mean over the cases."""
    low: float | None = None
    high: float | None = None
    source_hash: str = ""
    binary_hash: str = ""
    """sha256 of what was timed; for Python languages, of the source."""
    diagnostics: str = ""
    """What the model is told, at most 2 KiB, control characters stripped."""
    correctness: dict[str, float] = {}
    resources: dict[str, float] = {}
    """registers, spill_bytes, shared_bytes, peak_bytes, ... as far as the language knows them."""
    flags: list[str] = []
    """Policy flags, never verdicts: EXTRAORDINARY, library_fallback:NN%, copy_out, ..."""
    profile: Profile | None = None
    walls: dict[str, float] = {}
    """Seconds by stage: compile, load, correctness, timing, total."""


class Artifact(Output):
    """A piece of a file that the reader needs whole: the header shown to the model, the library that was timed."""

    type: Literal["artifact"] = "artifact"
    candidate: str
    """Candidate id, or '' for the problem's own (problem.h)."""
    name: str
    index: int
    count: int
    sha256: str
    """Of the whole file, uncompressed."""
    data: str
    """base64 of one piece of the zlib-compressed file."""


class Bye(Output):
    type: Literal["bye"] = "bye"
    count: int
    """Lines before this one."""
    sha256: str
    """Of those lines, newlines included."""
    device_seconds: float = 0.0


Message = Annotated[Hello | ProblemFact | Baseline | Result | Artifact | Bye, Field(discriminator="type")]
_message: TypeAdapter[Message] = TypeAdapter(Message)


class LogError(ValueError):
    """The judge's log is not whole: cut, rotated, or not written by a judge."""


def parse_line(line: str) -> Message:
    """Raise LogError when the line is not a protocol message."""
    try:
        return _message.validate_json(line)
    except ValueError as error:
        raise LogError(f"not a protocol v1 message: {line[:120]!r}") from error


def split_lines(text: str) -> list[str]:
    """The lines of a log, ends kept. Not `str.splitlines`: a candidate's message may hold U+2028, no end here."""
    return re.findall(r"[^\n]*\n|[^\n]+", text)


def parse_log(text: str) -> list[Message]:
    """All messages of a complete log, `Bye` last. Raise LogError when count or hash disagree."""
    lines = split_lines(text)
    if not lines:
        raise LogError("the log is empty: the judge wrote nothing")
    messages = [parse_line(line) for line in lines]
    bye = messages[-1]
    if not isinstance(bye, Bye):
        raise LogError(f"the log ends with {bye.type!r}, not with 'bye': the judge did not finish")
    if bye.count != len(lines) - 1:
        raise LogError(f"the judge wrote {bye.count} lines, the log holds {len(lines) - 1}")
    if (digest := hashlib.sha256("".join(lines[:-1]).encode()).hexdigest()) != bye.sha256:
        raise LogError(f"the judge's hash is {bye.sha256[:12]}, the log's is {digest[:12]}")
    return messages


def to_artifacts(candidate: str, name: str, content: bytes) -> Iterator[Artifact]:
    """Cut a file into messages that fit a line. Raise ValueError when it is too large compressed."""
    packed = zlib.compress(content, 9)
    if len(packed) > MAX_ARTIFACT_BYTES:
        raise ValueError(f"{name} has {len(packed)} bytes compressed, at most {MAX_ARTIFACT_BYTES} can be sent")
    piece = 5 * 1024
    count = max(1, -(-len(packed) // piece))
    digest = hashlib.sha256(content).hexdigest()
    for index in range(count):
        data = base64.b64encode(packed[index * piece : (index + 1) * piece]).decode()
        yield Artifact(candidate=candidate, name=name, index=index, count=count, sha256=digest, data=data)


def from_artifacts(pieces: Iterable[Artifact]) -> bytes:
    """The file that `to_artifacts` cut. Raise LogError when a piece is missing or the hash differs."""
    ordered = sorted(pieces, key=lambda piece: piece.index)
    if not ordered or [piece.index for piece in ordered] != list(range(ordered[0].count)):
        raise LogError("an artifact's pieces are not all there")
    content = zlib.decompress(b"".join(base64.b64decode(piece.data) for piece in ordered))
    if hashlib.sha256(content).hexdigest() != ordered[0].sha256:
        raise LogError(f"artifact {ordered[0].name} does not have the hash that the judge named")
    return content
