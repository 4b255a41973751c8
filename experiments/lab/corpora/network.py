"""A connection test that precedes the download of a data set.

No library replaces this test. TensorFlow Datasets (4.9.10) sets no timeout and retries ten times
with exponential backoff, so that a download fails only after 204 seconds even if every connection
is refused immediately. The timeout of urllib does not limit the name lookup, and urllib needs a
complete HTTP response instead of a connection.
"""

import socket
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterable

TIMEOUT = 5.0  # seconds
PORTS = {'http': 80, 'https': 443}


def unreachable_hosts_that_prevent_download(urls: Iterable[str]) -> list[str]:
  """Returns all hosts of the URLs if none of them accepts a connection within TIMEOUT.

  If any host accepts a connection, the result is an empty list.

  If a proxy is configured, the connection to the proxy is tested instead.
  """
  parts = [urllib.parse.urlsplit(url) for url in urls]
  parts = [part for part in parts if part.scheme in PORTS and part.hostname]
  proxies = urllib.request.getproxies()
  hosts = {
    _host_and_port(urllib.parse.urlsplit(proxies[part.scheme]) if part.scheme in proxies else part)
    for part in parts
  }
  reachable_event = threading.Event()
  attempts = [
    threading.Thread(
      target=_set_event_if_host_is_reachable, args=(*host, reachable_event), daemon=True)
    for host in hosts
  ]
  for attempt in attempts:
    attempt.start()
  # The threads are daemons, because a DNS lookup has no timeout and may outlast this function.
  for attempt in attempts:
    attempt.join(TIMEOUT)
    if reachable_event.is_set():
      return []
  return sorted(host for host, _ in hosts)


def _host_and_port(url: urllib.parse.SplitResult) -> tuple[str, int]:
  return url.hostname or url.path, url.port or PORTS.get(url.scheme, 80)


def _set_event_if_host_is_reachable(
    host: str, port: int, reachable_event: threading.Event) -> None:
  """Sets the event if the host accepts a connection within TIMEOUT."""
  try:
    socket.create_connection((host, port), TIMEOUT).close()
  except OSError:  # unknown host, no route, or refused connection
    return
  reachable_event.set()
