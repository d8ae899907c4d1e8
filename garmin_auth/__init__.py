"""Keep each user's Garmin Connect session, encrypted, in the site's database."""

__version__ = "0.1.0"
