"""The public API of KernelSearch: two Kubernetes kinds as typed models, and everything derived from them.

The lowest layer: imports nothing of kernelsearch, and of kernelharness only the protocol.
"""

from kernelsearch.api.base import API_VERSION, GROUP, VERSION
from kernelsearch.api.profile import AcceleratorProfileSpec, AcceleratorProfileStatus
from kernelsearch.api.resources import KINDS, AcceleratorProfile, KernelSearch, ObjectMeta
from kernelsearch.api.search_spec import KernelSearchSpec
from kernelsearch.api.search_status import KernelSearchStatus

__all__ = [
    "API_VERSION",
    "GROUP",
    "KINDS",
    "VERSION",
    "AcceleratorProfile",
    "AcceleratorProfileSpec",
    "AcceleratorProfileStatus",
    "KernelSearch",
    "KernelSearchSpec",
    "KernelSearchStatus",
    "ObjectMeta",
]
