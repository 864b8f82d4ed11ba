"""The numbers behind "how sure" and "none of these", checked against what they must be."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fsar.errors import InputError
from fsar.predict.calibration import Calibration, auroc, fit, fit_logistic, fit_temperature, leave_one_out

SCORES = st.lists(st.integers(-5, 5), min_size=1, max_size=20)


@given(known=SCORES, unknown=SCORES)
@settings(max_examples=100, deadline=None)
def test_auroc_counts_pairs(known, unknown):
    pairs = [(k > u) + 0.5 * (k == u) for k in known for u in unknown]
    assert auroc(np.array(known, float), np.array(unknown, float)) == pytest.approx(np.mean(pairs))


def drawn(temperature: float, n: int = 6_000) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits and labels drawn from the softmax of the logits at a temperature."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(n, 5, generator=generator)
    shares = (logits / temperature).softmax(-1)
    return logits, torch.multinomial(shares, 1, generator=generator)[:, 0]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_the_temperature_that_made_the_labels_is_found(temperature, scale):
    logits, labels = drawn(temperature)
    assert fit_temperature(scale * logits, labels) == pytest.approx(scale * temperature, rel=0.08)


def test_probabilities_are_calibrated():
    """Of the answers given 60 to 80 %, 60 to 80 % are right."""
    logits, labels = drawn(2.5)
    calibration = fit(logits, labels, logits - 5, source="test")
    best, answer = calibration.probabilities(logits).max(-1)
    for low in (0.4, 0.6, 0.8):
        inside = (best >= low) & (best < low + 0.2)
        assert float((answer == labels)[inside].double().mean()) == pytest.approx(float(best[inside].mean()), abs=0.05)


def test_a_logistic_curve_finds_the_middle_of_two_samples():
    generator = np.random.default_rng(0)
    slope, offset = fit_logistic(generator.normal(3, 1, 4000), generator.normal(1, 1, 1000))
    assert -offset / slope == pytest.approx(2, abs=0.1)  # equal weights, whatever the sizes
    assert slope == pytest.approx(2, rel=0.15)  # of two normal samples: (3 - 1) / 1


@given(share=st.floats(0.0, 0.5), seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_no_more_known_queries_are_refused_than_allowed(share, seed):
    generator = torch.Generator().manual_seed(seed)
    known, unknown = torch.randn(200, 4, generator=generator) + 1, torch.randn(100, 4, generator=generator)
    calibration = fit(known, torch.zeros(200, dtype=torch.int64), unknown, source="test", false_alarms=share)
    assert calibration.false_alarms <= share
    assert calibration.check(known, unknown) == {
        "auroc": calibration.auroc,
        "false_alarms": calibration.false_alarms,
        "found": calibration.found,
    }


def test_the_measure_that_tells_more_is_taken():
    """Unknown queries are as far from all classes: logits alone see it, or probabilities alone do."""
    known = torch.tensor([[0.0, -4.0, -4.0]] * 50) + 0.1 * torch.randn(
        50, 3, generator=torch.Generator().manual_seed(0)
    )
    far = known - 10
    flat = torch.tensor([[0.0, 0.0, 0.0]] * 50)
    labels = torch.zeros(50, dtype=torch.int64)
    assert fit(known, labels, far, source="test").measure == "max_logit"
    assert fit(known, labels, flat, source="test").measure == "max_probability"


def test_samples_that_do_not_overlap_give_finite_numbers():
    known, unknown = torch.tensor([[5.0, 0.0]] * 9), torch.tensor([[1.0, 1.0]] * 9)
    calibration = fit(known, torch.zeros(9, dtype=torch.int64), unknown, source="test")
    assert calibration.auroc == 1.0
    assert np.isfinite([calibration.slope, calibration.offset, calibration.temperature]).all()
    assert not calibration.is_none(known).any()
    assert calibration.is_none(unknown).all()


def test_leaving_out_asks_each_support_with_and_without_its_class():
    asked = []

    def logits_of(kept, query):
        asked.append((kept, query))
        return torch.zeros(len({[0, 0, 1, 1, 2][place] for place in kept}))

    known, labels, unknown = leave_one_out([0, 0, 1, 1, 2], logits_of)
    assert labels.tolist() == [0, 0, 1, 1]  # the class of one support cannot lose it
    assert (known.shape, unknown.shape) == ((4, 3), (4, 2))
    assert ([1, 2, 3, 4], 0) in asked
    assert ([2, 3, 4], 0) in asked


def test_a_calibration_survives_its_file():
    calibration = fit(torch.randn(20, 3), torch.zeros(20, dtype=torch.int64), torch.randn(20, 3) - 3, source="test")
    assert Calibration.from_dict(calibration.to_dict()) == calibration
    with pytest.raises(InputError, match="not a calibration"):
        Calibration.from_dict({"temperature": 1.0})
    with pytest.raises(InputError, match="absent classes"):
        fit(torch.zeros(3, 2), torch.zeros(3, dtype=torch.int64), torch.zeros(0, 2), source="test")
