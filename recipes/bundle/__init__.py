"""Put trained weights into the zoo: ``python -m recipes.bundle`` for recognisers, ``python -m recipes.bundle.detector``."""
