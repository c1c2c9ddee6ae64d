"""Runtimes behind one protocol: whatever runs the net, aligned faces go in and embeddings come out."""

from zoo.runtime.embedder import Embedder, embed_batches, open_embedder

__all__ = ['Embedder', 'embed_batches', 'open_embedder']
