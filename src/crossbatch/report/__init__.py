"""Reports: one self-contained HTML page for a run, or for runs beside each other."""

from crossbatch.report.page import write_report

__all__ = ["write_report"]
