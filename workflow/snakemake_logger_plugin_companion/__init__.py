"""Snakemake that says what went wrong and nothing else: ``snakemake --logger companion``."""

import logging
import sys

from snakemake_interface_logger_plugins.base import LogHandlerBase


class LogHandler(LogHandlerBase):
    """Errors on stderr, one after another; what a job says of itself stands there already."""

    writes_to_stream = has_filter = True
    writes_to_file = has_formatter = needs_rulegraph = False

    def emit(self, record: logging.LogRecord) -> None:
        """Print an error."""
        if record.levelno >= logging.ERROR and record.getMessage() not in ("", "None"):
            print(record.getMessage(), file=sys.stderr)
