"""The engine built on python-garminconnect 0.3. Importing it imports that library and curl_cffi."""

from .engine import GarminConnectEngine

__all__ = ["GarminConnectEngine"]
