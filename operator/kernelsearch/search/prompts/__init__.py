"""From state and action to the chat that asks a model for a kernel. The words are in the templates beside this file.

The order is fixed and what never changes within a search comes first, so that providers can cache it: contract,
hardware and bounds, playbook; then the current kernel, its measurements, the ledger of attempts, and the task. Source
and program output are data: fenced, capped, and never in the system message.
"""

from __future__ import annotations

from kernelsearch.search.prompts.builder import ChatMessage, PromptContext, build_prompt, needed_sources, retry_messages

__all__ = ["ChatMessage", "PromptContext", "build_prompt", "needed_sources", "retry_messages"]
