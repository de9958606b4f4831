"""A training step on a GPU: its layers compiled, the whole recorded once as a CUDA graph and replayed, so that the GPU never waits for Python.

Several runs share a GPU as threads of one process, each on a stream of its own: small kernels of one fill what another leaves idle.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import torch
from torch import Tensor

torch.backends.cudnn.deterministic = True  # costs nothing measurable here; without effect on the CPU


torch.backends.cudnn.allow_tf32 = False  # float32 means float32


WARM_UP = 3  # calls before the recording: libraries choose their kernels, the optimiser makes its state


VARIANTS = 64  # networks and batch shapes that one process may compile for


ALONE = threading.Lock()  # while a run compiles or records, no other may: either waits for the whole GPU, which no recording survives


def compiled(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """`function`, compiled at its first call for the shape that it is given; by rule, not by timing, so that the same kernels come out every time."""
    import torch._inductor.config

    torch._dynamo.config.recompile_limit = VARIANTS
    torch._inductor.config.deterministic = True
    return torch.compile(function, dynamic=False)


class Replayed:
    """`step(indices)`, replayed from a CUDA graph from its fourth call on.

    `step` takes an int64 tensor of one length, returns nothing and does the same GPU work at every call, whatever the indices' values: it reads
    tensors that stay where they are and writes to such. Random numbers are drawn from `generator` alone. Indices of another length (the last,
    smaller batch of an epoch) are passed to `step` itself.
    """

    def __init__(self, step: Callable[[Tensor], None], generator: torch.Generator) -> None:
        self.step, self.generator = step, generator
        self.calls = 0
        self.indices: Tensor | None = None
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, indices: Tensor) -> None:
        if self.indices is None:
            self.indices = indices.clone()
        if len(indices) != len(self.indices):
            with ALONE:
                self.step(indices)
            return
        self.indices.copy_(indices)
        if self.graph is None:
            with ALONE:
                self._first()
        else:
            self.graph.replay()

    def _first(self) -> None:
        """One of the first steps, taken as it is; after the last of them one is recorded, which computes nothing."""
        self.step(self.indices)
        self.calls += 1
        if self.calls == WARM_UP:
            graph = torch.cuda.CUDAGraph()
            graph.register_generator_state(self.generator)
            with torch.cuda.graph(
                graph, stream=torch.cuda.current_stream(), capture_error_mode="thread_local"
            ):
                self.step(self.indices)
            self.graph = graph
