"""The bundle of a search's winners: what every publisher starts from, wherever it then puts the files."""

from __future__ import annotations

from kernelsearch import __version__
from kernelsearch.api.translate import to_protocol_problem
from kernelsearch.engine.inputs import SearchInputs
from kernelsearch.engine.publishing import PublishRefused
from kernelsearch.publish.bundle import Bundle, BundleError, build_bundle
from kernelsearch.publish.gather import built_for, gather_kernels
from kernelsearch.search.state import State
from kernelsearch.store.base import Store


async def bundle_of(inputs: SearchInputs, state: State, store: Store) -> Bundle:
    """Raise PublishRefused, for good, when the winners cannot be bundled."""
    built = {}
    for name in state.winners:
        limits = state.targets[name].limits
        built[name] = built_for(inputs.profiles[limits.profile].spec, limits.language)
    try:
        return build_bundle(
            name=inputs.name,
            uid=inputs.uid,
            problem=to_protocol_problem(inputs.spec.problem, inputs.files),
            problem_digest=inputs.problem_digest,
            harness=__version__,
            kernels=await gather_kernels(state, built, store.get_blob),
        )
    except BundleError as error:
        raise PublishRefused("CannotBundle", str(error), final=True) from error
