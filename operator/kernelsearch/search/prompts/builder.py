"""Gather what a prompt needs from the state; the templates decide the words and the order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from kernelsearch.search.actions import CallModel
from kernelsearch.search.edits import ReplyError
from kernelsearch.search.state import State


@dataclass(frozen=True)
class ChatMessage:
    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True)
class PromptContext:
    """What the state does not hold: texts, and the facts of the profile."""

    reference: str
    """The problem file."""
    header: str
    """problem.h; empty for Python languages."""
    language: str
    arch: str
    device: str
    hardware: Mapping[str, str] = field(default_factory=dict)
    """Fact -> value, in words: 'memory bandwidth' -> '3350 GB/s'."""
    knowledge: tuple[str, ...] = ()
    """Texts of the profile's own, Markdown."""
    tolerance: str = ""
    sources: Mapping[str, str] = field(default_factory=dict)
    """Candidate id -> source, for at least `needed_sources`."""


def needed_sources(state: State, action: CallModel) -> tuple[str, ...]:
    """The candidates whose source `build_prompt` will show: the parent, then another lane's best for a rewrite."""
    raise NotImplementedError


def build_prompt(state: State, action: CallModel, context: PromptContext) -> tuple[ChatMessage, ...]:
    """The chat for one call. Pure: equal arguments give equal text. Raise KeyError when a needed source is missing."""
    raise NotImplementedError


def retry_messages(messages: tuple[ChatMessage, ...], reply: str, error: ReplyError) -> tuple[ChatMessage, ...]:
    """The same chat with the unusable reply and what was wrong with it, for the one retry."""
    raise NotImplementedError
