"""Trainers of other libraries under our contract; each module needs its library installed."""
