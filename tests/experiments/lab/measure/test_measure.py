"""Interleaved timing, memory from XLA's plan, and attention weights by layer."""

import itertools

import jax
import jax.numpy as jnp
import pytest

from experiments.lab.measure import attention, memory
from experiments.lab.measure.time import MAX_REPEATS, time_interleaved
from transformer.attention import Attention
from transformer.block import Block
from transformer.stack import Stack


class Clock:
  """A clock that advances only while a function runs, and records the calls."""

  def __init__(self):
    self.now, self.calls = 0.0, []

  def __call__(self):
    return self.now

  def subject(self, name, *seconds):
    """A function whose calls take the given seconds, the last of which is repeated."""
    remaining = list(seconds)

    def timed_call():
      self.calls.append(name)
      self.now += remaining.pop(0) if len(remaining) > 1 else remaining[0]
      return jnp.zeros(())

    return timed_call


def test_every_function_runs_once_per_round_in_a_random_order():
  clock, names = Clock(), 'abcde'
  times = time_interleaved({n: clock.subject(n, 1.0) for n in names}, 8, clock=clock)
  assert times == dict.fromkeys(names, [1.0] * 8)
  calls = ''.join(clock.calls)
  assert calls[:10] == 'aabbccddee'  # the warm-up
  rounds = [calls[i : i + 5] for i in range(10, len(calls), 5)]
  assert len(rounds) == 8 and all(sorted(r) == list(names) for r in rounds)
  assert len(set(rounds)) > 4
  again = Clock()
  time_interleaved({n: again.subject(n, 1.0) for n in names}, 8, clock=again)
  assert again.calls == clock.calls


def test_the_first_call_is_not_measured():
  clock = Clock()
  assert time_interleaved({'a': clock.subject('a', 60.0, 2.0)}, 3, clock=clock) == {'a': [2.0] * 3}


@pytest.mark.parametrize(
  'seconds, repeats', [(1.0, 1), (2**-8, 4), (2**-7, 2), (2**-6, 1), (0.0, MAX_REPEATS)]
)
def test_a_short_call_is_repeated_until_the_measurement_is_long_enough(seconds, repeats):
  clock = Clock()
  times = time_interleaved({'a': clock.subject('a', seconds)}, 3, min_seconds=2**-6, clock=clock)
  assert times == {'a': [seconds] * 3}  # per call
  assert len(clock.calls) == 2 + 3 * repeats


def test_the_number_of_repeats_stays_fixed_when_the_machine_slows_down():
  clock = Clock()
  subjects = {'a': clock.subject('a', 9.0, 0.5, 4.0)}
  times = time_interleaved(subjects, 2, min_seconds=1.0, clock=clock)
  assert times == {'a': [4.0] * 2}
  assert len(clock.calls) == 2 + 2 * 2


def test_after_the_timeout_no_round_starts():
  clock = Clock()
  subjects = {n: clock.subject(n, 1.0) for n in 'ab'}
  assert time_interleaved(subjects, 9, timeout=6.0, clock=clock) == {'a': [1.0] * 2, 'b': [1.0] * 2}
  assert time_interleaved(subjects, 9, timeout=1.0, clock=clock) == {'a': [], 'b': []}


def test_a_function_with_a_tolerated_exception_is_omitted():
  clock, exceptions = Clock(), []
  good = clock.subject('good', 1.0)
  calls = iter([1, 2, 3])  # the fourth call, in the second round, fails

  def failing():
    next(calls)
    return good()

  def tolerate(name, error):
    exceptions.append((name, type(error)))
    return True

  times = time_interleaved({'good': good, 'bad': failing}, 4, tolerate=tolerate, clock=clock)
  assert times == {'good': [1.0] * 4}
  assert exceptions == [('bad', StopIteration)]
  with pytest.raises(StopIteration):
    time_interleaved({'bad': failing}, 1, clock=clock)


def test_progress_ends_at_one():
  parts, clock = [], Clock()
  time_interleaved({'a': clock.subject('a', 1.0)}, 4, progress=parts.append, clock=clock)
  assert parts == [0.25, 0.5, 0.75, 1.0]


def attention_gradient(rows, length):
  """The compiled gradient of softmax attention for an input [rows, length, 4]."""
  def attend(x):  # [B, T, D]
    return jax.nn.softmax(jnp.einsum('BTD,BSD->BTS', x, x)) @ x

  x = jax.ShapeDtypeStruct((rows, length, 4), jnp.float32)
  return jax.jit(jax.grad(lambda x: attend(x).sum())).lower(x).compile()


def test_the_memory_of_attention_grows_with_length_at_a_fixed_number_of_tokens():
  tokens, lengths = 4096, (64, 256, 1024)
  programs = [attention_gradient(tokens // length, length) for length in lengths]
  plans = list(map(memory.program_memory, programs))
  for shorter, longer in itertools.pairwise(plans):
    assert longer.temporary == pytest.approx(4 * shorter.temporary, rel=0.3)
  assert {plan.arguments for plan in plans} == {plan.results for plan in plans} == {tokens * 4 * 4}


def test_a_program_that_needs_too_much_memory_is_refused():
  program = attention_gradient(1, 2**21)
  plan = memory.program_memory(program)
  assert plan.temporary > memory.available_bytes() > 2**20
  with pytest.raises(MemoryError, match='MiB'):
    memory.require_available_memory(plan)
  memory.require_available_memory(memory.program_memory(attention_gradient(1, 8)))
  memory.require_available_memory(None)

  errors = []
  times = time_interleaved(
    {'large': lambda: program(jnp.zeros((1, 2**21, 4))), 'small': lambda: jnp.zeros(())},
    2,
    tolerate=lambda name, error: not errors.append((name, str(error))),
  )
  assert list(times) == ['small'] and len(times['small']) == 2
  assert [name for name, _ in errors] == ['large']
  assert 'RESOURCE_EXHAUSTED' in errors[0][1]


def test_the_bytes_of_all_arrays_of_a_tree_are_added():
  assert memory.array_bytes({'a': jnp.zeros((3, 4)), 'b': (jnp.zeros(5, jnp.int8), ())}) == 53


def test_attention_weights_are_named_by_the_path_of_their_layer():
  model = Stack((Block(Attention(2)), Block(Attention(4))))
  x = jnp.ones((1, 5, 8))
  weights = attention.attention_weights(model, model.init(jax.random.key(0), x), x)
  assert {name: weight.shape for name, weight in weights.items()} == {
    'level_0.layer': (1, 2, 5, 5), 'level_1.layer': (1, 4, 5, 5)
  }
