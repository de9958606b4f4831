"""A training step on a GPU: compiled layers, recorded once as a CUDA graph and then replayed.

The GPU then never waits for Python. Several runs share a GPU as threads of one process, each on a stream of
its own, so that the small kernels of one run fill what another leaves idle.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import torch
from torch import Tensor

torch.backends.cudnn.deterministic = True  # costs nothing measurable here; without effect on the CPU
torch.backends.cudnn.allow_tf32 = False  # float32 means float32

WARM_UP = 3  # calls before the recording: libraries choose kernels, the optimiser creates its state
VARIANTS = 64  # networks and batch shapes that one process may compile for
# Compiling and recording wait for the whole GPU, which no other recording survives: one run at a time.
ALONE = threading.Lock()


def compiled(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """`function`, compiled at its first call for the shape it is given.

    Kernels are chosen by rule, not by timing, so that every process gets the same ones.
    """
    import torch._inductor.config

    torch._dynamo.config.recompile_limit = VARIANTS
    torch._inductor.config.deterministic = True
    return torch.compile(function, dynamic=False)


class Replayed:
    """`step(items)`, replayed from a CUDA graph from its fourth call on.

    `step` takes an int64 tensor of fixed length, returns nothing and does the same GPU work at every call,
    whatever the values: it reads and writes tensors that stay where they are. Random numbers come from
    `generator` alone. Items of another length (the last, smaller batch of an epoch) go to `step` itself.
    """

    def __init__(self, step: Callable[[Tensor], None], generator: torch.Generator) -> None:
        self.step, self.generator = step, generator
        self.calls = 0
        self.items: Tensor | None = None
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, items: Tensor) -> None:
        if self.items is None:
            self.items = items.clone()
        if len(items) != len(self.items):
            with ALONE:
                self.step(items)
            return
        self.items.copy_(items)
        if self.graph is None:
            with ALONE:
                self._record()
        else:
            self.graph.replay()

    def _record(self) -> None:
        """Take one of the first steps as it is; after the last of them record a step without computing it."""
        self.step(self.items)
        self.calls += 1
        if self.calls == WARM_UP:
            graph = torch.cuda.CUDAGraph()
            graph.register_generator_state(self.generator)
            stream = torch.cuda.current_stream()
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                self.step(self.items)
            self.graph = graph
