"""Captures as they are made: what records them."""
