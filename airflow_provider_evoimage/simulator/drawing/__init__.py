"""The images that the simulator draws."""
