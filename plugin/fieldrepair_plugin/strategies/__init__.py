"""Repair strategies behind one interface: HybridRepair, and everything it is compared with."""

from fieldrepair_plugin.strategies.base import Labels, Strategy
from fieldrepair_plugin.strategies.registry import strategy_named, strategy_names
from fieldrepair_plugin.strategies.repairing import RoundSettings, repair

__all__ = ["Labels", "RoundSettings", "Strategy", "repair", "strategy_named", "strategy_names"]
