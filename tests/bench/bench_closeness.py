"""t-closeness of a table the size of CelebA's against pyCANON 1.3.5, which lives in an environment of its own
(it pins other versions of numpy and pandas than ours); that environment is made here when it is missing."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from anonymousnet.data.attributes import INDEX
from anonymousnet.privacy.closeness import codes, equivalence_classes, t_closeness
from anonymousnet.privacy.mechanism import UNIFORMS, Mechanism
from anonymousnet.privacy.population import celeba_population

ROWS, QUASI, SENSITIVE = 202_599, ("Male", "Young", "Smiling"), "Eyeglasses"
PEER = """
import sys, time, json, numpy as np, pandas as pd
from pycanon.anonymity import t_closeness
table = pd.DataFrame(np.load(sys.argv[1]), columns=["q0", "q1", "q2", "s"]).astype(str)
started = time.perf_counter()
t = t_closeness(table, ["q0", "q1", "q2"], ["s"])
print(json.dumps([t, time.perf_counter() - started]))
"""


def main() -> None:
    # A table with the population's own dependences: a release at gamma 0 is drawn from the population alone.
    uniforms = np.random.default_rng(0).random((ROWS, UNIFORMS))
    table = Mechanism(celeba_population(), {}).release(np.zeros((ROWS, 40), bool), uniforms)
    started = time.perf_counter()
    ours = t_closeness(equivalence_classes(table, QUASI), codes(table, (SENSITIVE,)))
    seconds = time.perf_counter() - started
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "table.npy"
        np.save(path, table[:, [INDEX[a] for a in (*QUASI, SENSITIVE)]])
        run = subprocess.run([_python(), "-W", "ignore", "-c", PEER, path], capture_output=True, text=True, check=True)
    theirs, peer_seconds = json.loads(run.stdout.splitlines()[-1])
    print(f"anonymousnet  t = {ours:.12f} in {seconds:.4f} s")
    print(f"pycanon       t = {theirs:.12f} in {peer_seconds:.4f} s")
    print(f"ratio         {peer_seconds / seconds:.1f} times as fast, answers differ by {abs(ours - theirs):.1e}")


def _python() -> str:
    """The peer's interpreter."""
    home = Path(sys.prefix) / "peers" / "pycanon"
    if not (home / "bin" / "python").exists():
        subprocess.run([sys.executable, "-m", "venv", home], check=True)
        install = [home / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check", "pycanon==1.3.5"]
        subprocess.run(install, check=True, stderr=subprocess.DEVNULL)
    return str(home / "bin" / "python")


if __name__ == "__main__":
    main()
