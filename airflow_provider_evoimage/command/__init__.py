"""The command ``evoimage``: prices, balance, and the state of a generation, in a terminal."""
