"""Parallel execution of function calls in worker processes that use only CPU cores.

Compilation for absent chips and the analysis of programs mostly occupy one core, and the libraries
for them are no faster with threads. A worker process inherits the environment of its parent process
and nothing else, and imports the called function itself.
"""

import concurrent.futures
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED
from concurrent.futures.process import BrokenProcessPool

from experiments.lab import interruption
from experiments.lab.errors import BadInput


def map_in_processes(function: Callable, arguments: Iterable, workers: int) -> Iterator[tuple]:
  """Calls a function with each argument in parallel worker processes.

  After an error no further call is started. The results of calls that have started are still
  yielded before the error is raised.

  Args:
    function: function that every process can import.
    arguments: one argument per call.
    workers: number of processes.

  Yields:
    The number of each argument and the result of its call, in the order of completion.

  Raises:
    BadInput: if a worker process died.

  """
  context = multiprocessing.get_context('spawn')  # the threads of JAX do not survive a fork
  errors, other_processes = [], {*multiprocessing.active_children()}
  with concurrent.futures.ProcessPoolExecutor(workers, context, _initialize_worker) as pool:
    calls = {pool.submit(function, argument): i for i, argument in enumerate(arguments)}
    pending = set(calls)
    try:
      while pending:
        done, pending = concurrent.futures.wait(
          pending, interruption.POLL_SECONDS, FIRST_COMPLETED)
        errors += [error for call in done if (error := call.exception())]
        if errors:
          pending = {call for call in pending if not call.cancel()}
        yield from ((calls[call], call.result()) for call in done if not call.exception())
        interruption.raise_if_stopped()
    except KeyboardInterrupt:
      for worker in {*multiprocessing.active_children()} - other_processes:
        worker.terminate()
      raise
    finally:  # after an error in the caller no further call is started
      for call in pending:
        call.cancel()
  if errors:
    # A signal to all processes may end a worker before the main process receives the signal.
    interruption.sleep_unless_interrupted(interruption.POLL_SECONDS)
    raise _explain_worker_error(errors[0], workers)


def _explain_worker_error(error: BaseException, workers: int) -> BaseException:
  """Converts the error of a terminated worker process to a BadInput with advice for the user."""
  if not isinstance(error, BrokenProcessPool):
    return error
  return BadInput(
    'a worker process died, perhaps for lack of memory; stored results are kept, and the same '
    f'command resumes; fewer --workers than {workers} need less memory'
  )


def _initialize_worker() -> None:
  """Makes a worker process use only the CPU and ignore Ctrl-C, which the main process handles."""
  os.environ['JAX_PLATFORMS'] = 'cpu'
  signal.signal(signal.SIGINT, signal.SIG_IGN)
