"""Tasks spread over worker processes, which end with their parent whatever ends it."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

from scaling.errors import UserError

Tell = Callable[[float], None]
"""Called with the bytes of the corpus that were read since the last call."""

Task = TypeVar("Task")
Result = TypeVar("Result")


_TELL_BYTES = 2**21  # of text between two reports


class PieceProgress:
    """Tells how far a task is: by the bytes of its text, which are less than those of its files
    or more, and in the end by those of its files."""

    def __init__(self, size: float, tell: Tell) -> None:
        self._left, self._tell = size, tell
        self._untold = 0

    def read(self, size: int) -> None:
        """So many bytes more of text were read."""
        self._untold += size
        if self._untold >= _TELL_BYTES:
            told = min(self._untold, self._left)
            self._left -= told
            self._untold = 0
            self._tell(told)

    def end(self) -> None:
        """The task is done."""
        self._tell(self._left)


class WorkerDied(UserError):
    """A worker process was ended from outside; what is finished is still good."""


def default_workers() -> int:
    """The processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run(
    function: Callable[[Task, Tell], Result],
    tasks: Sequence[Task],
    workers: int,
    tell: Tell,
) -> list[Result]:
    """What a function of a module makes of each task, in the order of the tasks.

    One worker, or one task, needs no process. The function has to call its second argument now
    and then: that is how a worker notices that its parent is gone.

    Raises:
        WorkerDied: a worker was killed.
        Exception: whatever the function raised for some task; the other workers are stopped.
    """
    if workers == 1 or len(tasks) <= 1:
        return [function(task, tell) for task in tasks]
    # Not fork: threads of JAX or of a tokenizer would be copied in the middle of what they do.
    context = multiprocessing.get_context("spawn")
    todo = deque(enumerate(tasks))
    results: dict[int, Result] = {}
    processes: dict[Connection, Any] = {}
    working: dict[Connection, int] = {}
    try:
        for _ in range(min(workers, len(tasks))):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, function), daemon=True)
            process.start()
            theirs.close()
            processes[ours] = process
            working[ours], task = todo.popleft()
            ours.send(task)
        while working:
            for connection in wait(list(working)):
                assert isinstance(connection, Connection)
                try:
                    kind, content = connection.recv()
                except (EOFError, ConnectionError):
                    raise _died(processes[connection]) from None
                if kind == "read":
                    tell(content)
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


def _serve(connection: Connection, function: Callable[[Any, Tell], Any]) -> None:
    """The life of a worker: one task after the other, until its parent hangs up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets it too, and says what to do
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
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
