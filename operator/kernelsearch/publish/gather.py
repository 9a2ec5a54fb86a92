"""Collects what the journal knows of a search's winners into what a bundle is built of.

Reads blobs through a function, so it knows no store. Neighbours: search/state.py (who won), bundle.py (what is made).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from kernelsearch.api.profile import AcceleratorProfileSpec
from kernelsearch.api.translate import suffix_of
from kernelsearch.publish.bundle import BundleError, VerifiedKernel
from kernelsearch.search.state import State

ReadBlob = Callable[[str], Awaitable[bytes]]
"""Raises KeyError for an unknown reference."""


@dataclass(frozen=True)
class Built:
    """What a target's profile says its kernels are built for."""

    vendor: str
    suffix: str
    """Of sources in the target's language."""
    arch: str


def built_for(profile: AcceleratorProfileSpec, language: str) -> Built:
    return Built(vendor=profile.vendor, suffix=suffix_of(profile, language), arch=profile.arch)


async def gather_kernels(state: State, built: Mapping[str, Built], read_blob: ReadBlob) -> list[VerifiedKernel]:
    """One VerifiedKernel for each of `state.winners`; `built` by target. Raise BundleError when a piece is lost."""
    kernels = []
    for name, candidate in state.winners.items():
        target = state.targets[name]
        known = state.resolve(candidate.id)
        confirmations = [c for c in known.confirmations if c.score is not None and c.artifact_ref == known.artifact_ref]
        if target.probed is None or not confirmations:
            raise BundleError(f"target {name}: candidate {candidate.id} has no confirmation that fits its library")
        header = await read_blob(target.probed.header_ref) if target.probed.header_ref else b""
        library = await read_blob(known.artifact_ref) if known.artifact_ref else b""
        kernels.append(
            VerifiedKernel(
                target=name,
                language=target.limits.language,
                suffix=built[name].suffix,
                vendor=built[name].vendor,
                arch=built[name].arch,
                device=target.probed.device,
                candidate=candidate.id,
                model=candidate.proposal.model,
                source=(await read_blob(candidate.source_ref)).decode(),
                library=library,
                header=header.decode(),
                facts=target.probed.cases,
                result=confirmations[-1].result,
            )
        )
    return kernels
