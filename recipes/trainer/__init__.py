"""The trainer for what arcface_torch cannot do: distillation, CPU, exact resume."""
