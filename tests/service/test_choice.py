"""What `rankserve serve` chooses, as a table: a machine and settings in, the choice and its reason out."""

import pytest

from service.choice import choose, default_state_mib
from service.machine import Machine
from service.settings import Settings

GIB = 2**30
PLAIN = Machine(cores=4, memory_bytes=16 * GIB, gpu=False)
SMALL = Machine(cores=8, memory_bytes=2 * GIB, gpu=False)
TINY = Machine(cores=2, memory_bytes=GIB // 4, gpu=False)
GPU = Machine(cores=16, memory_bytes=64 * GIB, gpu=True, cuda=True)
BARE_GPU = Machine(cores=16, memory_bytes=64 * GIB, gpu=True, cuda=False)


@pytest.mark.parametrize(
    ("machine", "given", "workers", "threads", "reason"),
    [
        (PLAIN, {}, 4, 1, "4 workers: one for each core"),
        (PLAIN, {"workers": 2}, 2, 2, "2 workers: as set"),
        (PLAIN, {"workers": 8}, 8, 1, "8 workers: as set"),
        (PLAIN, {"intra_op_threads": 3}, 4, 3, "3 threads in each engine: as set"),
        (PLAIN, {"provider": "cuda"}, 4, 1, "4 workers: one for each core"),
        (SMALL, {}, 3, 2, "3 workers: as many as the memory has room for, at 512 MiB each"),
        (SMALL, {"state_mib": 1_500}, 1, 8, "1 worker: as many as the memory has room for"),
        (TINY, {}, 1, 2, "1 worker: as many as"),
        (GPU, {}, 1, 16, "1 worker: a GPU does one run at a time; RANKSERVE_PROVIDER=cpu"),
        (GPU, {"workers": 2}, 2, 8, "8 threads in each engine: should the GPU not work"),
        (GPU, {"provider": "cuda"}, 1, 1, "1 thread in each engine: the GPU computes"),
        (GPU, {"provider": "cpu"}, 16, 1, "16 workers: one for each core"),
        (BARE_GPU, {}, 16, 1, "16 workers: one for each core"),
        (BARE_GPU, {"workers": 2}, 2, 8, "8 threads in each engine: there are more cores than workers"),
        (BARE_GPU, {"provider": "cuda"}, 1, 1, "1 worker: a GPU does one run at a time"),
    ],
)
def test_the_machine_decides_what_nobody_has(
    machine: Machine, given: dict[str, object], workers: int, threads: int, reason: str
) -> None:
    """A worker a core on a CPU, as far as the memory goes; one on a GPU; what was set stays.

    A GPU counts where it was asked for, or has what it takes; if it then does not work, all cores do.
    """
    choice = choose(Settings(**given), machine)  # type: ignore[arg-type]
    assert (choice.workers, choice.settings.workers, choice.settings.intra_op_threads) == (
        workers,
        workers,
        threads,
    )
    assert any(line.startswith(reason) for line in choice.lines), choice.lines


def test_the_state_of_items_has_a_part_of_the_memory() -> None:
    """Unless it was set; workers are told the same as was said."""
    assert default_state_mib(16 * GIB) == choose(Settings(), PLAIN).settings.state_mib == 4 * 1024
    set_ = choose(Settings(state_mib=100), PLAIN)
    assert set_.settings.state_mib == 100
    assert "100 MiB for the state of items: as set" in set_.lines


@pytest.mark.parametrize(
    ("machine", "given", "line"),
    [
        (
            PLAIN,
            {},
            "runs of up to 10 ms on the event loop: every core has a worker, and a thread would wait",
        ),
        (PLAIN, {"workers": 8}, "runs of up to 10 ms on the event loop: every core has a worker"),
        (PLAIN, {"workers": 2}, "runs of up to 0 ms on the event loop: there are cores for the engines"),
        (GPU, {}, "runs of up to 0 ms on the event loop: requests gather while the GPU computes"),
        (GPU, {"inline_ms": 2.5}, "runs of up to 2.5 ms on the event loop: as set"),
    ],
)
def test_threads_are_for_cores_that_are_left(machine: Machine, given: dict[str, object], line: str) -> None:
    """Where every core has a worker, its event loop does the short runs itself."""
    choice = choose(Settings(**given), machine)  # type: ignore[arg-type]
    assert any(each.startswith(line) for each in choice.lines), choice.lines


def test_workers_get_what_was_chosen() -> None:
    """By their environment, so that none of them chooses again."""
    environment = choose(Settings(), PLAIN).settings.environment()
    assert environment == {
        "RANKSERVE_WORKERS": "4",
        "RANKSERVE_INTRA_OP_THREADS": "1",
        "RANKSERVE_INLINE_MS": "10.0",
        "RANKSERVE_STATE_MIB": "4096",
    }


def test_it_says_what_it_found_first() -> None:
    """Who is surprised by the choice sees whether the machine was read as they know it."""
    first, *_ = choose(Settings(), GPU).lines
    assert first == "this machine: 16 cores and 64.0 GiB of memory that the service may use, a GPU"
    first, *_ = choose(Settings(), BARE_GPU).lines
    assert first.endswith("a GPU, but not the CUDA that onnxruntime needs: pip install 'rankserve[cuda]'")
