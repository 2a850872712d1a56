"""The demo: the same emoji as drawn by different designers."""
