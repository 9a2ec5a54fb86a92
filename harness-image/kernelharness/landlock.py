"""Landlock: which files a process may touch, without any privilege. Used where the kernel has it.

A restricted process reads what a Python or a compiler needs, writes at most its own folder, makes no TCP connection,
and reaches no process outside its own domain by a signal or an abstract Unix socket. Neighbours: syscalls.py,
isolation.py.
"""

from __future__ import annotations

import contextlib
import ctypes
import glob
import os
import struct
import sys
import sysconfig
from collections.abc import Iterable

from kernelharness import syscalls

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
_TRUNCATE, _IOCTL_DEVICE = 1 << 14, 1 << 15
_FILE_RIGHTS = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEVICE
_READ = _EXECUTE | _READ_FILE | _READ_DIR
_TRUNCATE_ABI, _NETWORK_ABI, _DEVICE_ABI, _SCOPE_ABI = 3, 4, 5, 6
_BIND_AND_CONNECT = 3
_ABSTRACT_SOCKETS_AND_SIGNALS = 3
_SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/sbin", "/etc", "/opt", "/proc", "/sys/devices/system", "/sys/fs/cgroup")
_DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")
_VERSION_FLAG = 1
_RULE_PATH_BENEATH = 1


def abi() -> int:
    """The kernel's Landlock version; 0 when it has none or an outer filter hides it."""
    try:
        return syscalls.call("landlock_create_ruleset", None, 0, _VERSION_FLAG)
    except OSError:
        return 0


def has_scopes() -> bool:
    """This kernel keeps signals and abstract Unix sockets inside a domain (Linux 6.12 does)."""
    return abi() >= _SCOPE_ABI


def nvidia_devices() -> list[str]:
    return glob.glob("/dev/nvidia*")


def restrict(writable: Iterable[str] = (), devices: Iterable[str] = (), readable: Iterable[str] = ()) -> int:
    """Restrict this process from now on; needs no_new_privs. The ABI in force. Raise OSError when refused.

    `devices` may be read, written and controlled, but nothing is made there; `readable` adds to what a Python needs.
    """
    version = abi()
    if version <= 0:
        raise OSError(38, "no Landlock")
    handled = _all_rights(version)
    network = _BIND_AND_CONNECT if version >= _NETWORK_ABI else 0
    scoped = _ABSTRACT_SOCKETS_AND_SIGNALS if version >= _SCOPE_ABI else 0
    attribute = struct.pack("<QQQ", handled, network, scoped)
    size = 24 if version >= _SCOPE_ABI else 16 if version >= _NETWORK_ABI else 8
    ruleset = syscalls.call("landlock_create_ruleset", ctypes.create_string_buffer(attribute, size), size, 0)
    try:
        for path in (*_readable(), *readable):
            _allow(ruleset, path, _READ & handled)
        for path in _DEVICES:
            _allow(ruleset, path, (_READ_FILE | _WRITE_FILE) & handled)
        for path in devices:
            _allow(ruleset, path, (_READ_FILE | _WRITE_FILE | _TRUNCATE | _READ_DIR | _IOCTL_DEVICE) & handled)
        for path in writable:
            _allow(ruleset, path, handled)
        syscalls.call("landlock_restrict_self", ruleset, 0)
    finally:
        os.close(ruleset)
    return version


def _all_rights(version: int) -> int:
    bits = 13 if version < 2 else 14 if version < _TRUNCATE_ABI else 15 if version < _DEVICE_ABI else 16
    return (1 << bits) - 1


def _readable() -> set[str]:
    paths = {*_SYSTEM, sys.prefix, sys.base_prefix, *sysconfig.get_paths().values()}
    return paths | {path for path in sys.path if path}


def _allow(ruleset: int, path: str, rights: int) -> None:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            if not os.path.isdir(path):
                rights &= _FILE_RIGHTS
            rule = struct.pack("<Qi", rights, fd)
            syscalls.call(
                "landlock_add_rule", ruleset, _RULE_PATH_BENEATH, ctypes.create_string_buffer(rule, len(rule)), 0
            )
        finally:
            os.close(fd)
