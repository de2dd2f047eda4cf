"""Pictures of the results: one for each benchmark, bars side by side for each comparison."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from benchmarks.measure import RATE, Comparison, Measurement
from benchmarks.report import in_figures, in_words
from headwater.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BAR_INCHES: Final = 0.32
HEADING_INCHES: Final = 0.9
WIDTH_INCHES: Final = 9.0
OURS: Final = "#1f6f8b"
THEIRS: Final = "#b8bfc6"


def require_matplotlib(folder: Path) -> None:
    """Say before the run, not after it, that there can be no picture.

    Raises:
        UsageError: matplotlib is not installed, or the folder cannot be made.
    """
    try:
        import matplotlib as mpl
    except ImportError:
        raise UsageError("pictures need matplotlib, which is not installed; run: pip install 'headwater[bench]'") from None
    mpl.use("Agg")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"the folder {folder} for the pictures cannot be made: {error.strerror}") from None


def plot_results(measured: Iterable[tuple[Comparison, Sequence[Measurement]]], folder: Path) -> list[Path]:
    """Write `<benchmark>.png`, with `-<metric>` where it has several; returns the files."""
    panels: defaultdict[tuple[str, str], list[list[Measurement]]] = defaultdict(list)
    for comparison, results in measured:
        by_metric: defaultdict[str, list[Measurement]] = defaultdict(list)
        for result in results:
            by_metric[result.metric.name].append(result)
        for metric, ones in by_metric.items():
            panels[comparison.bench, metric].append(ones)
    return [_plot_benchmark(bench, metric, groups, folder) for (bench, metric), groups in panels.items()]


def _plot_benchmark(bench: str, metric: str, groups: Sequence[Sequence[Measurement]], folder: Path) -> Path:
    from matplotlib import pyplot as plt

    heights = [HEADING_INCHES + BAR_INCHES * len(group) for group in groups]
    figure, grid = plt.subplots(
        len(groups), 1, figsize=(WIDTH_INCHES, sum(heights)), gridspec_kw={"height_ratios": heights}, squeeze=False, layout="constrained"
    )
    try:
        for axes, group in zip(grid[:, 0], groups, strict=True):
            _draw(axes, group)
        figure.suptitle(bench if metric == RATE.name else f"{bench}: {metric}")
        name = bench if metric == RATE.name else f"{bench}-{metric}"
        file = folder / f"{re.sub(r'[^a-z0-9_-]', '_', name)}.png"
        figure.savefig(file, dpi=120)
    finally:
        plt.close(figure)
    return file


def _draw(axes: Axes, group: Sequence[Measurement]) -> None:
    """One comparison: a bar for the median, a line from the lowest turn to the highest."""
    names, values = [result.system for result in group], [result.value for result in group]
    spread: Any = [
        [max(0.0, result.value - min(result.samples)) for result in group],
        [max(0.0, max(result.samples) - result.value) for result in group],
    ]
    colours = [OURS if result.system.startswith("headwater") else THEIRS for result in group]
    bars = axes.barh(names, values, xerr=spread, color=colours, ecolor="#555555", capsize=2)
    axes.bar_label(bars, labels=[in_figures(result) for result in group], padding=6, fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.2)
    axes.set_title(in_words(group[0].conditions), fontsize=9, loc="left")
    axes.set_xlabel(group[0].metric.unit, fontsize=8)
    axes.tick_params(labelsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
