"""The accountant, against other ways of dp-accounting to the same figure."""

import dp_accounting
import numpy as np
import pytest
from dp_accounting import pld, rdp

from speech_jax.data.config import PlanConfig
from speech_jax.data.plan import make_plan
from speech_jax.training.config import PrivacyConfig
from speech_jax.training.privacy import Accountant

RELATION = dp_accounting.NeighboringRelation.REPLACE_SPECIAL


@pytest.mark.parametrize(("noise", "epochs", "delta"), [(1.0, 1, 1e-5), (4.0, 20, 1e-5), (10.0, 100, 1e-6)])
def test_epsilon_is_that_of_a_composition_of_one_gaussian_an_epoch(noise, epochs, delta):
    accountant = Accountant(PrivacyConfig(noise_multiplier=noise, delta=delta), {"task": 7})
    found = accountant.epsilon(7 * epochs)
    event = dp_accounting.SelfComposedDpEvent(dp_accounting.GaussianDpEvent(noise), epochs)
    by_pld = pld.PLDAccountant(neighboring_relation=RELATION).compose(event).get_epsilon(delta)
    by_rdp = rdp.RdpAccountant(neighboring_relation=RELATION).compose(event).get_epsilon(delta)
    assert by_pld == pytest.approx(found, rel=1e-6)
    assert found < by_rdp < 1.15 * found  # Renyi's is an upper bound


def test_epsilon_grows_with_every_epoch_that_begins_and_with_the_shorter_one_of_two_streams():
    config = PrivacyConfig(noise_multiplier=2.0)
    accountant = Accountant(config, {"task": 10, "pre": 4})
    spent = [accountant.epsilon(steps) for steps in range(25)]
    assert spent[0] == 0
    seen = [accountant.participations(steps) for steps in range(25)]
    assert seen == [-(-steps // 4) for steps in range(25)]
    assert all((a == b) == (m == n) and a <= b for a, b, m, n in zip(spent, spent[1:], seen, seen[1:], strict=False))
    assert Accountant(config, {"task": 10}).epsilon(20) == accountant.epsilon(8)


def test_the_plan_gives_no_utterance_more_often_than_the_accountant_counts():
    rng = np.random.default_rng(0)
    seconds = rng.uniform(0.5, 12, 83)
    plan = make_plan(seconds, np.full(83, 5), PlanConfig(rows=8, num_buckets=4), seed=1)
    accountant = Accountant(PrivacyConfig(noise_multiplier=1.0), {"task": plan.steps()})
    counts = np.zeros(83, int)
    for step in range(3 * plan.steps() + 2):
        assert counts.max() <= accountant.participations(step)
        _, rows = plan.batch(step)
        np.add.at(counts, rows[rows >= 0], 1)
    assert counts.max() == accountant.participations(3 * plan.steps() + 2) == 4
