"""The service under load: started on a cluster, asked by several clients at once, every answer written down.

    python -m tests.chaos.load OUT ADDRESS REQUESTS SECTION.KEY=VALUE...

OUT/answers.jsonl gets a line per request: its number, status (0: no answer), seconds, and what was said where it is not
200. Clients do not try again: what the service does not make good is lost.
"""

from __future__ import annotations

import json
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

CLIENTS = 4
GRACE_S = 15
"""Beyond the service's own deadline, before a client gives up."""


def main(out: Path, address: str, requests: int, settings: list[str]) -> None:
    """Run the service and ask it."""
    import io

    from PIL import Image

    from anonymousnet.config import Config
    from anonymousnet.data.synthetic import render_page

    out.mkdir(parents=True)
    config, sink = Config.load(None, settings), io.BytesIO()
    Image.fromarray(render_page(3, faces=1, width=240)[0]).save(sink, "JPEG", quality=92)
    url, lock = f"http://127.0.0.1:{config.serve.port}/v1/anonymize", threading.Lock()
    with _service(config, address), (out / "answers.jsonl").open("a") as file, ThreadPoolExecutor(CLIENTS) as pool:

        def ask(number: int) -> None:
            started = time.monotonic()
            status, said = _asked(url, sink.getvalue(), config.serve.deadline_s + GRACE_S)
            line = {"number": number, "status": status, "seconds": round(time.monotonic() - started, 3), "said": said}
            with lock:
                file.write(json.dumps(line) + "\n")
                file.flush()

        list(pool.map(ask, range(requests)))


@contextmanager
def _service(config: Any, address: str) -> Iterator[None]:
    """The service, and a way to it that no fault touches, where an operator has a load balancer: Serve listens on the
    machines that hold a replica of anything, so the desk gets one."""
    from ray import serve

    from anonymousnet.serve.session import running

    @serve.deployment(ray_actor_options={"num_cpus": 0, "resources": {"desk": 1}})
    class Door:
        """Does nothing."""

    with running(config, address):
        serve.run(Door.bind(), name="door", route_prefix="/door")
        try:
            _await(f"http://127.0.0.1:{config.serve.port}/v1/health/ready")
            yield
        finally:
            serve.delete("door")


def _await(url: str) -> None:
    """Until it answers. Raises TimeoutError."""
    for _ in range(120):
        with suppress(OSError), urllib.request.urlopen(url, timeout=5):
            return
        time.sleep(0.5)
    raise TimeoutError(f"{url} did not answer")


def _asked(url: str, photo: bytes, timeout_s: float) -> tuple[int, str]:
    request = urllib.request.Request(url, photo, {"Content-Type": "image/jpeg", "Accept": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as answer:
            answer.read()
            return int(answer.status), ""
    except urllib.error.HTTPError as error:
        return error.code, error.read()[:300].decode(errors="replace")
    except OSError as error:
        return 0, str(error)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4:])
