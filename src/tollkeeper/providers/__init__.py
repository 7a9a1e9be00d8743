"""The providers of models: a module for each kind, and the catalog that finds the model of a name."""
