"""Many runs on Dask: a local cluster by default, or an existing one by the address of its scheduler.

Dask does the scheduling. A run is one task; if a worker dies, its runs start elsewhere and resume from their
last checkpoints. Workers must see the same checkout under the same path (a shared file system), because runs
and pairs are files there. A CPU worker is a process that trains one run at a time; a GPU worker is a process
with a thread for each of the runs that share the GPU.
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache
from pathlib import Path

import dask
import torch
from dask.system import cpu_count
from distributed import Client, Future, KilledWorker, LocalCluster, get_worker, wait

from n2nlib.files import UserError
from n2nlib.pairs.pair_set import PairSet, load_pairs
from n2nlib.params import Params
from n2nlib.train import runs
from n2nlib.train.identity import RunParams, images_of
from n2nlib.train.loop import TrainingState, train
from n2nlib.train.runs import Planned, Result

TOPIC = "n2n-progress"
# Environment of a worker process. The allocator keeps what a training step frees: under Dask's own setting it
# returns the memory to the system at once, and getting it back costs a fifth of the time.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
    "MALLOC_MMAP_THRESHOLD_": str(2**25),
    "MALLOC_TOP_PAD_": str(2**24),
}
CONNECT = 20  # seconds in which a given scheduler must answer
RUNS_PER_GPU = 12  # the small kernels of several runs fill a GPU that one run leaves half idle
HEARTBEAT = 60.0  # seconds without a finished run after which the sweep prints a sign of life
_OF_THREAD = threading.local()


def train_and_store(
    stage: Path,
    run: RunParams,
    pairs: PairSet,
    device: torch.device,
    on_epoch: Callable[[TrainingState], None] = lambda state: None,
) -> Result:
    """The finished run in the folder `stage`: found there, measured again, or trained now and stored.

    Training resumes from a checkpoint if there is one. Raises `UserError` for what a user can correct.
    """
    found = runs.find(stage, run, pairs.hash) or runs.measure_again(stage, run, pairs, device)
    if found:
        return found
    checkpoint = runs.checkpoint_of(stage, run, pairs.hash)
    state = train(run, pairs, device, checkpoint, on_epoch)
    result = runs.store(stage, run, pairs, state, device)
    checkpoint.unlink(missing_ok=True)
    return result


@lru_cache(maxsize=8)
def _pairs(folder: str, pairs_hash: str) -> PairSet:
    """The pair set, mapped once per worker."""
    pairs = load_pairs(Path(folder))
    if pairs.hash != pairs_hash:
        raise UserError(f"{folder}: not the pair set that this sweep was started with")
    return pairs


def pick_device(wanted: str, worker: int = 0) -> torch.device:
    """The device of a worker: a GPU of its own if there are any. Raises `UserError` if "cuda" has none."""
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted == "cuda" and not gpus:
        raise UserError("device = 'cuda': torch can use no CUDA GPU on this machine; allowed here: auto, cpu")
    return torch.device("cuda", worker % gpus) if gpus and wanted != "cpu" else torch.device("cpu")


def _train_on_worker(
    stage: Path, run: RunParams, pairs_folder: str, pairs_hash: str, wanted: str, images_per_epoch: int
) -> UserError | None:
    """The task that Dask runs: train one run into its folder and report its images after each epoch."""
    torch.set_num_threads(1)  # numbers repeat with one thread only (see `loop`), and other runs use the cores
    worker = get_worker()
    number = int(worker.name) if str(worker.name).isdigit() else 0
    device = pick_device(wanted, number)
    name = runs.run_name(run, pairs_hash)

    def report(state: TrainingState) -> None:
        worker.log_event(TOPIC, {"run": name, "epoch": len(state.history), "images": images_per_epoch})

    try:
        with stream(device):
            train_and_store(stage, run, _pairs(pairs_folder, pairs_hash), device, report)
    except UserError as error:  # returned, because Dask prints a traceback for what is raised
        return error
    return None


def stream(device: torch.device) -> AbstractContextManager:
    """A queue of work of this thread on a GPU, so that runs of other threads continue beside it.

    One for each thread, not for each run: torch hands out its 32 streams in turn, so two runs would sooner or
    later share one, and the recording of a CUDA graph would capture the work of both. Nothing on a CPU.
    """
    if device.type != "cuda":
        return nullcontext()
    if not hasattr(_OF_THREAD, "stream"):
        _OF_THREAD.stream = torch.cuda.Stream(device)
    return torch.cuda.stream(_OF_THREAD.stream)


def default_workers(params: Params) -> int:
    """Runs at a time: `sweep.workers` if given, else one per core, or `RUNS_PER_GPU` on each GPU.

    The cores are those that this process may use; a container can have fewer than its machine.
    """
    if params.sweep.workers:
        return params.sweep.workers
    if pick_device(params.device).type == "cuda":
        return torch.cuda.device_count() * RUNS_PER_GPU
    return cpu_count()


@contextmanager
def _script_not_imported_again() -> Iterator[None]:
    """Let a script without a `__main__` guard start processes.

    multiprocessing imports the main script again in every process that it starts, which would run the sweep
    again there. The workers need nothing from the script, so it is hidden while there are any.
    """
    main = sys.modules["__main__"]
    hidden = {name: vars(main).pop(name) for name in ("__file__", "__spec__") if name in vars(main)}
    main.__spec__ = None
    try:
        yield
    finally:
        vars(main).update(hidden)


@contextmanager
def client(params: Params, tasks: int) -> Iterator[Client]:
    """A client of the scheduler at an address, or of a local cluster for `tasks` runs that ends with it.

    The address is N2N_SCHEDULER of the environment or else `sweep.scheduler`.

    Raises `UserError` if no scheduler answers at the address.
    """
    given = os.environ.get("N2N_SCHEDULER")
    key, address = ("N2N_SCHEDULER", given) if given else ("sweep.scheduler", params.sweep.scheduler)
    if address:
        try:
            connected = Client(address, timeout=CONNECT)
        except (OSError, TimeoutError, ValueError) as error:
            raise UserError(
                f"{key} = {address!r}: no Dask scheduler answers there ({error}); "
                "allowed: an address such as tcp://host:8786"
            ) from error
        with connected:
            yield connected
        return
    # The workers hold a memory-mapped pair set and one network each, so nothing is spilled to disk. A worker
    # that is lost is replaced, and a run may lose its worker a few times (a machine short of memory) before
    # it fails.
    settings = {
        "distributed.scheduler.allowed-failures": 10,
        "distributed.comm.timeouts.connect": "60s",
        "distributed.nanny.pre-spawn-environ": ENVIRONMENT,
    }
    at_once = min(default_workers(params), tasks)
    on_gpu = pick_device(params.device).type == "cuda"
    processes = min(at_once, torch.cuda.device_count()) if on_gpu else at_once
    with (
        dask.config.set(settings),
        _script_not_imported_again(),
        tempfile.TemporaryDirectory(prefix="n2n-dask-", ignore_cleanup_errors=True) as scratch,
        LocalCluster(
            n_workers=processes,
            threads_per_worker=-(-at_once // processes),
            processes=True,
            host="127.0.0.1",
            dashboard_address=":0",
            memory_limit=0,
            local_directory=scratch,
            silence_logs="ERROR",
        ) as cluster,
        Client(cluster) as connected,
    ):
        yield connected


class Progress:
    """One line for each finished run: how many are done, images per second so far, and the time left.

    `images` are those of the runs that are trained; runs that are only measured again have none.
    """

    def __init__(self, runs_all: int, runs_found: int, images: int) -> None:
        self.all, self.finished, self.images, self.seen = runs_all, runs_found, images, 0
        self.known: set[str] = set()
        self.started = time.monotonic()

    def on_event(self, event: tuple[float, dict]) -> None:
        run, epoch, images = (event[1][name] for name in ("run", "epoch", "images"))
        if run not in self.known:  # it may have resumed, and what it saw before does not take time now
            self.images -= images * (epoch - 1)
        self.known.add(run)
        self.seen += images

    def line(self, text: str) -> None:
        count = f"[{self.finished:{len(str(self.all))}}/{self.all}]"
        if self.seen:
            rate = self.seen / max(1e-9, time.monotonic() - self.started)
            seconds = (self.images - self.seen) / rate
            left = f"{duration(seconds)} left" if seconds > 0 else "nearly done"
            text += f" | {rate:.0f} images/s, {'done' if self.finished == self.all else left}"
        print(f"{count} {text}", flush=True)


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
) -> list[Result]:
    """Train what is missing of `planned` and return all results in order; nothing finished is trained again.

    `pairs` is one pair set, or several by the names that `planned` gives them. A run that fails does not stop
    the others: its error is raised when they are done. Raises `UserError` for what a user can correct.
    """
    sets = pairs if isinstance(pairs, dict) else {"": pairs}
    folder = runs.RUNS / stage
    folder.mkdir(parents=True, exist_ok=True)  # an output of a DVC stage, even if other stages have all runs
    names = [runs.run_name(one.run, sets[one.pairs].hash) for one in planned]
    jobs = {name: (one.run, sets[one.pairs]) for name, one in zip(names, planned, strict=True)}
    found = {name: runs.find(folder, run, of.hash) for name, (run, of) in jobs.items()}
    missing = {name: jobs[name] for name, result in found.items() if result is None}
    if missing:
        found |= _train_missing(folder, missing, len(found), params)
    else:
        print(f"{stage}: nothing to train, runs on disk: {len(found)}.", flush=True)
    lost = [name for name, result in found.items() if result is None]
    if lost:
        raise UserError(
            f"data/runs/{stage}/{lost[0]}: trained, but not readable on the disk of this machine; "
            "start again (nothing else is trained twice)"
        )
    return [found[name] for name in names]


def _work(run: RunParams, pairs: PairSet, params: Params) -> int:
    """Images of a whole training, larger ones counted by their area, so that the time left can be told."""
    count, _, side, _ = pairs.train["noisy_1"].shape
    return round(images_of(run, count) * (side / params.pairs.size) ** 2)


def _train_missing(
    stage: Path, missing: dict[str, tuple[RunParams, PairSet]], all_runs: int, params: Params
) -> dict[str, Result | None]:
    again = {name for name, (run, pairs) in missing.items() if any(runs.with_model(stage, run, pairs.hash))}
    images = {
        name: 0 if name in again else _work(run, pairs, params) for name, (run, pairs) in missing.items()
    }
    new = len(missing) - len(again)
    to_do = [f"{new} to train ({sum(images.values()):,} images)"] * bool(new)
    to_do += [f"{len(again)} to measure again"] * bool(again)
    progress = Progress(all_runs, all_runs - len(missing), sum(images.values()))
    results: dict[str, Result | None] = {}
    failures: dict[str, BaseException] = {}
    with client(params, len(missing)) as dask_client:
        workers = [w["nthreads"] for w in dask_client.scheduler_info(n_workers=-1)["workers"].values()]
        processes = "1 process" if len(workers) == 1 else f"{len(workers)} processes"
        at_once = f", {max(workers)} runs at a time in each" if max(workers, default=1) > 1 else ""
        print(
            f"{stage.name}: {all_runs} runs, {all_runs - new} on disk; {', '.join(to_do)} on {processes}"
            f"{at_once}.",
            flush=True,
        )
        dask_client.subscribe_topic(TOPIC, progress.on_event)
        futures: dict[Future, str] = {}
        for name in sorted(missing, key=images.get, reverse=True):  # longest first: the last to end is short
            run, pairs = missing[name]
            task = stage, run, str(pairs.folder), pairs.hash, params.device, images[name] // run.epochs
            future = dask_client.submit(_train_on_worker, *task, key=f"{stage.name}/{name}", pure=False)
            futures[future] = name
        pending = set(futures)
        while pending:
            try:
                done, pending = wait(pending, timeout=HEARTBEAT, return_when="FIRST_COMPLETED")
            except TimeoutError:
                progress.line("training")
                continue
            for future in done:
                name = futures[future]
                if future.status == "finished" and future.result() is None:
                    progress.finished += 1
                    run, pairs = missing[name]
                    results[name] = runs.find(stage, run, pairs.hash)
                    progress.line(_outcome(name, results[name], params, name in again))
                else:
                    failures[name] = _reason(future, name)
                    progress.line(f"{name}: FAILED: {failures[name]}")
        dask_client.unsubscribe_topic(TOPIC)
    if failures:
        raise next(iter(failures.values()))
    return results


def _outcome(name: str, result: Result | None, params: Params, again: bool) -> str:
    name = name.rsplit("-", 1)[0]
    if result is None:
        return f"{name}: trained, but not on the disk of this machine"
    state = "DIVERGED, " if result.diverged else ""
    took = "measured again" if again else f"in {duration(result.about['seconds'])}"
    return f"{name}: {state}{result.metrics(params)['psnr_mean']:.2f} dB {took}"


def _reason(future: Future, name: str) -> BaseException:
    error = future.result() if future.status == "finished" else future.exception()
    if isinstance(error, KilledWorker):
        return UserError(
            f"{name}: lost its worker too often (memory?); start again to resume its last checkpoint"
        )
    return error if isinstance(error, BaseException) else UserError(f"{name}: {future.status}")
