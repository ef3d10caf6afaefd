"""The simulated service without HTTP: accounts, generations, prices, faults."""
