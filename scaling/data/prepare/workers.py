"""A pool of worker processes that exit when their parent does, however it ends."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

from scaling.errors import UserError

ReportBytes = Callable[[float], None]
"""Called with the number of bytes of the corpus read since the last call."""

Task = TypeVar("Task")
Result = TypeVar("Result")


_REPORT_INTERVAL = 2**21  # bytes of text between two reports


class PieceProgress:
    """Progress of a task, in bytes of its files: reports the bytes of text read, and at the end the
    remainder, since text and files differ in size."""

    def __init__(self, size: float, report_bytes: ReportBytes) -> None:
        self._left, self._report_bytes = size, report_bytes
        self._unreported = 0

    def read(self, size: int) -> None:
        """Count `size` more bytes of text."""
        self._unreported += size
        if self._unreported >= _REPORT_INTERVAL:
            reported = min(self._unreported, self._left)
            self._left -= reported
            self._unreported = 0
            self._report_bytes(reported)

    def end(self) -> None:
        """Report the remainder: the task is done."""
        self._report_bytes(self._left)


class WorkerDied(UserError):
    """Workers were killed, or could not be started; finished steps remain valid."""


def default_workers() -> int:
    """Number of CPU cores available to this process."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run(
    function: Callable[[Task, ReportBytes], Result],
    tasks: Sequence[Task],
    workers: int,
    report_bytes: ReportBytes,
) -> list[Result]:
    """Map a module-level function over tasks in worker processes; results are in task order.

    A single worker or task runs in this process. The function must call its second argument
    regularly, which is how a worker notices that its parent has exited.

    Raises:
        WorkerDied: A worker was killed.
        Exception: Any exception that the function raised; the other workers are stopped.
    """
    if workers == 1 or len(tasks) <= 1:
        return [function(task, report_bytes) for task in tasks]
    # Not fork, which would copy the state of running threads of JAX or of a tokenizer.
    context = multiprocessing.get_context("spawn")
    todo = deque(enumerate(tasks))
    results: dict[int, Result] = {}
    processes: dict[Connection, Any] = {}
    working: dict[Connection, int] = {}
    try:
        for _ in range(min(workers, len(tasks))):
            parent_end, child_end = context.Pipe()
            process = context.Process(target=_serve, args=(child_end, function), daemon=True)
            process.start()
            child_end.close()
            processes[parent_end] = process
            working[parent_end], task = todo.popleft()
            parent_end.send(task)
        while working:
            for connection in wait(list(working)):
                assert isinstance(connection, Connection)
                try:
                    kind, content = connection.recv()
                except (EOFError, ConnectionError):
                    raise _died(processes[connection]) from None
                if kind == "read":
                    report_bytes(content)
                    continue
                number = working.pop(connection)
                if kind == "raised":
                    raise content
                results[number] = content
                if todo:
                    working[connection], task = todo.popleft()
                    connection.send(task)
    finally:
        for connection, process in processes.items():
            connection.close()
            process.terminate()
            process.join()
    return [results[number] for number in range(len(tasks))]


def _died(process: Any) -> WorkerDied:
    process.join()
    return WorkerDied(f"a worker process ended with status {process.exitcode}; if the machine ran "
                      "out of memory, run the same command with fewer --workers: finished parts "
                      "are kept")


def _serve(connection: Connection, function: Callable[[Any, ReportBytes], Any]) -> None:
    """Main loop of a worker: run one task after another until the parent closes the connection."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # handled by the parent, which receives it too
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # parallelism is over processes
    try:
        while True:
            task = connection.recv()
            try:
                answer = "done", function(task, lambda size: connection.send(("read", size)))
            except BrokenPipeError:
                raise
            except Exception as error:
                answer = "raised", error
            connection.send(answer)
    except (EOFError, ConnectionError):
        return
