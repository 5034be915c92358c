"""Attacks on releases, run on real faces: what the place of a crop and the coding of a file still tell.

    python -m tests.attacks.outline CELEBA      # whose face is under the outline, of 40 people
    python -m tests.attacks.blocks CELEBA       # the same from what a coded file carries over the region's edge
    python -m tests.attacks.smile CELEBA        # is the hidden face smiling, from the places that a manifest publishes

CELEBA is a folder in CelebA's own layout. Each prints a table; docs/experiments/places.md holds the last ones.
"""
