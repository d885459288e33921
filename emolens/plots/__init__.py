"""Every figure: functions that take a table or a matrix and return a matplotlib Axes, or HTML for token heat maps.

Colours are Okabe and Ito's, safe for colour-blind readers; markers, line styles or hatching repeat what they say,
for print in grey. Without `ax` a function makes a figure of its own.
"""

from emolens.plots.attention import attention_pattern
from emolens.plots.circuits import circuitsvis_attention, circuitsvis_view
from emolens.plots.course import course
from emolens.plots.doses import dose_response, effect_dots, null_draws, patch_map, scatter
from emolens.plots.heatmap import HTML, conversation, heatmap
from emolens.plots.ladder import size_ladder
from emolens.plots.layers import effect_by_layer, layer_sweep, reliability
from emolens.plots.maps import emotion_map, hover_map, interactive_map
from emolens.plots.matrices import score_matrix, similarity_matrix
from emolens.plots.monitors import (
    alarm_curves,
    alarm_rates,
    found_in_time,
    monitor_areas,
    monitor_curves,
    roc_curves,
    watched_writing,
)
from emolens.plots.panels import panels
from emolens.plots.saving import described, gallery, save
from emolens.plots.slopes import slope_scatter, slopes_by_layer, steering_dots
from emolens.plots.state import beside_published, decay_curve
from emolens.plots.style import words
from emolens.plots.tables import agreement, component_bars, detection_bars, rating_bars, value_curves
from emolens.plots.tokens import token_curves, token_scores, token_text, unshown
from emolens.plots.training import loss_curve, shift_dots, watched_curves
from emolens.plots.watching import written_figure, written_page

__all__ = [
    "HTML",
    "agreement",
    "alarm_curves",
    "alarm_rates",
    "attention_pattern",
    "beside_published",
    "circuitsvis_attention",
    "circuitsvis_view",
    "component_bars",
    "conversation",
    "course",
    "decay_curve",
    "described",
    "detection_bars",
    "dose_response",
    "effect_by_layer",
    "effect_dots",
    "emotion_map",
    "found_in_time",
    "gallery",
    "heatmap",
    "hover_map",
    "interactive_map",
    "layer_sweep",
    "loss_curve",
    "monitor_areas",
    "monitor_curves",
    "null_draws",
    "panels",
    "patch_map",
    "rating_bars",
    "reliability",
    "roc_curves",
    "save",
    "scatter",
    "score_matrix",
    "shift_dots",
    "similarity_matrix",
    "size_ladder",
    "slope_scatter",
    "slopes_by_layer",
    "steering_dots",
    "token_curves",
    "token_scores",
    "token_text",
    "unshown",
    "value_curves",
    "watched_curves",
    "watched_writing",
    "words",
    "written_figure",
    "written_page",
]
