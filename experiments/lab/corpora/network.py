"""Does the other side answer? Asked before a download that would retry for minutes."""

import socket
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterable

PATIENCE = 5.0  # seconds
PORTS = {'http': 80, 'https': 443}


def unreachable(addresses: Iterable[str]) -> list[str]:
  """The hosts that URLs lie on, if none of them answers in a few seconds; else an empty list.

  Where there is a proxy, it is the proxy that has to answer.
  """
  parts = [urllib.parse.urlsplit(address) for address in addresses]
  parts = [part for part in parts if part.scheme in PORTS and part.hostname]
  proxies = urllib.request.getproxies()
  hosts = {
    _place(urllib.parse.urlsplit(proxies[part.scheme]) if part.scheme in proxies else part)
    for part in parts
  }
  answered = threading.Event()
  calls = [threading.Thread(target=_call, args=(*host, answered), daemon=True) for host in hosts]
  for call in calls:
    call.start()
  # A name that cannot be looked up says so at its own pace, which no timeout of a socket changes.
  for call in calls:
    call.join(PATIENCE)
    if answered.is_set():
      return []
  return sorted(host for host, _ in hosts)


def _place(part: urllib.parse.SplitResult) -> tuple[str, int]:
  return part.hostname or part.path, part.port or PORTS.get(part.scheme, 80)


def _call(host: str, port: int, answered: threading.Event) -> None:
  try:
    socket.create_connection((host, port), PATIENCE).close()
  except OSError:  # no such name, no way there, nobody there
    return
  answered.set()
