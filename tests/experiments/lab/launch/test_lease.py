"""A lease has one holder, and outlives it by no more than it must."""

import json
import os
import subprocess
import sys
import threading
import time

import pytest

from experiments.lab.launch import lease


@pytest.fixture
def path(tmp_path):
  return tmp_path / 'retention-0123.lease'


def left_by(path, process=None, age=0.0, **changed):
  """Writes the lease of a process, which touched it so many seconds ago."""
  path.unlink(missing_ok=True)
  with lease.held(path):
    said = json.loads(path.read_bytes())
  if process is not None:
    said |= {'process': process, 'start': lease._start(process)}
  path.write_text(json.dumps(said | changed))
  os.utime(path, (time.time() - age,) * 2)


def taken(path):
  with lease.held(path) as mine:
    return mine


def test_a_lease_has_one_holder_and_is_given_back(path):
  assert lease.is_free(path)
  with lease.held(path) as mine:
    assert mine and not lease.is_free(path) and not taken(path)
  assert not path.exists() and taken(path)
  with pytest.raises(ValueError, match='bug'), lease.held(path):
    raise ValueError('bug')
  assert list(path.parent.iterdir()) == []


def test_the_lease_of_a_process_that_has_ended_counts_for_nothing(path):
  process = subprocess.Popen([sys.executable, '-c', 'input()'], stdin=subprocess.PIPE)
  left_by(path, process.pid)
  assert not lease.is_free(path) and not taken(path)
  process.communicate(b'\n')
  assert lease.is_free(path) and taken(path)


@pytest.mark.skipif(not os.path.exists('/proc/self/stat'), reason='it needs /proc')
def test_a_later_process_of_the_same_number_is_another(path):
  left_by(path, os.getpid())
  assert not taken(path)
  left_by(path, os.getpid(), start='1')
  assert taken(path)


@pytest.mark.parametrize('content', ['another machine', 'nothing yet'])
def test_where_the_holder_is_unknown_its_touches_count(path, content):
  def write(age):
    left_by(path, machine=['another', '', ''], age=age)
    if content == 'nothing yet':  # it was created and not yet written
      path.write_text('')
      os.utime(path, (time.time() - age,) * 2)

  write(lease.EXPIRY - 60)
  assert not lease.is_free(path) and not taken(path)
  write(lease.EXPIRY + 60)
  assert lease.is_free(path) and taken(path)


def test_a_lease_is_touched_for_as_long_as_it_is_held(path, monkeypatch):
  monkeypatch.setattr(lease, 'BEAT', 0.01)
  with lease.held(path):
    os.utime(path, (0, 0))
    end = time.monotonic() + 30
    while path.stat().st_mtime == 0 and time.monotonic() < end:
      time.sleep(0.01)
    assert not lease.is_free(path)


def test_who_was_thought_dead_does_not_give_back_the_lease_of_another(path):
  with lease.held(path):
    path.write_text('of another')
  assert path.read_text() == 'of another'


def test_one_of_many_takes_over_an_expired_lease(path):
  for _ in range(25):
    left_by(path, machine=['another', '', ''], age=lease.EXPIRY + 60)
    start, end, holders = threading.Barrier(6), threading.Barrier(6), []

    def run(start=start, end=end, holders=holders):
      start.wait()
      with lease.held(path) as mine:
        holders.append(mine)
        end.wait()

    threads = [threading.Thread(target=run) for _ in range(6)]
    for thread in threads:
      thread.start()
    for thread in threads:
      thread.join()
    assert sorted(holders) == [False] * 5 + [True]
    assert list(path.parent.iterdir()) == []


def test_a_launch_that_is_killed_while_it_takes_over_stops_others_for_minutes_only(path):
  left_by(path, machine=['another', '', ''], age=lease.EXPIRY + 60)
  name = json.loads(path.read_bytes())['lease']
  claim = path.with_name(f'.{path.name}.{name}.claim.tmp')
  claim.touch()
  assert not taken(path)
  os.utime(claim, (time.time() - lease.EXPIRY - 60,) * 2)
  assert not taken(path) and not claim.exists()
  assert taken(path)
