import functools
import json
import threading
import time

import numpy as np
import pytest

from sdejax.data.base import Dataset, Lazy
from sdejax.data.pipeline import (
    batches,
    check_data_state,
    data_state,
    epoch_order,
    fingerprint,
    flips,
)
from sdejax.data.scaling import Scaling, apply, integers
from sdejax.data.sources import load


def numbered(n, labelled=True):
    """Example i holds the value i; its label is i too."""
    x = np.arange(n, dtype=np.float32)[:, None]
    return Dataset(
        "n", "train", x, Scaling(), np.arange(n, dtype=np.int32) if labelled else None, n
    )


def draw(dataset, batch_size, steps, **options):
    with batches(dataset, batch_size, **({"seed": 3} | options)) as stream:
        return [next(stream) for _ in range(steps)]


def same(left, right):
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            assert a[name].dtype == b[name].dtype
            np.testing.assert_array_equal(a[name], b[name])


def test_batches_are_scaled_labelled_and_numbered():
    dataset = load("digits")
    (batch,) = draw(dataset, 16, 1)
    assert {k: (v.dtype, v.shape) for k, v in batch.items()} == {
        "x": (np.float32, (16, 8, 8, 1)),
        "label": (np.int32, (16,)),
        "position": (np.int32, (16,)),
    }
    np.testing.assert_array_equal(batch["position"], np.arange(16))
    rows = dataset.gather(epoch_order(3, 1500, 0)[:16])
    np.testing.assert_array_equal(batch["x"], apply(integers(17), rows["x"]))
    np.testing.assert_array_equal(batch["label"], rows["label"])
    assert "label" not in draw(numbered(5, labelled=False), 4, 1)[0]


@pytest.mark.parametrize("n", [1, 5, 24, 97])
@pytest.mark.parametrize(
    ("count", "batch_size"), [(1, 6), (2, 6), (3, 6), (6, 6), (4, 32), (8, 128)]
)
def test_processes_together_are_one_process(n, count, batch_size):
    options = {"start_step": 7, "process_count": count}
    whole = draw(numbered(n), batch_size, 4, start_step=7)
    parts = [draw(numbered(n), batch_size, 4, process_index=p, **options) for p in range(count)]
    joined = [
        {name: np.concatenate([b[name] for b in step]) for name in step[0]}
        for step in zip(*parts, strict=True)
    ]
    same(joined, whole)


@pytest.mark.parametrize("prefetch", [0, 1, 4])
def test_resuming_at_a_step_is_having_come_there(prefetch):
    dataset = load("digits")
    options = {"flip": True, "prefetch": prefetch}
    run = draw(dataset, 64, 40, **options)  # passes an epoch after 23.4 steps
    for step in (0, 1, 23, 39):
        same(draw(dataset, 64, 40 - step, start_step=step, **options), run[step:])


def test_next_step_is_what_to_resume_from():
    with batches(numbered(9), 4, seed=0, start_step=5) as stream:
        assert stream.next_step == 5
        next(stream)
        next(stream)
        assert stream.next_step == 7


@pytest.mark.parametrize(("n", "batch_size"), [(24, 8), (10, 4), (7, 7), (3, 8), (1, 4)])
def test_every_epoch_covers_every_example_once(n, batch_size):
    epochs = 5
    steps = -(-n * epochs // batch_size)
    seen = np.concatenate([b["label"] for b in draw(numbered(n), batch_size, steps)])
    for epoch in range(epochs):
        assert sorted(seen[epoch * n : (epoch + 1) * n]) == list(range(n))


def test_each_epoch_and_each_seed_has_its_own_order():
    seeds = (0, 1, 2**64 - 2, 2**64 - 1)
    orders = [epoch_order(seed, 50, epoch) for seed in seeds for epoch in range(3)]
    assert len({tuple(order) for order in orders}) == 12


def test_orders_are_uniform():
    """Each example is in each place equally often: chi-squared, 25 - 5 - 5 + 1 = 16 degrees."""
    counts = np.zeros((5, 5))
    for epoch in range(2000):
        counts[np.arange(5), epoch_order(0, 5, epoch)] += 1
    chi2 = ((counts - 400) ** 2 / 400).sum()
    assert chi2 < 16 + 5 * np.sqrt(32)


def test_seeking_far_costs_no_more():
    start = time.perf_counter()
    draw(numbered(1000), 64, 1, start_step=2**48 - 2, prefetch=0)
    assert time.perf_counter() - start < 1.0


def test_flips_are_a_function_of_the_example_number():
    whole = flips(5, 0, 1000)
    for first, count in ((0, 1), (1, 7), (3, 4), (500, 500), (999, 1)):
        np.testing.assert_array_equal(flips(5, first, count), whole[first : first + count])
    assert abs(whole.mean() - 0.5) < 5 * 0.5 / np.sqrt(1000)
    assert np.any(whole != flips(6, 0, 1000))
    later = whole[:-1] == whole[1:]  # neighbours are independent
    assert abs(later.mean() - 0.5) < 5 * 0.5 / np.sqrt(999)


def test_flips_mirror_the_width_and_nothing_else():
    images = np.random.default_rng(0).integers(0, 256, (40, 3, 5, 2), dtype=np.uint8)
    dataset = Dataset("d", "train", images, integers(256), np.arange(40, dtype=np.int32), 40)
    plain, mirrored = (draw(dataset, 32, 3, start_step=2, flip=f) for f in (False, True))
    coins = flips(3, 64, 96).reshape(3, 32)
    for a, b, coin in zip(plain, mirrored, coins, strict=True):
        np.testing.assert_array_equal(b["label"], a["label"])
        np.testing.assert_array_equal(b["x"][~coin], a["x"][~coin])
        np.testing.assert_array_equal(b["x"][coin], a["x"][coin][:, :, ::-1])
        assert 0 < coin.sum() < 32


def test_flips_do_not_depend_on_the_number_of_processes():
    dataset = load("digits")
    whole = draw(dataset, 12, 2, flip=True)
    half = draw(dataset, 12, 2, flip=True, process_index=1, process_count=2)
    same(half, [{k: v[6:] for k, v in b.items()} for b in whole])


def test_stored_data_is_never_changed():
    images = np.random.default_rng(0).random((8, 2, 2, 1), np.float32)
    before = images.copy()
    for batch in draw(Dataset("d", "train", images, Scaling()), 8, 3, flip=True):
        batch["x"][...] = -1
    np.testing.assert_array_equal(images, before)


def prefetch_threads():
    return [t for t in threading.enumerate() if t.name.startswith("grain-prefetch")]


def test_closing_ends_the_threads_and_may_be_repeated():
    slow = Lazy(
        9, (1,), np.dtype(np.float32), lambda i: time.sleep(0.01) or np.zeros(1, np.float32)
    )
    stream = batches(Dataset("slow", "train", slow, Scaling()), 3, seed=0)
    next(stream)
    assert prefetch_threads()
    stream.close()
    stream.close()
    deadline = time.monotonic() + 5
    while prefetch_threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not prefetch_threads()
    with pytest.raises(ValueError, match="closed"):
        next(stream)


@pytest.mark.parametrize("prefetch", [0, 2])
def test_an_error_ends_the_stream_instead_of_skipping_a_step(prefetch):
    bad = epoch_order(0, 9, 0)[0]

    def read(index):
        if index == bad:
            raise ValueError("damaged")
        return np.zeros(1, np.float32)

    column = Lazy(9, (1,), np.dtype(np.float32), read)
    with batches(Dataset("d", "train", column, Scaling()), 1, seed=0, prefetch=prefetch) as stream:
        with pytest.raises(ValueError, match="damaged"):
            next(stream)
        with pytest.raises(ValueError, match="closed"):
            next(stream)


def test_a_batch_of_small_images_takes_less_than_three_milliseconds():
    images = np.zeros((5000, 28, 28, 1), np.uint8)
    with batches(Dataset("d", "train", images, integers(256)), 256, seed=0, prefetch=0) as stream:
        times = []
        for _ in range(30):
            start = time.perf_counter()
            next(stream)
            times.append(time.perf_counter() - start)
    assert np.median(times) < 3e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size: got 0"),
        ({"batch_size": 6, "process_count": 4}, "batch_size: got 6 for 4 processes"),
        ({"process_index": 2, "process_count": 2}, "process_index: got 2, expected 0 <= index < 2"),
        ({"seed": -1}, "seed: got -1"),
        ({"start_step": -1}, "start_step, prefetch: got -1"),
        ({"prefetch": -1}, "start_step, prefetch: got 0 and -1"),
        ({"flip": True}, r"flip: got True for events of shape \(1,\)"),
    ],
)
def test_misuse_is_named(options, message):
    arguments = {"dataset": numbered(8), "batch_size": 4, "seed": 0} | options
    with pytest.raises(ValueError, match=message):
        batches(**arguments)
    with pytest.raises(ValueError, match="'n' is empty"):
        batches(numbered(0), 4, seed=0)


def test_state_survives_json_and_accepts_another_step():
    state = functools.partial(data_state, load("digits"), 64, seed=1)
    check_data_state(json.loads(json.dumps(state(next_step=100))), state(next_step=0))


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"seed": 2}, "seed"),
        ({"batch_size": 32}, "batch_size"),
        ({"flip": True}, "flip"),
        ({"dataset": load("digits", split="test")}, "split"),
        ({"dataset": load("toy")}, "dataset"),
    ],
)
def test_resuming_on_another_stream_is_refused_by_name(change, name):
    arguments = {"dataset": load("digits"), "batch_size": 64, "seed": 1}
    saved = data_state(**arguments)
    with pytest.raises(ValueError, match=f"^{name}: the checkpoint was trained with"):
        check_data_state(saved, data_state(**(arguments | change)))


def test_a_change_in_the_middle_is_refused_and_old_checkpoints_are_not():
    one, other = numbered(9), numbered(9)
    other.x[4] = 0.5
    saved, now = (data_state(dataset, 4, seed=0) for dataset in (one, other))
    with pytest.raises(ValueError, match=r"^contents: the checkpoint was trained with '1:"):
        check_data_state(saved, now)
    old = {name: value for name, value in saved.items() if name != "contents"}
    check_data_state(old, now)
    check_data_state(saved | {"contents": "0:abc"}, now)
    with pytest.raises(ValueError, match=r"^fingerprint: "):
        check_data_state(old, data_state(numbered(9, labelled=False), 4, seed=0))


def test_other_contents_scaling_or_algorithm_are_noticed():
    one, other = numbered(8), numbered(8)
    other.x[7] = 0.5
    assert fingerprint(one) != fingerprint(other)
    assert fingerprint(one) != fingerprint(numbered(9))
    assert fingerprint(one) != fingerprint(numbered(8, labelled=False))
    saved = data_state(one, 4, seed=0)
    with pytest.raises(ValueError, match=r"^fingerprint: "):
        check_data_state(saved, data_state(other, 4, seed=0))
    scaled = Dataset("n", "train", one.x, Scaling((1.0,)), one.labels, 8)
    with pytest.raises(ValueError, match=r"^scaling: "):
        check_data_state(saved, data_state(scaled, 4, seed=0))
    with pytest.raises(ValueError, match=r"^order: .*None"):
        check_data_state({k: v for k, v in saved.items() if k != "order"}, saved)


def test_a_converted_checkpoint_has_seen_no_data_set_but_a_scaling():
    now = data_state(numbered(9), 4, seed=0)
    converted = {"scaling": now["scaling"], "next_step": 7}
    check_data_state(converted, now)
    with pytest.raises(ValueError, match=r"^scaling: the checkpoint was trained with"):
        check_data_state(converted | {"scaling": {**now["scaling"], "levels": 3}}, now)
