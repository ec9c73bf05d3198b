"""The broker of a data folder: found, started, stopped. Everything else of the product asks `resolve_bootstrap`."""

from agents.cli.brokers.info import BrokerInfo, Kind
from agents.cli.brokers.lifecycle import down, resolve_bootstrap, status, up

__all__ = ["BrokerInfo", "Kind", "down", "resolve_bootstrap", "status", "up"]
