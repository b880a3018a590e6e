"""Statistics over seeds against values worked by hand, and the coverage that the intervals promise."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from qchunk.reporting import stats
from qchunk.system import loading


def test_t_interval_by_hand():
    """1, 2, 3, 4: mean 2.5, variance 5/3, and t(0.975; 3) = 3.1824463."""
    half = 3.182446305284263 * np.sqrt(5 / 3 / 4)
    np.testing.assert_allclose(stats.interval([1, 2, 3, 4]), (2.5, 2.5 - half, 2.5 + half), rtol=1e-12)
    wide, narrow = stats.interval([1, 2, 3, 4], level=0.99), stats.interval([1, 2, 3, 4], level=0.5)
    assert wide.low < 2.5 - half < narrow.low


@pytest.mark.parametrize("method", ["t", "bootstrap"])
def test_interval_of_few_values(method):
    one = stats.interval([0.5], method=method)
    assert one.mean == 0.5 and np.isnan(one.low) and np.isnan(one.high)
    assert stats.interval([0.25] * 4, method=method) == (0.25, 0.25, 0.25)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_gives_no_interval(bad):
    """Bounds must not turn it into [0, 1], nor may it count as a difference."""
    e = stats.interval([0.5, bad, 0.4], bounds=(0, 1))
    assert np.isnan(e).all() and not stats.excludes_zero(e)


def test_interval_refuses():
    for values in ([], [[1.0, 2.0]]):
        with pytest.raises(ValueError, match="got shape"):
            stats.interval(values)
    with pytest.raises(ValueError, match="bca"):
        stats.interval([1.0, 2.0], method="bca")


def test_interval_is_cut_at_its_bounds():
    e = stats.interval([0.0, 1.0], bounds=(0, 1))
    assert e == (0.5, 0.0, 1.0) and isinstance(e.high, float)


def test_bootstrap_is_reproducible_and_leaves_the_global_generator_alone():
    values = [0.1, 0.4, 0.2, 0.9, 0.5]
    np.random.seed(3)
    before = np.random.get_state()[1].copy()
    first = stats.interval(values, method="bootstrap")
    np.testing.assert_array_equal(before, np.random.get_state()[1])
    assert stats.interval(values, method="bootstrap") == first
    assert stats.interval(values, method="bootstrap", seed=1) != first
    assert min(values) <= first.low < first.mean < first.high <= max(values)


def test_t_interval_covers_what_it_promises_with_four_seeds():
    """Normal data, 4 seeds: 95 % of the t intervals hold the mean, where the percentile bootstrap holds about 77 %."""
    rng = np.random.default_rng(0)
    draws = rng.normal(0.3, 0.2, (2000, 4))

    def coverage(rows, **how):
        found = [stats.interval(row, **how) for row in rows]
        return np.mean([e.low <= 0.3 <= e.high for e in found])

    assert abs(coverage(draws) - 0.95) < 0.015  # 3 standard errors
    assert coverage(draws[:400], method="bootstrap", resamples=500) < 0.87


def test_paired_difference():
    """The pairing takes out what seeds share: differences 0.1, 0.2, 0.3 although the values lie far apart."""
    a, b = [0.2, 0.6, 1.0], [0.1, 0.4, 0.7]
    half = 0.95 / np.sqrt(2 * 0.975 * 0.025) * 0.1 / np.sqrt(3)  # t(p; 2) = (2p - 1) / sqrt(2p (1 - p))
    e = stats.paired_difference(a, b)
    np.testing.assert_allclose(e, (0.2, 0.2 - half, 0.2 + half), rtol=1e-12)
    np.testing.assert_allclose(stats.paired_difference(b, a), (-0.2, -0.2 - half, -0.2 + half), rtol=1e-12)
    assert not stats.excludes_zero(e) and stats.excludes_zero(stats.paired_difference(a, b, level=0.9))
    assert stats.excludes_zero(stats.paired_difference(a, b, method="bootstrap")), "anti-conservative, as said"
    with pytest.raises(ValueError, match="equal shapes"):
        stats.paired_difference([1.0, 2.0], [1.0])
    agreed = stats.paired_difference([0.12, 0.08], [0.08, 0.04])  # 25 episodes a seed, one more success in each
    assert agreed.mean == pytest.approx(0.04) and np.isnan(agreed.low) and not stats.excludes_zero(agreed)
    assert np.isnan(stats.interval([0.1, 0.1]).low) and np.isfinite(stats.interval([0.1, 0.1, 0.1]).low)
    assert stats.excludes_zero(stats.paired_difference([1.0, 1.0, 1.0], [0.0, 0.0, 0.0]))


def test_clopper_pearson_by_hand():
    """All of 200: the lower bound is 0.025 ** (1 / 200); 1 of 2 is symmetric, with sqrt(0.975) below which 2 of 2 lie."""
    low, high = stats.clopper_pearson(1.0, 200)
    assert (low, high) == (pytest.approx(0.025 ** (1 / 200)), 1.0)
    low, high = stats.clopper_pearson(0.5, 2)
    assert (low, high) == pytest.approx((1 - np.sqrt(0.975), np.sqrt(0.975)))


def test_intervals_of_shares_by_the_episodes_of_all_seeds():
    """Seeds that agree have no spread; all of 4 x 50 episodes, and all of 3 x 50 beside none (Zou and Donner's square and add)."""
    assert stats.interval([1.0] * 4, episodes=50) == pytest.approx((1.0, 0.025 ** (1 / 200), 1.0))
    zeros, ones = np.zeros(3), np.ones(3)
    for level, tail in ((0.95, 0.025), (0.9, 0.05)):
        short = np.hypot(1 - tail ** (1 / 150), 1 - tail ** (1 / 150))
        assert stats.paired_difference(ones, zeros, level, episodes=50) == pytest.approx((1.0, 1.0 - short, 1.0))
        assert stats.paired_difference(zeros, ones, level, episodes=50) == pytest.approx((-1.0, -1.0, -1.0 + short))
    one_sided = stats.pooled_difference(
        1.0, 0.5, 2
    )  # of 2 of 2, and 1 of 2, whose bounds are 1 - sqrt(0.975) and sqrt(0.975)
    far = np.sqrt(0.975) - 0.5
    assert one_sided == pytest.approx((0.5, 0.5 - np.hypot(1 - np.sqrt(0.025), far), 0.5 + far))


def test_a_p_value_is_the_larger_one_of_seeds_and_of_all_episodes():
    """Three of three beside none of three: the t test has no spread to go by, Fisher's says 2 of the 20 ways to deal six."""
    assert stats.p_value(np.ones(3), np.zeros(3)) == 0.0
    assert stats.p_value(np.ones(3), np.zeros(3), episodes=1) == pytest.approx(2 / 20)


def test_a_bound_that_no_distribution_of_seeds_breaks():
    """Four seeds at 0 against four at 1: 2 / 4 ** 4. The interval of four seeds at 1 starts at 0.025 ** (1 / 4)."""
    zeros, ones = np.zeros(4), np.ones(4)
    assert stats.whatever_the_seeds(zeros, ones) == pytest.approx(2 / 256)
    assert stats.whatever_the_seeds(ones, ones) == 1.0
    e = stats.interval_whatever_the_seeds(ones)
    assert e == pytest.approx((1.0, 0.025**0.25, 1.0))
    assert stats.interval_whatever_the_seeds(zeros) == pytest.approx((0.0, 0.0, 1 - 0.025**0.25))
    wide = stats.interval_whatever_the_seeds([0.05, 0.05])
    assert wide.low == 0.0 < wide.mean < wide.high < 1.0


def test_holm_by_hand():
    """Smallest times 3, middle times 2, largest times 1, never falling; what is not known counts for nothing."""
    np.testing.assert_allclose(stats.holm([0.04, 0.01, np.nan, 0.03]), [0.06, 0.03, np.nan, 0.06])
    assert len(stats.holm([])) == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_arm_without_a_figure_is_no_evidence_and_changes_no_other_verdict(bad):
    """Six differences of 4 seeds at 1 against 4 at 0 stay plain, 6 * 2 / 256, beside a seventh of which a seed has no figure."""
    ones, zeros, lost = np.ones(4), np.zeros(4), np.asarray([1.0, 1.0, 1.0, bad])
    assert np.isnan(stats.whatever_the_seeds(lost, zeros)) and np.isnan(stats.whatever_the_seeds(zeros, lost))
    found = stats.verdicts([stats.Pair(ones, zeros, True, 50)] * 6 + [stats.Pair(lost, zeros, True, 50)])
    assert [v.word for v in found] == [stats.SURE] * 6 + [""]


def test_a_difference_of_returns_is_never_plain():
    """The bound that holds however seeds are distributed is of shares; returns stay as they are, shares lie in [-1, 1]."""
    ones, zeros = np.ones(4), np.zeros(4)
    (shares,), (returns,) = (stats.verdicts([stats.Pair(ones, zeros, of, 0)]) for of in (True, False))
    assert (shares.word, returns.word) == (stats.SURE, stats.ALIKE)
    (far,) = stats.verdicts([stats.Pair(np.asarray([70.0, 71.0, 72.0]), np.zeros(3), False, 0)])
    assert far.word == stats.ALIKE and far.difference == stats.paired_difference([70.0, 71.0, 72.0], np.zeros(3))
    (wide,) = stats.verdicts([stats.Pair(np.asarray([0.0, 1.0, 0.0, 1.0]), zeros, True, 0)])
    assert stats.paired_difference([0.0, 1.0, 0.0, 1.0], zeros).high > 1.0 == wide.difference.high


def test_p_values_agree_with_their_intervals():
    """Where the t test decides, p is below 5 % where the interval excludes 0; where episodes do, never without it."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        a, b = rng.normal(0.0, 1.0, (2, 4))
        assert (stats.p_value(a, b) < 0.05) == stats.excludes_zero(stats.paired_difference(a, b))
        x, y = rng.binomial(50, [[0.5], [0.7]], (2, 3)) / 50
        wide, plain = stats.paired_difference(x, y, episodes=50), stats.paired_difference(x, y)
        assert wide.low <= plain.low and wide.high >= plain.high and wide.mean == plain.mean
    assert np.isnan(stats.p_value([0.1, 0.2], [0.0, 0.1]))


@pytest.fixture(scope="module")
def simulated():
    sys.path.insert(0, str(loading.beside("experiments")))
    import interval_coverage

    yield interval_coverage
    sys.path.pop(0)


def cases(simulated, *words):
    found = [c for c in simulated.CASES if any(w in c.name for w in words)]
    assert found, f"no case is called {words}"
    return found


def test_intervals_cover_seeds_that_are_alike(simulated):
    """Also near 100 %, where seeds that all agree left t nothing to go by; seeds that find it or not need the other one."""
    for case in cases(simulated, "alike"):
        found = simulated.covered(case, 4, 300)
        assert found["interval"] > 0.93 and found["whatever the seeds"] > 0.95
        assert case.mean < 0.9 or found["t alone"] < 0.75, "the fault that this repairs"
    for case in cases(simulated, "find it"):
        found = simulated.covered(case, 3, 300)
        assert found["whatever the seeds"] > 0.95 and found["interval"] < 0.9


def test_a_difference_that_is_not_there_is_not_called_real(simulated):
    """A steady arm against one whose seeds find it or not, of equal means; and a page of eight equal arms."""
    for case in cases(simulated, "find it"):
        found = simulated.false_verdicts(case, 3, 300)
        assert found[stats.SURE] <= 0.05 and found["t alone"] > 0.15, (
            "t calls it real, which is why it says its condition"
        )
    for case in cases(simulated, "alike, 50"):
        found = simulated.false_pages(case, 4, 30)
        assert found[stats.ALIKE] <= 0.1 and found["t alone"] > 0.3
    (halves,) = cases(simulated, "find it or not, 50")
    assert simulated.false_pages(halves, 4, 30)[stats.SURE] == 0.0


def test_a_mean_over_tasks_is_within_its_interval(simulated):
    """Of these tasks the one over seeds, of tasks like these the wider one, at few seeds and at many."""
    for seeds in (2, 4, 10):
        found = simulated.over_tasks(seeds, 300)
        assert found["these tasks, over seeds"] > 0.91 and found["tasks like these"] > 0.91, (seeds, found)
    assert found["tasks like these, over seeds"] < 0.8, "which is why there are two"


@pytest.mark.slow
@pytest.mark.parametrize(("arms", "runs"), [(2, 400), (6, 100)])
def test_the_same_method_twice_is_not_told_apart(simulated, arms, runs):
    """At most 5 % of the comparisons, whatever the seeds do; if seeds are alike 5 % over all kinds of them, and of each what t has."""
    found = {case.name: simulated.same_twice(case, 4, runs, arms) for case in simulated.CASES}
    assert all(x[stats.SURE] <= 0.05 for x in found.values())
    assert np.mean([x["first sentence"] for x in found.values()]) <= 0.05, found
    luck = 2 * np.sqrt(0.05 * 0.95 / runs)
    assert all(x["first sentence"] <= 0.05 + luck for name, x in found.items() if "find it" not in name), found
    if arms > 2:
        assert np.mean([x["t alone"] for x in found.values()]) > 0.1, "which is why they are corrected together"


def test_seeds_that_find_it_or_not():
    assert stats.find_or_not([0.98, 0.0, 1.0, 0.02]) == 2 and stats.find_or_not([0.0, 0.0, 0.9]) == 1
    assert stats.find_or_not([0.1, 0.5, 0.9]) is None and stats.find_or_not([0.9]) is None


def test_interquartile_mean():
    assert stats.interquartile_mean(np.arange(8.0)[:, None]) == 3.5  # of 2, 3, 4, 5
    assert stats.interquartile_mean(np.asarray([[0.0, 1.0], [2.0, 1000.0]])) == 1.5  # one outlier weighs nothing


def test_stratified_bootstrap_resamples_within_tasks():
    scores = np.asarray([[0.0, 10.0]] * 4)  # seeds of a task agree: no resample within tasks can differ
    assert stats.stratified_bootstrap(scores, lambda x: x.mean((-2, -1)), resamples=50) == (5.0, 5.0, 5.0)
    varied = np.random.default_rng(0).normal(size=(5, 3))
    first = stats.stratified_bootstrap(varied, resamples=200)
    assert first == stats.stratified_bootstrap(varied, resamples=200)
    assert first.low <= first.mean <= first.high


@pytest.mark.parametrize("scores", [[[0.0], [0.0], [1.0], [1.0]], [[0.0, 1.0], [1.0, 0.0]]])
def test_stratified_bootstrap_by_hand(scores):
    """Of four coins, dealt within one task or two: 1 / 16 of the resamples are all 0, 5 / 16 at most one 1."""
    for level, low, high in ((0.9, 0.0, 1.0), (0.8, 0.25, 0.75)):
        found = stats.stratified_bootstrap(np.asarray(scores), lambda x: x.mean((-2, -1)), level)
        assert found == (0.5, low, high)


def test_performance_profile():
    found = stats.performance_profile(np.asarray([[0.0, 0.5], [0.5, 1.0]]), np.asarray([-1.0, 0.0, 0.5, 1.0]))
    np.testing.assert_array_equal(found, [1.0, 0.75, 0.25, 0.0])  # strictly above


def test_probability_of_improvement():
    """Task 1: of 4 pairs 3 won and 1 tied, 0.875. Task 2: none won, 0."""
    a, b = np.asarray([[1.0, 0.0], [2.0, 0.0]]), np.asarray([[0.0, 1.0], [1.0, 1.0]])
    assert stats.probability_of_improvement(a, b) == (0.875 + 0) / 2
    assert stats.probability_of_improvement(b, a) == 1 - 0.4375
    assert stats.probability_of_improvement(a, a) == 0.5


def test_statistics_import_no_jax():
    code = "import sys, qchunk.reporting.stats; assert not {'jax', 'brax', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
