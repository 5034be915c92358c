"""The key and what is derived from it."""

import doctest
import hashlib
import hmac
import os
import stat
import statistics
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anonymousnet.errors import ConfigError, PrivacyError
from anonymousnet.privacy import randomness
from anonymousnet.privacy.randomness import derive, load_key, normals, uniforms

KEY = bytes(range(32))


def test_doctests():
    assert doctest.testmod(randomness).failed == 0


def test_derive_is_hmac_of_the_length_prefixed_labels():
    message = b"\0" * 7 + b"\x04draw" + b"\0" * 7 + b"\x02\xc3\xa4"
    assert derive(KEY, "draw", "ä") == hmac.new(KEY, message, hashlib.sha256).digest()


@given(st.lists(st.binary(max_size=5), max_size=4), st.lists(st.binary(max_size=5), max_size=4))
@settings(max_examples=200, deadline=None)
def test_derive_never_collides(one, other):
    assert (derive(KEY, *one) == derive(KEY, *other)) == (one == other)


def test_streams_are_the_same_bits_everywhere():
    """Written down once; a change here changes every replayed release."""
    assert hashlib.sha256(uniforms(KEY, 1000).astype("<f8")).hexdigest()[:16] == "45c4875d8e0167ea"
    assert hashlib.sha256(normals(KEY, 100_000).astype("<f4")).hexdigest()[:16] == "ea63886a826940f5"


def test_streams_extend_and_differ_by_key():
    assert np.array_equal(uniforms(KEY, 50)[:20], uniforms(KEY, 20))
    assert np.array_equal(normals(KEY, 50)[:20], normals(KEY, 20))
    assert not np.any(uniforms(KEY, 20) == uniforms(derive(KEY, "x"), 20))
    assert uniforms(KEY, 0).shape == normals(KEY, 0).shape == (0,)
    with pytest.raises(ValueError, match="32 bytes, got 3"):
        uniforms(b"abc", 1)


def test_uniforms_are_uniform():
    draws = uniforms(KEY, 100_000)
    assert draws.dtype == np.float64
    assert draws.min() >= 0
    assert draws.max() < 1
    counts = np.histogram(draws, 100, (0, 1))[0]
    assert ((counts - 1000) ** 2 / 1000).sum() < 150  # chi-square, 99 degrees: 99.9 % below 148


def test_normals_are_normal():
    draws = normals(KEY, 100_000)
    assert draws.dtype == np.float32
    assert abs(draws.mean()) < 4 / 316
    assert abs(draws.std() - 1) < 4 / 447
    exact = statistics.NormalDist()
    p = np.concatenate([np.linspace(0.001, 0.999, 999), [2.0**-33, 1 - 2.0**-33]])
    expected = np.array([exact.inv_cdf(x) for x in p])
    np.testing.assert_allclose(randomness._normal_quantile(p), expected, rtol=1e-6, atol=1e-7)


def test_key_is_made_once_and_read_back(tmp_path: Path):
    path = tmp_path / "new" / "key"
    with ThreadPoolExecutor(16) as pool:
        keys = set(pool.map(load_key, [path] * 64))
    assert len(keys) == 1
    assert len(keys.pop()) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [p.name for p in path.parent.iterdir()] == ["key"]


@pytest.mark.parametrize("length", [0, 31, 33, 1000])
def test_key_of_wrong_length(tmp_path: Path, length: int):
    (tmp_path / "key").write_bytes(bytes(length))
    (tmp_path / "key").chmod(0o600)
    with pytest.raises(PrivacyError, match="expected 32 bytes"):
        load_key(tmp_path / "key")


def test_key_open_to_others(tmp_path: Path):
    load_key(tmp_path / "key")
    (tmp_path / "key").chmod(0o644)
    with pytest.raises(PrivacyError, match=r"0644.*chmod 600"):
        load_key(tmp_path / "key")


def test_key_path_that_cannot_be_used(tmp_path: Path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"release\.key_file"):
        load_key(tmp_path / "file" / "key")
    with pytest.raises(ConfigError, match=r"release\.key_file"):
        load_key(tmp_path)
    assert os.listdir(tmp_path) == ["file"]
