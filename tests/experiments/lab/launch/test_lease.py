"""Tests that a lease has one holder and expires soon after its holder has ended."""

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


def write_lease(path, process=None, seconds_since_touch=0.0, **changed):
  """Writes the lease of a process that last touched it some seconds ago."""
  path.unlink(missing_ok=True)
  with lease.hold_lease(path):
    values = json.loads(path.read_bytes())
  if process is not None:
    values |= {'process': process, 'start': lease._process_start_time(process)}
  path.write_text(json.dumps(values | changed))
  os.utime(path, (time.time() - seconds_since_touch,) * 2)


def can_be_acquired(path):
  with lease.hold_lease(path) as acquired:
    return acquired


def test_a_lease_has_one_holder_and_is_released(path):
  assert lease.is_free(path)
  with lease.hold_lease(path) as acquired:
    assert acquired and not lease.is_free(path) and not can_be_acquired(path)
  assert not path.exists() and can_be_acquired(path)
  with pytest.raises(ValueError, match='bug'), lease.hold_lease(path):
    raise ValueError('bug')
  assert list(path.parent.iterdir()) == []


def test_the_lease_of_a_process_that_has_ended_has_expired(path):
  process = subprocess.Popen([sys.executable, '-c', 'input()'], stdin=subprocess.PIPE)
  write_lease(path, process.pid)
  assert not lease.is_free(path) and not can_be_acquired(path)
  process.communicate(b'\n')
  assert lease.is_free(path) and can_be_acquired(path)


@pytest.mark.skipif(not os.path.exists('/proc/self/stat'), reason='requires /proc')
def test_a_later_process_with_the_same_number_is_not_the_holder(path):
  write_lease(path, os.getpid())
  assert not can_be_acquired(path)
  write_lease(path, os.getpid(), start='1')
  assert can_be_acquired(path)


@pytest.mark.parametrize('content', ['another machine', 'nothing yet'])
def test_the_lease_of_an_unknown_holder_expires_without_touches(path, content):
  def write_unknown_lease(age):
    write_lease(path, machine=['another', '', ''], seconds_since_touch=age)
    if content == 'nothing yet':  # the file was created but its content was not written
      path.write_text('')
      os.utime(path, (time.time() - age,) * 2)

  write_unknown_lease(lease.EXPIRY_SECONDS - 60)
  assert not lease.is_free(path) and not can_be_acquired(path)
  write_unknown_lease(lease.EXPIRY_SECONDS + 60)
  assert lease.is_free(path) and can_be_acquired(path)


def test_a_lease_is_touched_while_it_is_held(path, monkeypatch):
  monkeypatch.setattr(lease, 'TOUCH_SECONDS', 0.01)
  with lease.hold_lease(path):
    os.utime(path, (0, 0))
    end = time.monotonic() + 30
    while path.stat().st_mtime == 0 and time.monotonic() < end:
      time.sleep(0.01)
    assert not lease.is_free(path)


def test_a_holder_whose_lease_was_replaced_does_not_remove_the_new_lease(path):
  with lease.hold_lease(path):
    path.write_text('of another')
  assert path.read_text() == 'of another'


def test_one_of_many_processes_takes_over_an_expired_lease(path):
  for _ in range(25):
    write_lease(path, machine=['another', '', ''], seconds_since_touch=lease.EXPIRY_SECONDS + 60)
    start, end, holders = threading.Barrier(6), threading.Barrier(6), []

    def try_to_acquire(start=start, end=end, holders=holders):
      start.wait()
      with lease.hold_lease(path) as acquired:
        holders.append(acquired)
        end.wait()

    threads = [threading.Thread(target=try_to_acquire) for _ in range(6)]
    for thread in threads:
      thread.start()
    for thread in threads:
      thread.join()
    assert sorted(holders) == [False] * 5 + [True]
    assert list(path.parent.iterdir()) == []


def test_a_process_killed_during_a_takeover_blocks_others_only_until_expiry(path):
  write_lease(path, machine=['another', '', ''], seconds_since_touch=lease.EXPIRY_SECONDS + 60)
  name = json.loads(path.read_bytes())['lease']
  claim = path.with_name(f'.{path.name}.{name}.claim.tmp')
  claim.touch()
  assert not can_be_acquired(path)
  os.utime(claim, (time.time() - lease.EXPIRY_SECONDS - 60,) * 2)
  assert not can_be_acquired(path) and not claim.exists()
  assert can_be_acquired(path)
