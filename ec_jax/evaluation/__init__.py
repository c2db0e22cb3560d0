"""Evaluation of models on the four splits; ``run`` of each file gives flat ``{name: float}``."""
