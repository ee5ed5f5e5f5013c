"""What a trained model says of data: its interface to likelihoods."""

import numpy as np
import pytest
from exact_parts import exact_parts, integer_data, model_log_p, real_data

from sdejax.trained import Trained


def trained(data):
    return Trained(exact_parts(), None, data.scaling, {"scaling": {"name": "none"}}, 0)


def test_log_likelihood_takes_stored_values_and_data_sets():
    data, y = real_data()
    model = trained(data)
    expected = model_log_p(y) - np.sum(np.log([2.0, 0.5, 10.0]))
    for given in (data.x, data):
        rows = model.log_likelihood(given, trace="exact", tolerance=1e-6)
        np.testing.assert_allclose(rows.log_p, expected, atol=3e-4)


def test_misuse_is_named():
    data, _ = real_data()
    model = trained(data)
    with pytest.raises(ValueError, match="did you mean 'probes'"):
        model.log_likelihood(data, probe=3)
    with pytest.raises(ValueError, match=r"shape \[2\]; expected \[3\]"):
        model.log_likelihood(data.x[:, :2])
    with pytest.raises(ValueError, match="not conditional"):
        model.log_likelihood(data, labels=1)
    integers, _, _ = integer_data()
    with pytest.raises(ValueError, match="9999"):
        trained(integers).log_likelihood(np.full((2, 3), 9999))


def test_a_dequantiser_is_fitted_to_the_model():
    data, _, _ = integer_data(40, 9)
    noise, history = trained(data).fit_dequantiser(
        data.x[:30], data.x[30:], iterations=20, batch=8, layers=2, features=4
    )
    assert np.all(np.isfinite(history.held_out))
    rows = trained(data).log_likelihood(data, noise=noise, method="elbo", draws=4)
    assert np.all(np.isfinite(rows.log_p))
