"""The engine built on garth 0.8. Importing it imports garth."""

from .engine import GarthEngine

__all__ = ["GarthEngine"]
