"""What this container or machine has: CPUs, memory, caches, and whether it is being throttled. No torch.

Read from /proc, /sys and the cgroup (v2, else v1), as far as an unprivileged process may. Neighbour: devices/cpu.py.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import platform
from pathlib import Path

_DEFAULT_CACHE_BYTES = 32 << 20
OMP_SPINS = 1000
"""How often a waiting OpenMP thread looks before it sleeps, in all arms. With the default, milliseconds, a thread that
was stopped and continued on its partner's CPU spins while the partner waits: times of one call varied sevenfold on an
idle machine, and thirteenfold on a busy one."""
_CGROUP = Path("/sys/fs/cgroup")


def cpu_model() -> str:
    """The processor's name, or its architecture where it has none."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def usable_cpus() -> int:
    """Whole CPUs that this process may keep busy: its affinity, cut by the cgroup's quota."""
    return min(len(os.sched_getaffinity(0)), _quota_cpus() or os.cpu_count() or 1)


def memory_limit() -> int:
    """Bytes that this container, or this machine, has; whole pages."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            limits.append(int((_CGROUP / name).read_text()))
    return min(limits) // mmap.PAGESIZE * mmap.PAGESIZE


def last_level_cache() -> int:
    """Bytes of the last-level cache that are the share of the CPUs we may use, as the kernel tells it."""
    shares = []
    for folder in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
        with contextlib.suppress(OSError, ValueError):
            size = int((folder / "size").read_text().strip().removesuffix("K")) * 1024
            sharing = sum(bin(int(word, 16)).count("1") for word in (folder / "shared_cpu_map").read_text().split(","))
            shares.append(size * min(1.0, usable_cpus() / max(1, sharing)))
    return int(max(shares, default=_DEFAULT_CACHE_BYTES))


def throttled_periods() -> int:
    """How often the cgroup's quota stopped us so far."""
    for name in ("cpu.stat", "cpu/cpu.stat"):
        with contextlib.suppress(OSError):
            for line in (_CGROUP / name).read_text().splitlines():
                if line.startswith("nr_throttled"):
                    return int(line.split()[1])
    return 0


def _quota_cpus() -> int | None:
    """Whole CPUs of the cgroup's quota; None without one."""
    with contextlib.suppress(OSError, ValueError):
        quota, period = (int(word) for word in (_CGROUP / "cpu.max").read_text().split())
        return max(1, quota // period)
    with contextlib.suppress(OSError, ValueError):
        quota, period = (int((_CGROUP / f"cpu/cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
        return max(1, quota // period) if quota > 0 else None
    return None
