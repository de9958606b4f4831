"""Many runs on Dask: a local cluster by default, an existing one by the address of its scheduler.

Dask does the scheduling: a run is one task, a worker that dies has its runs started again elsewhere, and there they go on from their
last checkpoint. Workers must see the same checkout under the same path (a shared file system), since runs and pairs are files there.
A CPU worker is a process that trains one run; a GPU's worker is a process with a thread for each of the runs that share the GPU.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache
from pathlib import Path

import dask
import torch
from distributed import Client, Future, KilledWorker, LocalCluster, get_worker, wait

from n2nlib.files import UserError
from n2nlib.pairs.pair_set import PairSet, load_pairs
from n2nlib.params import Params
from n2nlib.train import runs
from n2nlib.train.runs import Planned, RunParams

TOPIC = "n2n-progress"


# Of a worker's process. The allocator keeps what a training step frees: Dask's own setting gives it back to the system at once, and getting
# it again costs a fifth of the time.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
    "MALLOC_MMAP_THRESHOLD_": str(2**25),
    "MALLOC_TOP_PAD_": str(2**24),
}


_OF_THREAD = threading.local()


CONNECT = 20  # seconds that a given scheduler has to answer


RUNS_A_GPU = 12  # at a time: small kernels of several runs fill a GPU that one leaves half idle


HEARTBEAT = 60.0  # seconds without a finished run after which the sweep says that it lives


@lru_cache(maxsize=8)
def _pairs(folder: str, pairs_hash: str) -> PairSet:
    """The pair set, mapped once a worker."""
    pairs = load_pairs(Path(folder))
    if pairs.hash != pairs_hash:
        raise UserError(f"{folder}: not the pair set that this sweep was started with")
    return pairs


def pick_device(wanted: str, worker: int = 0) -> torch.device:
    """The device of a worker: its own GPU where there are any. Raises `UserError` for a GPU that is not there."""
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted == "cuda" and not gpus:
        raise UserError(
            "device = 'cuda': this machine has no CUDA GPU that torch can use; allowed here: auto, cpu"
        )
    return torch.device("cuda", worker % gpus) if gpus and wanted != "cpu" else torch.device("cpu")


def train_on_worker(
    stage: Path, run: RunParams, pairs_folder: str, pairs_hash: str, params: Params, an_epoch: int
) -> str | UserError:
    """The task that Dask runs: train one run, report the images of `an_epoch` after each, return the run's name (its numbers are in its folder)."""
    torch.set_num_threads(1)
    worker = get_worker()
    number = int(worker.name) if str(worker.name).isdigit() else 0
    pairs = _pairs(pairs_folder, pairs_hash)
    name = runs.run_name(run, pairs_hash)
    device = pick_device(params.device, number)
    try:
        with stream(device):
            runs.train_and_store(
                stage,
                run,
                pairs,
                params,
                device,
                on_epoch=lambda state: worker.log_event(TOPIC, {"run": name, "images": an_epoch}),
            )
    except UserError as error:  # returned, not raised: Dask would print a traceback for it
        return error
    return name


def stream(device: torch.device) -> AbstractContextManager:
    """This thread's own queue of work on a GPU, so that runs of other threads go on beside it; nothing on the CPU.

    One a thread, not one a run: torch deals its 32 streams out in turn, so that a run would sooner or later share one with a run that is not
    over, and the recording of the one would take in work of the other.
    """
    if device.type != "cuda":
        return nullcontext()
    if not hasattr(_OF_THREAD, "stream"):
        _OF_THREAD.stream = torch.cuda.Stream(device)
    return torch.cuda.stream(_OF_THREAD.stream)


def default_workers(params: Params) -> int:
    """Runs at a time: one a core, or RUNS_A_GPU on each GPU, unless `sweep.workers` says otherwise."""
    if params.sweep.workers:
        return params.sweep.workers
    if pick_device(params.device).type == "cuda":
        return torch.cuda.device_count() * RUNS_A_GPU
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def client(params: Params, tasks: int) -> Iterator[Client]:
    """A client of the given scheduler, or of a local cluster that ends with it."""
    address = os.environ.get("N2N_SCHEDULER") or params.sweep.scheduler
    if address:
        try:
            connected = Client(address, timeout=CONNECT)
        except (OSError, TimeoutError, ValueError) as error:
            raise UserError(
                f"sweep.scheduler = {address!r}: no Dask scheduler answers there ({error}); allowed: tcp://host:8786"
            ) from error
        with connected:
            yield connected
        return
    # No dashboard, no spilling to disk: the workers hold a mapped pair set and one network each. A worker that is lost is replaced,
    # and a run may lose its worker a few times (a machine short of memory) before it is given up.
    settings = {
        "distributed.scheduler.allowed-failures": 10,
        "distributed.comm.timeouts.connect": "60s",
        "distributed.nanny.pre-spawn-environ": ENVIRONMENT,
    }
    at_once = min(default_workers(params), tasks)
    processes = (
        min(at_once, torch.cuda.device_count()) if pick_device(params.device).type == "cuda" else at_once
    )
    with (
        dask.config.set(settings),
        tempfile.TemporaryDirectory(prefix="n2n-dask-", ignore_cleanup_errors=True) as scratch,
        LocalCluster(
            n_workers=processes,
            threads_per_worker=-(-at_once // processes),
            processes=True,
            host="127.0.0.1",
            dashboard_address=None,
            memory_limit=0,
            local_directory=scratch,
            silence_logs="ERROR",
        ) as cluster,
        Client(cluster) as connected,
    ):
        yield connected


class Progress:
    """One short line a finished run, with what the sweep has done and what is left; nothing is drawn over."""

    def __init__(self, runs_all: int, runs_found: int, images: int) -> None:
        self.all, self.finished, self.images, self.seen = runs_all, runs_found, images, 0
        self.started = time.monotonic()

    def on_event(self, event: tuple[float, dict]) -> None:
        self.seen += event[1]["images"]

    def line(self, text: str) -> None:
        """Print `text` behind the count of finished runs, with images/s so far and the time left."""
        rate = self.seen / max(1e-9, time.monotonic() - self.started)
        left = (
            f"{duration((self.images - self.seen) / rate)} left"
            if self.seen and self.seen < self.images
            else "done"
        )
        print(
            f"[{self.finished:{len(str(self.all))}}/{self.all}] {text} | {rate:.0f} images/s, {left}",
            flush=True,
        )


def duration(seconds: float) -> str:
    """ "40 s", "3 min 20 s", "2 h 05 min"."""
    seconds = round(max(0.0, seconds))
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"


def train_all(
    stage: str, planned: list[Planned], pairs: PairSet | dict[str, PairSet], params: Params
) -> list[runs.Result]:
    """Train what is missing of `planned`, and return all results in order; nothing finished is trained again.

    `pairs`: one pair set, or several by the names that `planned` gives them. A run that fails does not stop the others; its error is raised
    when they are done. Raises `UserError` for what a user can mend.
    """
    sets = pairs if isinstance(pairs, dict) else {"": pairs}
    folder = runs.RUNS / stage
    names = [runs.run_name(one.run, sets[one.pairs].hash) for one in planned]
    jobs = {name: (one.run, sets[one.pairs]) for name, one in zip(names, planned, strict=True)}
    found = {name: runs.find(folder, run, of.hash) for name, (run, of) in jobs.items()}
    missing = {name: job for name, job in jobs.items() if found[name] is None}
    if missing:
        found |= _train(folder, missing, len(found), params)
    else:
        print(f"{stage}: all {len(found)} runs are on disk, nothing to train.", flush=True)
    lost = [name for name, result in found.items() if result is None]
    if lost:
        raise UserError(
            f"data/runs/{stage}/{lost[0]}: trained, but not readable on this machine's disk; start again (nothing else is trained twice)"
        )
    return [found[name] for name in names]


def _work(run: RunParams, pairs: PairSet, params: Params) -> int:
    """Images of a whole training, larger ones counted by their area, so that what is left can be told."""
    count, _, side, _ = pairs.train["noisy_1"].shape
    return round(runs.images_of(run, count) * (side / params.pairs.size) ** 2)


def _train(
    stage: Path, missing: dict[str, tuple[RunParams, PairSet]], all_runs: int, params: Params
) -> dict[str, runs.Result | None]:
    images = {name: _work(run, pairs, params) for name, (run, pairs) in missing.items()}
    progress = Progress(all_runs, all_runs - len(missing), sum(images.values()))
    results: dict[str, runs.Result | None] = {}
    failures: dict[str, BaseException] = {}
    with client(params, len(missing)) as dask_client:
        workers = [
            worker["nthreads"] for worker in dask_client.scheduler_info(n_workers=-1)["workers"].values()
        ]
        at_once = f", {max(workers)} runs at a time in each" if max(workers, default=1) > 1 else ""
        print(
            f"{stage.name}: {all_runs} runs, {all_runs - len(missing)} on disk; {len(missing)} to train "
            f"({sum(images.values()):,} images) on {len(workers)} {'process' if len(workers) == 1 else 'processes'}{at_once}.",
            flush=True,
        )
        dask_client.subscribe_topic(TOPIC, progress.on_event)
        longest_first = sorted(
            missing, key=lambda name: -images[name]
        )  # the last to end should be short; sorted is stable
        futures: dict[Future, str] = {}
        for name in longest_first:
            run, pairs = missing[name]
            task = stage, run, str(pairs.folder), pairs.hash, params, images[name] // run.epochs
            futures[dask_client.submit(train_on_worker, *task, key=f"{stage.name}/{name}", pure=False)] = name
        pending = set(futures)
        while pending:
            try:
                done, pending = wait(pending, timeout=HEARTBEAT, return_when="FIRST_COMPLETED")
            except TimeoutError:
                progress.line("training")
                continue
            for future in done:
                name = futures[future]
                if future.status == "finished" and not isinstance(future.result(), UserError):
                    progress.finished += 1
                    run, pairs = missing[name]
                    results[name] = runs.find(stage, run, pairs.hash)
                    progress.line(_outcome(name, results[name], params))
                else:
                    failures[name] = _reason(future, name)
                    progress.line(f"{name}: FAILED: {failures[name]}")
    for error in failures.values():
        raise error
    return results


def _outcome(name: str, result: runs.Result | None, params: Params) -> str:
    name = name.rsplit("-", 1)[0]
    if result is None:
        return f"{name}: trained, but not on this machine's disk"
    state = "DIVERGED, " if result.diverged else ""
    return (
        f"{name}: {state}{result.metrics(params)['psnr_mean']:.2f} dB in {duration(result.about['seconds'])}"
    )


def _reason(future: Future, name: str) -> BaseException:
    error = future.result() if future.status == "finished" else future.exception()
    if isinstance(error, KilledWorker):
        return UserError(
            f"{name}: lost its worker too often (memory?); start again, it goes on from its last checkpoint"
        )
    return error if isinstance(error, BaseException) else UserError(f"{name}: {future.status}")
