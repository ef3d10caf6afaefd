"""Tools of this repository; none is in the wheel."""
