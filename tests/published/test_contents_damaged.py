"""A damaged layout of a published checkpoint is refused, and the tensor at fault is named."""

import numpy as np
import pytest

from sdejax.published.contents import flax_contents, torch_contents

W, A, B = np.ones(2, np.float32), np.ones((4, 3), np.float32), np.ones(4, np.float32)
NAMED = {"all_modules.0.W": W, "all_modules.1.weight": A, "all_modules.1.bias": B}


def tiny():
    """Three tensors in the layout of score_sde_pytorch."""
    state = {i: {"step": 3, "exp_avg": a, "exp_avg_sq": a} for i, a in ((1, A), (2, B))}
    return {
        "optimizer": {"state": state, "param_groups": [{"params": [0, 1, 2]}]},
        "model": {"module.sigmas": np.ones(5), **{f"module.{k}": v for k, v in NAMED.items()}},
        "ema": {"shadow_params": [A, B]},
        "step": 3,
    }


def changed(*path, **values):
    """``tiny`` with a dictionary inside updated; None takes an entry out."""
    tree = node = tiny()
    for key in path:
        node = node[key]
    node.update(values)
    for key in [key for key, value in values.items() if value is None]:
        del node[key]
    return tree


def shadow(*tensors):
    return {**tiny(), "ema": {"shadow_params": list(tensors)}}


def model(**tensors):
    """``tiny`` with tensors in its model whose names end with a word."""
    tree = tiny()
    tree["model"].update({f"module.all_modules.1.{k}": v for k, v in tensors.items()})
    return tree


def state(tree):
    return {**tiny(), "optimizer": {"state": tree, "param_groups": [{"params": [0, 1, 2]}]}}


def groups(*params):
    return changed("optimizer", param_groups=[{"params": each} for each in params])


ENTRY = {"step": 3, "exp_avg": A, "exp_avg_sq": A}
BIAS = r"\(for all_modules\.1\.bias\)"
WEIGHT = r"\(for all_modules\.1\.weight\)"
V2 = [tiny()["model"], tiny()["optimizer"], 0, 3, NAMED]
DAMAGED = {
    "nothing": ({}, r"a dictionary of : no layout of score_sde_pytorch"),
    "a number": (3, "int: no layout"),
    "a list of numbers": ([1, 2], r"a list of 2 \(int, int\): no layout"),
    "a list of six": ([*V2, 1], "a list of 6 .*: no layout"),
    "another code": ({"state_dict": NAMED, "epoch": 3}, "a dictionary of state_dict, epoch: no l"),
    "no tensors": (changed("model", **dict.fromkeys(tiny()["model"])), "model: no tensors"),
    "levels alone": ({"model": {"module.sigmas": np.ones(5)}}, "model: sigmas alone"),
    "levels that are flags": ({"model": {**NAMED, "sigmas": np.ones(5, bool)}}, "sigmas is bool"),
    "a text for a tensor": (model(bias="x"), r"model: module\.all_modules\.1\.bias is str"),
    "a number for a name": ({"model": {3: A}}, "model: 3 is ndarray, expected a tensor"),
    "a tensor twice": ({"model": {**tiny()["model"], "all_modules.1.bias": B}}, "there twice"),
    "one average too few": (shadow(A), "1 tensors, expected 2, .*1.weight to all_modules.1.bias"),
    "one too many": (shadow(A, B, B), r"ema\.shadow_params: 3 tensors, expected 2"),
    "an average of the frozen": (shadow(W, A, B), "3 tensors, expected 2, one for each of model t"),
    "averages of what is frozen alone": (
        {"model": {"module.all_modules.0.W": W}, "ema": {"shadow_params": [W]}},
        "1 tensors, expected 0",
    ),
    "two averages swapped": (shadow(B, A), rf"params\[0\] {WEIGHT}: shape \(4,\), exp.* \(4, 3\)"),
    "an average misshapen": (shadow(A, A), rf"params\[1\] {BIAS}: shape \(4, 3\), exp.* \(4,\)"),
    "texts for averages": (shadow("a", "b"), rf"params\[0\] {WEIGHT}: str, expected a tensor"),
    "averages by name": ({**tiny(), "ema": NAMED}, "ema: a dictionary of all_modules.0.W, .* exp"),
    "averages that are a tensor": (changed("ema", shadow_params=A), "ema: a dictionary of"),
    "a decay that is none": (
        changed("ema", decay=1.5), r"ema\.decay: got '1\.5', expected a number in \[0, 1\)"
    ),
    "no average in it": ({**tiny(), "ema": {"decay": 0.9}}, "ema: a dictionary of decay, expected"),
    "a step that is NaN": ({**tiny(), "step": float("nan")}, "step: got 'nan', expected a whole"),
    "an endless step": ({**tiny(), "step": np.array(np.inf)}, "step: got 'inf', expected a whole"),
    "half a step": ({**tiny(), "step": 2.5}, "step: got '2.5', expected a whole"),
    "a step below 0": ({**tiny(), "step": -1}, "step: got '-1', expected a whole"),
    "a step beyond int32": ({**tiny(), "step": 2**31}, "expected a whole number below 2"),
    "a step that is a flag": ({**tiny(), "step": True}, "step: got 'True', expected a whole"),
    "two steps": ({**tiny(), "step": np.ones(2)}, r"step: got '\[1\. 1\.\]', expected a whole"),
    "a step that is a text": ({**tiny(), "step": "seven"}, "step: got 'seven', expected a whole"),
    "an optimizer without groups": (changed("optimizer", param_groups=None), "of state, exp"),
    "a list for an optimizer": ({**tiny(), "optimizer": [1]}, r"optimizer: a list of 1 \(int\)"),
    "groups without numbers": (groups([0, "1", 2]), "optimizer.param_groups: .* expected numbers"),
    "a group that is a number": (changed("optimizer", param_groups=[1]), "param_groups: int, expe"),
    "one number too few": (groups([0, 1]), "param_groups: 2 parameters, expected 3"),
    "one number too many": (groups([0, 1], [2, 3]), "param_groups: 4 parameters, expected 3"),
    "a number twice": (groups([0, 1], [1]), "param_groups: a parameter is there twice"),
    "a state of nothing": (state({1: ENTRY, 7: ENTRY}), "state: 7 is no number of param_groups"),
    "a state by text": (state({"1": ENTRY}), "state: 1 is no number of param_groups"),
    "SGD": (
        state({2: {"momentum_buffer": B}}),
        rf"state\[2\] {BIAS}: a dictionary of momentum_buffer, expected Adam's step, exp_avg and",
    ),
    "a state that is a tensor": (state({1: A}), rf"state\[1\] {WEIGHT}: ndarray, expected Adam's"),
    "a mean misshapen": (state({2: ENTRY}), rf"state\[2\]\.exp_avg {BIAS}: shape \(4, 3\)"),
    "a square misshapen": (
        state({1: {**ENTRY, "exp_avg_sq": B}}), rf"state\[1\]\.exp_avg_sq {WEIGHT}: shape \(4,\)",
    ),
    "a mean that is a number": (state({1: {**ENTRY, "exp_avg": 0.0}}), "exp_avg .*: float, expec"),
    "Adam's step is none": (state({1: {**ENTRY, "step": None}}), r"state\[1\]\.step: got 'None'"),
    "ncsn with SGD": ([NAMED, state({1: {}})["optimizer"]], rf"state\[1\] {WEIGHT}: a dictionary"),
    "ncsnv2, one average missing": ([*V2[:4], {"all_modules.0.W": W}], r"\[4\]: .*1\.weight is mi"),
    "ncsnv2, a surplus average": ([*V2[:4], {**NAMED, "x": B}], r"\[4\]: x is not among the weig"),
    "ncsnv2, a misshapen average": (
        [*V2[:4], {**NAMED, "all_modules.1.bias": A}], rf"\[4\] {BIAS}: shape \(4, 3\), expected",
    ),
    "ncsnv2, averages in a list": ([*V2[:4], [A, B]], r"\[4\]: a list of 2 \(ndarray, ndarray\)"),
    "ncsnv2, a step of text": ([*V2[:3], "x"], r"\[3\]: got 'x', expected a whole number"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_layout_is_refused_with_the_tensor_at_fault(damage):
    tree, says = DAMAGED[damage]
    with pytest.raises(ValueError, match=says):
        torch_contents(tree)


def flax(state=None, **others):
    return {"optimizer": {"target": {"Conv_0": {"bias": B}}, "state": state}, "step": 1, **others}


def adam(leaves, step=3):
    return flax({"step": step, "param_states": leaves})


MOMENTS = {"grad_ema": B, "grad_sq_ema": B}
FLAX_DAMAGED = {
    "nothing": ({}, "no layout of score_sde"),
    "parameters alone": ({"Conv_0": {"bias": B}}, "a dictionary of Conv_0: no layout"),
    "no parameters": ({"optimizer": {"target": {}, "state": {}}}, "of optimizer: no layout"),
    "an average that is an array": (flax(params_ema=B), "params_ema: ndarray, expected nested"),
    "a step of text": (flax(step="x"), "step: got 'x', expected a whole"),
    "a state without moments": (flax({"step": 3, "momentum": {"a": B}}), "of step, momentum, exp"),
    "a state that is an array": (flax(B), "optimizer/state: ndarray, expected step and param_st"),
    "moments without a step": (flax({"param_states": {"a": MOMENTS}}), "of param_states, expected"),
    "Adam's step is a text": (adam({"a": MOMENTS}, "x"), "optimizer/state/step: got 'x'"),
    "moments of SGD": (
        adam({"Conv_0": {"bias": {"momentum": B}}}),
        "param_states/Conv_0/bias/momentum: ndarray, expected Adam's grad_ema",
    ),
    "one moment of two": (
        adam({"Conv_0": {"bias": {"grad_ema": B}}}),
        "param_states/Conv_0/bias/grad_ema: ndarray, expected Adam's grad_sq_ema",
    ),
}  # fmt: skip


@pytest.mark.parametrize("damage", FLAX_DAMAGED)
def test_a_damaged_original_layout_is_refused(damage):
    tree, says = FLAX_DAMAGED[damage]
    with pytest.raises(ValueError, match=says):
        flax_contents(tree)
