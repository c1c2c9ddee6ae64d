"""Training losses on embeddings."""
