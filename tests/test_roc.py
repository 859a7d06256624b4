import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.legend import Legend

from isic_siamese.measures import GRID
from isic_siamese.roc import Roc, draw_roc


@pytest.mark.parametrize("studies", [True, False])
def test_the_picture_shows_each_curve_the_band_the_operating_point_and_dermatologists_where_wanted(
    studies: bool,
) -> None:
    figure = Figure()
    curves = [
        Roc("ours", np.array([0, 0, 1, 1]), np.array([0, 0.6, 0.6, 1]), {"value": 0.8, "low": 0.7, "high": 0.9}),
        Roc("colour", GRID, GRID, {"value": 0.5}),
    ]
    band = np.stack([GRID / 2, np.sqrt(GRID)])
    decisions = {"sensitivity": {"value": 0.75}, "specificity": {"value": 0.6}}
    draw_roc(figure, "ROC", curves, (band, 0.9), decisions, studies)
    axes = figure.axes[0]
    drawn = {str(line.get_label()): line.get_xydata() for line in axes.lines}
    assert np.array_equal(
        drawn["ours, AUC 0.800 (0.700 to 0.900)"], np.stack([curves[0].false_alarm_rate, curves[0].sensitivity], axis=1)
    )
    assert np.array_equal(drawn["colour, AUC 0.500"], np.stack([GRID, GRID], axis=1))
    assert np.allclose(drawn["operating point, set on validation"], [[0.4, 0.75]])
    (area,) = axes.collections
    assert area.get_label() == "90 % of the resamples of patients, at each point"
    vertices = np.asarray(area.get_paths()[0].vertices)
    for end in band:
        assert {*zip(GRID, end, strict=True)} <= {*map(tuple, vertices)}
    of_studies = [part for part in axes.artists if isinstance(part, Legend)]
    assert len(of_studies) == studies and ("Brinker 2019" in drawn) == studies
    if studies:
        assert np.allclose(drawn["Brinker 2019"], [[1 - 0.6, 0.741]])
        assert [text.get_text() for text in of_studies[0].get_texts()][1] == "Brinker 2019"
        assert of_studies[0].get_title().get_text() == "dermatologists,\non lesions of their own studies"
    (legend,) = figure.legends
    names = ["90 % of the resamples", "ours, AUC", "colour, AUC", "operating point"]
    assert all(text.get_text().startswith(name) for text, name in zip(legend.get_texts(), names, strict=True))
