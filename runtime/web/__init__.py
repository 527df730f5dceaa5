"""A page for machines without a screen: picture, decisions, events, health, metrics."""
