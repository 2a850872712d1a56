"""Trainings small enough to repeat: what the defaults rest on. See docs/log."""
