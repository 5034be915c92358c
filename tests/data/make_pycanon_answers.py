"""Writes pycanon_answers.json: fixed tables and what pyCANON 1.3.5 says about them.

    python -m venv /tmp/pycanon && /tmp/pycanon/bin/pip install pycanon==1.3.5
    /tmp/pycanon/bin/python tests/data/make_pycanon_answers.py

pyCANON pins other versions of numpy and pandas than ours, hence the environment of its own. The tables come from a
linear congruential generator, so that they are the same under every version of everything.
"""

import json
from pathlib import Path

import pandas as pd
import pycanon
from pycanon.anonymity import k_anonymity, l_diversity, t_closeness

# rows, values of the quasi-identifiers, values of the sensitive attribute
SHAPES = [
    (12, (2,), 2),
    (40, (2, 2), 3),
    (100, (2, 3), 2),
    (150, (3, 2), 5),
    (200, (2, 2, 2), 8),
    (60, (1,), 4),
    (90, (9,), 30),
]


def numbers(seed: int):
    """Numerical Recipes' generator: 32-bit integers, upper bits."""
    state = seed
    while True:
        state = (1664525 * state + 1013904223) % 2**32
        yield state >> 16


def main() -> None:
    cases = []
    for seed, (rows, quasi, sensitive) in enumerate(SHAPES):
        draw = numbers(seed)
        # The smaller of two draws, so that values are not equally frequent.
        columns = [[min(next(draw) % size, next(draw) % size) for _ in range(rows)] for size in (*quasi, sensitive)]
        names = [f"q{i}" for i in range(len(quasi))]
        frame = pd.DataFrame(dict(zip([*names, "s"], columns, strict=True)))
        frame["s"] = frame["s"].map(lambda value: f"v{value:02d}")  # text: the categorical distance
        cases.append(
            {
                "quasi": columns[:-1],
                "sensitive": columns[-1],
                "k": int(k_anonymity(frame, names)),
                "l": int(l_diversity(frame, names, ["s"])),
                "t": float(t_closeness(frame, names, ["s"])),
            }
        )
    answers = {"made_by": "make_pycanon_answers.py", "pycanon": "1.3.5", "cases": cases}
    Path(__file__).with_name("pycanon_answers.json").write_text(json.dumps(answers) + "\n")
    print(pycanon.__name__, [(case["k"], case["l"], case["t"]) for case in cases])


if __name__ == "__main__":
    main()
