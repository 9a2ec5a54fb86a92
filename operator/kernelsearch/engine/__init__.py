"""One search, from its journal to its end: the loop that the local command and the controller both run."""

from kernelsearch.engine.engine import Engine
from kernelsearch.engine.errors import EngineError, ProblemChanged
from kernelsearch.engine.inputs import SearchInputs
from kernelsearch.engine.limits import to_limits
from kernelsearch.engine.publishing import Publication, Publisher, PublishRefused
from kernelsearch.engine.snapshot import Ended, Observer, Snapshot

__all__ = [
    "Ended",
    "Engine",
    "EngineError",
    "Observer",
    "ProblemChanged",
    "Publication",
    "PublishRefused",
    "Publisher",
    "SearchInputs",
    "Snapshot",
    "to_limits",
]
