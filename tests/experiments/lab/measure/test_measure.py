"""Turns are taken fairly, times are those of the clock, and memory is what XLA plans."""

import itertools

import jax
import jax.numpy as jnp
import pytest

from experiments.lab.measure import attention, memory
from experiments.lab.measure.time import MOST_REPEATS, interleaved
from transformer.attention import Attention
from transformer.block import Block
from transformer.stack import Stack


class Clock:
  """A clock that moves only while a subject runs, and remembers who ran."""

  def __init__(self):
    self.now, self.calls = 0.0, []

  def __call__(self):
    return self.now

  def subject(self, name, *seconds):
    """A call that takes these seconds in turn, the last of them from then on."""
    left = list(seconds)

    def call():
      self.calls.append(name)
      self.now += left.pop(0) if len(left) > 1 else left[0]
      return jnp.zeros(())

    return call


def test_every_subject_runs_once_in_every_round_in_an_order_of_its_own():
  clock, names = Clock(), 'abcde'
  times = interleaved({n: clock.subject(n, 1.0) for n in names}, 8, clock=clock)
  assert times == dict.fromkeys(names, [1.0] * 8)
  calls = ''.join(clock.calls)
  assert calls[:10] == 'aabbccddee'  # the warm-up
  rounds = [calls[i : i + 5] for i in range(10, len(calls), 5)]
  assert len(rounds) == 8 and all(sorted(r) == list(names) for r in rounds)
  assert len(set(rounds)) > 4
  again = Clock()
  interleaved({n: again.subject(n, 1.0) for n in names}, 8, clock=again)
  assert again.calls == clock.calls


def test_the_first_call_is_no_measurement():
  clock = Clock()
  assert interleaved({'a': clock.subject('a', 60.0, 2.0)}, 3, clock=clock) == {'a': [2.0] * 3}


@pytest.mark.parametrize(
  'seconds, repeats', [(1.0, 1), (2**-8, 4), (2**-7, 2), (2**-6, 1), (0.0, MOST_REPEATS)]
)
def test_a_short_call_is_repeated_until_a_turn_is_long_enough(seconds, repeats):
  clock = Clock()
  times = interleaved({'a': clock.subject('a', seconds)}, 3, shortest=2**-6, clock=clock)
  assert times == {'a': [seconds] * 3}  # of one call
  assert len(clock.calls) == 2 + 3 * repeats


def test_the_repeats_stay_fixed_when_the_machine_slows_down():
  clock = Clock()
  times = interleaved({'a': clock.subject('a', 9.0, 0.5, 4.0)}, 2, shortest=1.0, clock=clock)
  assert times == {'a': [4.0] * 2}
  assert len(clock.calls) == 2 + 2 * 2


def test_after_the_timeout_no_round_starts():
  clock = Clock()
  subjects = {n: clock.subject(n, 1.0) for n in 'ab'}
  assert interleaved(subjects, 9, timeout=6.0, clock=clock) == {'a': [1.0] * 2, 'b': [1.0] * 2}
  assert interleaved(subjects, 9, timeout=1.0, clock=clock) == {'a': [], 'b': []}


def test_an_excused_subject_is_left_out_and_the_others_go_on():
  clock, asked = Clock(), []
  good = clock.subject('good', 1.0)
  runs = iter([1, 2, 3])  # it fails in the second round

  def bad():
    next(runs)
    return good()

  def excuse(name, error):
    asked.append((name, type(error)))
    return True

  times = interleaved({'good': good, 'bad': bad}, 4, excuse=excuse, clock=clock)
  assert times == {'good': [1.0] * 4}
  assert asked == [('bad', StopIteration)]
  with pytest.raises(StopIteration):
    interleaved({'bad': bad}, 1, clock=clock)


def test_progress_ends_at_one():
  parts, clock = [], Clock()
  interleaved({'a': clock.subject('a', 1.0)}, 4, progress=parts.append, clock=clock)
  assert parts == [0.25, 0.5, 0.75, 1.0]


def scores(rows, length):
  """Attention's scores, softmax and average, compiled for a number of tokens."""
  def mix(x):  # [B, T, D]
    return jax.nn.softmax(jnp.einsum('BTD,BSD->BTS', x, x)) @ x

  x = jax.ShapeDtypeStruct((rows, length, 4), jnp.float32)
  return jax.jit(jax.grad(lambda x: mix(x).sum())).lower(x).compile()


def test_memory_of_attention_grows_with_length_at_a_fixed_number_of_tokens():
  tokens, lengths = 4096, (64, 256, 1024)
  plans = [memory.of_program(scores(tokens // length, length)) for length in lengths]
  for shorter, longer in itertools.pairwise(plans):
    assert longer.temporary == pytest.approx(4 * shorter.temporary, rel=0.3)
  assert {plan.arguments for plan in plans} == {plan.results for plan in plans} == {tokens * 4 * 4}


def test_too_large_a_program_is_refused_before_and_by_xla():
  program = scores(1, 2**21)
  plan = memory.of_program(program)
  assert plan.temporary > memory.available() > 2**20
  with pytest.raises(MemoryError, match='MiB'):
    memory.require(plan)
  memory.require(memory.of_program(scores(1, 8)))
  memory.require(None)

  found = []
  times = interleaved(
    {'large': lambda: program(jnp.zeros((1, 2**21, 4))), 'small': lambda: jnp.zeros(())},
    2,
    excuse=lambda name, error: not found.append((name, str(error))),
  )
  assert list(times) == ['small'] and len(times['small']) == 2
  assert [name for name, _ in found] == ['large']
  assert 'RESOURCE_EXHAUSTED' in found[0][1]


def test_bytes_of_arrays():
  assert memory.of_arrays({'a': jnp.zeros((3, 4)), 'b': (jnp.zeros(5, jnp.int8), ())}) == 53


def test_weights_bear_the_place_of_their_layer():
  model = Stack((Block(Attention(2)), Block(Attention(4))))
  x = jnp.ones((1, 5, 8))
  found = attention.weights(model, model.init(jax.random.key(0), x), x)
  assert {name: weight.shape for name, weight in found.items()} == {
    'level_0.layer': (1, 2, 5, 5), 'level_1.layer': (1, 4, 5, 5)
  }
