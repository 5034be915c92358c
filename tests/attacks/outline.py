"""The outline attack: 40 people's faces in one photo, equal outside the region; one is released; whose face was it?

The attacker holds all 40 photos, aligns each as the release does, and sees the released region's outline, which tells
the place exactly. He rules out those whose face the place does not reach and guesses among the others, the likelier
first where `align.epsilon` makes some likelier.
"""

from __future__ import annotations

import numpy as np

from anonymousnet.align.place import Grid
from anonymousnet.align.region import FACE
from anonymousnet.align.warp import owners
from anonymousnet.privacy.randomness import derive
from tests.attacks.faces import PX, Aligner, People, folder, interval

PEOPLE, TRIALS = 40, 30


def main() -> None:
    people, align = People.open(folder()), Aligner()
    rng = np.random.default_rng(1)
    within, exact, won, left = 0.0, 0.0, 0.0, []
    for trial in range(TRIALS):
        base = people.photo(int(rng.integers(10_000)))
        true = align(base)
        if true is None:
            continue
        hidden = owners(base.shape[:2], true[None], PX, FACE) > 0
        faces = [people.photo(int(i)) for i in rng.integers(10_000, size=PEOPLE)]
        poses = [align(np.where(hidden[..., None], face, base)) for face in faces]
        poses = [pose for pose in poses if pose is not None]
        released = poses[int(rng.integers(len(poses)))]
        grid = Grid(base.shape[:2], PX, FACE)
        place = grid.draw(released[None], [derive(bytes(32), str(trial))])[0]
        candidates = sum(grid.reaches(place, pose) for pose in poses)
        won += 1 / candidates
        left.append(candidates)
        exact += 1 / sum(np.array_equal(pose, released) for pose in poses)
        within += 1
    print(
        f"{PEOPLE} people, {int(within)} trials; chance {1 / PEOPLE:.3f}, epsilon 0.1 allows {np.exp(0.1) / PEOPLE:.3f}"
    )
    print(f"named by the exact alignment   {interval(exact, int(within))}")
    print(f"named by the place             {interval(won, int(within))}")
    print(f"people whom the place reaches  {np.mean(left):.1f} of {PEOPLE} (least {min(left)})")


if __name__ == "__main__":
    main()
