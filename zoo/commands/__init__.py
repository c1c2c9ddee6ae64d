"""One command of ``facezoo`` a module: ``configure(parser)`` and ``run(args)``."""
