"""The surfaces: parse, authorise, call one verb, render."""
