"""Scans: reading them, grouping their positions, sharding them over ranks."""
