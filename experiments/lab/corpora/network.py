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


def unreachable_hosts(urls: Iterable[str]) -> list[str]:
  """The hosts of the URLs, or an empty list if any host accepts a connection within TIMEOUT.

  If a proxy is configured, the connection to the proxy is tested instead.
  """
  parts = [urllib.parse.urlsplit(url) for url in urls]
  parts = [part for part in parts if part.scheme in PORTS and part.hostname]
  proxies = urllib.request.getproxies()
  hosts = {
    _host_and_port(urllib.parse.urlsplit(proxies[part.scheme]) if part.scheme in proxies else part)
    for part in parts
  }
  connected = threading.Event()
  attempts = [
    threading.Thread(target=_try_connection, args=(*host, connected), daemon=True)
    for host in hosts
  ]
  for attempt in attempts:
    attempt.start()
  # A DNS lookup has no timeout, so that these threads are daemons and may outlive this function.
  for attempt in attempts:
    attempt.join(TIMEOUT)
    if connected.is_set():
      return []
  return sorted(host for host, _ in hosts)


def _host_and_port(url: urllib.parse.SplitResult) -> tuple[str, int]:
  return url.hostname or url.path, url.port or PORTS.get(url.scheme, 80)


def _try_connection(host: str, port: int, connected: threading.Event) -> None:
  """Sets the event `connected` if the host accepts a connection within TIMEOUT."""
  try:
    socket.create_connection((host, port), TIMEOUT).close()
  except OSError:  # unknown host, no route, or refused connection
    return
  connected.set()
