"""`python -m agents` is `eo`."""

from agents.cli.main import entry

entry()
