"""A data set: any chunk and any interruption give the same rows; the file knows what it is of."""

import numpy as np
import pytest
from exact_parts import exact_parts, integer_data

from sdejax.evaluate import evaluate, load_rows, save_rows, summarise
from sdejax.evaluator import Options, Row, evaluator

DATA = integer_data(20)[0]
OPTIONS = Options(trace="rademacher", probes=2)
ABOUT = {"seed": 0, "t_min": None}


class Stopped(Exception):
    """What stands for a kill."""


@pytest.fixture(scope="module")
def one():
    return evaluator(exact_parts(), DATA, OPTIONS)


@pytest.fixture(scope="module")
def whole(one):
    return evaluate(one, None, DATA, 20, chunk=20)


def test_chunks_do_not_matter(one, whole):
    found = evaluate(one, None, DATA, 20, chunk=8)
    np.testing.assert_allclose(found.log_p, whole.log_p, atol=1e-3)
    assert found.log_p.shape == (20,)


def test_an_evaluation_goes_on_from_its_file(one, whole, tmp_path):
    path, chunks = tmp_path / "rows.npz", []

    def keep(rows):
        save_rows(path, rows, ABOUT)
        chunks.append(len(rows.log_p))
        if len(chunks) == 1:
            raise Stopped

    with pytest.raises(Stopped):
        evaluate(one, None, DATA, 20, chunk=8, keep=keep)
    done = load_rows(path, ABOUT)
    assert len(done.log_p) == 8
    found = evaluate(one, None, DATA, 20, chunk=8, done=done, keep=keep)
    np.testing.assert_array_equal(found.log_p[:8], done.log_p)
    np.testing.assert_allclose(found.log_p, whole.log_p, atol=1e-3)
    assert chunks == [8, 16, 20]
    again = evaluate(one, None, DATA, 20, chunk=8, done=load_rows(path, ABOUT), keep=keep)
    np.testing.assert_array_equal(again.log_p, found.log_p)
    assert len(chunks) == 3  # nothing was left to do


def test_a_file_of_another_evaluation_is_refused(whole, tmp_path):
    path = tmp_path / "rows.npz"
    assert load_rows(path, ABOUT) is None
    save_rows(path, whole, ABOUT)
    with pytest.raises(ValueError, match=r"seed: 0 there, 1 now.*another --out"):
        load_rows(path, {**ABOUT, "seed": 1})
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"rows\.npz: no results of an evaluation"):
        load_rows(path, ABOUT)
    assert [p.name for p in tmp_path.iterdir()] == ["rows.npz"]


def test_the_interval_is_that_of_the_mean():
    bits = np.asarray([1.0, 2.0, 4.0, 5.0])
    rows = Row(-bits, bits, bits * 0, bits * 0, bits * 0)
    found = summarise(rows)
    assert found.bits_per_dim == 3.0
    np.testing.assert_allclose(found.half_width, 1.96 * np.sqrt(10 / 3) / 2)
    assert (found.nats, found.examples) == (-3.0, 4)
    assert np.isnan(summarise(Row(*(leaf[:1] for leaf in rows))).half_width)


def test_bad_requests_are_named(one):
    for count in (0, 21):
        with pytest.raises(ValueError, match=f"num: got {count}; expected 1 to 20"):
            evaluate(one, None, DATA, count)
    outside = DATA.__class__("x", "test", DATA.x + 4000, DATA.scaling)
    with pytest.raises(ValueError, match="4000"):
        evaluate(one, None, outside, 4)
