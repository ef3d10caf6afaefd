"""The command ``evoimage``: what images cost, what is left, and what became of a generation, in a terminal."""
