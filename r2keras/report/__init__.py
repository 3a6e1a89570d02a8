"""Reports: sizes of a compressed model, result tables over seeds, a recommendation, a self-contained HTML page.

Reports read a `CompressionRecord`, a file on disk and result rows. They never read layers.
"""

from r2keras._util.text import to_text
from r2keras.report.device import on_device
from r2keras.report.groups import group
from r2keras.report.page import write_html
from r2keras.report.recommendation import Recommendation, recommend
from r2keras.report.results import Results, load_results, save_results
from r2keras.report.routes import Route, Routes, compare_routes
from r2keras.report.summary import Summary, summarize
from r2keras.report.tables import results_table

__all__ = [
    "Recommendation",
    "Results",
    "Route",
    "Routes",
    "Summary",
    "compare_routes",
    "group",
    "load_results",
    "on_device",
    "recommend",
    "results_table",
    "save_results",
    "summarize",
    "to_text",
    "write_html",
]


def __dir__() -> list[str]:
    """Returns the public names."""
    return __all__
