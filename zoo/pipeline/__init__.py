"""The recognition pipeline; runs without torch."""
