"""A logger that speaks once per run: ranks other than 0 stay silent below WARNING."""

import logging
import os


def get_logger(name: str) -> logging.Logger:
    """Return the logger of a module; on ranks above 0 (``LOCAL_RANK``/``RANK``) only warnings and errors pass."""
    logger = logging.getLogger(name)
    rank = int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")))
    if rank > 0:
        logger.setLevel(logging.WARNING)
    return logger
