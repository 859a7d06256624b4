import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from isic_siamese import comparison
from isic_siamese.comparison import delong, join_runs, paired_bootstrap
from isic_siamese.errors import DataError


def slow_delong(malignant: np.ndarray, one: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """Standard error of the difference and the difference itself, by comparing each melanoma with each benign image."""
    kernels = []
    for scores in (one, other):
        gap = scores[malignant][:, None] - scores[~malignant][None]
        kernels.append((gap > 0) + 0.5 * (gap == 0))
    difference = kernels[1] - kernels[0]
    m, n = difference.shape
    variance = difference.mean(axis=1).var(ddof=1) / m + difference.mean(axis=0).var(ddof=1) / n
    return float(np.sqrt(variance)), float(difference.mean())


@settings(derandomize=True, deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 8), st.integers(0, 8)), min_size=4, max_size=40))
def test_delong_equals_its_definition_however_scores_tie(cases: list[tuple[bool, int, int]]) -> None:
    malignant = np.array([case[0] for case in cases])
    one, other = (np.array([case[side] for case in cases], float) for side in (1, 2))
    if min(malignant.sum(), (~malignant).sum()) < 2:
        return
    test = delong(malignant, one, other)
    error, difference = slow_delong(malignant, one, other)
    assert test.error == pytest.approx(error, abs=1e-9)
    assert test.areas == pytest.approx((roc_auc_score(malignant, one), roc_auc_score(malignant, other)))
    assert test.areas[1] - test.areas[0] == pytest.approx(difference)


def test_delong_of_equal_scores_sees_no_difference() -> None:
    malignant = np.arange(10) < 4
    scores = np.linspace(0, 1, 10)
    assert delong(malignant, scores, scores).p == 1
    assert delong(malignant, scores, -scores).p == 0  # areas of 0 and 1, without any error


def test_delong_rejects_a_true_hypothesis_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    malignant = np.arange(200) < 60
    scores = malignant + rng.normal(size=(400, 2, 200))
    tests = [delong(malignant, one, other) for one, other in scores]
    p = np.array([test.p for test in tests])
    assert 0.02 < (p < 0.05).mean() < 0.09
    in_errors = [abs(test.areas[0] - test.areas[1]) / test.error for test in tests]
    assert ((p < 0.05) == (np.array(in_errors) > 1.96)).all()  # on either side


def test_delong_needs_two_images_of_each_class() -> None:
    with pytest.raises(ValueError, match="got 1 melanoma and 3 benign"):
        delong(np.arange(4) < 1, np.zeros(4), np.zeros(4))


def runs(gain: float) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    target = (np.arange(300) % 3 == 0).astype(int)
    names = [f"ISIC_{number}" for number in range(300)]
    patients = [f"IP_{number // 2}" for number in range(300)]
    table = pd.DataFrame({"repeat": 1, "image_name": names, "patient_id": patients, "target": target})
    noise = rng.normal(size=300)
    for run, skill in ((1, 1.0), (2, 1.0 + gain)):
        table[f"score_{run}"] = skill * target + noise
        table[f"decision_{run}"] = (table[f"score_{run}"] > 0.7).astype(int)
        table[f"fold_{run}"] = 1
    return table


def test_a_real_gain_has_an_interval_above_zero() -> None:
    gain = paired_bootstrap(runs(1.0), 300, 0.95, np.random.default_rng(0))
    for name in ("roc_auc", "balanced_accuracy"):
        assert 0 < gain[name]["low"] < gain[name]["value"] < gain[name]["high"]
        assert gain[name]["value"] - gain[name]["low"] == pytest.approx(gain[name]["high"] - gain[name]["value"])


def test_what_is_resampled_are_patients_and_not_their_images() -> None:
    table = runs(0.0)
    four_times = pd.concat([table.assign(image_name=table["image_name"] + f"_{copy}") for copy in range(4)])
    tables = (table.assign(score_2=table["score_1"] + 0.3 * table["target"]) for table in (table, four_times))
    once, copied = (paired_bootstrap(one, 2000, 0.95, np.random.default_rng(0))["roc_auc"] for one in tables)
    assert copied["value"] == pytest.approx(once["value"])
    assert copied["high"] - copied["low"] == pytest.approx(once["high"] - once["low"], rel=0.1)


def test_a_run_gains_nothing_over_itself() -> None:
    gain = paired_bootstrap(runs(0.0), 300, 0.95, np.random.default_rng(0))
    assert gain["roc_auc"] == {"value": 0}


def write_answers(path: Path, table: pd.DataFrame, run: int) -> Path:
    answers = table[comparison.IMAGE].assign(score=table[f"score_{run}"], decision=table[f"decision_{run}"])
    answers.sample(frac=1, random_state=run).to_csv(path, index=False)
    return path


def test_the_command_compares_two_runs_image_by_image(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparison, "RESAMPLES", 200)
    table = runs(1.0)
    one, other = (write_answers(tmp_path / f"{run}.csv", table, run) for run in (1, 2))
    comparison.main([str(one), str(other)])
    content = json.loads(capsys.readouterr().out)
    areas = [roc_auc_score(table["target"], table[f"score_{run}"]) for run in (1, 2)]
    assert content["delong"]["roc_auc"] == pytest.approx(areas)
    assert content["gain"]["roc_auc"]["value"] == pytest.approx(areas[1] - areas[0])
    rates = [balanced_accuracy_score(table["target"], table[f"decision_{run}"]) for run in (1, 2)]
    assert content["gain"]["balanced_accuracy"]["value"] == pytest.approx(rates[1] - rates[0])
    assert content["delong"]["p"] < 0.001


def write_folds(path: Path, repeats: list[pd.DataFrame], run: int) -> Path:
    """What cross-validation writes; the scores of each fold are on a scale of its own."""
    parts = []
    for number, table in enumerate(repeats, start=1):
        fold = table[f"fold_{run}"]
        answers = table[comparison.IMAGE].assign(repeat=number, fold=fold, score=table[f"score_{run}"] + 100 * fold)
        answers["decision"] = table[f"decision_{run}"]
        parts.append(answers.sample(frac=1, random_state=10 * run + number))
    pd.concat(parts).to_csv(path, index=False)
    return path


def test_cross_validations_are_compared_as_the_mean_of_their_repeats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparison, "RESAMPLES", 200)
    repeats = [runs(1.0), runs(0.2)]
    content = comparison.compare(*(write_folds(tmp_path / f"{run}.csv", repeats, run) for run in (1, 2)))
    gains = [
        roc_auc_score(table["target"], table["score_2"]) - roc_auc_score(table["target"], table["score_1"])
        for table in repeats
    ]
    figure = content["gain"]["roc_auc"]  # type: ignore[index]
    assert figure["value"] == pytest.approx(np.mean(gains))
    assert figure["low"] < figure["value"] < figure["high"]
    assert "delong" not in content
    single = comparison.compare(*(write_folds(tmp_path / f"{run}.csv", repeats[:1], run) for run in (1, 2)))
    assert single["gain"]["roc_auc"]["value"] == pytest.approx(gains[0])  # type: ignore[index]
    assert single["delong"]["p"] < 0.001  # type: ignore[index]


def test_images_of_different_folds_are_not_ranked_against_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparison, "RESAMPLES", 200)
    table = runs(1.0).assign(fold_1=1 + np.arange(300) // 150, fold_2=1 + np.arange(300) % 2)
    content = comparison.compare(*(write_folds(tmp_path / f"{run}.csv", [table], run) for run in (1, 2)))
    areas = [
        np.mean([roc_auc_score(part["target"], part[f"score_{run}"]) for _, part in table.groupby(f"fold_{run}")])
        for run in (1, 2)  # every fold here has 50 melanomas and 100 benign images
    ]
    figure = content["gain"]["roc_auc"]  # type: ignore[index]
    assert figure["value"] == pytest.approx(areas[1] - areas[0])
    assert "delong" not in content


def test_runs_of_different_splits_are_not_compared(tmp_path: Path) -> None:
    table = runs(1.0)
    one, other = write_answers(tmp_path / "1.csv", table, 1), write_answers(tmp_path / "2.csv", table[:290], 2)
    for runs_given in ((one, other), (other, one)):
        with pytest.raises(DataError, match="10 images are in one only; compare runs of the same seed and split"):
            join_runs(*runs_given)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.assign(score=np.inf), r"2\.csv: .*: a score is not finite, or an image is answered twice"),
        (lambda t: pd.concat([t, t[:1]]), r"2\.csv: .*: a score is not finite, or an image is answered twice"),
        (lambda t: t.assign(score="high"), r"2\.csv: neither .*: could not convert"),
        (
            lambda t: t.assign(target=(np.arange(300) < 1).astype(int)),
            r"2\.csv: wanted at least two images of each class",
        ),
        (
            lambda t: t.assign(target=(np.arange(300) > 0).astype(int)),
            r"2\.csv: wanted at least two images of each class",
        ),
        (lambda t: t[:0], r"2\.csv: wanted at least two images of each class"),
        (lambda t: t.assign(target=1 - t["target"]), "the same image with another target; compare runs on the same"),
        (lambda t: t.assign(patient_id="IP_0"), "the same image with another patient_id; compare runs on the same"),
        (lambda t: t.assign(repeat=1, fold=1), "a test.csv and a crossvalidation.csv; compare two of"),
    ],
)
def test_answers_that_cannot_be_compared_are_refused(
    tmp_path: Path, change: Callable[[pd.DataFrame], pd.DataFrame], message: str
) -> None:
    one, other = (write_answers(tmp_path / f"{run}.csv", runs(1.0), run) for run in (1, 2))
    change(pd.read_csv(other)).to_csv(other, index=False)
    with pytest.raises(DataError, match=message):
        join_runs(one, other)


def test_a_patient_may_have_the_name_of_a_missing_value(tmp_path: Path) -> None:
    table = runs(1.0).replace({"patient_id": {"IP_0": "NA"}})
    joined = join_runs(*(write_answers(tmp_path / f"{run}.csv", table, run) for run in (1, 2)))
    assert "NA" in set(joined["patient_id"])


def test_a_file_that_is_no_evaluation_is_named(tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match=r"other\.csv: neither the test\.csv of an"):
        join_runs(tmp_path / "other.csv", tmp_path / "other.csv")
    with pytest.raises(DataError, match=r"missing\.csv: no such file"):
        join_runs(tmp_path / "missing.csv", tmp_path / "other.csv")
