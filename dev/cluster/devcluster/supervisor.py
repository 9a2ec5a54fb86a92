"""Process 1 of the cluster: starts its components, starts again what ends, and reaps what is orphaned.

It writes what it knows to `components.json` in the state folder whenever that changes. The file is only detail: it
means something while the sandbox's lock is held (sandbox.py), and whether the cluster works is for the API to say.
"""

import json
import os
import signal
import ssl
import time
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass
from pathlib import Path

from devcluster import binaries, components, pki
from devcluster.components import Component
from devcluster.instance import Instance

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_HOST = 63  # where a component finds the descriptor of the host's network
_LONGEST_PAUSE_S = 10.0
_STEADY_S = 30.0  # a component that ran this long is given a fresh start


@dataclass
class Status:
    """One component as `components.json` shows it; `pid` counts inside the sandbox."""

    name: str
    pid: int | None = None
    starts: int = 0
    since: float = 0.0  # when it was last started, on the clock of time.monotonic
    last_end: str | None = None
    quick_ends: int = 0  # in a row: what never gets anywhere


@dataclass
class _Running:
    component: Component
    status: Status
    not_before: float = 0.0


def status_file(instance: Instance) -> Path:
    return instance.state / "components.json"


def read_status(instance: Instance) -> list[Status]:
    try:
        return [Status(**entry) for entry in json.loads(status_file(instance).read_text())]
    except FileNotFoundError:
        return []


def run(instance: Instance, host: int) -> None:
    """Never returns: the sandbox ends by a signal to the keeper."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGINT})
    os.chdir("/")
    # As it is now: the checkout may come to describe other binaries while these run.
    environment = {"HOME": str(Path.home()), "PATH": f"{binaries.folder(instance)}:{_PATH}"}
    everything = [_Running(component, Status(component.name)) for component in components.components(instance)]
    while True:
        changed = _reap(everything)
        waiting = [one for one in everything if one.status.pid is None]
        api_answers: bool | None = None
        for one in waiting:
            if one.not_before > time.monotonic():
                continue
            if one.component.after_api:
                api_answers = _api_answers(instance) if api_answers is None else api_answers
                if not api_answers:
                    continue
            _start(instance, one, host, environment)
            changed = True
        if changed:
            _write(instance, everything)
        # Woken by the end of a child; while something waits for its turn, look again soon.
        signal.sigtimedwait({signal.SIGCHLD}, 0.2 if any(one.status.pid is None for one in everything) else 60.0)


def _start(instance: Instance, one: _Running, host: int, environment: dict[str, str]) -> None:
    name = one.component.name
    log = instance.logs / f"{name}.log"
    if log.exists() and log.stat().st_size > 64 << 20:
        log.replace(log.with_suffix(".old.log"))
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    actions = [(os.POSIX_SPAWN_DUP2, output, 1), (os.POSIX_SPAWN_DUP2, output, 2)]
    command = one.component.command
    if one.component.on_host:
        actions.append((os.POSIX_SPAWN_DUP2, host, _HOST))
        command = ("nsenter", f"--net=/proc/self/fd/{_HOST}", *command)
    # Not subprocess: it would collect children behind our back.
    one.status.pid = os.posix_spawnp(
        command[0],
        command,
        environment,
        file_actions=actions,
        setsid=True,
        setsigmask=[],
    )
    os.close(output)
    one.status.starts += 1
    one.status.since = time.monotonic()


def _reap(everything: list[_Running]) -> bool:
    """Collects every ended child; orphans of containers are among them. True if a component was."""
    by_pid = {one.status.pid: one for one in everything}
    changed = False
    while True:
        try:
            pid, code = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return changed
        if pid == 0:
            return changed
        one = by_pid.get(pid)
        if one is None:
            continue
        changed = True
        now = time.monotonic()
        one.status.pid = None
        one.status.last_end = _describe(code)
        one.status.quick_ends = 1 if now - one.status.since > _STEADY_S else one.status.quick_ends + 1
        one.not_before = now + min(_LONGEST_PAUSE_S, 0.25 * 2**one.status.quick_ends)


def _describe(code: int) -> str:
    code = os.waitstatus_to_exitcode(code)
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exited with {code}"


def _api_answers(instance: Instance) -> bool:
    context = ssl.create_default_context(cafile=str(pki.folder(instance) / "ca.crt"))
    try:
        with urllib.request.urlopen(f"https://{instance.node}:6443/readyz", context=context, timeout=2) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def _write(instance: Instance, everything: list[_Running]) -> None:
    path = status_file(instance)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps([asdict(one.status) for one in everything], indent=1))
    partial.replace(path)
