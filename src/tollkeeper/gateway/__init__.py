"""The path of a call to a model, and what it is made of."""
