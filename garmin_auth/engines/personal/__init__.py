"""The engine for Garmin's Personal API. Importing it imports Garmin's client."""

from .engine import PersonalEngine

__all__ = ["PersonalEngine"]
