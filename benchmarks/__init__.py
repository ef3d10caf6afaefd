"""What waiting for images costs, beside well-known providers, measured in one run: `python -m benchmarks`."""
