"""Labels of figures: drawn as text, present in legends."""

import warnings

import pytest

from rlalign.escaping.figure_text import literal
from rlalign.log.plots import plot_comparison


@pytest.mark.parametrize("text", ["$x^2$", "$\\frac{$", "cost $5 or $6", "\\[x\\]", "_hidden", "a\x1bb", "\ud800$"])
def test_a_label_is_drawn_without_mathematics_and_named_in_the_legend(text):
    from matplotlib.figure import Figure

    figure = Figure()
    axis = figure.subplots()
    (curve,) = axis.plot([0, 1], label=literal(text))
    legend = axis.legend()
    label = legend.get_texts()[0]
    assert label._preprocess_math(label.get_text())[1] is False
    assert label._preprocess_math(label.get_text())[0].strip() == literal(text).replace("\\$", "$").strip()
    assert curve in legend.legend_handles or len(legend.get_texts()) == 1
    figure.draw_without_rendering()


@pytest.mark.pictures
def test_a_figure_of_metrics_with_dollar_signs_is_drawn(tmp_path):
    value = {"before": 0.0, "after": 1.0, "difference": {"mean": 1.0, "low": 0.5, "high": 1.5}}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        path = plot_comparison({"metrics": {"$\\broken{": value, "a$b$c": value}}, tmp_path / "figure.png")
    assert path.stat().st_size > 0
