"""The way out: artefacts for other runtimes, each checked against the PyTorch model before it is handed out."""
