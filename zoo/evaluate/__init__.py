"""Measurements on Embedders; none needs torch."""
