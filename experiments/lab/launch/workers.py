"""Calls in processes of their own, side by side: for work that a machine's cores do, and no device.

Compiling for chips that are elsewhere, or counting, takes one core most of the time, and the
libraries that do it are no faster in threads. A process has the environment of the one that starts
it and nothing else of it: it imports the function that it calls anew.
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


def side_by_side(function: Callable, arguments: Iterable, count: int) -> Iterator[tuple]:
  """The number of each argument with what a function of it returns, as they come.

  After an error nothing more is begun, and what was begun still comes before it is raised: a
  BadInput, if a process has died.

  Args:
    function: which every process imports.
    arguments: one a call.
    count: processes.

  """
  context = multiprocessing.get_context('spawn')  # JAX has threads, which do not survive a fork
  errors, others = [], {*multiprocessing.active_children()}
  with concurrent.futures.ProcessPoolExecutor(count, context, _prepare) as pool:
    calls = {pool.submit(function, argument): i for i, argument in enumerate(arguments)}
    waiting = set(calls)
    try:
      while waiting:
        done, waiting = concurrent.futures.wait(waiting, interruption.POLL, FIRST_COMPLETED)
        errors += [error for call in done if (error := call.exception())]
        if errors:
          waiting = {call for call in waiting if not call.cancel()}
        yield from ((calls[call], call.result()) for call in done if not call.exception())
        interruption.check()
    except KeyboardInterrupt:
      for worker in {*multiprocessing.active_children()} - others:
        worker.terminate()
      raise
    finally:  # after an error of the caller no more is begun
      for call in waiting:
        call.cancel()
  if errors:
    interruption.wait(interruption.POLL)  # a signal to all processes may end a worker first
    raise _worded(errors[0], count)


def _worded(error: BaseException, count: int) -> BaseException:
  """An error for the user: it is no fault of the code that a process died."""
  if not isinstance(error, BrokenProcessPool):
    return error
  return BadInput(
    'a worker process died, perhaps for want of memory: what was stored is kept, and the same '
    f'command goes on; fewer --workers than {count} take less'
  )


def _prepare() -> None:
  """Before JAX is loaded: devices are left alone, and Ctrl-C is the launching process's affair."""
  os.environ['JAX_PLATFORMS'] = 'cpu'
  signal.signal(signal.SIGINT, signal.SIG_IGN)
