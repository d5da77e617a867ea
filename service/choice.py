"""What `rankserve serve` chooses where its settings say nothing: from what the machine has, with the reasons.

Spinning and affinity are the same everywhere. A thread that spins while it waits takes its core from the
event loop beside it and from other workers. And no worker is bound to a core: its event loop and its engine
take turns, and one core does for both most of the time; but while a version loads, or another worker idles,
they are better off on two. The kernel sees that, and a fixed place cannot.
"""

from __future__ import annotations

from dataclasses import dataclass

from service.machine import Machine
from service.settings import Settings

WORKER_MIB = 512
"""Memory for each worker beside the items' state: interpreter, runtime, and the two versions of a swap."""
STATE_PART = 4
"""One part in so many of the memory is for the items' state."""
INLINE_MS = 10.0
"""The event loop does a run by itself that should take no more, where every core has a worker."""
MIB, GIB = 2**20, 2**30


@dataclass(frozen=True, slots=True)
class Choice:
    """Settings with nothing left open, and a line for each thing chosen."""

    settings: Settings
    workers: int
    """as in the settings"""
    lines: tuple[str, ...]


def choose(settings: Settings, machine: Machine) -> Choice:
    """Complete the settings for this machine; what they say already stays."""
    state_mib = default_state_mib(machine.memory_bytes) if settings.state_mib is None else settings.state_mib
    why_state = "as set" if settings.state_mib is not None else f"1/{STATE_PART} of the memory"
    workers, why_workers = _workers(settings, machine, state_mib)
    threads, why_threads = _threads(settings, machine, workers)
    inline_ms, why_inline = _inline_ms(settings, machine, workers)
    lines = (
        f"this machine: {_count(machine.cores, 'core')} and {machine.memory_bytes / GIB:.1f} GiB of memory "
        f"that the service may use, {_gpu(machine)}",
        f"{_count(workers, 'worker')}: {why_workers}",
        f"{_count(threads, 'thread')} in each engine: {why_threads}; none spins, none is bound to a core",
        f"runs of up to {inline_ms:g} ms on the event loop: {why_inline}",
        f"{state_mib} MiB for the state of items: {why_state}",
    )
    chosen = {
        "workers": workers,
        "intra_op_threads": threads,
        "inline_ms": inline_ms,
        "state_mib": state_mib,
    }
    return Choice(settings.model_copy(update=chosen), workers, lines)


def default_state_mib(memory_bytes: int) -> int:
    """What the state of items may take of so much memory, where no setting says it."""
    return max(1, memory_bytes // STATE_PART // MIB)


def _workers(settings: Settings, machine: Machine, state_mib: int) -> tuple[int, str]:
    if settings.workers is not None:
        return settings.workers, "as set"
    if _on_gpu(settings, machine):
        return 1, "a GPU does one run at a time; RANKSERVE_PROVIDER=cpu has one for each core instead"
    room = (machine.memory_bytes // MIB - state_mib) // WORKER_MIB
    if room < machine.cores:
        return max(1, room), f"as many as the memory has room for, at {WORKER_MIB} MiB each"
    return machine.cores, "one for each core"


def _threads(settings: Settings, machine: Machine, workers: int) -> tuple[int, str]:
    if settings.intra_op_threads is not None:
        return settings.intra_op_threads, "as set"
    each = max(1, machine.cores // workers)
    if _on_gpu(settings, machine):
        return (1, "the GPU computes") if settings.provider == "cuda" else (each, "should the GPU not work")
    return each, "the workers use all cores" if each == 1 else "there are more cores than workers"


def _inline_ms(settings: Settings, machine: Machine, workers: int) -> tuple[float, str]:
    if settings.inline_ms is not None:
        return settings.inline_ms, "as set"
    if _on_gpu(settings, machine):
        return 0.0, "requests gather while the GPU computes"
    if workers < machine.cores:
        return 0.0, "there are cores for the engines' threads"
    return INLINE_MS, "every core has a worker, and a thread would wait for it"


def _on_gpu(settings: Settings, machine: Machine) -> bool:
    """Shall the GPU compute? Where it was not asked for by name, only if it looks as if it could."""
    return {"cuda": machine.gpu, "auto": machine.cuda, "cpu": False}[settings.provider]


def _gpu(machine: Machine) -> str:
    if machine.gpu and not machine.cuda:
        return "a GPU, but not the CUDA that onnxruntime needs: pip install 'rankserve[cuda]'"
    return "a GPU" if machine.gpu else "no GPU"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
